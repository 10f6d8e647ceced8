"""What a back end is to a batch: the one small protocol behind which HTTP, gRPC, Thrift and plain functions look alike."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from resilience.batch.flight import note_innermost
from resilience.batch.kinds import kind_of
from resilience.batch.result import Kind, RequestNotMade
from resilience.call import CURRENT, Call
from resilience.drivers import within
from resilience.errors import DeadlineExceeded
from resilience.handle import PipelineHandle
from resilience.layers.deadline import Deadline
from resilience.pipeline import Pipeline

Q = TypeVar("Q")
T = TypeVar("T")
Q_contra = TypeVar("Q_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)
Guard = Pipeline | PipelineHandle


@runtime_checkable
class Adapter(Protocol[Q_contra, T_co]):
    """One back end: how a request is sent to it through its pipeline, and what its errors mean. `Backend` has the defaults.

    name: for spans and errors.
    pipeline: what its calls go through, or None; `send` sees to that. A balance looks at its breakers.
    is_async: whether `send` returns an awaitable. What is not is called in a thread, also in a batch of tasks.
    """

    @property
    def name(self) -> str: ...
    @property
    def pipeline(self) -> Guard | None: ...
    @property
    def is_async(self) -> bool: ...

    def prepare(self, request: Q_contra) -> Any:
        """Make what `send` takes, before any guard is asked: what raises here is the caller's fault and no vote on the back end."""

    def send(self, prepared: Any) -> Any:
        """Send it through the pipeline. Returns the value of `T_co`, or an awaitable of one where `is_async`."""

    def kind_of(self, error: BaseException) -> Kind:
        """Say what an error that left `send` means."""

    def may_hedge(self, request: Q_contra) -> bool:
        """Say whether `request` may be sent a second time while the first is under way."""

    def value_type(self) -> T_co | None:
        """Never called: it ties the type of values to the protocol."""


class Backend(Generic[Q, T]):
    """What adapters have in common. A subclass writes `send`.

    Args:
        name: for spans and errors.
        pipeline: what its calls go through, or None for no guard.
        is_async: whether `send` returns an awaitable.
    """

    def __init__(self, name: str, pipeline: Guard | None = None, *, is_async: bool) -> None:
        if pipeline is not None and not isinstance(pipeline, (Pipeline, PipelineHandle)):
            raise TypeError(f"back end {name!r}: pipeline must be a Pipeline or toolkit.pipeline(name), got {pipeline!r}")
        self.name = name
        self.pipeline = pipeline
        self.is_async = is_async

    def prepare(self, request: Q) -> Any:
        """As it is."""
        return request

    def send(self, prepared: Any) -> Any:
        """Send it."""
        raise NotImplementedError

    def kind_of(self, error: BaseException) -> Kind:
        """By the rules for all."""
        return kind_of(error)

    def may_hedge(self, request: Q) -> bool:
        """Yes: whoever turns hedging on says that his calls can be repeated."""
        return True

    def value_type(self) -> T | None:
        """Nothing."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class FunctionBackend(Backend[Q, T]):
    """A coroutine function, or a plain function that is called in threads, as a back end.

    Args:
        fn: takes a request.
        name: for spans and errors; default the name of the function.
        pipeline: what its calls go through, or None for no guard.
        is_async: whether it returns an awaitable; default whether it is a coroutine function. A lambda that returns an awaitable
            does not look like one.

    Raises:
        TypeError: `fn` cannot be called.
    """

    def __init__(
        self,
        fn: Callable[[Q], Awaitable[T]] | Callable[[Q], T],
        name: str | None = None,
        pipeline: Guard | None = None,
        *,
        is_async: bool | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"a back end must be a function or an adapter, got {fn!r}")
        found = getattr(fn, "__name__", type(fn).__name__) if name is None else name
        super().__init__(found, pipeline, is_async=_is_coroutine_function(fn) if is_async is None else is_async)
        self.fn: Callable[[Any], Any] = fn

    def send(self, prepared: Any) -> Any:
        """Call the function through the pipeline."""
        if self.pipeline is None:
            note_innermost()
            return self.fn(prepared) if self.is_async else self._value(prepared)
        return self.pipeline.acall(self._abounded, prepared) if self.is_async else self.pipeline.call(self._noted, prepared)

    def _noted(self, request: Q) -> Any:
        note_innermost()
        return self._value(request)

    def _value(self, request: Q) -> Any:
        value = self.fn(request)
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise TypeError(
                f"{self.name} returned an awaitable and was called in a thread: write `async def`, or wrap it in "
                f"FunctionBackend(fn, is_async=True), and await `acall` or `astream`"
            )
        return value

    async def _abounded(self, request: Q) -> Any:
        """Innermost, so that every layer sees the time limit of the batch as a deadline that ran out, and no cancellation."""
        note_innermost()
        call = CURRENT.get()
        if call is None or self.pipeline is None:
            return await self.fn(request)
        pipeline = self.pipeline.current if isinstance(self.pipeline, PipelineHandle) else self.pipeline
        return await within(call, self._expired, pipeline.clock, functools.partial(self.fn, request))

    def _expired(self, call: Call) -> DeadlineExceeded:
        return DeadlineExceeded(f"{self.name}: the time for the call ran out", policy=self.name, reason="expired")


def has_deadline(pipeline: Guard | None) -> bool:
    """Whether `pipeline` says itself how much time is enough to be evidence against what it guards."""
    found = pipeline.current if isinstance(pipeline, PipelineHandle) else pipeline
    return found is not None and any(isinstance(layer, Deadline) for layer in found.layers)


def _is_coroutine_function(fn: Any) -> bool:
    found = inspect.unwrap(fn) if not isinstance(fn, functools.partial) else fn
    return inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def as_adapter(target: Any, pipeline: Guard | None = None) -> Adapter[Any, Any]:
    """`target` itself where it is an adapter, else the back end that a function is, behind `pipeline`."""
    if isinstance(target, Backend):
        return target
    if hasattr(target, "may_hedge") and isinstance(target, Adapter):  # which is slow to find out
        return target
    return FunctionBackend(target, pipeline=pipeline)


def pair(drawn: Any, pipeline: Guard | None) -> tuple[Adapter[Any, Any], Any]:
    """A request with the back end that it brought along.

    Raises:
        RequestNotMade: it is no such pair.
    """
    try:
        target, request = drawn
        return as_adapter(target, pipeline), request
    except Exception as error:
        raise RequestNotMade(f"a pair of a back end and a request is needed, got {drawn!r:.100}") from error
