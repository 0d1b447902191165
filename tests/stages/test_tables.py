"""Tables: undefined numbers are null or empty, and files appear whole."""

import csv
import json
import math

import numpy as np
import pytest

from ifcheck.errors import OutputRefused
from ifcheck.stages.tables import plain, write_csv, write_csvs, write_json

NAN, INF = math.nan, math.inf


def strict_json(text: str):
    """Parse JSON, and nothing that only Python takes for JSON."""

    def refuse(constant: str):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


# --- plain ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, INF, -INF, np.float64("nan"), np.float64("inf")], ids=repr)
def test_number_that_is_not_finite_becomes_none(value):
    assert plain(value) is None


@pytest.mark.parametrize("value", [0, -0.0, 1e308, True, False, None, "nan", "", 2**70], ids=repr)
def test_everything_else_is_kept(value):
    assert plain(value) is value


def test_nested_values_are_searched():
    values = {"a": [1.5, NAN, {"b": (INF, "x")}], 2: {"c": NAN}}
    assert plain(values) == {"a": [1.5, None, {"b": [None, "x"]}], "2": {"c": None}}
    assert math.isnan(values["a"][1])  # the original is left alone


# --- JSON ----------------------------------------------------------------------------------


def test_json_file_is_strict_json_with_null_for_undefined(tmp_path):
    path = tmp_path / "evaluation.json"
    write_json(path, {"spearman": NAN, "reason": "constant scores", "n": 40, "slope": [1.5, -INF]})
    text = path.read_text(encoding="utf-8")
    assert strict_json(text) == {
        "spearman": None,
        "reason": "constant scores",
        "n": 40,
        "slope": [1.5, None],
    }
    assert text.endswith("}\n")


def test_numbers_come_back_from_json_bit_for_bit(tmp_path):
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
    write_json(tmp_path / "file.json", {"values": values})
    assert [v.hex() for v in strict_json((tmp_path / "file.json").read_text())["values"]] == [
        v.hex() for v in values
    ]


def test_json_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"first": 1})
    with pytest.raises(TypeError):
        write_json(path, {"second": object()})
    assert strict_json(path.read_text()) == {"first": 1}
    assert list(tmp_path.iterdir()) == [path]


# --- CSV -----------------------------------------------------------------------------------


def read_csv(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_the_columns_in_their_order_and_a_row_per_record(tmp_path):
    path = tmp_path / "results.csv"
    write_csv(path, [{"b": 2, "a": 1}, {"a": "x", "b": 0.5}], ["a", "b"])
    assert path.read_text(encoding="utf-8") == "a,b\n1,2\nx,0.5\n"


@pytest.mark.parametrize("value", [NAN, INF, -INF, None, np.float64("nan")], ids=repr)
def test_undefined_number_becomes_an_empty_cell(tmp_path, value):
    write_csv(tmp_path / "file.csv", [{"a": value, "b": 1}], ["a", "b"])
    assert read_csv(tmp_path / "file.csv") == [{"a": "", "b": "1"}]


@pytest.mark.parametrize("value", [0, 0.0, False, "0"], ids=repr)
def test_zero_and_false_are_not_undefined(tmp_path, value):
    write_csv(tmp_path / "file.csv", [{"a": value}], ["a"])
    assert read_csv(tmp_path / "file.csv") == [{"a": str(value)}]


def test_missing_values_are_empty_and_other_keys_are_left_out(tmp_path):
    write_csv(tmp_path / "file.csv", [{"a": 1, "z": 9}, {"b": 2}], ["a", "b"])
    assert read_csv(tmp_path / "file.csv") == [{"a": "1", "b": ""}, {"a": "", "b": "2"}]


def test_text_with_commas_quotes_and_lines_comes_back(tmp_path):
    reason = 'refused: "separable", no optimum\nsecond line – ü'
    write_csv(tmp_path / "file.csv", [{"reason": reason}], ["reason"])
    assert read_csv(tmp_path / "file.csv") == [{"reason": reason}]


def test_numbers_come_back_from_csv_bit_for_bit(tmp_path):
    values = [0.1, 1 / 3, 5e-324, np.float64(2 / 3), 1.7976931348623157e308]
    write_csv(tmp_path / "file.csv", [{"a": value} for value in values], ["a"])
    read = [float(row["a"]).hex() for row in read_csv(tmp_path / "file.csv")]
    assert read == [float(value).hex() for value in values]


def test_table_without_rows_has_a_header(tmp_path):
    write_csv(tmp_path / "file.csv", [], ["a", "b"])
    assert (tmp_path / "file.csv").read_text() == "a,b\n"


def test_table_below_a_file_is_refused(tmp_path):
    (tmp_path / "study").touch()
    with pytest.raises(OutputRefused, match=r"results\.csv"):
        write_csv(tmp_path / "study" / "results.csv", [], ["a"])


def test_tables_without_rows_are_not_written(tmp_path):
    write_csvs(tmp_path, {"gaps": [{"a": 1, "b": math.nan}, {"a": 2}], "paths": []})
    assert [path.name for path in tmp_path.iterdir()] == ["gaps.csv"]
    assert (tmp_path / "gaps.csv").read_text() == "a,b\n1,\n2,\n"
