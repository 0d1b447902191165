"""Stage `diagnose`: what it makes, what it uses again, what it leaves out."""

import json
import shutil

import pytest

from ifcheck.config import load_config
from ifcheck.errors import (
    ArtifactUnreadable,
    Diverged,
    OutputRefused,
    UnknownName,
    UnusableInput,
)
from ifcheck.stages.diagnose import FILE, diagnose
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.influence import influence
from ifcheck.stages.reporting import Silent
from ifcheck.stages.retrain import retrain
from ifcheck.stages.run_files import FOLDER, runs_of
from tests.stages.conftest import TINY, defined

TRUTHS = ("pbrf", "newton", "warm", "scratch")
ASKED = {
    "retrain.removals": "top-loss:6",
    "diagnose.estimators": ("objective", "train-loss"),
    "diagnose.truths": TRUTHS,
}


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


@pytest.fixture(scope="module")
def config():
    return load_config(None, {**TINY, **ASKED})


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Leave out the pictures, which take longest and are tested elsewhere."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("ifcheck.stages.pictures.draw", lambda *_: [])


@pytest.fixture
def drawn():
    """Asked for by a test of the pictures: they are drawn."""


@pytest.fixture
def run(runs, tmp_path):
    """A copy of a run's folder of which nothing is known yet."""
    return shutil.copytree(runs("l2"), tmp_path / "run")


def made_in(folder):
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


def test_what_is_missing_is_made_and_found_again(run, config, drawn):
    found = diagnose(config, [run])
    assert found.folder == run / FOLDER
    made = made_in(found.folder)
    names = {f"retrain-{truth}.npz" for truth in TRUTHS}
    names |= {"influence-objective.npz", "influence-train-loss.npz", "eigen.npz", FILE}
    names |= {"report.html", "figures"}
    assert made.keys() == names
    assert found.left_out == {}
    again = diagnose(config, [run])
    assert defined(again.to_dict()) == defined(found.to_dict())
    changed = {name for name, time in made_in(found.folder).items() if time != made[name]}
    assert changed <= {FILE, "report.html", "figures"}


def test_it_says_what_the_stages_say_one_by_one(run, config):
    found = diagnose(config, [run])
    files = [run / FOLDER / f"influence-{name}.npz" for name in ("objective", "train-loss")]
    truths = [run / FOLDER / f"retrain-{name}.npz" for name in TRUTHS]
    by_hand = evaluate(config, files, truths, run / FOLDER / "eigen.npz")
    assert defined(by_hand.summaries) == defined(found.evaluation.summaries)
    assert defined(by_hand.gaps) == defined(found.evaluation.gaps)
    stored = json.loads((run / FOLDER / FILE).read_text())
    assert [s["verdict"] for s in stored["summaries"]] == [s["verdict"] for s in by_hand.summaries]
    assert {s["replicates"] for s in stored["summaries"] if s["truth"] == "scratch"} == {2}
    assert {s["replicates"] for s in stored["summaries"] if s["truth"] != "scratch"} == {1}


def test_files_of_the_run_itself_are_used_where_they_answer_the_question(run, config, tiny):
    own = run / "retrain-warm.npz"
    retrain(tiny({"retrain.removals": "top-loss:6"}), [run], own)
    influence(tiny(), [run], run / "influence-objective.npz")
    other = run / "retrain-newton.npz"
    retrain(tiny({"retrain.removals": "random:6", "retrain.truth": "newton"}), [run], other)
    before = made_in(run)
    found = diagnose(config, [run])
    assert {retrained.path for retrained in found.retrains} >= {own, run / FOLDER / other.name}
    assert found.influences[0].path == run / "influence-objective.npz"
    assert {name: time for name, time in made_in(run).items() if name != FOLDER} == before


def test_what_a_network_lacks_is_left_out_with_the_reason(runs, config, tmp_path):
    notes = Notes()
    bayesian = shutil.copytree(runs("bnn"), tmp_path / "bnn")
    found = diagnose(config, [bayesian], None, notes)
    told = {s["truth"]: s for s in found.evaluation.summaries if not s["baseline"]}
    assert "pbrf" in found.left_out or "refused" in told["pbrf"]["reason"]
    assert told["newton"]["verdict"]
    assert all(any(what in note for note in notes.told) for what in found.left_out)


def test_a_truth_that_is_refused_in_its_file_is_left_out_too(runs, config, tmp_path):
    plain = shutil.copytree(runs("none"), tmp_path / "none")
    found = diagnose(config, [plain])
    assert "without weight decay" in found.left_out["newton"]
    assert {s["truth"] for s in found.evaluation.summaries} == {"warm", "scratch"}


def test_what_another_configuration_made_is_never_replaced(run, config):
    diagnose(config, [run])
    before = made_in(run / FOLDER)
    other = load_config(None, {**TINY, **ASKED, "retrain.removals": "random:5"})
    with pytest.raises(OutputRefused, match="'random:5', was 'top-loss:6'"):
        diagnose(other, [run])
    assert made_in(run / FOLDER) == before


def test_groups_by_score_are_ranked_by_the_first_estimator(run):
    asked = {**TINY, **ASKED, "diagnose.truths": ("newton",), "retrain.removals": "top-score:3"}
    grouped = load_config(None, {**asked, "retrain.group_size": 2})
    found = diagnose(grouped, [run], run / "groups")
    ids = [artifact["group_ids"] for artifact in (*found.influences, *found.retrains)]
    assert all((own == ids[0]).all() for own in ids)
    single = load_config(None, asked)
    rows = diagnose(single, [run], run / "rows").retrains[0]["removed_ids"]
    swapped = load_config(None, {**asked, "diagnose.estimators": ("train-loss", "objective")})
    with pytest.raises(OutputRefused, match="other rows by name"):
        diagnose(swapped, [run], run / "rows")
    assert rows.shape[1] == 3


def test_a_run_that_diverges_in_one_truth_is_judged_by_the_others(run, config, monkeypatch):
    def fail(*_args, **_kwargs):
        raise Diverged("turned non-finite.", remedy="Wait.")

    monkeypatch.setattr("ifcheck.removal.warm.Warm.remove", fail)
    found = diagnose(config, [run])
    assert found.left_out == {"warm": "turned non-finite."}
    assert {s["truth"] for s in found.evaluation.summaries} == {"pbrf", "newton", "scratch"}


def test_all_files_can_go_elsewhere(run, config, tmp_path):
    before = made_in(run)
    found = diagnose(config, [run / "checkpoints"], tmp_path / "elsewhere")
    assert found.folder == tmp_path / "elsewhere"
    assert (tmp_path / "elsewhere" / FILE).is_file()
    assert made_in(run) == before


def test_an_unknown_name_is_an_error_and_not_left_out(run):
    for part in ("estimators", "truths"):
        wrong = load_config(None, {**TINY, **ASKED, f"diagnose.{part}": ("wram",)})
        with pytest.raises(UnknownName, match="wram"):
            diagnose(wrong, [run])


def test_nothing_to_compare_is_an_error(runs, tmp_path):
    bayesian = shutil.copytree(runs("bnn"), tmp_path / "bnn")
    only = load_config(None, {**TINY, **ASKED, "diagnose.estimators": ("newton-step",)})
    with pytest.raises(UnusableInput, match="nothing is left to compare"):
        diagnose(only, [bayesian])


def test_no_checkpoint_is_an_error(config, tmp_path):
    with pytest.raises(ArtifactUnreadable):
        diagnose(config, [tmp_path])


def test_runs_have_the_shortest_names_that_tell_them_apart(tmp_path):
    for name in ("a/run", "b/run", "c", "study/cells/one", "study/cells/two"):
        (tmp_path / name).mkdir(parents=True)
    assert list(runs_of([tmp_path / "c"])) == ["c"]
    assert list(runs_of([tmp_path / "a/run", tmp_path / "b/run"])) == ["a/run", "b/run"]
    (tmp_path / "study/study.json").write_text("{}")
    with pytest.raises(ArtifactUnreadable, match="no cell of the study"):
        runs_of([tmp_path / "study"])
    (tmp_path / "study/cells/three").mkdir()
    for name in ("one", "two"):
        (tmp_path / "study/cells" / name / "train.npz").touch()
    cells = runs_of([tmp_path / "study"])
    assert {name: [path.name for path in own] for name, own in cells.items()} == {
        "one": ["one"],
        "two": ["two"],
    }
    (tmp_path / "c/checkpoints").mkdir()
    files = [tmp_path / "c/checkpoints" / f"seed-00{i}.safetensors" for i in range(2)]
    assert runs_of(files) == {"c": files}
    assert list(runs_of([tmp_path / "c/checkpoints"])) == ["c"]
    with pytest.raises(UnusableInput, match="named twice"):
        runs_of([tmp_path / "c", files[0]])
