"""What thresholds of the user's make of summaries."""

import pytest

from ifcheck.cli.summaries import misses_requirement

TRUSTED, RANKED = ({"baseline": False, "verdict": name} for name in ("trust", "ranking only"))
BASELINE = {"baseline": True, "verdict": ""}
FAILED = {"cell": "a", "reason": "failed: diverged"}


@pytest.mark.parametrize(
    ("summaries", "required", "missed"),
    [
        ([TRUSTED, RANKED], None, False),
        ([TRUSTED, BASELINE], "trust", False),
        ([TRUSTED, RANKED], "trust", True),
        ([TRUSTED, RANKED], "ranking", False),
        ([TRUSTED, FAILED], "ranking", True),
        ([BASELINE], "ranking", True),
        ([], "ranking", True),
        ([FAILED], None, False),
    ],
)
def test_what_was_not_judged_does_not_meet_a_requirement(summaries, required, missed):
    assert misses_requirement(summaries, required) is missed
