"""A pipeline around a block of code: `with pipeline.guard():` and `async with pipeline.guard():`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import Token
from types import TracebackType

from resilience.call import CURRENT, Call, Permit
from resilience.clock import Clock
from resilience.drivers import adrive, drive, note_expiry
from resilience.stage import Stage, settle_error, settle_success
from resilience.timers import CancelTimer, is_cancellation


class Guard:
    """Guards one block once. Entering gives the `Call`; a block left by an exception settles by it."""

    __slots__ = ("_begin", "_call", "_mark", "_permit", "_stage", "_timer")

    def __init__(self, begin: Callable[[Call], bool], stage: Stage, call: Call) -> None:
        self._begin = begin
        self._stage = stage
        self._call = call
        self._permit: Permit | None = None
        self._mark: Token[Call | None] | None = None
        self._timer: CancelTimer | None = None

    @property
    def _clock(self) -> Clock:
        return self._stage.clock

    def __enter__(self) -> Call:
        self._open()
        stage = self._stage
        try:
            permit = drive(stage.steps(self._call), stage.clock) if stage.has_effects else stage.admit(self._call)
        except BaseException as error:
            self._close_span(error)
            raise
        return self._entered(permit)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave(error)

    async def __aenter__(self) -> Call:
        self._open()
        stage = self._stage
        try:
            permit = await adrive(stage.steps(self._call), stage.clock) if stage.has_effects else stage.admit(self._call)
        except BaseException as error:
            self._close_span(error)
            raise
        call = self._entered(permit)
        if self._stage.timeout is not None and call.deadline_us is not None:
            try:
                self._timer = CancelTimer(self._clock, call.deadline_us)
            except BaseException as error:
                self._leave(error)
                raise
        return call

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        timer, timeout = self._timer, self._stage.timeout
        if timer is not None and timeout is not None:
            timer.disarm()
            if is_cancellation(error):
                if timer.takes_back():
                    expired = timeout(self._call)
                    self._leave(expired)
                    raise expired from error
                note_expiry(self._call, timeout, self._clock)
        self._leave(error)

    def _entered(self, permit: Permit) -> Call:
        self._permit = permit
        self._mark = CURRENT.set(self._call)
        return self._call

    def _leave(self, error: BaseException | None) -> None:
        if self._permit is None or self._mark is None:
            raise RuntimeError("a guard is left that was never entered")
        with contextlib.suppress(ValueError):  # left in another context than it was entered in, as asynchronous generators do
            CURRENT.reset(self._mark)
        if error is None:
            settle_success(self._permit, self._clock.now_us())
        else:
            settle_error(self._permit, error)
        self._close_span(error)

    def _open(self) -> None:
        if self._permit is not None or self._call.settled:
            raise RuntimeError("a guard guards one block; make a new one with pipeline.guard()")
        self._begin(self._call)
        if self._call.trace is not None:
            self._call.trace.enter()

    def _close_span(self, error: BaseException | None) -> None:
        if self._call.trace is not None:
            self._call.trace.exit()
            self._call.trace.finish(error)
