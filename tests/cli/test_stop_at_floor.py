"""`--stop-at-lr-floor` reaches the stages, is recorded, and is off by default."""

import json

import pytest


@pytest.mark.parametrize(
    ("command", "sections"),
    [
        (["train"], ["train"]),
        (["retrain", "run"], ["retrain"]),
        (["fragility"], ["train", "retrain"]),
    ],
    ids=["train", "retrain", "fragility"],
)
def test_the_flag_sets_its_sections_alone(command, sections, succeed):
    for flags, expected in (([], []), (["--stop-at-lr-floor"], sections)):
        shown = succeed(*command, *flags, "--print-config", "--json").stdout
        config = json.loads(shown)
        asked = [part for part in ("train", "retrain") if config[part]["stop_at_lr_floor"]]
        assert asked == expected
