"""A batch of tasks on one event loop. What blocks is called in threads, and is waited for here."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from resilience.batch.adapter import Adapter, FunctionBackend
from resilience.batch.flight import NEVER, Flight
from resilience.batch.plan import BatchPlan
from resilience.batch.pool import Job
from resilience.batch.result import Err, Kind, Ok, Result, Settled
from resilience.batch.run import Run
from resilience.batch.settling import Deliver
from resilience.batch.source import FedSource, Source
from resilience.batch.task import Try, is_at_work, is_plain
from resilience.batch.trying import blocking_try, failure, span_of, vote_of_abandoned
from resilience.call import CURRENT, Outcome
from resilience.clock import US_PER_S, Timer
from resilience.handle import PipelineHandle
from resilience.pipeline import Pipeline
from resilience.stage import Stage

_OK: Final = Outcome.OK
_READ_AT_ONCE: Final = 256
"""Results that are read one after another before others on the loop have their turn."""
_LINGERING: Final[set[asyncio.Task[Any]]] = set()
"""Tasks that were abandoned: the event loop holds them weakly."""


class TaskRun(Run):
    """A batch driven by the event loop."""

    def __init__(self, plan: BatchPlan, source: Source | FedSource, deliver: Deliver | None = None) -> None:
        super().__init__(plan, source, deliver)
        self._loop = asyncio.get_running_loop()
        self._timer: Timer | None = None
        self._news: asyncio.Future[None] | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._last_adapter: Adapter[Any, Any] | None = None
        self._pipeline: Pipeline | None = None
        self._is_plain = is_plain(self._loop)
        self._now_us = self.clock.now_us
        self._unbegun: list[asyncio.Task[None]] = []
        self._broken: BaseException | None = None
        self._closing = False

    # --- waiting ------------------------------------------------------------------------------------------------------------------

    async def gather(self) -> None:
        """See the batch through."""
        try:
            self._open()
            while not self.is_over and self._broken is None:
                await self._until_news()
            if self._broken is not None:
                raise self._broken
        finally:
            await self._close()

    async def stream(self, arrived: deque[Settled[Any, Any]]) -> AsyncIterator[Settled[Any, Any]]:
        """See the batch through, and yield what has arrived."""
        read = 0
        try:
            self._open()
            while True:
                while arrived:
                    yield arrived.popleft()
                    read += 1
                    if self._more:
                        self.refill()
                    if read % _READ_AT_ONCE == 0:  # what is refused at once is there at once: others need their turn
                        await asyncio.sleep(0)
                if self._broken is not None:
                    raise self._broken
                if self.is_over:
                    break
                await self._until_news()
        finally:
            await self._close()

    def _open(self) -> None:
        if isinstance(self._source, FedSource):
            self._feeder = self._loop.create_task(self._feed(self._source), context=self._home.copy())
        self.start()

    def lets_others_in(self) -> bool:
        """Those on the same loop."""
        self._loop.call_soon(self._go_on)
        return True

    def _go_on(self) -> None:
        if not self._closing:
            self.refill()
            self.wake()

    def broke(self, error: BaseException) -> None:
        """Whoever waits for the batch raises `error`."""
        if self._broken is None:
            self._broken = error
        self.wake()

    async def _until_news(self) -> None:
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    def wake(self) -> None:
        """Something has changed for whoever waits."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _close(self) -> None:
        """Leave nothing behind: no task, but for those that do not end though they are told to; no timer."""
        self._closing = True
        try:
            if not self.is_over:
                self.cancel()
            while self.live:
                await self._until_news()
            if self._unbegun:
                await asyncio.sleep(0)  # by then they have ended
            if self._feeder is not None:
                self._feeder.cancel()
                await asyncio.wait((self._feeder,), timeout=self.settings.grace_s)
        finally:
            self.abandon_all()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    async def _feed(self, source: FedSource) -> None:
        """Draw requests from an asynchronous iterator, one ahead of what there is room for."""
        failed: BaseException | None = None
        taken = asyncio.Event()
        source.on_taken = taken.set
        try:
            async for request in source.requests:
                source.put(request)
                self.refill()
                self.wake()  # a call that is refused at once has its result by now
                while source.is_full:
                    taken.clear()
                    await taken.wait()
        except asyncio.CancelledError as error:
            if self._closing:
                raise
            failed = error  # the iterator's own: the input must not seem to be whole
        except Exception as error:
            failed = error
        except BaseException as error:
            self.broke(error)
        finally:
            source.end(failed)
            self.refill()
            self.wake()

    # --- time ---------------------------------------------------------------------------------------------------------------------

    @property
    def _is_armed(self) -> bool:
        return self._timer is not None

    def rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0, self.wake_us - self.clock.now_us()) / US_PER_S
        self._timer = self.clock.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.tick()
        if self.wake_us < NEVER and not self._is_armed and not self.is_over:
            self.rearm()
        self.wake()

    def landed(self, flight: Flight, result: Result[Any]) -> None:
        if self._more or self._to_hedge or self._on_progress is not None:
            self._at_home(self._land, flight, result)
        else:  # nothing of the user's is called
            self._land(flight, result)
        if not self.live or self.unread is not None:
            self.wake()

    # --- tries --------------------------------------------------------------------------------------------------------------------

    def launch(self, flight: Flight, prepared: Any) -> Err | None:
        adapter = flight.adapter
        if adapter is not self._last_adapter:
            self._know(adapter)
        if self._pipeline is None:
            if not adapter.is_async:
                return self._launch_in_thread(flight, prepared)
            self._carry(flight, self._fly(flight, prepared))
            return None
        flight.pipeline = self._pipeline
        flight.is_own = True
        stage = self._pipeline.outer
        limit_us = flight.limit_us
        try:
            stage.enter(flight)
        except Exception as error:
            return failure(adapter, error)
        deadline_us = flight.deadline_us
        if deadline_us is not None and deadline_us < limit_us:  # the pipeline's own
            self._shorten(flight, deadline_us)
        self._carry(flight, self._fly_fast(flight, stage, adapter.fn, prepared))
        return None

    def _carry(self, flight: Flight, work: Coroutine[Any, Any, None]) -> None:
        """Make the task of a try, in a copy of this context, which is the batch's own."""
        if self._is_plain:
            flight.carrier = task = Try(work, loop=self._loop)
            task.flight, task.run = flight, self
        else:
            flight.carrier = watched = self._loop.create_task(work)
            watched.add_done_callback(functools.partial(self.vanished, flight))

    def _launch_in_thread(self, flight: Flight, prepared: Any) -> Err | None:
        refused = functools.partial(self._from_thread, flight, self.no_thread)
        job = self.plan.pool.submit(
            functools.partial(self._from_thread, flight, functools.partial(blocking_try, self.plan, flight, prepared)), refused
        )
        if job is None:
            return self.no_thread()
        flight.carrier = job
        return None

    def _from_thread(self, flight: Flight, make: Callable[[], Result[Any]]) -> None:
        result = make()
        try:
            self._loop.call_soon_threadsafe(self.landed, flight, result)
        except RuntimeError:  # the loop was closed while an abandoned call was at work
            return

    async def _fly(self, flight: Flight, prepared: Any) -> None:
        """Any try, through whatever its adapter has."""
        CURRENT.set(flight)
        span = span_of(self.plan, flight)
        result: Result[Any]
        try:
            result = Ok(await flight.adapter.send(prepared))
        except BaseException as error:
            result = failure(flight.adapter, error)
        flight.settled = True
        if span is not None:
            span.end(result)
        self.landed(flight, result)

    # --- the fast way: a coroutine function through layers that need no driver, recorded by nobody --------------------------------

    def _know(self, adapter: Adapter[Any, Any]) -> None:
        """Find out whether the tries of a back end go the fast way. One whose pipeline may change is asked for each."""
        pipeline = adapter.pipeline
        follows = isinstance(pipeline, PipelineHandle)
        if isinstance(pipeline, PipelineHandle):
            pipeline = pipeline.current
        self._last_adapter = None if follows else adapter
        self._pipeline = None
        if self.plan.trace is not None or pipeline is None or type(adapter) is not FunctionBackend or not adapter.is_async:
            return
        if pipeline.retry is None and not pipeline.outer.has_effects:
            self._pipeline = pipeline

    async def _fly_fast(self, flight: Flight, stage: Stage, fn: Callable[[Any], Any], request: Any) -> None:
        CURRENT.set(flight)
        result: Result[Any]
        try:
            result = Ok(await fn(request))
        except BaseException as error:
            result = self._failed_fast(flight, stage, error)
        else:
            flight.settled = True
            held = flight.held
            if held:
                now_us = self._now_us()
                late = flight.deadline_us is not None and now_us > flight.deadline_us and flight.deadline_counts
                while held:
                    holder, token = held.pop()
                    holder.settle(token, Outcome.FAILED if late else _OK, flight, now_us)
        if self._more or self.unread is not None or not self._counts_only:
            self.landed(flight, result)
            return
        self._land(flight, result)  # `landed`, where nothing of the user's is called
        if not self.live:
            self.wake()

    def _failed_fast(self, flight: Flight, stage: Stage, error: BaseException) -> Err:
        stopped_by = flight.stopped_by
        if stopped_by is not None and stopped_by.kind is Kind.TIMEOUT and isinstance(error, asyncio.CancelledError):
            error = stopped_by.error if stage.timeout is None else stage.timeout(flight)
        flight.failed(error)
        return failure(flight.adapter, error)

    # --- tries that do not end ----------------------------------------------------------------------------------------------------

    def stop_try(self, flight: Flight) -> bool:
        if isinstance(flight.carrier, Job):
            return self.plan.pool.drop(flight.carrier)
        task = flight.carrier
        has_begun = is_at_work(task)
        task.cancel()
        if not has_begun:
            self._unbegun.append(task)
            if flight.is_own:
                flight.settle(Outcome.IGNORED)
        return not has_begun

    def vanished(self, flight: Flight, task: asyncio.Task[None]) -> None:
        """Somebody else has cancelled a try before its first step, so that it cannot say itself that it has ended."""
        if flight not in self.live:
            return
        if flight.is_own:
            flight.settle(Outcome.IGNORED)
        self.landed(flight, failure(flight.adapter, asyncio.CancelledError()))

    def can_stop(self, flight: Flight) -> bool:
        return not isinstance(flight.carrier, Job)

    def give_up(self, flight: Flight) -> bool | None:
        carrier = flight.carrier
        now_us = self.clock.now_us()
        if isinstance(carrier, Job):
            if not self.plan.pool.abandon(carrier):
                return None
            vote_of_abandoned(flight, now_us)
            return carrier.is_replaced
        is_replaced = self.plan.abandoned.add()
        _LINGERING.add(carrier)
        carrier.add_done_callback(functools.partial(_ended, self.plan, is_replaced))
        stopped_by = flight.stopped_by
        if not flight.is_own:
            vote_of_abandoned(flight, now_us)
        elif stopped_by is not None:
            flight.failed(stopped_by.error)
        return is_replaced


def _ended(plan: BatchPlan, is_replaced: bool, task: asyncio.Task[Any]) -> None:
    """An abandoned task has ended after all."""
    _LINGERING.discard(task)
    plan.abandoned.ended(replaced=is_replaced)
