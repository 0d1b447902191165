"""Stage `eigen`: both methods against a Hessian by autograd on a plain loop model."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.func import functional_call
from torch.nn import functional

from ifcheck.errors import UnknownName, UnusableInput
from ifcheck.stages.eigen import eigen
from ifcheck.stages.train import train

SECTIONS = {"data", "network", "variant", "train", "eigen"}
METHODS = ["power", "dense", "lanczos"]


@pytest.fixture(scope="module")
def measured(tiny, runs, tmp_path_factory):
    """Return the eigen file of the l2 run by method; each is made once."""
    files = {}

    def file(method):
        if method not in files:
            files[method] = tmp_path_factory.mktemp("eigen") / f"eigen-{method}.npz"
            eigen(tiny({"eigen.method": method}), [runs("l2")], files[method])
        return files[method]

    return file


@pytest.fixture(scope="module")
def true_eigenvalues(runs, loop_model, iris_rows):
    """All eigenvalues of the data loss's Hessian of the l2 run, by seed, ascending."""
    inputs, targets = map(torch.tensor, iris_rows["train"])
    found = []
    for seed in range(4):
        model = loop_model(runs("l2") / "checkpoints" / f"seed-{seed:03d}.safetensors")
        shapes = {name: p.shape for name, p in model.named_parameters()}
        flat = torch.cat([p.detach().flatten() for p in model.parameters()])

        def loss(values, model=model, shapes=shapes):
            pieces = values.split([shape.numel() for shape in shapes.values()])
            named = {
                name: piece.view(shape)
                for piece, (name, shape) in zip(pieces, shapes.items(), strict=True)
            }
            return functional.cross_entropy(functional_call(model, named, inputs), targets)

        hessian = torch.autograd.functional.hessian(loss, flat)
        found.append(torch.linalg.eigvalsh(hessian).numpy())
    return np.array(found)


@pytest.mark.parametrize("method", METHODS)
def test_arrays_have_the_documented_names_and_shapes(method, measured, load_npz):
    arrays = load_npz(measured(method))
    assert {name: value.shape for name, value in arrays.items()} == {
        "seeds": (4,),
        "values": (4, 1),
        "rel_residual": (4, 1),
        "min_value": (4,),
        "max_value": (4,),
    }
    assert arrays["seeds"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("method", METHODS)
def test_meta_names_parents_and_configuration(
    method, measured, runs, checkpoints_of, assert_provenance, meta_of
):
    assert_provenance(measured(method), "eigen", checkpoints_of(runs("l2")), SECTIONS)
    found = meta_of(measured(method))["config"]["eigen"]
    expected = {"method": method, "top": 1, "hessian": "data", "dtype": "float64"}
    density = {"density": False, "density_probes": 10, "density_steps": 80}
    assert found == expected | density


def test_dense_finds_the_true_extremes(measured, load_npz, true_eigenvalues):
    arrays = load_npz(measured("dense"))
    assert_allclose(arrays["values"][:, 0], true_eigenvalues[:, -1], rtol=1e-9)
    assert_allclose(arrays["max_value"], true_eigenvalues[:, -1], rtol=1e-9)
    assert_allclose(arrays["min_value"], true_eigenvalues[:, 0], rtol=1e-7, atol=1e-12)
    assert (arrays["rel_residual"] < 1e-12).all()


def test_power_iteration_finds_the_largest_as_well_as_its_residual_says(
    measured, load_npz, true_eigenvalues
):
    arrays = load_npz(measured("power"))
    assert_allclose(arrays["values"][:, 0], true_eigenvalues[:, -1], rtol=2e-2)
    # Some eigenvalue of a symmetric matrix lies within the residual of any estimate.
    distance = np.abs(arrays["values"] - true_eigenvalues).min(axis=1)
    assert (distance <= (arrays["rel_residual"] * np.abs(arrays["values"]))[:, 0] + 1e-12).all()
    assert np.isnan(arrays["min_value"]).all()
    assert np.isnan(arrays["max_value"]).all()


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_agrees_to_its_rounding(method, tiny, runs, tmp_path, measured, load_npz):
    config = tiny({"eigen.method": method, "eigen.dtype": "float32"})
    found = eigen(config, [runs("l2")], tmp_path / "eigen.npz")
    assert found.meta["dtype"] == "float32"
    expected = load_npz(measured(method))["values"]
    assert found["values"].dtype == found["rel_residual"].dtype == np.float64
    assert not np.array_equal(found["values"], expected)
    assert_allclose(found["values"], expected, rtol=2e-3 if method == "power" else 1e-5)


def test_several_values_come_by_falling_magnitude(tiny, runs, tmp_path, true_eigenvalues):
    found = eigen(
        tiny({"eigen.method": "dense", "eigen.top": 43}), [runs("l2")], tmp_path / "all.npz"
    )
    order = np.argsort(-np.abs(true_eigenvalues), axis=1)
    expected = np.take_along_axis(true_eigenvalues, order, axis=1)
    assert found["values"].shape == (4, 43)
    assert_allclose(found["values"][:, :20], expected[:, :20], rtol=1e-6)
    assert (np.diff(np.abs(found["values"]), axis=1) <= 0).all()


def test_power_iteration_deflates_to_the_next_values(tiny, runs, tmp_path, true_eigenvalues):
    found = eigen(tiny({"eigen.top": 2}), [runs("l2")], tmp_path / "two.npz")
    assert_allclose(found["values"][:, 1], true_eigenvalues[:, -2], rtol=5e-2)


def test_the_objectives_hessian_lies_by_the_weight_decay_above_that_of_the_data(
    tiny, runs, tmp_path, measured, load_npz
):
    flags = {"eigen.method": "dense", "eigen.hessian": "objective"}
    found = eigen(tiny(flags), [runs("l2")], tmp_path / "objective.npz")
    data = load_npz(measured("dense"))
    for name in ("values", "min_value", "max_value"):
        assert_allclose(found[name], data[name] + 0.005, rtol=1e-9, atol=1e-12)
    power = eigen(tiny({"eigen.hessian": "objective"}), [runs("l2")], tmp_path / "power.npz")
    assert_allclose(power["values"], found["values"], rtol=2e-2)


@pytest.mark.parametrize("method", METHODS)
def test_a_second_run_gives_identical_arrays(
    method, tiny, runs, measured, tmp_path, load_npz, assert_identical
):
    eigen(tiny({"eigen.method": method}), [runs("l2")], tmp_path / "again.npz")
    assert_identical(load_npz(tmp_path / "again.npz"), load_npz(measured(method)))


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_does_not_depend_on_its_company(
    method, tiny, runs, measured, tmp_path, load_npz, assert_identical
):
    files = [runs("l2") / "checkpoints" / f"seed-00{seed}.safetensors" for seed in (3, 1)]
    eigen(tiny({"eigen.method": method}), files, tmp_path / "two.npz")
    assert_identical(load_npz(tmp_path / "two.npz"), load_npz(measured(method)), rows=[3, 1])


def test_the_global_random_state_is_left_as_it_was(tiny, runs, tmp_path):
    before = torch.random.get_rng_state()
    eigen(tiny(), [runs("l2")], tmp_path / "eigen.npz")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_users_own_state_dict_has_the_eigenvalues_of_the_run_it_came_from(
    tiny, user_model, measured, tmp_path, load_npz, digest
):
    found = eigen(tiny({"eigen.method": "dense"}), [user_model], tmp_path / "own.npz")
    assert np.array_equal(found["values"], load_npz(measured("dense"))["values"][:1])
    assert found.parents == {"model.pt": digest(user_model)}


def test_an_unknown_method_is_refused(tiny, runs, tmp_path):
    with pytest.raises(UnknownName, match="unknown eigenvalue method 'powr'") as caught:
        eigen(tiny({"eigen.method": "powr"}), [runs("l2")], tmp_path / "eigen.npz")
    assert "Did you mean 'power'" in caught.value.remedy
    assert not (tmp_path / "eigen.npz").exists()


@pytest.mark.parametrize("method", METHODS)
def test_more_values_than_parameters_are_refused(method, tiny, tmp_path):
    smallest = {"network.width": 1, "train.seeds": 1, "train.epochs": 5}
    train(tiny(smallest), tmp_path / "run")
    config = tiny({"eigen.method": method, "eigen.top": 12})
    with pytest.raises(UnusableInput, match=r"\b11\b"):
        eigen(config, [tmp_path / "run"], tmp_path / "eigen.npz")


# --- the density of all eigenvalues -------------------------------------------------------------


def test_density_trace_and_negative_share_are_those_of_all_eigenvalues(
    tiny, runs, tmp_path, true_eigenvalues
):
    flags = {"eigen.method": "lanczos", "eigen.density": True, "eigen.density_probes": 200}
    found = eigen(tiny(flags), [runs("l2")], tmp_path / "eigen.npz")
    points = len(found["density_grid"])
    assert found["density"].shape == found["density_error"].shape == (4, points)
    integrals = np.trapezoid(found["density"], found["density_grid"], axis=1)
    assert_allclose(integrals, 1, rtol=0.02)
    off = np.abs(found["trace"] - true_eigenvalues.sum(1))
    assert (off < 4 * found["trace_error"]).all()
    assert (found["trace_error"] < 0.1 * true_eigenvalues.sum(1)).all()
    negative = (true_eigenvalues < -1e-6 * true_eigenvalues.max()).mean(1)
    slack = 4 * found["negative_share_error"] + 1e-9
    assert (found["negative_share_low"] - slack <= negative).all()
    assert (negative <= found["negative_share_high"] + slack).all()


def test_without_density_nothing_of_it_is_stored(measured, load_npz):
    assert "trace" not in load_npz(measured("power"))
