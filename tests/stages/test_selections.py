"""Further selections of removed rows in a study: what is made, what is refused, what it leaves."""

import csv

import numpy as np
import pytest

from ifcheck.config import replace_section
from ifcheck.errors import UnusableInput
from ifcheck.stages import fragility as stage
from ifcheck.stages.estimate import estimate_study
from ifcheck.stages.fragility import fragility
from ifcheck.stages.selections import further_retrainings
from ifcheck.stages.study_checks import check_study

STUDY = {
    "study.variants": "l2",
    "study.estimators": "objective",
    "study.truths": "newton,warm:all",
    "train.seeds": 2,
}
STRATA = {**STUDY, "study.selections": "random:5,top-score:3"}


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_seconds(path):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_csv(path)]


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    """A study with further selections, and the same without."""
    out = tmp_path_factory.mktemp("selections")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.pictures, "draw", lambda *_: [])
        studies = {
            name: fragility(tiny(flags), out / name)
            for name, flags in (("with", STRATA), ("without", STUDY))
        }
    return out, studies


def test_every_truth_is_found_for_every_selection(tiny):
    made = further_retrainings(tiny({**STRATA, "retrain.trajectory": True}))
    assert {name: (own.retrain.removals, own.retrain.params) for name, own in made.items()} == {
        "retrain-newton-random": ("random:5", "head"),
        "retrain-newton-top-score": ("top-score:3", "head"),
        "retrain-warm-all-random": ("random:5", "all"),
        "retrain-warm-all-top-score": ("top-score:3", "all"),
    }
    assert not any(own.retrain.trajectory for own in made.values())
    assert further_retrainings(tiny(STUDY)) == {}


def test_files_hold_the_rows_that_were_asked_for(folders, load_npz):
    out, _ = folders
    (cell,) = (out / "with" / "cells").iterdir()
    random = load_npz(cell / "retrain-newton-random.npz")["removed_ids"]
    again = load_npz(cell / "retrain-warm-all-random.npz")["removed_ids"]
    assert random.shape == (2, 5)
    assert np.array_equal(random, again)
    scores = load_npz(cell / "influence-objective.npz")
    largest = np.argsort(-np.abs(scores["scores"]).max(axis=1), axis=1, kind="stable")[:, :3]
    top = load_npz(cell / "retrain-newton-top-score.npz")["removed_ids"]
    assert np.array_equal(top, scores["train_ids"][largest])


def test_other_tables_stay_as_they_are(folders):
    out, _ = folders
    for name in ("results.csv", "summary.csv", "tests.csv"):
        assert without_seconds(out / "with" / name) == without_seconds(out / "without" / name)
    assert not (out / "without" / "strata.csv").exists()


def test_rows_of_tables_say_the_selection(folders):
    out, _ = folders
    for name in ("results.csv", "summary.csv"):
        assert {row["selection"] for row in read_csv(out / "with" / name)} == {"top-loss"}


def test_the_table_of_strata_has_a_row_for_each_selection(folders):
    out, studies = folders
    rows = read_csv(out / "with" / "strata.csv")
    assert [(row["truth"], row["selection"], row["removals"]) for row in rows] == [
        (truth, *of)
        for truth in ("newton", "warm")
        for of in (("top-loss", "4"), ("random", "5"), ("top-score", "3"))
    ]
    assert {row["cell"] for row in rows} == {"iris-mlp-depth1-width5-selu-l2"}
    assert len(studies["with"].strata) == 2
    assert studies["without"].strata == []


def test_what_it_took_is_told(folders):
    _, studies = folders
    assert "retrain newton-random" in studies["with"].costs
    assert "retrain newton-random" not in studies["without"].costs


def test_an_estimate_counts_them(tiny):
    config = replace_section(tiny(STRATA), "train", seeds=(0,))
    assert {"retrain newton-random", "retrain warm-all-top-score"} <= set(
        estimate_study(config).seconds
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"study.selections": "ids:1"}, "expected top-loss:K, top-score:K, random:K"),
        ({"study.selections": "top-loss:9"}, "rows by top-loss are removed already"),
        ({"study.selections": "random:5,random:9"}, "rows by random are removed already"),
        ({"study.selections": "random:400"}, "at most 147 can be taken"),
        (
            {"study.selections": "random:5", "retrain.group_size": 2},
            "--strata takes single rows; --group-size got 2",
        ),
    ],
)
def test_selections_that_cannot_be_are_refused_before_anything_is_written(flags, message, tiny):
    with pytest.raises(UnusableInput, match=message):
        check_study(tiny({**STUDY, **flags}))
