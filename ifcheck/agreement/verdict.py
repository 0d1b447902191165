"""What agreement and controls come to: can the scores be trusted?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ifcheck.agreement.checks import CHECKS, Check, Evidence, Outcome, Role
from ifcheck.config import VerdictConfig


class Decision(StrEnum):
    """What a verdict says."""

    TRUST = "trust"
    RANKING_ONLY = "ranking only"
    DO_NOT_TRUST = "do not trust"
    CANNOT_TELL = "cannot tell"


# Of tables and pictures, where there is no room for words.
MARKS: dict[str, str] = {
    Decision.TRUST: "T",
    Decision.RANKING_ONLY: "R",
    Decision.DO_NOT_TRUST: "N",
    Decision.CANNOT_TELL: "?",
}


@dataclass(frozen=True)
class Verdict:
    """A decision, why, and all checks; none where there is no agreement to judge."""

    decision: Decision
    reason: str
    checks: tuple[Check, ...]


def judge(evidence: Evidence, thresholds: VerdictConfig) -> Verdict:
    """Decide from all checks.

    A truth that cannot judge, or an interval that holds the least Spearman, ends in `cannot tell`;
    a ranking that fails in `do not trust`, unless noise of the truth, which nobody measured, may be
    why; a size or a sign that fails or is not known, or a condition of influence functions that
    fails, in `ranking only`.
    """
    if evidence.obstacle:
        return Verdict(Decision.CANNOT_TELL, evidence.obstacle, ())
    checks = tuple(check(evidence, thresholds) for check in CHECKS)
    decision, reason = _decide(checks)
    return Verdict(decision, reason, checks)


def meets(decision: str, required: str | None) -> bool:
    """Return whether a decision is at least what was required: `trust` or `ranking`."""
    enough = {
        None: tuple(Decision),
        "trust": (Decision.TRUST,),
        "ranking": (Decision.TRUST, Decision.RANKING_ONLY),
    }
    return decision in enough[required]


def _decide(checks: tuple[Check, ...]) -> tuple[Decision, str]:
    failed = [check for check in checks if check.outcome is Outcome.FAIL]
    rank = next(check for check in checks if check.role is Role.RANK)
    if unable := [check for check in failed if check.role is Role.TRUTH]:
        return Decision.CANNOT_TELL, unable[0].sentence
    if rank.outcome is Outcome.UNKNOWN:
        return Decision.CANNOT_TELL, rank.sentence
    if rank.outcome is Outcome.FAIL:
        unmeasured = [c for c in checks if c.role is Role.TRUTH and c.outcome is Outcome.UNKNOWN]
        if unmeasured:
            return Decision.CANNOT_TELL, f"{rank.sentence} {unmeasured[0].sentence}"
        return Decision.DO_NOT_TRUST, rank.sentence
    unknown = [check for check in checks if check.outcome is Outcome.UNKNOWN]
    limiting = [check for check in failed if check.role in (Role.SIZE, Role.CONDITION)]
    limiting += [check for check in unknown if check.role is Role.SIZE]
    if limiting:
        return Decision.RANKING_ONLY, f"{rank.sentence} {limiting[0].sentence}"
    unseen = ", ".join(check.name for check in unknown if check.role is Role.CONDITION)
    return Decision.TRUST, rank.sentence + (f" Not known: {unseen}." if unseen else "")
