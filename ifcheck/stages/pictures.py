"""What the figures of a study, or of one run, show, taken from its artifacts and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from ifcheck.agreement.metrics import agreement
from ifcheck.artifacts import Artifact
from ifcheck.errors import UnusableInput
from ifcheck.stages.changes import changes_of
from ifcheck.stages.controls import is_baseline
from ifcheck.stages.removals import predicted_changes
from ifcheck.stages.reporting import Reporter

Row = dict[str, Any]
Drawing = tuple[str, Callable[[Path, Any], str], Any]  # name, writer, content

FEW_NETWORKS = 6  # whose bars have room beside each other
# Panels of a file, so that it fits on a printed page.
MOST_SCATTERS = 12
MOST_PATHS = 4  # cells, each with a row of panels
MOST_GAPS = 6
MOST_CEILINGS = 6
MOST_SPECTRA = 6


@dataclass(frozen=True)
class CellPictures:
    """The artifacts of one cell that its own figures are drawn from."""

    label: str  # what titles call it
    cell: str
    influences: list[Artifact]  # figure 4 shows the first
    retrains: list[Artifact]
    trajectory: Artifact | None
    eigen: Artifact | None = None

    @property
    def influence(self) -> Artifact:
        """The scores that figure 4 shows."""
        return self.influences[0]


@dataclass(frozen=True)
class Picture:
    """A picture that was drawn, as `<name>.png` and `<name>.svg`."""

    name: str
    caption: str  # how to read it


def recorded(retrains: Sequence[Artifact]) -> Artifact | None:
    """Return the first retraining that has test losses along the way, if one has."""
    return next((retrain for retrain in retrains if "trajectory" in retrain.arrays), None)


def draw(
    folder: Path,
    summaries: Sequence[Row],
    cells: Sequence[CellPictures],
    reporter: Reporter,
    paths: Sequence[Row] = (),
    gaps: Sequence[Row] = (),
) -> list[Picture]:
    """Draw everything that there are numbers for, as PNG and SVG into `folder`; return what.

    Figures 1 and 3 are of networks that have a depth and a width, figure 2 of few networks, and
    these and the heat map of rows that name their variant. All others show `cells` alone: one run
    has one, a study those of its first size. Rows without a `cell` are the first one's. Figures
    4 and 5, scatter and spectra show the first seed, at its first test point; figure 4 against the
    last truth that is defined there. `paths` and `gaps` are those of an evaluation. A figure for
    which no number is defined is left out, with a note.
    """
    rows = [row for row in summaries if "estimator" in row]
    drawings = [*_across_cells(rows), *_of_cells(rows, cells, paths, gaps)]
    drawn = []
    progress = reporter.step("figures", len(drawings))
    for name, write, content in drawings:
        try:
            drawn.append(Picture(name, write(folder / f"{name}.png", content)))
        except UnusableInput as error:
            reporter.note(f"{name}.png is not drawn: {error.message}")
        progress(1)
    return drawn


def _across_cells(rows: Sequence[Row]) -> Iterator[Drawing]:
    """Give the figures that compare cells; none where rows are of a run that is no cell."""
    # Drawing takes a second to import, and no other stage needs it.
    from ifcheck import figures

    if not all("variant" in row for row in rows):
        return
    sizes = {tuple(row.get(name) for name in ("network", "depth", "width")) for row in rows}
    if all(depth and width for _, depth, width in sizes):
        yield "figure-1-agreement", figures.figure_1, rows
        yield "figure-3-top-eigenvalue", figures.figure_3, rows
    if len(sizes) <= FEW_NETWORKS:
        yield "figure-2-networks", figures.figure_2, rows
    yield "heat-map", figures.heat_map, rows


def _of_cells(
    rows: Sequence[Row], cells: Sequence[CellPictures], paths: Sequence[Row], gaps: Sequence[Row]
) -> Iterator[Drawing]:
    """Give the figures that show single cells, in as many files as their panels take."""
    from ifcheck import figures

    yield "figure-4-by-rank", figures.figure_4, [_rank_panel(cell) for cell in cells]
    trajectories = [_trajectory_panel(c.cell, c.trajectory) for c in cells if c.trajectory]
    yield "figure-5-retraining", figures.figure_5, trajectories
    remark = _remark(rows, cells)

    def remarked(write: Callable[[Path, Any, str], str]) -> Callable[[Path, Any], str]:
        return lambda path, content: write(path, content, remark)

    scatters = [page for cell in cells for page in _chunks(_scatter_panels(cell), MOST_SCATTERS)]
    yield from _numbered("scatter", remarked(figures.scatter), scatters)
    judged = [row for row in rows if not row.get("baseline")]
    bars = _paged(_with_titles(judged, cells), MOST_CEILINGS)
    yield from _numbered("noise-ceiling", remarked(figures.noise_ceiling), bars)
    along = _paged(_with_titles(_with_own_damping(paths, rows), cells), MOST_PATHS)
    yield from _numbered("damping-path", remarked(figures.damping_path), along)
    steps = _paged(_with_estimators(_with_titles(gaps, cells), rows), MOST_GAPS)
    yield from _numbered("gap-waterfall", remarked(figures.gap_waterfall), steps)
    spectra = [panel for cell in cells for panel in _spectrum_panels(cell)]
    pages = _chunks(spectra, MOST_SPECTRA)
    yield from _numbered("spectral-density", remarked(figures.spectral_density), pages)


def _remark(rows: Sequence[Row], cells: Sequence[CellPictures]) -> str:
    """Say which cells a study has that are not shown."""
    known = {row["cell"] for row in rows if "cell" in row}
    others = known - {cell.cell for cell in cells}
    if not others:
        return ""
    return f"Of {len(known)} cells {len(others)} are of other sizes and not shown."


def _numbered(
    name: str, write: Callable[[Path, Any], str], pages: Sequence[Any]
) -> Iterator[Drawing]:
    for number, page in enumerate(pages, start=1):
        yield name if number == 1 else f"{name}-{number}", write, page


def _chunks(content: Sequence[Any], most: int) -> list[Sequence[Any]]:
    return [content[first : first + most] for first in range(0, len(content), most)]


def _paged(rows: Sequence[Row], most: int) -> list[list[Row]]:
    """Return rows page by page, each page with those of at most so many panels."""
    pages = _chunks(list(dict.fromkeys(row["panel"] for row in rows)), most)
    return [[row for row in rows if row["panel"] in page] for page in pages]


def _with_titles(rows: Sequence[Row], cells: Sequence[CellPictures]) -> list[Row]:
    """Return the rows of the cells that are shown, each with its title under `panel`."""
    titles = {cell.cell: cell.label for cell in cells}
    first = cells[0].cell if cells else ""
    owners = [row.get("cell", first) for row in rows]
    return [
        {**row, "panel": titles[owner]}
        for row, owner in zip(rows, owners, strict=True)
        if owner in titles
    ]


def _with_own_damping(paths: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Return rows along dampings with the pair they are of, and its agreement as it was named."""
    pairs = {(row.get("cell"), row["influence"], row["retrain"]): row for row in rows}
    found = []
    for along in paths:
        pair = pairs[along.get("cell"), along["influence"], along["retrain"]]
        chosen = pair.get("damping_chosen")
        own = chosen["damping"] if chosen else pair["damping"]
        found.append(
            {
                **along,
                **{name: pair[name] for name in ("estimator", "truth", "retrain_params")},
                "own_damping": own,
                "own_abs_spearman": pair["abs_spearman_mean"],
                "chance_abs_spearman": pair["chance_abs_spearman"],
            }
        )
    return found


def _with_estimators(gaps: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Return steps with their estimator in the title."""
    names = {(row.get("cell"), row["influence"]): row["estimator"] for row in rows}
    return [
        {**gap, "panel": f"{gap['panel']}: {names[gap.get('cell'), gap['influence']]}"}
        for gap in gaps
    ]


def _rank_panel(cell: CellPictures) -> Any:
    from ifcheck import figures

    retrain = next((r for r in reversed(cell.retrains) if not r.meta["reasons"]), cell.retrains[0])
    predictions, kept = predicted_changes(cell.influence, retrain, 0, 0)
    predicted = predictions[0]
    true = changes_of(retrain).drift_corrected[0, 0, kept]
    return figures.RankPanel(
        title=f"{cell.label}: {_pair_name(cell.influence, retrain)}",
        predicted=predicted,
        true=true,
        spearman=float(stats.spearmanr(predicted, true).statistic),
    )


def _scatter_panels(cell: CellPictures) -> list[Any]:
    """Return a panel for each estimator and truth that was not refused; of no baseline."""
    from ifcheck import figures

    panels = []
    for influence in cell.influences:
        for retrain in cell.retrains:
            if retrain.meta["reasons"] or is_baseline(influence):
                continue
            predictions, kept = predicted_changes(influence, retrain, 0, 0)
            true = changes_of(retrain).drift_corrected[0, 0, kept]
            found = agreement(predictions[0], true, true, bootstrap_samples=0)
            panels.append(
                figures.ScatterPanel(
                    title=f"{cell.label}: {_pair_name(influence, retrain)}",
                    predicted=predictions[0],
                    true=true,
                    spearman=found.spearman,
                    slope=found.slope,
                    intercept=found.intercept,
                )
            )
    return panels


def _pair_name(influence: Artifact, retrain: Artifact) -> str:
    estimator = influence.meta["config"]["influence"]["estimator"]
    settings = retrain.meta["config"]["retrain"]
    moved = "" if settings["params"] == "head" else f" ({settings['params']})"
    return f"{estimator} against {settings['truth']}{moved}"


def _spectrum_panels(cell: CellPictures) -> list[Any]:
    """Return the panel of a cell, or none where no density was asked for."""
    from ifcheck import figures

    eigen = cell.eigen
    if eigen is None or "density" not in eigen.arrays:
        return []
    return [
        figures.SpectrumPanel(
            title=cell.label,
            grid=eigen["density_grid"],
            density=eigen["density"],
            error=eigen["density_error"],
            values=eigen["values"][0],
        )
    ]


def _trajectory_panel(name: str, trajectory: Artifact) -> Any:
    from ifcheck import figures

    return figures.TrajectoryPanel(
        title=name,
        epochs=trajectory["trajectory_epoch"],
        losses=trajectory["trajectory"][0, 0],
        before=float(trajectory["loss_before"][0, 0]),
    )
