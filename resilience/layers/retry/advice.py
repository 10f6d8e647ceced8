"""What a server says of another try: `Retry-After` over HTTP, `grpc-retry-pushback-ms` over gRPC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

_OWS: Final = " \t"
_DELAY: Final = re.compile(r"[0-9]+")
_CLOCK: Final = r"[0-9]{2}:[0-9]{2}:[0-9]{2}"
_YEAR: Final = "[1-9][0-9]{3}"
_DATE: Final = (
    rf"[A-Z][a-z]{{2}}, [0-9]{{1,2}} [A-Z][a-z]{{2}} {_YEAR} {_CLOCK} GMT"
    rf"|[A-Z][a-z]{{5,8}}, [0-9]{{2}}-[A-Z][a-z]{{2}}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT"
    rf"|[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ 0-9][0-9] {_CLOCK} {_YEAR}"
)
_YEARS_AHEAD: Final = 50
_LAST_SECOND: Final = 59

_PUSHBACK: Final = re.compile(r"[0-9]{1,10}")
_LARGEST_PUSHBACK_MS: Final = 2**31 - 1


def retry_after_s(values: Sequence[str], wall_s: float) -> float | None:
    """Seconds to wait by the `Retry-After` values of a response (RFC 9110, 10.2.3).

    Args:
        values: the field's values as received. There should be one; of several, the longest wait that can be read is obeyed.
        wall_s: now, in seconds since the Unix epoch: dates are counted from here.

    Returns:
        0 for a date that has passed, however large for whole seconds; None where nothing can be read.
    """
    waits = (_wait_s(value.strip(_OWS), wall_s) for value in values)
    return max((wait_s for wait_s in waits if wait_s is not None), default=None)


def _wait_s(value: str, wall_s: float) -> float | None:
    if _DELAY.fullmatch(value):
        return float(value)
    instant = http_date(value, wall_s)
    return None if instant is None else max(0.0, instant.timestamp() - wall_s)


def http_date(text: str, wall_s: float) -> datetime | None:
    """The instant of an HTTP date in any of its three forms (RFC 9110, 5.6.7), or None.

    A year of two digits is the latest such year that is at most 50 years ahead of `wall_s`. A leap second counts as the one before.
    """
    from datetime import UTC, datetime  # few servers send one, but every import would pay for it
    from email.utils import parsedate_tz

    match = re.fullmatch(_DATE, text)
    fields = None if match is None else parsedate_tz(text)
    if match is None or fields is None:
        return None
    year, month, day, hour, minute, second = fields[:6]
    if match["year"] is not None:
        latest = datetime.fromtimestamp(wall_s, UTC).year + _YEARS_AHEAD
        year = latest - (latest - int(match["year"])) % 100
    try:
        return datetime(year, month, day, hour, minute, min(second, _LAST_SECOND), tzinfo=UTC)
    except ValueError:  # the 31st of February, or 25 o'clock
        return None


@dataclass(frozen=True, slots=True)
class Pushback:
    """A gRPC server's word on another try: to wait `wait_s` seconds first, or `forbidden`; neither where it said nothing."""

    wait_s: float | None = None
    forbidden: bool = False


UNSAID: Final = Pushback()
FORBIDDEN: Final = Pushback(forbidden=True)


def read_pushback(values: Sequence[str]) -> Pushback:
    """Read the `grpc-retry-pushback-ms` values of a response's metadata (gRFC A6, "Pushback").

    One value that is a whole number of milliseconds, 0 to 2^31 - 1, is a wait. A negative one, one that cannot be read, and
    several ask for no retry.
    """
    if not values:
        return UNSAID
    if len(values) > 1 or not _PUSHBACK.fullmatch(values[0]) or int(values[0]) > _LARGEST_PUSHBACK_MS:
        return FORBIDDEN
    return Pushback(wait_s=int(values[0]) / 1000)
