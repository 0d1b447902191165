"""configs/*.yaml: each runs at tiny size, says what it means, and repeats no default."""

from pathlib import Path

import pytest
import yaml

from ifcheck.config import Config, flatten, load_config
from ifcheck.stages.cells import cells_of
from ifcheck.stages.fragility import fragility
from tests.benchmarks import sequential_loop as loop

FOLDER = Path(__file__).parent.parent / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))
IRIS = sorted(FOLDER.glob("iris*.yaml"))
TINY = (
    "train.seeds=2",
    "train.epochs=20",
    "retrain.epochs=10",
    "retrain.removals=top-loss:2",
    "evaluate.bootstrap_samples=0",
)
TINY_IRIS = (*TINY, "study.sizes=[{depth: 1, width: 5}]", "data.test_points=ids:83")
TINY_IMAGES = (
    *TINY[:1],
    "train.epochs=2",
    "retrain.epochs=2",
    "retrain.removals=top-score:2",
    "data.limit_train=40",
    "data.limit_test=20",
    "evaluate.bootstrap_samples=0",
)
PLAIN = ("none", "swa", "l2", "l2-swa")
SIZES = {(depth, 5) for depth in range(1, 9)} | {(1, w) for w in (5, 8, 14, 20, 30, 40, 50)}


def test_the_configurations_are_found():
    assert {file.name for file in FILES} >= {"iris.yaml", "iris-authors.yaml"}


@pytest.fixture
def tiny(request):
    """A configuration at tiny size; of data in files only where these are."""

    def load(file: Path) -> Config:
        if file in IRIS:
            return load_config(file, assignments=TINY_IRIS)
        folder = f"data.data_dir={request.getfixturevalue('data_dir')}"
        config = load_config(file, assignments=(*TINY_IMAGES, folder))
        # A Bayesian head of 84 features that is far from its optimum takes Newton minutes.
        more = "study.sizes=[{width: 8}]" if config.study.sizes else "study.truths=warm"
        return load_config(file, assignments=(*TINY_IMAGES, folder, more))

    return load


@pytest.fixture
def narrow_vgg13(monkeypatch):
    """VGG13 with few channels, as its own take minutes and gigabytes at any number of rows.

    Just too many parameters for all eigenvalues, which would take minutes too.
    """
    monkeypatch.setattr("ifcheck.models.convolutional.VGG13_BLOCKS", (2, 3, 4, 4, 4))
    monkeypatch.setattr("ifcheck.models.convolutional.VGG13_LINEAR", (64, 72, 12))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_configuration_runs_through_at_tiny_size(file, tiny, tmp_path, monkeypatch, narrow_vgg13):
    monkeypatch.setattr("ifcheck.stages.comparisons.tukey", lambda _: [])  # seconds, tested apart
    config = tiny(file)
    with loop.one_thread():
        study = fragility(config, tmp_path / "study")
    variants = config.study.variants or (*PLAIN, "bnn")
    pairs = [
        (variant, estimator, *((truth + ":head").split(":")[:2]))
        for variant in variants
        for estimator in config.study.estimators
        for truth in config.study.truths
    ]
    names = ("variant", "estimator", "truth", "retrain_params")
    found = [tuple(row[name] for name in names) for row in study.summaries]
    assert found == pairs
    assert not [row for row in study.results if str(row["status"]).startswith("failed")]
    assert (study.out / "figures" / "figure-4-by-rank.png").is_file()
    if config.study.sizes:
        assert (study.out / "figures" / "figure-3-top-eigenvalue.png").is_file()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_configuration_states_only_departures_from_the_defaults(file):
    stated = dict(flatten(yaml.safe_load(file.read_text())))
    defaults = dict(flatten(Config().to_dict()))
    assert stated
    assert not {key for key, value in stated.items() if defaults.get(key) == value}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_configuration_begins_with_what_it_is(file):
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize(
    ("name", "variants"),
    [("iris", (*PLAIN, "bnn")), ("iris-authors", PLAIN), ("iris-authors-bnn", ("bnn",))],
)
def test_the_iris_studies_have_fourteen_sizes_of_each_variant(name, variants):
    cells = cells_of(load_config(FOLDER / f"{name}.yaml"))
    found = [(c.options["depth"], c.options["width"], c.config.variant.name) for c in cells]
    assert len(SIZES) == 14
    assert set(found) == {(*size, v) for size in SIZES for v in variants}
    assert len(found) == 14 * len(variants)


def test_the_papers_study_is_that_of_its_text():
    config = load_config(FOLDER / "iris.yaml")
    assert (len(config.train.seeds), config.train.epochs) == (50, 60_000)
    assert (config.train.learning_rate, config.train.patience) == (1e-3, 100)
    assert (config.retrain.removals, config.retrain.epochs) == ("top-loss:40", 7_500)
    assert (config.retrain.params, config.retrain.swa_restart) == ("head", "average")
    assert config.data.test_points == "max-loss"


def test_the_authors_study_is_that_of_their_released_files():
    config = load_config(FOLDER / "iris-authors.yaml")
    assert config.retrain.removals == "top-loss:25"
    assert config.retrain.swa_restart == "live"
    assert config.study.estimators == ("authors",)
    assert config.study.truths == ("warm:all",)


def test_the_authors_bayesian_study_is_as_far_as_it_can_be_run_theirs():
    config = load_config(FOLDER / "iris-authors-bnn.yaml")
    assert config.network.options == {"activation": "tanh"}
    assert config.variant.options == {"rho": 0.0, "rho_spread": 5.0}
    assert config.retrain.removals == "top-loss:25"
    assert config.study.truths == ("warm:all",)


@pytest.mark.parametrize("name", ["mnist-fc", "mnist-lenet", "cifar10-lenet"])
def test_the_studies_of_images_are_those_of_the_papers_text(name):
    config = load_config(FOLDER / f"{name}.yaml")
    assert config.data.dataset == name.partition("-")[0]
    assert len(config.train.seeds) == 10
    assert config.retrain.removals == "top-score:40"
    assert config.retrain.trajectory
    cells = cells_of(config)
    assert [c.config.variant.name for c in cells[:2]] == ["l2", "bnn"]
    assert cells[0].config.variant.options == {"weight_decay": 0.001}
    train, retrain = cells[0].config.train, cells[0].config.retrain
    if name == "mnist-fc":
        assert {cell.options["width"] for cell in cells} == {8, 16, 32, 64, 128}
        assert {cell.options["activation"] for cell in cells} == {"tanh"}
        assert (train.epochs, train.patience, retrain.epochs) == (5_000, 100, 2_000)
        assert (train.batch_size, train.early_stop, train.amsgrad) == (None, None, True)
    else:
        assert (train.epochs, train.patience, retrain.epochs) == (100, 2, 30)
        assert (train.batch_size, train.early_stop, train.amsgrad) == (1_024, 5, False)
