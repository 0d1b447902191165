"""Stage `fragility`: the whole study, cell by cell, resumable, with tables, pictures, a report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ifcheck.artifacts import Artifact
from ifcheck.artifacts.files import CHECKPOINT_FOLDER
from ifcheck.config import Config, replace_section
from ifcheck.curvature.dense import MAX_DENSE_PARAMETERS
from ifcheck.errors import RunFailed
from ifcheck.removal import TRUTHS
from ifcheck.stages import comparisons, pictures, reports, summaries
from ifcheck.stages.beside import finished_cells, label
from ifcheck.stages.cells import (
    FINISHED_FILE,
    TRAJECTORY_NAME,
    Cell,
    influence_name,
    is_finished,
    of_first_size,
    retrain_name,
)
from ifcheck.stages.columns import study_tables
from ifcheck.stages.eigen import eigen
from ifcheck.stages.evaluate import Evaluation, evaluate
from ifcheck.stages.exports import write_tables
from ifcheck.stages.forecast import forecast
from ifcheck.stages.influence import influence
from ifcheck.stages.reporting import Prefixed, Reporter, Silent
from ifcheck.stages.resume import claim_study, reusable, reusable_training
from ifcheck.stages.retrain import (
    retrain,
    with_trajectory,
    with_truth,
)
from ifcheck.stages.selections import further_retrainings
from ifcheck.stages.setup import make_setup
from ifcheck.stages.stage import stage
from ifcheck.stages.strata import long_rows
from ifcheck.stages.study_checks import check_study, once_only
from ifcheck.stages.tables import write_csv, write_csvs
from ifcheck.stages.train import network_layout, train
from ifcheck.stages.trunks import Trunks

Row = dict[str, Any]


@dataclass
class Cost:
    """What the artifacts of a stage took to make, whichever run of the study made them."""

    seconds: float = 0.0
    peak_memory_bytes: int = 0  # of the process until then: earlier stages count as well

    def add(self, artifact: Artifact) -> None:
        """Count an artifact in."""
        self.seconds += artifact.meta["seconds"]
        peak = max(artifact.meta["peak_memory_bytes"], artifact.meta["peak_device_bytes"])
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak)


@dataclass(frozen=True)
class Study:
    """What a study found; the same rows as its CSV files."""

    out: Path
    results: list[Row]
    summaries: list[Row]
    tests: list[Row]
    costs: dict[str, Cost] = field(default_factory=dict)  # by stage, retraining by truth
    paths: list[Row] = field(default_factory=list)  # along dampings, where that was asked for
    gaps: list[Row] = field(default_factory=list)  # step by step, where truths removed the same
    strata: list[Row] = field(default_factory=list)  # by selection of rows, where there are several


@stage
def fragility(
    config: Config, out: Path, reporter: Reporter | None = None, beside: Path | None = None
) -> Study:
    """Run every stage for every cell of the study; write tables, figures and a report into `out`.

    Files that the same configuration finished are used again, so an interrupted study goes
    on where it stopped. A cell that fails while running is recorded as failed and the others
    go on. `beside` is the folder of another study, whose first size figures 4 and 5 show first.
    Raises: UnusableInput, OutputRefused; ArtifactUnreadable for `beside`; RunFailed without a cell.
    """
    reporter = reporter or Silent()
    others = [] if beside is None else finished_cells(beside)
    cells = check_study(config)
    claim_study(config, out)
    for sentence in once_only(cells):
        reporter.note(sentence)
    expected = forecast([cell for cell in cells if not is_finished(cell, out)], reporter)
    if expected is not None:
        reporter.note(str(expected))
    study = Study(out, [], [], [])
    finished: list[_CellFiles] = []
    trunks = Trunks(make_setup(cell.config) for cell in cells)
    progress = reporter.step("cells", len(cells))
    for cell in cells:
        try:
            files = _CellFiles.ensure(cell, out / "cells" / cell.id, trunks, reporter)
            results, rows, evaluation = files.evaluate()
            study.results.extend(results)
            study.summaries.extend(rows)
            study.paths.extend({**cell.columns, **row} for row in evaluation.paths)
            study.gaps.extend({**cell.columns, **row} for row in evaluation.gaps)
            study.strata.extend({**cell.columns, **row} for row in evaluation.strata)
            finished.append(files)
            for step, artifact in files.made:
                study.costs.setdefault(step, Cost()).add(artifact)
        except (RunFailed, MemoryError) as error:
            reporter.note(f"{cell.id} failed: {error}")
            study.results.append(summaries.failed_row(cell.columns, str(error)))
            study.summaries.append(summaries.failed_row(cell.columns, str(error)))
        write_csv(out / "results.csv", study.results, summaries.RESULT_COLUMNS)
        write_csv(out / "summary.csv", study.summaries, summaries.SUMMARY_COLUMNS)
        progress(1)
    if not finished:
        raise RunFailed(
            f"no cell could be finished; the first: {study.summaries[0]['reason']}",
            remedy=f"See {out / 'results.csv'}.",
        )
    study.tests.extend(comparisons.compare_cells(study.results))
    shown = of_first_size([files.cell for files in finished])
    panels = others + [
        files.pictures(reporter, label(files.cell) if others else files.cell.config.variant.name)
        for files in finished
        if files.cell in shown
    ]
    _write(study, config, panels, reporter)
    return study


def _write(
    study: Study, config: Config, cells: list[pictures.CellPictures], reporter: Reporter
) -> None:
    """Write what is of all cells together: tables, pictures, and the report that shows them."""
    write_csv(study.out / "tests.csv", study.tests, comparisons.COLUMNS)
    details = {"paths": study.paths, "gaps": study.gaps, "strata": long_rows(study.strata)}
    write_csvs(study.out, details)
    tables = study_tables(study.summaries, study.tests, study.gaps)
    write_tables(study.out / "tables", tables)
    folder = study.out / "figures"
    drawn = pictures.draw(folder, study.summaries, cells, reporter, study.paths, study.gaps)
    reports.write_study(study, config, drawn)


@dataclass(frozen=True)
class _CellFiles:
    """The artifacts of one cell, made or found finished."""

    cell: Cell
    folder: Path
    trained: Artifact
    influences: list[Artifact]
    retrains: list[Artifact]
    eigen: Artifact
    dense: Artifact | None  # where the network is small enough
    further: dict[str, Artifact]  # retrainings of other selections of rows, by name

    @classmethod
    def ensure(cls, cell: Cell, folder: Path, trunks: Trunks, reporter: Reporter) -> _CellFiles:
        """Bring every artifact of a cell into being, using again what is there."""
        reporter = Prefixed(reporter, cell.id)
        config = cell.config
        trained = reusable_training(folder, make_setup(config).describe("train"))
        if trained is None:
            trained = train(config, folder, reporter, trunks)
        makers = _Makers(folder, trained, reporter)
        study = config.study
        small = network_layout(make_setup(config)).size <= MAX_DENSE_PARAMETERS
        return cls(
            cell=cell,
            folder=folder,
            trained=trained,
            influences=[
                makers.ensure(
                    influence_name(name), replace_section(config, "influence", estimator=name)
                )
                for name in study.estimators
            ],
            retrains=[
                makers.ensure(retrain_name(text), with_truth(config, text)) for text in study.truths
            ],
            eigen=makers.ensure("eigen", config),
            dense=makers.ensure(
                "eigen-dense", replace_section(config, "eigen", method="dense", density=False)
            )
            if small
            else None,
            further={n: makers.ensure(n, own) for n, own in further_retrainings(config).items()},
        )

    @property
    def made(self) -> list[tuple[str, Artifact]]:
        """Return the cell's artifacts, each with what its stage is called.

        A start that several variants share counts for the one that trained it.
        """
        eigens = [self.eigen, *([] if self.dense is None else [self.dense])]
        truths = zip(self.cell.config.study.truths, self.retrains, strict=True)
        return [
            ("train", self.trained),
            *(("influence", artifact) for artifact in self.influences),
            *((f"retrain {truth}", artifact) for truth, artifact in truths),
            *((name.replace("-", " ", 1), artifact) for name, artifact in self.further.items()),
            *(("eigen", artifact) for artifact in eigens),
        ]

    @property
    def seconds(self) -> float:
        """Return how long the cell's artifacts took to make, all together."""
        return float(sum(artifact.meta["seconds"] for _, artifact in self.made))

    def evaluate(self) -> tuple[list[Row], list[Row], Evaluation]:
        """Return the cell's rows for `results.csv` and `summary.csv`, and all that was found."""
        evaluation = evaluate(
            self.cell.config,
            [artifact.path for artifact in self.influences],
            [artifact.path for artifact in [*self.retrains, *self.further.values()]],
            self.eigen.path,
            self.folder / FINISHED_FILE,
        ).against([artifact.path.name for artifact in self.retrains])
        columns = self.cell.columns
        results = summaries.result_rows(columns, evaluation, self.trained, self.dense, self.seconds)
        results += summaries.failed_seed_rows(columns, self.trained)
        rows = summaries.summary_rows(
            columns, evaluation, self.trained, self.eigen, self.dense, self.seconds
        )
        return results, rows, evaluation

    def pictures(self, reporter: Reporter, title: str) -> pictures.CellPictures:
        """Return what pictures show of this cell alone, from its first finished seed."""
        truths = self.cell.config.study.truths
        recordable = [t for t in truths if TRUTHS.create(t.partition(":")[0]).has_trajectory]
        trajectory = pictures.recorded(self.retrains)
        if trajectory is None and recordable:
            name, digest = next(iter(self.trained.parents.items()))
            config = with_trajectory(with_truth(self.cell.config, recordable[0]))
            reporter = Prefixed(reporter, self.cell.id)
            makers = _Makers(self.folder, self.trained, reporter, {name: digest})
            trajectory = makers.ensure(TRAJECTORY_NAME, config)
        return pictures.CellPictures(
            title,
            self.cell.id,
            self.influences,
            self.retrains,
            trajectory,
            self.eigen,
        )


@dataclass(frozen=True)
class _Makers:
    """Makes artifacts of one cell from some of its checkpoints, unless they are there."""

    folder: Path
    trained: Artifact
    reporter: Reporter
    only: dict[str, str] | None = None  # checkpoints to use, by name; None: all of them

    def ensure(self, name: str, config: Config) -> Artifact:
        kind = KINDS[name.partition("-")[0]]
        path = self.folder / f"{name}.npz"
        parents = self.only or self.trained.parents
        description = make_setup(config).describe(kind)
        finished = summaries.finished_seeds(self.trained)
        description["train"]["seeds"] = self.trained["seeds"][finished].tolist()[: len(parents)]
        found = reusable(path, kind, description, parents)
        if found is not None:
            return found
        sources = [self.folder / CHECKPOINT_FOLDER / checkpoint for checkpoint in parents]
        if kind == "eigen":
            return eigen(config, sources, path, self.reporter)
        # The first estimator's scores say which rows or groups are of largest score.
        scores = self.folder / f"{influence_name(config.study.estimators[0])}.npz"
        ranked_by = None if path == scores else scores
        if kind == "influence":
            return influence(config, sources, path, self.reporter, influence_file=ranked_by)
        return retrain(config, sources, path, self.reporter, influence_file=ranked_by)


KINDS = {
    "influence": "influence",
    "retrain": "retrain",
    TRAJECTORY_NAME: "retrain",
    "eigen": "eigen",
}
