"""Tables as files: what a reader of each format gets back is what was there."""

import csv
import math
import re
import shutil
import subprocess

import pytest
from markdown_it import MarkdownIt

from ifcheck.errors import OutputRefused, UnusableInput
from ifcheck.stages.exports import (
    PAGE_ROWS,
    Table,
    check_exports,
    export_table,
    latex,
    write_tables,
)

HOSTILE = [
    r"a_b|c%d±e&f#g{h}~i^j\k$l",
    "[0.1, 2]",
    "*star* `code` <b>bold</b>",
    "--set x=-0.5 and 1e-05",
    "− – — é ß ² × …",
    'say "so" &amp; \\| \\\\',
    "",
]
NUMBERS = ["1.20", "0.50±.25", "-1.2e-05", "–", "1e400", "∞", "+3"]


def table(rows, columns=("name|of_it", "|Spearman| R²"), caption="cap_tion 5% | ±", records=()):
    return Table(caption, tuple(columns), tuple(map(tuple, rows)), tuple(records))


@pytest.fixture
def hostile():
    return table(zip(HOSTILE, NUMBERS, strict=True))


# --- Markdown ------------------------------------------------------------------------------------


def read_markdown(text):
    """Caption and rows as a reader of GitHub's Markdown has them: entities and escapes resolved."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inline = [
        "".join(child.content for child in token.children)
        for token in tokens
        if token.type == "inline"
    ]
    kinds = {child.type for t in tokens if t.type == "inline" for child in t.children}
    assert kinds <= {"text", "text_special"}, kinds  # no emphasis, code, links or HTML
    return inline


def test_markdown_reads_back_as_it_was(hostile, tmp_path):
    export_table(tmp_path / "t.md", hostile)
    caption, *cells = read_markdown((tmp_path / "t.md").read_text(encoding="utf-8"))
    assert caption == hostile.caption
    assert cells[:2] == list(hostile.columns)
    assert cells[2:] == [cell for row in hostile.rows for cell in row]


def test_markdown_keeps_numbers_as_they_are_written(tmp_path):
    """tabulate would turn 1.20 into 1.2 and 007 into 7."""
    export_table(tmp_path / "t.md", table([("a", "1.20"), ("b", "007")]))
    shown = (tmp_path / "t.md").read_text(encoding="utf-8")
    assert "1.20" in shown
    assert "007" in shown


def test_a_line_break_within_a_cell_does_not_break_the_table(tmp_path):
    export_table(tmp_path / "t.md", table([("two\nlines\tand\x00more", "1")]))
    cells = read_markdown((tmp_path / "t.md").read_text(encoding="utf-8"))
    assert cells[3:] == ["two lines and more", "1"]


def test_two_tables_share_a_file(hostile, tmp_path):
    export_table(tmp_path / "t.md", hostile, table([("x", "1")], caption="second"))
    cells = read_markdown((tmp_path / "t.md").read_text(encoding="utf-8"))
    assert cells.index("second") == 3 + 2 * len(HOSTILE)
    assert cells[-2:] == ["x", "1"]


# --- LaTeX ---------------------------------------------------------------------------------------

READ = {  # command -> sign, written down from the LaTeX companion
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textasciigrave{}": "`",
    r"\textbar{}": "|",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textendash{}": "–",
    r"\textemdash{}": "—",
    r"\textsuperscript{2}": "²",
    r"$\pm$": "±",
    r"$\times$": "×",
    r"$\infty$": "∞",
    r"\ldots{}": "…",
    "$-$": "−",
    "-{}": "-",
    "{[}": "[",
    "{*}": "*",
    **{f"\\{sign}": sign for sign in "&%$#_{}"},
}


def read_latex(text):
    """What LaTeX sets for a text; an AssertionError where a sign would mean something else."""
    found = []
    while text:
        command = next((c for c in sorted(READ, key=len, reverse=True) if text.startswith(c)), None)
        assert command or text[0] not in '\\&%$#_{}~^|<>"`[*', text
        assert not text.startswith("--")
        found.append(READ[command] if command else text[0])
        text = text[len(command or "x") :]
    return "".join(found)


@pytest.mark.parametrize("text", [*HOSTILE, *NUMBERS])
def test_latex_reads_back_as_it_was(text):
    expected = re.sub(r"(?<![\w)])-(?=\d)", "−", text).replace('"', "''")
    assert read_latex(latex(text)) == expected


def test_minus_is_one_before_numbers_alone():
    assert latex("-0.5") == "$-$0.5"
    assert latex("0.1 to -0.5") == "0.1 to $-$0.5"
    assert latex("gradient-dot 1e-05 f(x)-2") == "gradient-dot 1e-05 f(x)-2"


def test_signs_without_a_letter_are_named():
    assert latex("λ 中 😀") == "U+03BB U+4E2D U+1F600"


def cells_of(text):
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    return [re.split(r"(?<!\\)&", line.removesuffix("\\\\")) for line in body.splitlines()]


def test_a_latex_table_has_rules_caption_and_label(hostile, tmp_path):
    export_table(tmp_path / "my_table.tex", hostile)
    text = (tmp_path / "my_table.tex").read_text(encoding="utf-8")
    assert text.startswith("% \\usepackage{booktabs,longtable}\n")
    assert r"\caption{cap\_tion 5\% \textbar{} $\pm$}" in text
    assert r"\label{tab:my-table}" in text
    assert all(f"\\{rule}rule" in text for rule in ("top", "mid", "bottom"))
    assert r"\begin{tabular}{lr}" in text
    assert [len(cells) for cells in cells_of(text)] == [2] * len(HOSTILE)


@pytest.mark.parametrize(("rows", "long"), [(PAGE_ROWS, False), (PAGE_ROWS + 1, True)])
def test_what_does_not_fit_a_page_runs_over_pages(rows, long, tmp_path):
    export_table(tmp_path / "t.tex", table([("a", "1")] * rows))
    text = (tmp_path / "t.tex").read_text(encoding="utf-8")
    assert ("{longtable}" in text.partition("\n")[2]) == long
    assert (r"\begin{tabular}" in text) == (not long)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_latex_compiles(hostile, tmp_path):
    letters = "".join(map(chr, [*range(32, 0x180), 0x3B1, 0x2028, 0x1F600]))
    full = table([*hostile.rows, (letters, letters), ("", "")])
    export_table(tmp_path / "short.tex", full, hostile)
    export_table(tmp_path / "long.tex", table(full.rows * PAGE_ROWS))
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs,longtable}\n\\begin{document}\n"
        "\\input{short}\n\\input{long}\n\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "all.log").read_text(errors="replace")


# --- CSV -----------------------------------------------------------------------------------------


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_holds_the_records_in_full_precision(tmp_path):
    records = [
        {"cell": 'a|b,"c"\n', "mean": 0.1 + 0.2, "p": math.nan, "n": 3, "chosen": {"damping": 0.5}},
        {"cell": "d", "mean": 1e-300, "later": "x", "n": None},
    ]
    export_table(tmp_path / "t.csv", table([("a", "0.3")], records=records))
    first, second = read_csv(tmp_path / "t.csv")
    assert list(first) == ["cell", "mean", "p", "n", "chosen", "later"]
    assert first["cell"] == 'a|b,"c"\n'
    assert float(first["mean"]) == 0.1 + 0.2
    assert float(second["mean"]) == 1e-300
    assert (first["p"], first["later"], second["n"]) == ("", "", "")
    assert first["chosen"] == '{"damping": 0.5}'


def test_csv_without_records_has_headers(tmp_path):
    export_table(tmp_path / "t.csv", table([]))
    assert (tmp_path / "t.csv").read_text() == "name|of_it,|Spearman| R²\n"


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "got"), [("t.txt", "the suffix '.txt'"), ("t", "no suffix"), ("t.md.gz", "'.gz'")]
)
def test_another_format_is_refused(name, got, tmp_path):
    for refused in (
        lambda: check_exports([tmp_path / "t.md", tmp_path / name]),
        lambda: export_table(tmp_path / name, table([])),
    ):
        with pytest.raises(UnusableInput, match=re.escape(got)) as error:
            refused()
        assert "expected one of: .md, .tex, .csv" in error.value.message
        assert "table.md" in error.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_the_suffix_may_be_in_capitals(tmp_path):
    check_exports([tmp_path / "T.MD"])
    export_table(tmp_path / "T.MD", table([("a", "1")]))
    assert (tmp_path / "T.MD").read_text().startswith("cap")


def test_what_is_there_is_replaced(tmp_path):
    (tmp_path / "t.md").write_text("old")
    check_exports([tmp_path / "t.md"])
    export_table(tmp_path / "t.md", table([("a", "1")]))
    assert "old" not in (tmp_path / "t.md").read_text()


def test_the_csv_files_of_a_study_stay(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "study.json").write_text("{}")
    for path in (tmp_path / "made" / "results.csv", tmp_path / "to-be" / "summary.csv"):
        with pytest.raises(OutputRefused, match="in the folder of a study"):
            check_exports([path], [tmp_path / "to-be"])
    check_exports([tmp_path / "made" / "table.md", tmp_path / "results.csv"], [tmp_path / "to-be"])


def test_a_place_that_cannot_be_written_is_refused_before_anything(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused, match="is not a folder"):
        check_exports([tmp_path / "file" / "t.md"])


def test_groups_of_tables_are_written_in_both_forms(tmp_path):
    one = table([("a", "1")])
    write_tables(tmp_path / "tables", {"agreement": [one, one], "tests": [one]})
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {"agreement.md", "agreement.tex", "tests.md", "tests.tex"}
    assert (tmp_path / "tables" / "agreement.tex").read_text().count(r"\begin{tabular}") == 2
