"""A pipeline: layers in order, and the ways to send a call through them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from types import CoroutineType
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from resilience import tracing
from resilience.call import CURRENT, Call, FunctionCall
from resilience.clock import SYSTEM_CLOCK, Clock
from resilience.direct import direct_way, never_awaited
from resilience.drivers import adrive, drive
from resilience.entry import Entrance, enclose
from resilience.guard import Guard
from resilience.health import HealthSignal
from resilience.layers.retry.layer import Retry
from resilience.layers.retry.verdict import Judge
from resilience.plan import CallPlan, Plan, Results
from resilience.stage import Stage
from resilience.tries import arun_tries, run_tries

P = ParamSpec("P")
T = TypeVar("T")


class Pipeline(Entrance):
    """Layers in order, outermost first. Those before a `Retry` guard the whole call, those after it each attempt.

    Args:
        name: for spans, metrics and errors.
        layers: at most one of them a `Retry`. All must go by one clock.

    Raises:
        TypeError: something is no layer.
        ValueError: two retries, or layers of different clocks.
    """

    def __init__(self, name: str, *layers: Any) -> None:
        for layer in layers:
            if not isinstance(layer, Retry) and not (hasattr(layer, "admit") and hasattr(layer, "settle")):
                raise TypeError(f"pipeline {name!r}: {layer!r} is no layer; it has no admit and settle")
        retries = [index for index, layer in enumerate(layers) if isinstance(layer, Retry)]
        if len(retries) > 1:
            raise ValueError(f"pipeline {name!r}: has {len(retries)} retries; their attempts would multiply, keep one")
        self.name = name
        self.layers: Final[tuple[Any, ...]] = layers
        self.clock = _common_clock(name, layers)
        self.retry: Retry | None = layers[retries[0]] if retries else None
        cut = retries[0] if retries else len(layers)
        self.outer = Stage(name, layers[:cut], self.clock)
        self.inner = Stage(name, layers[cut + 1 :], self.clock)
        self._has_effects = self.outer.has_effects or self.inner.has_effects
        self._now_us = self.clock.now_us
        self._look_ahead()
        self._direct = direct_way(name, self.outer, self.retry, self.inner)

    @property
    def signals(self) -> list[HealthSignal]:
        """The health signals that its layers go by now."""
        return _signals(self.layers)

    def plan(self, call: Call, judge: Judge | None = None, results: Results | None = None) -> Plan:
        """The whole of one call as effects, for the drivers.

        Args:
            call: begun by `begin`.
            judge: says which tries are worth another; default: the retry's own, or that of `results`.
            results: takes over what outlives the tries that return it, and the permits of those.
        """
        return CallPlan(self.name, self.outer, self.retry, self.inner, call, judge, results).run()

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `fn(*args, **kwargs)` through the pipeline in this thread.

        Raises:
            Rejected: a layer refused. Whatever `fn` raises is raised as itself.
            TypeError: `fn` is a coroutine function, whose work begins only when it is awaited.
        """
        call = FunctionCall(getattr(fn, "__name__", "call"), args, kwargs, self._now_us(), self)
        if CURRENT.get() is not None:
            enclose(call)
        call.trace = tracing.begin(self.name, call)
        direct = self._direct
        if direct is None or call.trace is not None:
            return self._planned(call, lambda: fn(*args, **kwargs))
        return direct.run(call, fn, args, kwargs)

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `fn(*args, **kwargs)` through the pipeline in this task; cancelled when its deadline passes.

        Raises:
            Rejected: a layer refused, or the deadline passed. Whatever `fn` raises is raised as itself.
        """
        call = FunctionCall(getattr(fn, "__name__", "call"), args, kwargs, self._now_us(), self)
        if CURRENT.get() is not None:
            enclose(call)
        call.trace = tracing.begin(self.name, call)
        direct = self._direct
        if direct is None or call.trace is not None:
            return await self._aplanned(call, lambda: fn(*args, **kwargs))
        return await direct.arun(call, fn, args, kwargs)

    def _planned(self, call: Call, work: Callable[[], T]) -> T:
        plan = CallPlan(self.name, self.outer, self.retry, self.inner, call)
        if call.trace is None and not self._has_effects:
            result = run_tries(plan, work)
        else:
            result = drive(plan.run(), self.clock, work)
        if type(result) is CoroutineType:
            raise never_awaited(self.name, result)
        return result

    async def _aplanned(self, call: Call, work: Callable[[], Awaitable[T]]) -> T:
        plan = CallPlan(self.name, self.outer, self.retry, self.inner, call)
        if call.trace is None and not self._has_effects:
            return await arun_tries(plan, work)
        result: T = await adrive(plan.run(), self.clock, work)
        return result

    def __call__(self, fn: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function or coroutine function, so that each call of it goes through the pipeline.

        Raises:
            TypeError: `fn` is a generator; guard the block that uses it instead.
        """
        return decorate(self, fn)

    def guard(self, name: str = "block", *, key: str | None = None, cost: int | None = None) -> Guard:
        """Guard one block: `with pipeline.guard():` or `async with pipeline.guard():`.

        Args:
            name: what the block is, for spans and errors.
            key: goes before every key source of the layers.
            cost: goes before the limiters' own cost.

        Raises:
            TypeError: the pipeline has a retry, and a block cannot be run again.
        """
        if self.retry is not None:
            raise TypeError(f"pipeline {self.name!r}: has a retry, and a block cannot be run again; use call, acall or @pipeline")
        return Guard(self.begin, self.outer, Call(name, key=key, cost=cost))

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {', '.join(repr(layer) for layer in self.layers)})"


class Calls(Protocol):
    """What sends calls through layers: a pipeline, or a handle on one."""

    name: str

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call in this thread."""

    async def acall(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await in this task."""


def decorate(calls: Calls, fn: Callable[P, T]) -> Callable[P, T]:
    """Make a function or coroutine function each of whose calls goes through `calls`. Raises TypeError for a generator."""
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(
            f"pipeline {calls.name!r}: {getattr(fn, '__qualname__', fn)} is a generator, whose work begins after the call; "
            f"use `with pipeline.guard():` around the block that consumes it"
        )
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await calls.acall(fn, *args, **kwargs)

        return guarded  # type: ignore[return-value]  # T is the coroutine that `guarded` returns

    @functools.wraps(fn)
    def plain(*args: P.args, **kwargs: P.kwargs) -> T:
        return calls.call(fn, *args, **kwargs)

    return plain


def _signals(layers: Sequence[Any]) -> list[HealthSignal]:
    found: list[HealthSignal] = []
    for layer in layers:
        state = layer.pool if hasattr(layer, "pool") else getattr(layer, "state", None)
        signal = getattr(state, "health", None)
        if isinstance(signal, HealthSignal) and signal not in found:
            found.append(signal)
    return found


def _common_clock(name: str, layers: Sequence[Any]) -> Clock:
    clocks: list[Clock] = []
    for owner in (*layers, *_signals(layers)):
        clock = getattr(owner, "clock", None)
        if clock is not None and clock not in clocks:
            clocks.append(clock)
    if len(clocks) > 1:
        raise ValueError(f"pipeline {name!r}: its layers and their health signals go by different clocks: {clocks!r}")
    return clocks[0] if clocks else SYSTEM_CLOCK
