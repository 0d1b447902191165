"""Options by theme, each declared once; commands say which of them they take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

COMMON = "Everywhere"
DESCRIPTION = "Network and data"

Sources = Annotated[
    list[Path],
    typer.Argument(help="Run folder, checkpoints folder or checkpoint files.", metavar="RUN..."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]

# Network and data
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", help="Data set, by name.", rich_help_panel=DESCRIPTION),
]
Network = Annotated[
    str | None, typer.Option("--network", help="Network, by name.", rich_help_panel=DESCRIPTION)
]
Depth = Annotated[
    int | None, typer.Option("--depth", help="Hidden layers.", rich_help_panel=DESCRIPTION)
]
Width = Annotated[
    int | None,
    typer.Option("--width", help="Units in a hidden layer.", rich_help_panel=DESCRIPTION),
]
Depths = Annotated[
    str | None,
    typer.Option(
        "--depth", help="Hidden layers; a list or range: 1..8", rich_help_panel=DESCRIPTION
    ),
]
Widths = Annotated[
    str | None,
    typer.Option(
        "--width", help="Units in a hidden layer; a list: 5,8,14", rich_help_panel=DESCRIPTION
    ),
]
Activation = Annotated[
    str | None,
    typer.Option("--activation", help="selu, tanh or relu.", rich_help_panel=DESCRIPTION),
]
Variant = Annotated[
    str | None,
    typer.Option("--variant", help="none, swa, l2, l2-swa or bnn.", rich_help_panel=DESCRIPTION),
]
Variants = Annotated[
    str | None,
    typer.Option(
        "--variant",
        help="Variants; a list. All by default.",
        rich_help_panel=DESCRIPTION,
    ),
]
TestPoints = Annotated[
    str | None,
    typer.Option(
        "--test-points", help="max-loss[:K], random:K or ids:1,2,3", rich_help_panel=DESCRIPTION
    ),
]
LimitTrain = Annotated[
    int | None,
    typer.Option("--limit-train", help="Use so many training rows.", rich_help_panel=DESCRIPTION),
]
LimitTest = Annotated[
    int | None,
    typer.Option("--limit-test", help="Use so many test rows.", rich_help_panel=DESCRIPTION),
]


def _number_or_name(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


# Stages
Seeds = Annotated[
    str | None, typer.Option("--seeds", help="N for the seeds 0..N-1, or a list: 3,7,11")
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Epochs of training.")]
RetrainEpochs = Annotated[
    int | None, typer.Option("--epochs", help="Epochs of retraining; scratch: those of training.")
]
StopAtFloor = Annotated[
    bool | None,
    typer.Option(
        "--stop-at-lr-floor",
        help="End a model's run where its learning rate cannot fall any more: faster, and "
        "moves test losses a little.",
    ),
]
Polish = Annotated[
    str | None, typer.Option("--polish", help="none, or head: move the head to its optimum.")
]
EstimatorName = Annotated[
    str | None,
    typer.Option(
        "--estimator",
        help="objective, second-order, newton-step, paper, authors or authors-bnn; baselines: "
        "gradient-dot, gradient-cosine, train-loss, same-class, random.",
    ),
]
Params = Annotated[
    str | None, typer.Option("--params", help="Parameters that move: head, all or layer:NAME,...")
]
Hessian = Annotated[
    str | None, typer.Option("--hessian", help="objective: with the regulariser; data: without.")
]
Damping = Annotated[
    float | None,
    typer.Option(
        "--damping",
        parser=_number_or_name,
        metavar="NUMBER|path|auto",
        help="Added to the Hessian's diagonal; path: also a grid of them; auto: the one that "
        "ranks --held-out best.",
    ),
]
SolverName = Annotated[
    str | None,
    typer.Option(
        "--solver", help="How H x = g is solved: exact, cg, minres, lissa, lanczos or ekfac."
    ),
]
CurvatureName = Annotated[
    str | None,
    typer.Option("--curvature", help="hessian, ggn (Gauss-Newton) or empirical-fisher."),
]
StepName = Annotated[
    str | None,
    typer.Option(
        "--step", help="first-order; second-order or newton: without the rows' own curvature."
    ),
]
NormalisationName = Annotated[
    str | None, typer.Option("--normalisation", help="n-1: mean over the rest; n: fixed at n.")
]
TruthName = Annotated[str | None, typer.Option("--truth", help="warm, newton, scratch or pbrf.")]
Removals = Annotated[
    str | None,
    typer.Option("--removals", help="top-loss:K, top-score:K, random:K, ids:1,2,3 or like:FILE"),
]
Strata = Annotated[
    str | None,
    typer.Option(
        "--strata",
        help="Further removals to compare agreement over, in a table of its own; a list such as "
        "random:40,top-score:40.",
    ),
]
GroupRemovals = Annotated[
    str | None,
    typer.Option(
        "--removals", help="Which groups are scored, as in retrain; like:FILE says their size too."
    ),
]
RankingScores = Annotated[
    Path | None,
    typer.Option(
        "--influence", help="For --removals top-score:K: scores to rank by; these if left out."
    ),
]
HeldOut = Annotated[
    Path | None, typer.Option("--held-out", help="Removals by which --damping auto is chosen.")
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        "--group-size", help="Rows that are removed together: K groups of so many; 1 by default."
    ),
]
Replicates = Annotated[
    int | None,
    typer.Option(
        "--replicates",
        help="Repeat under so many seeds, where the truth depends on one: how reliable it is.",
    ),
]
Trajectory = Annotated[
    bool | None,
    typer.Option("--trajectory", help="Record the test loss along the retraining."),
]
SwaRestart = Annotated[
    str | None,
    typer.Option("--swa-restart", help="Start from the average, or from the live weights."),
]
Beside = Annotated[
    Path | None,
    typer.Option("--beside", help="Another study, shown beside this one in figures 4 and 5."),
]
Export = Annotated[
    list[Path] | None,
    typer.Option(
        "--export", help="Also as a table: .md, .tex, or .csv in full precision; repeatable."
    ),
]
Method = Annotated[str | None, typer.Option("--method", help="power, lanczos or dense.")]
Density = Annotated[
    bool | None,
    typer.Option("--density", help="Add density, sum and negative share of all eigenvalues."),
]
Top = Annotated[int | None, typer.Option("--top", help="How many eigenvalues.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Rows in the top-k overlap.")]
MinSpearman = Annotated[
    float | None,
    typer.Option("--min-spearman", help="Exit with code 1 if a mean |Spearman| is below."),
]
Require = Annotated[
    str | None,
    typer.Option(
        "--require",
        help="trust, or ranking: exit with code 1 if a verdict is less.",
    ),
]

# Everywhere
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file; flags win over it.", rich_help_panel=COMMON),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="dotted.key=value; repeatable.", rich_help_panel=COMMON),
]
Device = Annotated[
    str | None, typer.Option("--device", help="auto, cpu or cuda[:n].", rich_help_panel=COMMON)
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="Type that networks are trained in.", rich_help_panel=COMMON),
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", help="auto, numba, torch or vmap.", rich_help_panel=COMMON),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        envvar="IFCHECK_DATA_DIR",
        help="Folder of data.",
        rich_help_panel=COMMON,
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", help="Threads for computing.", rich_help_panel=COMMON)
]
Json = Annotated[
    bool, typer.Option("--json", help="Result as JSON on stdout.", rich_help_panel=COMMON)
]
PrintConfig = Annotated[
    bool,
    typer.Option("--print-config", help="Show the configuration, stop.", rich_help_panel=COMMON),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Estimate time, memory and disk, stop.", rich_help_panel=COMMON),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="No progress, no notes.", rich_help_panel=COMMON)
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Tracebacks for errors.", rich_help_panel=COMMON)
]
