"""Tasks by name: what a replay may call. A stored name is only ever looked up here, and never imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, overload

from resilience.workers.entry import task_name

F = TypeVar("F", bound=Callable[..., Any])
_TASKS: Final[dict[str, Callable[..., Any]]] = {}


@overload
def task(fn: F, /) -> F: ...
@overload
def task(*, name: str) -> Callable[[F], F]: ...


def task(fn: F | None = None, /, *, name: str | None = None) -> F | Callable[[F], F]:
    """Decorate a function or coroutine function whose failed calls are to be replayed. It is called as before.

    Args:
        name: what it is stored under; default its module and name. A name that is given stays right when the function moves.

    Raises:
        ValueError: another function has this name.
    """

    def register(found: F) -> F:
        called = name or task_name(found)
        other = _TASKS.get(called)
        if other is not None and (other.__module__, other.__qualname__) != (found.__module__, found.__qualname__):
            raise ValueError(f"task {called!r} is {other.__module__}.{other.__qualname__} already; give one of them another name")
        found.resilience_task = called  # type: ignore[attr-defined]  # functions take attributes
        _TASKS[called] = found
        return found

    return register if fn is None else register(fn)


def find_task(name: str) -> Callable[..., Any] | None:
    """The function that is registered under `name`, in the modules that are imported."""
    return _TASKS.get(name)
