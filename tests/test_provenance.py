"""Digests, versions and named seeds: equal where things are equal, and nowhere else."""

import hashlib
import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ifcheck
from ifcheck import provenance
from ifcheck.provenance import (
    array_digest,
    code_revision,
    file_digest,
    named_seed,
    replicate_seed,
    versions,
)

# --- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "digest"),  # the examples of FIPS 180-2
    [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (b"a" * 10**6, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ],
)
def test_digest_of_a_file_is_its_sha_256(tmp_path, content, digest):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert file_digest(path) == digest


# --- arrays --------------------------------------------------------------------------------

ARRAY = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([ARRAY.astype(np.float32)], id="type"),
        pytest.param([ARRAY.astype(">f8")], id="byte order"),
        pytest.param([ARRAY.reshape(3, 2)], id="shape"),
        pytest.param([ARRAY.T], id="transposed"),
        pytest.param([np.nextafter(ARRAY, 9)], id="last bit"),
        pytest.param([ARRAY, ARRAY[:0]], id="one more, empty"),
        pytest.param([ARRAY[:1], ARRAY[1:]], id="cut in two"),
        pytest.param([], id="none"),
    ],
)
def test_different_arrays_have_different_digests(others):
    assert array_digest(others) != array_digest([ARRAY])


def test_order_of_arrays_counts():
    assert array_digest([ARRAY, ARRAY + 1]) != array_digest([ARRAY + 1, ARRAY])


def test_layout_in_memory_does_not_count():
    assert array_digest([np.asfortranarray(ARRAY)]) == array_digest([ARRAY])
    assert array_digest([np.repeat(ARRAY, 2, axis=1)[:, ::2]]) == array_digest([ARRAY])


def test_digest_of_arrays_is_a_sha_256_of_any_iterable():
    assert re.fullmatch("[0-9a-f]{64}", array_digest([ARRAY]))
    assert array_digest(array for array in (ARRAY, ARRAY)) == array_digest([ARRAY, ARRAY])


# --- seeds ---------------------------------------------------------------------------------


def test_named_seed_is_the_same_on_every_machine_and_in_every_version():
    first_eight_bytes = int(hashlib.sha256(b"3/bootstrap/7").hexdigest()[:16], 16)
    assert named_seed(3, "bootstrap", 7) == first_eight_bytes // 2


def test_purposes_and_seeds_get_different_numbers():
    purposes = [("init",), ("shuffle",), ("bootstrap", 0), ("bootstrap", 1), ("bootstrap", 10)]
    numbers = {named_seed(seed, *names) for seed in range(50) for names in purposes}
    assert len(numbers) == 50 * len(purposes)


def test_a_replicates_seed_is_named_and_the_first_is_the_users_own():
    assert [replicate_seed(seed, 0) for seed in (0, 7)] == [0, 7]
    digest = hashlib.sha256(b"7/replicate/2").digest()
    assert replicate_seed(7, 2) == int.from_bytes(digest[:8], "big") // 2
    numbers = {replicate_seed(seed, r) for seed in range(50) for r in range(20)}
    assert len(numbers) == 1000


def test_named_seeds_fit_the_generators_of_torch_and_numpy():
    numbers = [named_seed(seed, "init") for seed in range(200)]
    assert all(0 <= number < 2**63 for number in numbers)
    assert max(numbers) > 2**62  # all 63 bits are used


# --- versions ------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["torch", "numpy", "scipy", "scikit-learn", "safetensors"])
def test_versions_of_the_packages_that_numbers_depend_on(package):
    assert versions()[package] == importlib.metadata.version(package)


def test_versions_of_python_and_ifcheck():
    assert versions()["python"] == platform.python_version()
    assert versions()["ifcheck"] == ifcheck.__version__


# --- revision of the code ------------------------------------------------------------------


@pytest.fixture
def revision_of_copy(tmp_path, monkeypatch):
    """Return (folder of a copy of the sources, function that gives the copy's revision)."""
    copy = tmp_path / "ifcheck"
    shutil.copytree(Path(ifcheck.__file__).parent, copy)
    monkeypatch.setattr(ifcheck, "__file__", str(copy / "__init__.py"))
    return copy, provenance.code_revision.__wrapped__


def test_revision_is_short_and_the_same_in_another_process():
    command = "from ifcheck.provenance import code_revision; print(code_revision())"
    elsewhere = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert elsewhere.stdout.strip() == code_revision()
    assert re.fullmatch("[0-9a-f]{16}", code_revision())


def test_revision_does_not_depend_on_where_the_code_lies(revision_of_copy):
    _, revision = revision_of_copy
    assert revision() == code_revision()


def test_revision_changes_with_a_line_of_code(revision_of_copy):
    copy, revision = revision_of_copy
    with (copy / "stages" / "train.py").open("a") as file:
        file.write("# one more line\n")
    assert revision() != code_revision()


def test_revision_changes_with_the_name_of_a_module(revision_of_copy):
    copy, revision = revision_of_copy
    (copy / "registry.py").rename(copy / "register.py")
    assert revision() != code_revision()


def test_revision_does_not_see_what_running_leaves_behind(revision_of_copy):
    copy, revision = revision_of_copy
    (copy / "__pycache__").mkdir(exist_ok=True)
    (copy / "__pycache__" / "errors.cpython-311.pyc").write_bytes(b"compiled")
    assert revision() == code_revision()
