"""Further selections of removed rows in a study, beside the one that its tables are about."""

from __future__ import annotations

from ifcheck.config import Config, replace_section
from ifcheck.errors import UnusableInput
from ifcheck.stages.cells import retrain_name
from ifcheck.stages.retrain import with_truth

KINDS = ("top-loss", "top-score", "random")


def further_retrainings(config: Config) -> dict[str, Config]:
    """Return the configuration of each further retraining of a cell by its name, without `.npz`.

    One for every truth and selection; test losses along the way are of the study's own selection.
    """
    return {
        f"{retrain_name(truth)}-{_kind(removals)}": replace_section(
            with_truth(config, truth), "retrain", removals=removals, trajectory=False
        )
        for truth in config.study.truths
        for removals in config.study.selections or ()
    }


def check_selections(config: Config) -> None:
    """Refuse selections that a study cannot tell apart, or has no scores for.

    Raises: UnusableInput.
    """
    taken = [_kind(config.retrain.removals)]
    for removals in config.study.selections or ():
        kind = _kind(removals)
        if kind not in KINDS:
            raise UnusableInput(
                f"--strata got {removals!r}; expected {', '.join(f'{name}:K' for name in KINDS)}.",
                remedy="For example: --strata random:40,top-score:40",
            )
        if kind in taken:
            raise UnusableInput(
                f"--strata got {removals!r}, but rows by {kind} are removed already.",
                remedy="Name each selection once; that of --removals is one of them.",
            )
        taken.append(kind)
    if len(taken) > 1 and config.retrain.group_size > 1:
        raise UnusableInput(
            f"--strata takes single rows; --group-size got {config.retrain.group_size}.",
            remedy="Leave one of them out: groups are scored for one selection.",
        )


def _kind(removals: str) -> str:
    return removals.partition(":")[0]
