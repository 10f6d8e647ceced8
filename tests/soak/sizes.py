"""How much each soak test does: a short form among all other tests, the long one when `make soak` asks for it."""

from __future__ import annotations

import os
from typing import Final, TypeVar

from hypothesis import settings

T = TypeVar("T")

EXAMPLES: Final = int(os.environ.get("SOAK_EXAMPLES", "0"))
"""Examples that each state machine runs in the long form; 0: this is the short form."""


def by_length(short: T, long: T) -> T:
    """What holds for the form that runs now."""
    return long if EXAMPLES else short


MACHINE: Final = settings(max_examples=EXAMPLES or 300, stateful_step_count=by_length(50, 100), deadline=None)
"""How long a state machine is driven."""
SIDE_MACHINE: Final = settings(MACHINE, max_examples=EXAMPLES or 100)
"""The same for one that looks once more at what another has checked."""
