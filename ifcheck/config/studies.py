"""What the studies of the paper set otherwise than the defaults, by network.

Epifano et al., section 3.2, and the text and files that their authors released. Networks that are
not named here have the defaults, which are those of the Iris study.
"""

from __future__ import annotations

from typing import Any

from ifcheck.config.values import DEFAULT_VARIANT

_WEIGHT_DECAY = {name: {"weight_decay": 0.001} for name in ("l2", "l2-swa")}
_IMAGES: dict[str, Any] = {
    "train": {"seeds": 10},
    "retrain": {"removals": "top-score:40", "trajectory": True},
    "study": {"variants": ["l2", "bnn"], "variant_options": _WEIGHT_DECAY},
}
_BATCHES: dict[str, Any] = {
    "train": {"epochs": 100, "batch_size": 1_024, "patience": 2, "early_stop": 5},
    "retrain": {"epochs": 30, "trajectory_every": 1},
}
_FULLY_CONNECTED: dict[str, Any] = {
    "train": {"epochs": 5_000, "amsgrad": True},
    "retrain": {"epochs": 2_000},
}
_VGG13: dict[str, Any] = {
    "train": {"epochs": 1_000, "early_stop": 10},
    "retrain": {"epochs": 100},
    "eigen": {"dtype": "float32"},  # convolutions in float64 take several times as long
    "study": {"variants": ["l2"]},  # dropout has no Bayesian form
}


def over(base: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings with those of `above` in the place of those of `base`."""
    merged = dict(base)
    for key, value in above.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = over(below, value)
        merged[key] = value
    return merged


STUDIES: dict[str, dict[str, Any]] = {
    "fc": over(_IMAGES, _FULLY_CONNECTED),
    "lenet": over(_IMAGES, _BATCHES),
    "vgg13": over(over(_IMAGES, _BATCHES), _VGG13),
}


def completed(given: dict[str, Any], network: str | None = None) -> dict[str, Any]:
    """Return given settings over those of the study of their network.

    `network` is the one to go by where the settings name none. Options of variants that the
    study sets are put in where the settings choose such a variant.
    """
    chosen: Any = given.get("network")
    name = chosen.get("name") if isinstance(chosen, dict) else chosen
    study: dict[str, Any] = STUDIES.get(str(name or network), {})
    settings = over(study, given)
    variant: Any = settings.get("variant")
    choice = dict(variant) if isinstance(variant, dict) else {"name": variant}
    options = over({}, settings.get("study") or {}).get("variant_options") or {}
    own = options.get(choice.get("name") or DEFAULT_VARIANT)
    if own:
        known = {key: value for key, value in choice.items() if value is not None}
        settings["variant"] = {**own, **known}
    return settings
