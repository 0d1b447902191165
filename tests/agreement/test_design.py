"""Values of two factors with seeds as blocks: codes, complete seeds, what blocks leave."""

import math

import numpy as np

from ifcheck.agreement.design import complete_seeds, design_of, within_blocks

CELLS = {
    ("8", "none"): {3: 1.0, 1: 2.0},
    ("8", "l2"): {1: 4.0, 3: math.nan},
    ("5", "none"): {1: 8.0},
    ("5", "l2"): {1: 16.0},
    ("5", "bnn"): {1: 32.0},
    ("14", "l2"): {},
}


def test_values_stand_by_block_and_what_is_not_finite_is_left_out():
    design = design_of(CELLS)
    assert design.values.tolist() == [2.0, 4.0, 1.0, 8.0, 16.0, 32.0]
    assert [design.sizes[code] for code in design.size] == ["8", "8", "8", "5", "5", "5"]
    assert [design.variants[code] for code in design.variant] == [
        *("none", "l2", "none"),
        *("none", "l2", "bnn"),
    ]
    assert design.block.tolist() == [0, 0, 1, 2, 2, 2]  # seed 1 of one size is not that of another
    assert design.counts(CELLS)["14 l2"] == 0
    assert design.counts(CELLS)["8 none"] == 2


def test_complete_seeds_have_what_every_size_has():
    complete = complete_seeds(design_of(CELLS))  # all but bnn
    assert complete.values.tolist() == [[2.0, 4.0], [8.0, 16.0]]
    assert complete.size.tolist() == [0, 1]


def test_complete_seeds_with_all_variants_are_fewer():
    complete = complete_seeds(design_of(CELLS), all_variants=True)
    assert complete.values.tolist() == [[8.0, 16.0, 32.0]]


def test_sizes_without_a_common_variant_have_no_complete_seed():
    cells = {("5", "none"): {0: 1.0}, ("8", "l2"): {0: 2.0}}
    assert complete_seeds(design_of(cells)).values.size == 0


def test_nothing_of_a_block_is_left_but_differences_within():
    design = design_of(CELLS)
    left = within_blocks(design.values, design.block)
    np.testing.assert_allclose(left, [-1, 1, 0, 8 - 56 / 3, 16 - 56 / 3, 32 - 56 / 3], atol=1e-12)
