"""Fan-out, fan-in: many calls at once, one result for each, and nothing that waits longer than it may."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from resilience.batch.abandoned import Abandoned
from resilience.batch.adapter import Adapter, Guard, as_adapter, pair
from resilience.batch.counts import BatchCounts
from resilience.batch.gather import TaskRun
from resilience.batch.plan import BatchPlan, OnProgress
from resilience.batch.pool import IDLE_S, ThreadPool
from resilience.batch.result import Result, Results, Settled
from resilience.batch.run import Run
from resilience.batch.settings import BatchSettings
from resilience.batch.source import FedSource, Source
from resilience.batch.telemetry import begin, observe
from resilience.batch.threads import ThreadRun
from resilience.call import enclosing_call
from resilience.clock import SYSTEM_CLOCK, Clock
from resilience.handle import PipelineHandle
from resilience.health import HealthSignal
from resilience.layers.deadline import deadline_us_around
from resilience.layers.retry.budget import RetryBudget
from resilience.registry import enrol

Q = TypeVar("Q")
T = TypeVar("T")

Requests = Iterable[Q] | AsyncIterable[Q]
_ABSENT: Any = object()


class BatchCaller:
    """Makes many calls at once, on threads (`call`, `stream`) or in tasks (`acall`, `astream`), with the same meaning.

        prices = BatchCaller("prices", pipeline=pipeline, concurrency=40, timeout_s=0.3)
        results = await prices.acall(fetch_price, skus)        # in the order of `skus`, each an Ok(value) or an Err(error, kind)
        shown = results.values()

    Every method takes a back end and requests for it, or one iterable of pairs of a back end and a request. A back end is a
    function, a coroutine function, or an adapter (`FunctionBackend`, `Balanced`, those in `resilience.integrations`), which has a
    pipeline of its own. In a batch of tasks, plain functions and adapters that block are called in threads.

    A call has the earliest of its own time limit, that of the batch, and the deadline of the call that the batch is made in. What
    is at work then is cancelled; what has not ended `grace_s` later (a thread cannot be cancelled) is abandoned: its result says
    so, and so do the report and the metric `resilience.batch.abandoned`.

    Args:
        name: for spans, metrics and errors.
        pipeline: what functions are called through; adapters have their own.
        concurrency: calls of one batch in flight at most, second tries included; 1 to 10,000, default 32.
        timeout_s: seconds for the whole batch; default none.
        call_timeout_s: seconds for each call; default none.
        stop_over: once more than this share (0 to 1) of the calls that have ended failed, no further call begins; default off.
        stop_min_calls: calls that must have ended before that share counts; default 10.
        hedge_after_s: send a second try of a call that has not ended for so long, where there is room and the budget allows it; the
            first value wins, and the other try is stopped. Only for calls that can be repeated. Default off.
        hedge_budget: (tokens, ratio): each second try costs one, each value earns `ratio`, and none is sent while half of the
            tokens or less are left; default (10, 0.1). A back end whose pipeline has a retry goes by the budget of that.
        grace_s: seconds in which a call that was stopped must end; default 0.02.
        threads: threads that all batches of this caller share; default `concurrency`. A batch within a call of the same caller has
            as many of its own.
        abandoned_max: abandoned calls that give their place to another; beyond it each holds its thread or its place until it ends.
            Never more than `threads + abandoned_max` threads; default 32.
        health: shrinks `concurrency` by the factor of this signal, never below 1; default none.
        clock: where time comes from; default that of `pipeline`.

    Raises:
        ValueError: a setting is out of range.
        TypeError: `pipeline` is none.
    """

    def __init__(
        self,
        name: str = "batch",
        *,
        pipeline: Guard | None = None,
        concurrency: int = 32,
        timeout_s: float | None = None,
        call_timeout_s: float | None = None,
        stop_over: float | None = None,
        stop_min_calls: int = 10,
        hedge_after_s: float | None = None,
        hedge_budget: tuple[int, float] = (10, 0.1),
        grace_s: float = 0.02,
        threads: int | None = None,
        abandoned_max: int = 32,
        health: HealthSignal | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = BatchSettings(
            concurrency=concurrency,
            timeout_s=timeout_s,
            call_timeout_s=call_timeout_s,
            stop_over=stop_over,
            stop_min_calls=stop_min_calls,
            hedge_after_s=hedge_after_s,
            hedge_tokens=hedge_budget[0],
            hedge_ratio=hedge_budget[1],
            grace_s=grace_s,
            threads=threads,
            abandoned_max=abandoned_max,
        )
        self.name = name
        self.pipeline = pipeline
        self.health = health
        self.clock = clock or _clock_of(pipeline)
        self._limits_us = [self.settings.in_us(limit) for limit in ("timeout_s", "call_timeout_s", "hedge_after_s", "grace_s")]
        self._abandoned = Abandoned(abandoned_max)
        self._pool = ThreadPool(f"resilience-{name}", self.settings.most_threads, self._abandoned)
        self._budget = RetryBudget(*hedge_budget)
        self._counts = BatchCounts(name, self._abandoned)
        self._pair = partial(pair, pipeline=pipeline)
        enrol(self)

    # --- in threads -------------------------------------------------------------------------------------------------------------

    @overload
    def call(self, pairs: Iterable[tuple[Any, Any]], /, *, on_progress: OnProgress | None = None) -> Results[Any]: ...
    @overload
    def call(self, target: Adapter[Q, T], requests: Iterable[Q], /, *, on_progress: OnProgress | None = None) -> Results[T]: ...
    @overload
    def call(self, target: Callable[[Q], T], requests: Iterable[Q], /, *, on_progress: OnProgress | None = None) -> Results[T]: ...
    def call(self, target: Any, requests: Any = _ABSENT, /, *, on_progress: OnProgress | None = None) -> Results[Any]:
        """Make all calls in threads, and wait for them. Returns one result for each request, in their order.

        Args:
            target: a function or an adapter that blocks; or, alone, an iterable of (back end, request).
            requests: drawn as there is room. One that raises ends the input; the error is the result in its place.
            on_progress: is told after each result. If it raises, that is logged and it is told nothing more.

        Raises:
            TypeError: the back end is for tasks, or there are no requests.
        """
        adapter, requests = self._input(target, requests, needs_tasks=False)
        source = Source(adapter, self._pair, requests)  # first: it may raise, and a span would stay open
        run = ThreadRun(self._plan(on_progress), source)
        with _Counting(self._counts, run):
            run.gather()
        return Results(run.results, self.name, run.report())

    @overload
    def stream(
        self, pairs: Iterable[tuple[Any, Any]], /, *, on_progress: OnProgress | None = None
    ) -> Iterator[Settled[Any, Any]]: ...
    @overload
    def stream(
        self, target: Adapter[Q, T], requests: Iterable[Q], /, *, on_progress: OnProgress | None = None
    ) -> Iterator[Settled[Q, T]]: ...
    @overload
    def stream(
        self, target: Callable[[Q], T], requests: Iterable[Q], /, *, on_progress: OnProgress | None = None
    ) -> Iterator[Settled[Q, T]]: ...
    def stream(
        self, target: Any, requests: Any = _ABSENT, /, *, on_progress: OnProgress | None = None
    ) -> Iterator[Settled[Any, Any]]:
        """Make the calls in threads, and yield each result as it comes: `(index, request, result)`.

        Requests are drawn as results are read: at most `concurrency` results wait for their reader. Close the iterator
        (`contextlib.closing`) to end the batch early. Where a time limit or `stop_over` ends it, what was not begun of a collection
        is yielded as failed; from an iterator, which may have no end, nothing more is drawn.
        """
        adapter, requests = self._input(target, requests, needs_tasks=False)
        return self._stream(Source(adapter, self._pair, requests), on_progress)

    def _stream(self, source: Source, on_progress: OnProgress | None) -> Iterator[Settled[Any, Any]]:
        arrived: deque[Settled[Any, Any]] = deque()
        run = ThreadRun(self._plan(on_progress), source, partial(_append, arrived))
        run.unread = arrived.__len__
        with _Counting(self._counts, run):
            yield from run.stream(arrived)

    # --- in tasks ---------------------------------------------------------------------------------------------------------------

    @overload
    async def acall(self, pairs: Requests[tuple[Any, Any]], /, *, on_progress: OnProgress | None = None) -> Results[Any]: ...
    @overload
    async def acall(
        self, target: Adapter[Q, T], requests: Requests[Q], /, *, on_progress: OnProgress | None = None
    ) -> Results[T]: ...
    @overload
    async def acall(
        self, target: Callable[[Q], Awaitable[T]], requests: Requests[Q], /, *, on_progress: OnProgress | None = None
    ) -> Results[T]: ...
    @overload
    async def acall(
        self, target: Callable[[Q], T], requests: Requests[Q], /, *, on_progress: OnProgress | None = None
    ) -> Results[T]: ...
    async def acall(self, target: Any, requests: Any = _ABSENT, /, *, on_progress: OnProgress | None = None) -> Results[Any]:
        """As `call`, in tasks. Requests may come from an asynchronous iterator. A cancelled batch cancels its calls."""
        adapter, requests = self._input(target, requests, needs_tasks=True)
        source = self._source(adapter, requests)
        run = TaskRun(self._plan(on_progress), source)
        with _Counting(self._counts, run):
            await run.gather()
        return Results(run.results, self.name, run.report())

    @overload
    def astream(
        self, pairs: Requests[tuple[Any, Any]], /, *, on_progress: OnProgress | None = None
    ) -> AsyncIterator[Settled[Any, Any]]: ...
    @overload
    def astream(
        self, target: Adapter[Q, T], requests: Requests[Q], /, *, on_progress: OnProgress | None = None
    ) -> AsyncIterator[Settled[Q, T]]: ...
    @overload
    def astream(
        self, target: Callable[[Q], Awaitable[T]], requests: Requests[Q], /, *, on_progress: OnProgress | None = None
    ) -> AsyncIterator[Settled[Q, T]]: ...
    @overload
    def astream(
        self, target: Callable[[Q], T], requests: Requests[Q], /, *, on_progress: OnProgress | None = None
    ) -> AsyncIterator[Settled[Q, T]]: ...
    def astream(
        self, target: Any, requests: Any = _ABSENT, /, *, on_progress: OnProgress | None = None
    ) -> AsyncIterator[Settled[Any, Any]]:
        """As `stream`, in tasks. Close it (`contextlib.aclosing`) to end the batch early."""
        adapter, requests = self._input(target, requests, needs_tasks=True)
        return self._astream(self._source(adapter, requests), on_progress)

    async def _astream(self, source: Source | FedSource, on_progress: OnProgress | None) -> AsyncIterator[Settled[Any, Any]]:
        arrived: deque[Settled[Any, Any]] = deque()
        run = TaskRun(self._plan(on_progress), source, partial(_append, arrived))
        run.unread = arrived.__len__
        with _Counting(self._counts, run):
            stream = run.stream(arrived)
            try:
                async for settled in stream:
                    yield settled
            finally:
                await stream.aclose()  # type: ignore[attr-defined]  # it is a generator

    # --- operating and telling --------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What an operator wants to see, as plain data for JSON."""
        return {
            "concurrency": self.settings.concurrency,
            "in_flight": self._counts.in_flight(),
            "calls": dict(self._counts.calls()),
            "batches": dict(self._counts.ends()),
            "hedged": self._counts.hedged(),
            "abandoned": {"now": self._abandoned.now, "total": self._abandoned.total},
            "threads": self._pool.threads,
        }

    def close(self) -> None:
        """Let threads without work end now, and the others after theirs. They end by themselves after half a second as well."""
        self._pool.close(IDLE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def renew_locks(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self._pool.renew_locks()
        self._budget.renew_lock()

    def __repr__(self) -> str:
        return f"BatchCaller({self.name!r}, concurrency={self.settings.concurrency})"

    # --- beginning --------------------------------------------------------------------------------------------------------------

    def _input(self, target: Any, requests: Any, *, needs_tasks: bool) -> tuple[Adapter[Any, Any] | None, Any]:
        """The back end for all requests, or None where each brings its own; and the requests."""
        if requests is _ABSENT:
            adapter, requests = None, target
        else:
            adapter = as_adapter(target, self.pipeline)
            if adapter.is_async and not needs_tasks:
                raise TypeError(f"{self.name}: {adapter.name} is for tasks: await `acall` or `astream`")
        if not isinstance(requests, (Iterable, AsyncIterable) if needs_tasks else Iterable):
            raise TypeError(
                f"{self.name}: give a back end and an iterable of requests, or one iterable of pairs of both; got {requests!r:.100}"
            )
        return adapter, requests

    def _source(self, adapter: Adapter[Any, Any] | None, requests: Any) -> Source | FedSource:
        if isinstance(requests, AsyncIterable):
            return FedSource(adapter, self._pair, requests)
        return Source(adapter, self._pair, requests)

    def _plan(self, on_progress: OnProgress | None) -> BatchPlan:
        began_us = self.clock.now_us()
        around = enclosing_call()
        deadline_us = deadline_us_around(around)
        timeout_us, call_us, hedge_us, grace_us = self._limits_us
        if timeout_us is not None and (deadline_us is None or began_us + timeout_us < deadline_us):
            deadline_us = began_us + timeout_us
        return BatchPlan(
            name=self.name,
            settings=self.settings,
            clock=self.clock,
            began_us=began_us,
            deadline_us=deadline_us,
            around=around,
            health=self.health,
            budget=self._budget,
            pool=self._pool.here(),
            abandoned=self._abandoned,
            trace=begin(self.name, around),
            on_progress=on_progress,
            call_us=call_us,
            hedge_us=hedge_us,
            grace_us=grace_us or 0,
            half_us=(call_us or timeout_us or 0) // 2,
        )


class _Counting:
    """Counts a batch while it is at work, and ends its span."""

    __slots__ = ("_counts", "_run")

    def __init__(self, counts: BatchCounts, run: Run) -> None:
        self._counts = counts
        self._run = run

    def __enter__(self) -> None:
        self._counts.began(self._run)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        report = self._run.report()
        self._counts.ended(self._run, report)
        if self._run.plan.trace is not None:
            self._run.plan.trace.end(report)


def _append(arrived: deque[Settled[Any, Any]], index: int, request: Any, result: Result[Any]) -> None:
    arrived.append(Settled(index, request, result))


def _clock_of(pipeline: Guard | None) -> Clock:
    if pipeline is None:
        return SYSTEM_CLOCK
    return pipeline.current.clock if isinstance(pipeline, PipelineHandle) else pipeline.clock


observe()
