"""`ifcheck fragility`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ifcheck.cli import options, terminal
from ifcheck.cli.session import DESCRIPTION_KEYS, Session, dotted
from ifcheck.errors import EXIT_BELOW_THRESHOLD

if TYPE_CHECKING:
    from ifcheck.stages.fragility import Study

SWEPT = ("depth", "width")
STUDY_KEYS = {
    **{name: key for name, key in DESCRIPTION_KEYS.items() if name not in (*SWEPT, "variant")},
    "variant": "study.variants",
    "estimators": "study.estimators",
    "truths": "study.truths",
    "seeds": "train.seeds",
    "epochs": "train.epochs",
    "polish": "train.polish",
    "removals": "retrain.removals",
    "strata": "study.selections",
    "group_size": "retrain.group_size",
    "retrain_epochs": "retrain.epochs",
    "replicates": "retrain.replicates",
    "min_spearman": "evaluate.min_spearman",
    "require": "verdict.require",
}


def fragility(
    session: Session,
    dataset: options.Dataset = None,
    network: options.Network = None,
    depth: options.Depths = None,
    width: options.Widths = None,
    activation: options.Activation = None,
    variant: options.Variants = None,
    seeds: options.Seeds = None,
    epochs: options.Epochs = None,
    polish: options.Polish = None,
    stop_at_lr_floor: options.StopAtFloor = None,
    removals: options.Removals = None,
    strata: options.Strata = None,
    group_size: options.GroupSize = None,
    estimators: Annotated[
        str | None, typer.Option("--estimator", help="Estimators to compare; a list.")
    ] = None,
    truths: Annotated[
        str | None,
        typer.Option("--truth", help="Truths to compare; a list. warm:all moves all parameters."),
    ] = None,
    retrain_epochs: Annotated[
        int | None, typer.Option("--retrain-epochs", help="Epochs of retraining.")
    ] = None,
    replicates: options.Replicates = None,
    test_points: options.TestPoints = None,
    limit_train: options.LimitTrain = None,
    limit_test: options.LimitTest = None,
    min_spearman: options.MinSpearman = None,
    require: options.Require = None,
    beside: options.Beside = None,
    export: options.Export = None,
    out: Annotated[Path, typer.Option("--out", help="Study folder; resumed.")] = Path("study"),
) -> None:
    """Run the whole study: every stage for every size and variant, resumable.

    Example: `ifcheck fragility --dataset iris --width 5 --seeds 50 --out study/`
    """
    flags = {**dotted(locals(), STUDY_KEYS), "study.sizes": _sizes(depth, width)}
    flags |= {f"{part}.stop_at_lr_floor": stop_at_lr_floor for part in ("train", "retrain")}
    config = session.configure(flags)
    from ifcheck.cli.summaries import misses_requirement, misses_threshold
    from ifcheck.stages.exports import check_exports
    from ifcheck.stages.fragility import fragility as run_stage

    check_exports(export or (), [out])
    if session.dry_run:
        from ifcheck.cli.plans import show_plan
        from ifcheck.stages.estimate import estimate_study

        show_plan(session, estimate_study(config))
        return
    with terminal.live_progress() as reporter:
        study = run_stage(config, out, reporter, beside)
    _show(session, study, export or ())
    missed = misses_threshold(study.summaries, config.evaluate.min_spearman)
    if missed or misses_requirement(study.summaries, config.verdict.require):
        raise typer.Exit(EXIT_BELOW_THRESHOLD)


def _show(session: Session, study: Study, exports: Sequence[Path]) -> None:
    from ifcheck.cli.strata import show_strata
    from ifcheck.cli.tables import show_study
    from ifcheck.cli.verdicts import show_study_verdicts
    from ifcheck.stages.columns import agreement_tables
    from ifcheck.stages.exports import export_table
    from ifcheck.stages.tables import plain

    for path in exports:
        export_table(path, *agreement_tables(study.summaries))
    if session.json:
        told = {**asdict(study), "out": str(study.out)}
        terminal.show_json(plain({k: v for k, v in told.items() if k != "results"}))  # in a file
    else:
        show_study(study)
        show_strata(study.strata)
        show_study_verdicts(study.summaries, study.gaps)


def _sizes(depth: str | None, width: str | None) -> list[dict[str, str]] | None:
    """Return the sweep that the flags ask for; depth and width are crossed."""
    given = {name: value for name, value in zip(SWEPT, (depth, width), strict=True) if value}
    return [given] if given else None
