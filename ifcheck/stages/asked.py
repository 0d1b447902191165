"""Settings that were asked for and would have no effect: refused, so that no file records them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ifcheck.config import Config
from ifcheck.errors import UnusableInput
from ifcheck.removal import TRUTHS
from ifcheck.scores import STEPS, resolve_estimator

OF_EVERY_TRUTH = {"truth", "removals", "group_size"}
OF_EVERY_ESTIMATOR = {"estimator", "step"}


def check_retrain_settings(config: Config, asked: Mapping[str, Any]) -> None:
    """Refuse settings of `retrain` that the truth does not use.

    `asked` are the settings, by dotted key, that the user gave for this command alone: a file may
    describe several truths. Raises: UnknownName, UnusableInput.
    """
    name = config.retrain.truth
    truth = TRUTHS.create(name)
    unused = _unused("retrain", asked, OF_EVERY_TRUTH | truth.settings)
    if unused.get("normalisation") == truth.normalisation:
        unused.pop("normalisation", None)  # the one that it is defined with
    if not unused:
        return
    others = [other for other in TRUTHS if unused.keys() <= TRUTHS.create(other).settings]
    raise UnusableInput(
        f"--truth {name} has no use for {_listed('retrain', unused)}.",
        remedy=_remedy(unused, f", or use --truth {' or '.join(others)}" if others else ""),
    )


def check_influence_settings(config: Config, asked: Mapping[str, Any]) -> None:
    """Refuse settings of `influence` that a baseline does not use; see `check_retrain_settings`.

    Raises: UnknownName, UnusableInput.
    """
    step = resolve_estimator(config.influence).step
    uses = STEPS.create(step).uses
    if uses is None:
        return
    unused = _unused("influence", asked, OF_EVERY_ESTIMATOR | uses)
    if unused:
        raise UnusableInput(
            f"{step} is a baseline, which has no use for {_listed('influence', unused)}.",
            remedy=_remedy(unused, ", or use --estimator objective"),
        )


def _unused(section: str, asked: Mapping[str, Any], used: Collection[str]) -> dict[str, Any]:
    """Return what was asked for within a section besides what is used, by its own name."""
    split = ((*key.partition("."), value) for key, value in asked.items())
    return {name: v for own, _, name, v in split if own == section and name not in used}


def _listed(section: str, unused: Mapping[str, Any]) -> str:
    return ", ".join(f"{section}.{name} ({value!r})" for name, value in sorted(unused.items()))


def _remedy(unused: Mapping[str, Any], instead: str) -> str:
    return f"Leave {'it' if len(unused) == 1 else 'them'} out{instead}."
