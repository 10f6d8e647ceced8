"""The number of a try as it travels: what came in plus own, so that only one layer of a chain of services retries."""

from __future__ import annotations

import re
from typing import Final

ATTEMPT_HEADER: Final = "x-retry-attempt"
HIGHEST_ATTEMPT: Final = 999
"""The most that is read, and so the most that is written."""
_NUMBER = re.compile(r"[0-9]{1,3}\Z")


def attempt_of(value: str) -> int:
    """The number of tries that were made before this one, further out. What is no number says nothing: 0."""
    return int(value) if _NUMBER.match(value) else 0
