"""What all commands have in common: help, common options, errors as exit codes."""

import json
import subprocess
import sys
import warnings

import pytest
import yaml

import ifcheck
from ifcheck.cli.app import app
from ifcheck.cli.commands import COMMANDS
from ifcheck.config import load_config
from ifcheck.errors import Diverged, RunFailed

NAMES = [
    "train",
    "influence",
    "retrain",
    "eigen",
    "evaluate",
    "fragility",
    "diagnose",
    "compare",
    "inspect",
]
STAGES = {
    "train": "ifcheck.stages.train.train",
    "influence": "ifcheck.stages.influence.influence",
    "retrain": "ifcheck.stages.retrain.retrain",
    "eigen": "ifcheck.stages.eigen.eigen",
    "evaluate": "ifcheck.stages.evaluate.evaluate",
    "fragility": "ifcheck.stages.fragility.fragility",
    "diagnose": "ifcheck.stages.diagnose.diagnose",
    "compare": "ifcheck.stages.compare.compare",
}
WRITERS = [name for name in NAMES if name != "inspect"]
DESCRIBED = ["train", "influence", "retrain", "eigen", "fragility"]


@pytest.fixture
def failing(monkeypatch):
    """Return a helper that makes a command's stage raise an error."""

    def install(name, error):
        def stage(*_args, **_kwargs):
            raise error

        monkeypatch.setattr(STAGES[name], stage)

    return install


# --- help and version ---------------------------------------------------------------------------


def test_version_is_shown(succeed):
    assert succeed("--version").stdout == f"ifcheck {ifcheck.__version__}\n"


def test_the_commands_are_these(succeed):
    assert list(COMMANDS) == NAMES
    shown = succeed("--help").stdout
    assert all(name in shown for name in NAMES)


@pytest.mark.parametrize("arguments", [(), *((name,) for name in NAMES)])
def test_help_has_an_example(arguments, succeed):
    shown = succeed(*arguments, "--help").stdout
    assert "Example" in shown
    assert f"ifcheck {arguments[0] if arguments else 'fragility'}" in shown


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained_and_common_ones_are_everywhere(name, succeed):
    shown = succeed(name, "--help").stdout
    for option in ("config", "set", "device", "dtype", "engine", "data-dir", "threads"):
        assert f"--{option}" in shown
    for option in ("json", "print-config", "dry-run", "quiet", "debug"):
        assert f"--{option}" in shown


def test_without_arguments_the_help_is_shown(invoke):
    assert "Usage" in invoke().output


def test_help_is_quick_because_torch_is_not_imported():
    code = (
        "import sys\n"
        "from ifcheck.cli.app import app\n"
        "try:\n    app(['fragility', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "print(sorted({'torch', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_module_runs_like_the_console_script():
    command = [sys.executable, "-m", "ifcheck", "--version"]
    assert subprocess.check_output(command, text=True).startswith("ifcheck ")


# --- common options -----------------------------------------------------------------------------


def loads(text):
    """Parse JSON strictly: NaN and Infinity are not JSON."""

    def forbid(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=forbid)


@pytest.mark.parametrize("name", NAMES)
def test_with_json_stdout_is_json_and_nothing_else(name, commands, succeed, tmp_path, quick):
    out = () if name == "inspect" else ("--out", tmp_path / "new" / "file.npz")
    result = succeed(*commands[name], "--json", *out)
    assert loads(result.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_print_config_is_yaml_that_loads_back(name, commands, succeed, tmp_path, elsewhere):
    result = succeed(*commands[name], "--print-config", "--set", "train.learning_rate=0.25")
    file = tmp_path / "config.yaml"
    file.write_text(result.stdout)
    config = load_config(file)
    assert config.train.learning_rate == 0.25
    assert yaml.safe_load(result.stdout) == config.to_dict()
    again = succeed(*commands[name][:2], *commands[name][2:], "--config", file, "--print-config")
    assert again.stdout == result.stdout
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_print_config_with_json_is_json(name, commands, succeed, elsewhere):
    result = succeed(*commands[name], "--print-config", "--json")
    assert loads(result.stdout)["train"]["learning_rate"] == 1e-3


def test_flags_win_over_the_file_and_the_file_over_the_defaults(succeed, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("train: {epochs: 7, patience: 5}\nnetwork: {width: 9, depth: 2}\n")
    shown = succeed("train", "--config", file, "--epochs", 8, "--width", 3, "--print-config")
    config = yaml.safe_load(shown.stdout)
    assert (config["train"]["epochs"], config["train"]["patience"]) == (8, 5)
    assert (config["network"]["width"], config["network"]["depth"]) == (3, 2)
    assert config["retrain"]["epochs"] == 7500


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [0, 1, 2]), ("3,7,11", [3, 7, 11]), ("2..4", [2, 3, 4])]
)
def test_seeds_are_a_count_or_a_list(text, seeds, succeed):
    shown = succeed("train", "--seeds", text, "--print-config", "--json").stdout
    assert loads(shown)["train"]["seeds"] == seeds


@pytest.mark.parametrize("name", ["train", "influence", "retrain", "eigen", "fragility"])
def test_a_dry_run_writes_nothing_and_gives_time_memory_and_disk(
    name, commands, succeed, snapshot, run_folder, elsewhere
):
    before = snapshot(run_folder.parent)
    plan = loads(succeed(*commands[name], "--dry-run", "--json").stdout)
    assert plan["total_seconds"] == pytest.approx(sum(plan["seconds"].values()))
    assert 0 < plan["total_seconds"] < 600
    assert plan["memory_bytes"] > 50 << 20
    assert plan["disk_bytes"] > 1000
    assert snapshot(run_folder.parent) == before
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["train", "influence", "retrain", "eigen"])
def test_a_dry_run_shows_its_estimate_as_a_table(name, commands, succeed, elsewhere):
    shown = succeed(*commands[name], "--dry-run").stdout
    assert all(word in shown for word in ("would run", "in all", "memory", "MiB", "disk"))


@pytest.mark.parametrize("name", ["evaluate", "inspect", "compare"])
def test_a_dry_run_of_a_quick_command_says_so_as_json_too(
    name, commands, succeed, snapshot, run_folder, elsewhere
):
    before = snapshot(run_folder.parent)
    assert loads(succeed(*commands[name], "--dry-run", "--json").stdout)
    assert snapshot(run_folder.parent) == before


def test_removals_by_score_can_be_tried_dry(run_folder, succeed):
    scores = run_folder / "influence-paper.npz"
    arguments = ("--removals", "top-score:3", "--influence", scores)
    plan = loads(succeed("retrain", run_folder, *arguments, "--dry-run", "--json").stdout)
    assert plan["seconds"]["retrain"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_quiet_is_silent_on_stderr(name, commands, succeed, tmp_path, quick):
    out = () if name == "inspect" else ("--out", tmp_path / "new" / "file.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = succeed(*commands[name], "--quiet", *out)
    assert result.stderr == ""
    assert result.stdout


def test_quiet_keeps_notes_of_refusals_to_itself(other_run, succeed, tmp_path):
    arguments = ("retrain", other_run, "--truth", "newton", "--removals", "top-loss:3")
    loud = succeed(*arguments, "--out", tmp_path / "loud.npz")
    quiet = succeed(*arguments, "--out", tmp_path / "quiet.npz", "--quiet")
    assert "note: refused: without weight decay" in loud.stderr
    assert quiet.stderr == ""
    assert quiet.stdout.split()[:-1] == loud.stdout.split()[:-1]


def test_the_number_of_threads_is_taken_and_recorded(invoke, tmp_path):
    arguments = ("--seeds", 1, "--epochs", 3, "--test-points", "ids:83", "--threads", 1)
    result = invoke("train", *arguments, "--json", "--out", tmp_path / "run")
    assert loads(result.stdout)["meta"]["threads"] == 1


def test_the_training_type_is_taken_and_recorded(succeed, tmp_path):
    arguments = ("--seeds", 1, "--epochs", 3, "--test-points", "ids:83", "--dtype", "float64")
    result = succeed("train", *arguments, "--json", "--out", tmp_path / "run")
    assert loads(result.stdout)["meta"]["dtype"] == "float64"
    shown = succeed("inspect", tmp_path / "run" / "checkpoints", "--json").stdout
    assert {array["type"] for array in loads(shown)[0]["arrays"]} == {"float64"}


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [
        ("--dataset", "irsi", "'iris'"),
        ("--network", "mpl", "'mlp'"),
        ("--variant", "l2-sw", "'l2-swa'"),
        ("--engine", "trch", "'torch'"),
        ("--set", "network.widht=3", "'width'"),
        ("--set", "train.epoch=3", "'train.epochs'"),
        ("--set", "trian.epochs=3", "'train'"),
    ],
)
@pytest.mark.parametrize("name", ["train", "fragility"])
def test_an_unknown_name_is_refused_with_the_nearest(name, option, value, near, refuse, tmp_path):
    message = refuse(name, option, value, "--out", tmp_path / "new")
    assert "unknown" in message
    assert any(part in message for part in value.partition("=")[0].split("."))
    assert f"Did you mean {near}?" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_key_in_the_file_is_refused_with_the_nearest(
    name, commands, refuse, tmp_path, elsewhere
):
    file = tmp_path / "config.yaml"
    file.write_text("train:\n  epoch: 5\n")
    message = refuse(*commands[name], "--config", file)
    assert "unknown configuration key 'train.epoch'" in message
    assert "Did you mean 'train.epochs'?" in message
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1\n- 2\n", "holds a list; expected sections"),
        ("just words", "holds a str; expected sections"),
        ("train: {epochs: many}", "train.epochs is 'many'"),
    ],
)
def test_an_unusable_file_is_refused(content, message, refuse, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    assert message in refuse("train", "--config", file, "--out", tmp_path / "run")


def test_a_file_that_is_not_yaml_is_refused_with_the_place(invoke, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("train: [1")
    result = invoke("train", "--config", file, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {file} is not YAML")
    assert "line 1, column 8" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_or_binary_file_is_refused(refuse, tmp_path):
    assert "cannot read" in refuse("train", "--config", tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(128, 256)))
    assert "cannot read" in refuse("train", "--config", tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epochs", "expected dotted.key=value"),
        ("train.epochs=many", "train.epochs is 'many'"),
        ("train.factor=2", "train.factor is 2"),
    ],
)
def test_an_unusable_assignment_is_refused(assignment, message, refuse, tmp_path):
    assert message in refuse("train", "--set", assignment, "--out", tmp_path / "run")


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".001", "1.0e-3"])
def test_a_number_may_be_written_as_usual(text, succeed, tmp_path):
    """YAML 1.1 takes 1e-3 for text; people do not."""
    file = tmp_path / "config.yaml"
    file.write_text(f"train: {{learning_rate: {text}}}\n")
    for given in (("--set", f"train.learning_rate={text}"), ("--config", file)):
        shown = succeed("train", *given, "--print-config", "--json").stdout
        assert loads(shown)["train"]["learning_rate"] == 1e-3


def test_an_assignment_that_is_not_yaml_is_refused(invoke):
    result = invoke("train", "--set", "train.epochs=[1")
    assert result.exit_code == 2
    assert "train.epochs=[1" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_empty_file_changes_nothing(succeed, tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    shown = succeed("train", "--config", tmp_path / "empty.yaml", "--print-config").stdout
    assert shown == succeed("train", "--print-config").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--no-such-option"), "--no-such-option"),
        (("influence",), "RUN"),
        (("evaluate", "--influence", "x.npz"), "--retrain"),
        (("train", "--epochs", "many"), "--epochs"),
        (("trian",), "trian"),
    ],
)
def test_unusable_arguments_exit_with_2_and_one_message(arguments, message, invoke):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:99", "asks for a GPU; this torch"), ("tpu", "expected auto, cpu or cuda[:n]")],
)
@pytest.mark.parametrize("name", DESCRIBED)
def test_a_device_that_is_not_there_is_refused(
    name, device, message, commands, refuse, elsewhere, tmp_path
):
    out = tmp_path / "new.npz"
    assert message in refuse(*commands[name], "--device", device, "--out", out)
    assert not out.exists()


def test_cuda_is_refused_on_a_machine_without(refuse, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    message = refuse("train", "--device", "cuda", "--out", tmp_path / "run")
    assert "--device cuda asks for a GPU" in message
    assert "Use --device cpu" in message


@pytest.mark.parametrize("name", WRITERS)
def test_ctrl_c_exits_with_130(name, commands, refuse, failing, tmp_path):
    failing(name, KeyboardInterrupt())
    message = refuse(*commands[name], "--out", tmp_path / "new.npz", code=130)
    assert "interrupted" in message
    assert "kept" in message


@pytest.mark.parametrize(
    "error",
    [
        Diverged("all 2 seeds turned non-finite.", remedy="Lower the learning rate."),
        RunFailed("writing failed: no space left.", remedy="Free some disk space."),
        MemoryError("cannot allocate 8 TiB of memory"),
        OSError(28, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("name", WRITERS)
def test_what_fails_while_running_exits_with_3(name, error, commands, refuse, failing, tmp_path):
    failing(name, error)
    message = refuse(*commands[name], "--out", tmp_path / "new.npz", code=3)
    assert str(error) in message


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shape"), ValueError("axis"), KeyError("loss"), TypeError("none")],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_ifchecks_own_is_told_as_such(error, commands, refuse, failing, tmp_path):
    failing("train", error)
    message = refuse(*commands["train"], "--out", tmp_path / "run", code=3)
    assert f"unexpected {type(error).__name__}" in message
    assert "--debug" in message


@pytest.mark.parametrize("error", [Diverged("boom", remedy="less"), KeyError("loss")])
def test_debug_shows_the_traceback_before_the_message(error, commands, invoke, failing, tmp_path):
    failing("train", error)
    result = invoke(*commands["train"], "--out", tmp_path / "run", "--debug")
    assert result.exit_code == 3
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert type(error).__name__ in result.stderr
    assert "error: " in result.stderr.splitlines()[-2]


def test_debug_of_one_call_does_not_stay_for_the_next(commands, invoke, refuse, tmp_path):
    invoke("train", "--dataset", "irsi", "--debug")
    refuse("train", "--dataset", "irsi")


def test_an_error_is_told_also_when_quiet(invoke):
    result = invoke("train", "--dataset", "irsi", "--quiet")
    assert result.exit_code == 2
    assert "unknown dataset 'irsi'" in result.stderr


def test_an_error_leaves_stdout_empty_also_with_json(invoke):
    result = invoke("train", "--dataset", "irsi", "--json")
    assert (result.exit_code, result.stdout) == (2, "")


def test_the_application_is_the_registered_one():
    assert {command.name for command in app.registered_commands} == set(NAMES)
