"""Where the requests of a batch come from: a collection, an iterator, or an asynchronous iterator; drawn one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sized
from enum import Enum
from typing import Any

from resilience.batch.adapter import Adapter, FunctionBackend
from resilience.batch.result import not_made
from resilience.timers import is_cancellation


class Lack(Enum):
    """Why there is no request to draw."""

    ENDED = "ended"
    NOT_YET = "not yet"


Drawn = tuple[Adapter[Any, Any], Any]
"""A request and where it goes."""
Pair = Callable[[Any], Drawn]
"""Says of what was drawn where it goes. Raises RequestNotMade."""


class Source:
    """Requests from a collection or an iterator."""

    is_fed = False

    def __init__(self, target: Adapter[Any, Any] | None, pair: Pair, requests: Iterable[Any]) -> None:
        self.target = target
        self.total = _length(requests)
        self.is_sized = self.total is not None
        self.is_quick = type(requests) in (list, tuple, range) and type(target) is FunctionBackend
        self._pair = pair
        self._iterator: Iterator[Any] = iter(requests)

    def draw(self) -> Any:
        """The next request, with its back end where there is none for all; or why there is none.

        Raises:
            RequestNotMade: there is no next one, but an error in its place. Nothing comes after it.
        """
        try:
            drawn = next(self._iterator)
        except StopIteration:
            return Lack.ENDED
        except BaseException as error:
            self._iterator = iter(())
            if not isinstance(error, Exception) and not is_cancellation(error):
                raise
            raise not_made(error) from error
        return drawn if self.target is not None else self._pair(drawn)


class FedSource:
    """Requests from an asynchronous iterator. A task of its own draws one ahead, and the next once that is taken."""

    is_fed = True
    is_sized = False
    is_quick = False
    total = None

    def __init__(self, target: Adapter[Any, Any] | None, pair: Pair, requests: AsyncIterable[Any]) -> None:
        self.target = target
        self._pair = pair
        self._ready: deque[Any] = deque()
        self._ended = False
        self._failed: BaseException | None = None
        self.requests = requests
        self.on_taken: Callable[[], None] = _nobody

    def draw(self) -> Any:
        """The next request, with its back end where there is none for all; or why there is none.

        Raises:
            RequestNotMade: there is no next one, but an error in its place. Nothing comes after it.
        """
        if self._ready:
            request = self._ready.popleft()
            self.on_taken()
            return request if self.target is not None else self._pair(request)
        if self._failed is not None:
            error, self._failed = self._failed, None
            raise not_made(error) from error
        return Lack.ENDED if self._ended else Lack.NOT_YET

    def put(self, request: Any) -> None:
        """One more is there."""
        self._ready.append(request)

    @property
    def is_full(self) -> bool:
        """Whether one is waiting to be taken."""
        return bool(self._ready)

    def end(self, error: BaseException | None = None) -> None:
        """There are no more; `error` in the place of the next."""
        self._ended = True
        self._failed = error


def _length(requests: Iterable[Any]) -> int | None:
    try:
        return len(requests) if isinstance(requests, Sized) else None
    except OverflowError:  # longer than anything that could be kept
        return None


def _nobody() -> None:
    """Nobody waits for room."""
