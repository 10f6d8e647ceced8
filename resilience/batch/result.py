"""What comes of a batch: one result for each request, in the order of the requests. Nothing here raises unless it is asked to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Generic, Literal, TypeVar, overload

from resilience.errors import DeadlineExceeded, Rejected, ResilienceError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Q_co = TypeVar("Q_co", covariant=True)


class Kind(Enum):
    """Why a call has no value. `kind_of` says which errors are which.

    BUSINESS: the back end, or the function, answered in time, with an error.
    TIMEOUT: the time of the call, of the batch or of its caller ran out.
    CANCELLED: somebody stopped waiting: the batch was cancelled, or stopped early before the call began.
    REFUSED: a guard, here or further in, refused: a limiter, an open breaker, a pool without a free thread.
    TRANSPORT: the back end could not be reached, or failed: no connection, HTTP 5xx, UNAVAILABLE, INTERNAL.
    """

    BUSINESS = "business"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    TRANSPORT = "transport"


@dataclass(slots=True)  # not frozen: that costs each of a hundred thousand results as much as the rest of its making
class Ok(Generic[T_co]):
    """A call that returned `value`."""

    value: T_co

    @property
    def ok(self) -> Literal[True]:
        """Whether there is a value."""
        return True


@dataclass(frozen=True, slots=True)
class Err:
    """A call that has no value.

    Attributes:
        error: what it ended with.
        kind: what that means.
        abandoned: it could not be stopped at its time limit, and may still be at work: a thread that hangs, or a coroutine that
            swallows its cancellation.
    """

    error: Exception
    kind: Kind
    abandoned: bool = False

    @property
    def ok(self) -> Literal[False]:
        """Whether there is a value."""
        return False


Result = Ok[T_co] | Err


@dataclass(slots=True)
class Settled(Generic[Q_co, T_co]):
    """One result of a stream: of which request, by its place in the input from 0."""

    index: int
    request: Q_co
    result: Result[T_co]


class CallCancelled(ResilienceError):
    """A call of a batch was cancelled, or never begun, since somebody stopped waiting for it."""


class BatchStopped(CallCancelled):
    """A call was never begun: too many of those before it had failed."""


class RequestNotMade(ResilienceError):
    """A request could not be made, or not be got from where requests come from. `__cause__` is the reason."""


class PoolExhausted(Rejected):
    """A call was never begun: all threads are held by calls that were abandoned. `reason` is "threads"."""

    def _what(self) -> str:
        return "all threads are held by calls that were abandoned and have not ended"


class BatchFailed(ExceptionGroup[Exception], ResilienceError):
    """More calls of a batch have failed than its caller can do with; it holds the error of each."""

    def derive(self, excs: Sequence[Exception]) -> BatchFailed:  # type: ignore[override]  # of exceptions only
        return BatchFailed(self.message, excs)


def not_made(error: BaseException) -> RequestNotMade:
    """The error of a request that could not be made because of `error`."""
    if isinstance(error, RequestNotMade):
        return error
    made = RequestNotMade(f"the request could not be made: {type(error).__name__}: {error!s:.200}")
    made.__cause__ = error
    return made


def timed_out(name: str, *, began: bool = True) -> Err:
    """The result of a call whose time ran out at work, or before it began."""
    how = "ran out" if began else "had run out before it began"
    reason = "expired" if began else "expired_on_arrival"
    return Err(DeadlineExceeded(f"{name}: the time for the call {how}", policy=name, reason=reason), Kind.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Report:
    """How a batch went, as a whole.

    Attributes:
        ok: calls that have a value.
        failed: calls that have none, by kind.
        hedged: second tries that were sent.
        abandoned: calls that could not be stopped at their time limit.
        peak: the most calls that were in flight at once, hedges included.
        stopped: why the batch ended before it was done: "timeout", "failures", "threads" or "cancelled"; empty where it did not.
        took_s: how long it took, in seconds.
    """

    ok: int = 0
    failed: Mapping[Kind, int] = field(default_factory=dict)
    hedged: int = 0
    abandoned: int = 0
    peak: int = 0
    stopped: str = ""
    took_s: float = 0.0


_NOTHING: Final = Report()


class Results(Sequence[Result[T]], Generic[T]):
    """The results of a batch in the order of its requests, and `report` on the whole."""

    __slots__ = ("_results", "name", "report")

    def __init__(self, results: list[Result[T]], name: str = "batch", report: Report = _NOTHING) -> None:
        self._results = results
        self.name = name
        self.report = report

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Result[T]]:
        return iter(self._results)

    @overload
    def __getitem__(self, index: int) -> Result[T]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Result[T]]: ...
    def __getitem__(self, index: int | slice) -> Result[T] | list[Result[T]]:
        return self._results[index]

    def values(self) -> list[T]:
        """The values there are, in the order of the requests."""
        return [result.value for result in self._results if isinstance(result, Ok)]

    def errors(self) -> list[Err]:
        """The failures there are, in the order of the requests."""
        return [result for result in self._results if isinstance(result, Err)]

    @property
    def failed_share(self) -> float:
        """The share of calls without a value, 0 for an empty batch."""
        return len(self.errors()) / len(self._results) if self._results else 0.0

    def exception_group(self) -> BatchFailed | None:
        """All errors as one group, for `except*`; None where there are none."""
        errors = self.errors()
        return BatchFailed(self._told(len(errors)), [failure.error for failure in errors]) if errors else None

    def raise_if_all_failed(self) -> None:
        """Raise where not one call has a value. An empty batch has not failed.

        Raises:
            BatchFailed: a group of the errors.
        """
        group = self.exception_group()
        if group is not None and len(group.exceptions) == len(self._results):
            raise group

    def raise_if_failed_over(self, share: float) -> None:
        """Raise where more than `share` of the calls, from 0 up to 1, have no value; 0: where one has none.

        Raises:
            BatchFailed: a group of the errors.
            ValueError: `share` is not from 0 to 1.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share: must be from 0 to 1, got {share!r}")
        group = self.exception_group()
        if group is not None and len(group.exceptions) / len(self._results) > share:
            raise group

    def _told(self, failed: int) -> str:
        kinds = Counter(failure.kind for failure in self.errors())
        each = ", ".join(f"{count} {kind.value}" for kind, count in kinds.items())
        return f"{self.name}: {failed} of {len(self._results)} calls failed ({each})"

    def __repr__(self) -> str:
        return f"Results({self.name!r}, {len(self._results) - len(self.errors())} of {len(self._results)} ok)"
