"""The coroutine of a task in a pool. It passes every step on to that of the user, and hears of its end before the loop does.

A callback on the asyncio task would come a turn of the loop later, for each task; and a coroutine function around the user's would
not hear of a task that is cancelled before its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any

from resilience.workers.entry import Entry, Worker

Ending = Callable[[Worker, Entry, Any, BaseException | None], None]
"""Is told the worker, the task, its result and what it raised."""


class Running(Coroutine[Any, Any, None]):
    """One task at work. `ending` is called once, in its last step."""

    __slots__ = ("_ending", "_entry", "_inner", "_worker")

    def __init__(self, inner: Coroutine[Any, Any, Any], worker: Worker, entry: Entry, ending: Ending) -> None:
        self._inner = inner
        self._worker = worker
        self._entry = entry
        self._ending = ending

    def send(self, value: Any, /) -> Any:
        """Go on."""
        try:
            return self._inner.send(value)
        except StopIteration as end:
            self._ending(self._worker, self._entry, end.value, None)
            raise StopIteration(None) from None
        except Exception as error:  # noqa: BLE001  # it goes to the future, and the task has no result of its own
            self._ending(self._worker, self._entry, None, error)
            raise StopIteration(None) from None
        except BaseException as error:
            self._ending(self._worker, self._entry, None, error)
            raise

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None, /) -> Any:
        """Go on with an exception, as when it is cancelled."""
        try:
            return self._inner.throw(kind if value is None else value)
        except StopIteration as end:
            self._ending(self._worker, self._entry, end.value, None)
            raise StopIteration(None) from None
        except Exception as error:  # noqa: BLE001  # as above
            self._ending(self._worker, self._entry, None, error)
            raise StopIteration(None) from None
        except BaseException as error:
            self._ending(self._worker, self._entry, None, error)
            raise

    def close(self) -> None:
        """Give it up: the loop is gone."""
        self._inner.close()

    def __await__(self) -> Generator[Any, None, None]:
        raise TypeError("this coroutine is run by a task")

    # What debuggers and `asyncio.Task.print_stack` look at.

    @property
    def cr_frame(self) -> Any:
        """The frame of the user's coroutine."""
        return getattr(self._inner, "cr_frame", None)

    @property
    def cr_code(self) -> Any:
        """The code of the user's coroutine."""
        return getattr(self._inner, "cr_code", None)

    @property
    def cr_running(self) -> bool:
        """Whether the user's coroutine is in a step."""
        return bool(getattr(self._inner, "cr_running", False))

    @property
    def cr_await(self) -> Any:
        """What the user's coroutine waits for."""
        return getattr(self._inner, "cr_await", None)
