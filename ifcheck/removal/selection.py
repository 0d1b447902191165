"""Which rows to remove: by loss, by score, at random, by id, or as another file did."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from ifcheck import provenance
from ifcheck.errors import UnusableInput

NOT_TRAINED = "A test point that is held out cannot be removed from training."
FORMS = "top-loss:K, top-score:K, random:K, ids:1,2,3 or like:FILE"


def largest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the positions of the `count` largest values, ties by position. Shape: (count,)."""
    return np.argsort(-values, kind="stable")[:count]


def parse_count(
    text: str,
    specification: str,
    available: int,
    example: str = "top-loss:40",
    what: str = "rows",
) -> int:
    """Read the K of a selection such as `example`; `what` it counts. Raises: UnusableInput."""
    if not _is_number(text) or int(text) == 0:
        raise UnusableInput(
            f"{specification!r} asks for {text!r} {what}; expected a count of at least 1.",
            remedy=f"For example: {example}",
        )
    if int(text) > available:
        raise UnusableInput(
            f"{specification!r} asks for {text} {what}; at most {available} can be taken.",
            remedy=f"Ask for at most {available}.",
        )
    return int(text)


def parse_ids(
    text: str, specification: str, known: NDArray[np.int64], remedy: str = NOT_TRAINED
) -> NDArray[np.int64]:
    """Read the ids of a selection such as ids:1,2,3; `remedy` is for ids that are not known.

    Raises: UnusableInput.
    """
    parts = text.split(",")
    if not all(_is_number(part.strip()) for part in parts):
        raise UnusableInput(
            f"{specification!r} is not a list of row ids.", remedy="For example: ids:3,7,11"
        )
    ids = np.array([int(part) for part in parts], dtype=np.int64)
    missing = ids[~np.isin(ids, known)]
    if missing.size:
        raise UnusableInput(
            f"{specification!r} names row {missing[0]}, which is not among the rows "
            f"{known.min()} to {known.max()} to choose from.",
            remedy=remedy,
        )
    if len(set(ids.tolist())) < len(ids):
        raise UnusableInput(f"{specification!r} names a row twice.", remedy="Name each row once.")
    return ids


def random_rows(count: int, available: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """Return `count` different positions drawn from the named seed, in drawing order."""
    generator = np.random.default_rng(provenance.named_seed(seed, purpose))
    return generator.choice(available, size=count, replace=False)


def _is_number(text: str) -> bool:
    """Return whether the text is a count or an id that fits 64 bits."""
    return re.fullmatch(r"[0-9]{1,18}", text) is not None
