"""`ifcheck train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ifcheck.cli import options, terminal
from ifcheck.cli.session import DESCRIPTION_KEYS, Session, dotted

if TYPE_CHECKING:
    from ifcheck.artifacts import Artifact


def train(
    session: Session,
    dataset: options.Dataset = None,
    network: options.Network = None,
    depth: options.Depth = None,
    width: options.Width = None,
    activation: options.Activation = None,
    variant: options.Variant = None,
    seeds: options.Seeds = None,
    epochs: options.Epochs = None,
    polish: options.Polish = None,
    stop_at_lr_floor: options.StopAtFloor = None,
    test_points: options.TestPoints = None,
    limit_train: options.LimitTrain = None,
    limit_test: options.LimitTest = None,
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("run"),
    force: options.Force = False,
) -> None:
    """Train one network per seed, all at once; write checkpoints and train.npz.

    Example: `ifcheck train --dataset iris --depth 1 --width 5 --variant l2 --seeds 3 --out run/`
    """
    flags = dotted(locals(), DESCRIPTION_KEYS)
    flags |= {"train.seeds": seeds, "train.epochs": epochs, "train.polish": polish}
    flags["train.stop_at_lr_floor"] = stop_at_lr_floor
    config = session.configure(flags)
    from ifcheck.artifacts import require_free
    from ifcheck.stages.train import train as run_stage

    if session.dry_run:
        from ifcheck.cli.plans import show_plan
        from ifcheck.stages.estimate import estimate_training

        show_plan(session, estimate_training(config))
        return
    require_free(out, force)
    with terminal.live_progress() as reporter:
        artifact = run_stage(config, out, reporter)
    _show(session, artifact)


def _show(session: Session, artifact: Artifact) -> None:
    from ifcheck.cli.summaries import artifact_record, mean, median

    if session.json:
        terminal.show_json(artifact_record(artifact))
        return
    for reason in artifact.meta["reasons"]:
        terminal.show_note(reason)
    points = artifact["test_ids"]
    test_ids = ", ".join(map(str, points[0].tolist()))
    if (points != points[0]).any():
        test_ids += f" of seed {artifact['seeds'][0]}; each seed has its own"
    terminal.show_facts(
        f"trained {len(artifact['seeds'])} networks on {len(artifact['train_ids'])} rows",
        {
            "test points": f"row {test_ids}",
            "training accuracy": f"{mean(artifact['train_accuracy'])} (mean)",
            "training loss": f"{mean(artifact['train_loss'])} nats (mean)",
            "test loss": f"{mean(artifact['test_loss'])} nats (mean)",
            "gradient norm": f"{median(artifact['grad_norm'])} (median; 0 at a stationary point)",
            "heads polished": f"{int(artifact['polished'].sum())}",
            "written": str(artifact.path),
        },
    )
