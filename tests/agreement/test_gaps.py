"""Gap decomposition against its definition, and chains whose steps are known."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ifcheck.agreement.gaps import decompose

pytestmark = pytest.mark.filterwarnings("error")


def chain(seed: int = 0, n: int = 40) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    predicted = generator.normal(size=n)
    steps = {"pbrf": 0.1, "newton": 0.4, "warm": 0.0, "scratch": 0.8}
    members, last = {"predicted": predicted}, predicted
    for name, scale in steps.items():
        last = last + scale * generator.normal(size=n) + 0.3
        members[name] = last
    return members


def test_shares_add_to_one_and_are_projections_on_the_gap():
    members = chain()
    found = decompose(members)
    assert sum(step.share for step in found.steps) == pytest.approx(1, abs=1e-12)
    names = list(members)
    centred = {name: values - np.mean(values) for name, values in members.items()}
    total = centred["scratch"] - centred["predicted"]
    for step, (before, after) in zip(found.steps, itertools.pairwise(names), strict=True):
        assert (step.before, step.after) == (before, after)
        change = centred[after] - centred[before]
        assert step.share == pytest.approx(np.dot(change, total) / np.dot(total, total))
        assert step.error == pytest.approx(math.sqrt(np.mean(change**2)))
        assert step.spearman == pytest.approx(
            stats.spearmanr(members[before], members[after]).statistic
        )
        slope, _ = np.polyfit(members[before], members[after], 1)
        assert step.slope == pytest.approx(slope)
        assert step.projection == pytest.approx(np.dot(change, total))
    assert found.size == pytest.approx(np.dot(total, total))
    assert found.error == pytest.approx(math.sqrt(np.mean(total**2)))


def test_the_largest_step_has_the_largest_share_and_a_constant_none():
    shares = {step.after: step.share for step in decompose(chain(n=400)).steps}
    assert shares["scratch"] > shares["newton"] > shares["pbrf"]
    assert shares["warm"] == pytest.approx(0, abs=1e-12)


def test_a_step_that_undoes_another_has_a_negative_share():
    generator = np.random.default_rng(1)
    predicted, detour = generator.normal(size=(2, 50))
    found = decompose(
        {"predicted": predicted, "a": predicted + detour, "b": predicted + 0.6 * detour}
    )
    assert [step.share for step in found.steps] == pytest.approx([1 / 0.6, -0.4 / 0.6])


def test_no_gap_and_no_spread_are_said():
    x = np.arange(5.0)
    same = decompose({"predicted": x, "truth": x + 3})
    assert math.isnan(same.steps[0].share)
    assert same.steps[0].reason == "there is no gap"
    assert same.steps[0].spearman == pytest.approx(1)
    flat = decompose({"predicted": x, "truth": np.ones(5)}).steps[0]
    assert flat.share == pytest.approx(1)
    assert math.isnan(flat.spearman)
    assert flat.reason == "changes that do not vary"
    unknown = decompose({"predicted": x, "truth": np.full(5, np.nan)}).steps[0]
    assert math.isnan(unknown.error)
    assert unknown.reason == "changes that are not finite"
    between = decompose({"predicted": x, "a": np.full(5, np.nan), "truth": x**2}).steps
    assert [step.reason for step in between] == ["changes that are not finite"] * 2


def test_one_member_or_other_shapes_are_refused():
    with pytest.raises(ValueError, match="two members"):
        decompose({"predicted": [1.0, 2.0]})
    with pytest.raises(ValueError, match="one shape"):
        decompose({"predicted": [1.0, 2.0], "truth": [1.0]})
