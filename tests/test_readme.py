"""README.md: its labelled blocks, its commands and options, and its Python example."""

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer.main

from ifcheck import errors
from ifcheck.artifacts.arrays import SCHEMAS
from ifcheck.cli.app import app
from ifcheck.cli.session import DESCRIPTION_KEYS
from ifcheck.config import load_config
from ifcheck.removal import TRUTHS
from ifcheck.scores import ESTIMATORS, resolve_estimator
from ifcheck.stages.influence import influence
from ifcheck.stages.train import train

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LABELS = ("main", "test", "stages")


def load_reader():
    """The script that `.ci/run` reads the blocks with."""
    spec = importlib.util.spec_from_file_location(
        "readme_commands", ROOT / ".ci" / "readme_commands.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shell_commands(text):
    """Single commands of shell text: continued lines joined, `&&` split, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part and not part.startswith("#")]


def ifcheck_commands():
    """Every call of ifcheck in a shell block or in code within the text."""
    blocks = re.findall(r"^```sh.*?\n(.*?)^```", README, flags=re.M | re.S)
    text = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
    inline = re.findall(r"`(ifcheck [^`]+)`", text)
    found = [command for block in blocks for command in shell_commands(block)]
    return [c for c in [*found, *inline] if c.split()[0] == "ifcheck"]


@pytest.fixture(scope="module")
def group():
    return typer.main.get_command(app)


def parse(group, command):
    """Parse a command line without running it; returns the options given, by name."""
    name, *arguments = shlex.split(command)[1:]
    context = group.make_context("ifcheck", [], resilient_parsing=True)
    subcommand = group.get_command(context, name)
    assert subcommand is not None, f"no command {name!r}"
    return subcommand.make_context(name, arguments, parent=context).params


@pytest.mark.parametrize("label", LABELS)
def test_a_labelled_block_is_there_once(label):
    assert load_reader().commands(label).strip()


def test_a_label_that_is_not_there_is_an_error():
    with pytest.raises(SystemExit, match="0 blocks labelled 'nowhere'; expected one"):
        load_reader().commands("nowhere")


def test_the_main_block_is_one_command_that_installs_and_runs_the_study(group):
    """`.ci/run` puts two seeds in place of the fifty, so the text must be there to replace."""
    block = load_reader().commands("main")
    assert len(block.strip().splitlines()) == 1
    install, study = shell_commands(block)
    assert install.startswith("pip install ")
    assert "--seeds 50" in study
    given = parse(group, study)
    assert (given["dataset"], given["width"], given["seeds"]) == ("iris", "5", "50")


def test_the_test_block_installs_and_ends_with_pytest():
    """`.ci/run` cuts ` && pytest` off the end to check style and types in between."""
    block = load_reader().commands("test")
    assert block.endswith(" && pytest\n")
    assert ".[test]" in block


def test_the_stages_block_reads_no_file_that_it_did_not_write(group):
    written = {"run"}
    for command in shell_commands(load_reader().commands("stages")):
        given = parse(group, command)
        read = [*(given.get("sources") or []), *(given.get("files") or [])]
        for name in ("influence", "retrain"):
            value = given.get(name)
            read += value if isinstance(value, list) else [value] if value else []
        read += [given["eigen"]] if given.get("eigen") else []
        like = re.match("like:(.*)", given.get("removals") or "")
        read += [Path(like[1])] if like else []
        missing = {str(Path(path)) for path in read} - written
        assert not missing, command
        if given.get("out"):
            written.add(str(given["out"]))
    assert "run/evaluation.json" in written


@pytest.mark.parametrize("command", ifcheck_commands())
def test_every_command_has_known_options(command, group):
    parse(group, command)


def test_commands_are_found_at_all():
    """Or the test above would pass on nothing."""
    names = {command.split()[1] for command in ifcheck_commands()}
    assert names == {
        *("train", "influence", "retrain", "eigen", "evaluate", "inspect"),
        *("fragility", "diagnose", "compare"),
    }
    assert len(ifcheck_commands()) >= 12


@pytest.mark.parametrize("command", ifcheck_commands())
def test_every_configuration_that_is_named_exists_and_loads(command, group):
    given = parse(group, command)
    if given.get("config") is not None:
        assert load_config(ROOT / given["config"])


def test_every_option_in_the_text_exists(group):
    text = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
    mentioned = {
        o for span in re.findall(r"`([^`]+)`", text) for o in re.findall(r"--[\w-]+", span)
    }
    context = group.make_context("ifcheck", [], resilient_parsing=True)
    known = {
        option
        for name in group.list_commands(context)
        for parameter in group.get_command(context, name).params
        for option in parameter.opts
    }
    assert mentioned - {"--help"} <= known
    assert "--min-spearman" in mentioned


def test_the_table_of_estimators_says_what_they_are():
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", README, flags=re.M))
    for name in ESTIMATORS:
        config = load_config(None, {"influence.estimator": name}).influence
        estimator = resolve_estimator(config)
        hessian, params, damping, normalisation = map(str.strip, rows[name].split("|"))
        assert ("data" in hessian) == (estimator.hessian == "data"), name
        assert float(damping.split()[0]) == estimator.damping
        assert normalisation == estimator.normalisation
        assert ("weight matrix" in params) == (estimator.params == "layer:head.weight")
    assert all(name in rows for name in TRUTHS)


def test_the_files_that_are_described_are_those_that_are_written():
    described = re.findall(r"^\| `(\w+)\*?\.npz` \|", README, flags=re.M)
    assert set(described) == set(SCHEMAS)


def test_the_python_example_runs_on_a_run_of_its_own(tmp_path, monkeypatch):
    config = load_config(None, {"train.seeds": 2, "train.epochs": 3, "data.test_points": "ids:83"})
    train(config, tmp_path / "run")
    influence(config, [tmp_path / "run"], tmp_path / "run" / "influence-objective.npz")
    (example,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["file"]["scores"].shape == (2, 1, 149)
    assert np.isfinite(names["file"]["scores"]).all()


def test_the_exit_codes_are_those_of_the_program():
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.M)}
    assert codes == {getattr(errors, name) for name in dir(errors) if name.startswith("EXIT_")}


def test_options_that_describe_a_users_own_model_are_those_of_the_command(group):
    (command,) = [c for c in ifcheck_commands() if "model.pt" in c]
    given = {name for name, value in parse(group, command).items() if value}
    assert {"dataset", "depth", "width", "variant"} <= given & set(DESCRIPTION_KEYS)
