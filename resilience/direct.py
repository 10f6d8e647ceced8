"""Calls of functions in plain code: what most calls are, that nobody records, through layers that need no driver.

Each of these calls has one settler, so it needs no `Permit`. One that may be tried again is its own first try, for most have no
second; where that was not enough, the call around it is made, and a plan for the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import CoroutineType
from typing import Any, Final, Protocol, TypeVar

from resilience.call import CURRENT, FunctionCall, Outcome
from resilience.drivers import Timeout, adrive, drive, within
from resilience.layers.breaker.classify import judge_error
from resilience.layers.deadline import Deadline
from resilience.layers.limiter import RateLimiter
from resilience.layers.retry.layer import Retry
from resilience.plan import CallPlan
from resilience.stage import Stage

T = TypeVar("T")
Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]

KEEP_NOTHING: Final = frozenset({Deadline, RateLimiter})
"""The layers that never hand out a token while they have no effects."""
_OK: Final = Outcome.OK


class Direct(Protocol):
    """The direct way through a pipeline. `call` is begun, and nobody records it."""

    def run(self, call: FunctionCall, fn: Callable[..., T], args: Args, kwargs: Kwargs) -> T:
        """Admit, call `fn` as the current call in this thread, and settle with how it went."""

    async def arun(self, call: FunctionCall, fn: Callable[..., Awaitable[T]], args: Args, kwargs: Kwargs) -> T:
        """The same in this task, cancelled when the call's deadline passes."""


def direct_way(name: str, outer: Stage, retry: Retry | None, inner: Stage) -> Direct | None:
    """The direct way through the pipeline of that name, or None where its layers need more."""
    if outer.has_effects or inner.has_effects:
        return None
    if retry is None:
        return Once(outer)
    return FirstTry(name, outer, retry, inner) if all(type(layer) in KEEP_NOTHING for layer in outer.layers) else None


class Once:
    """The way without a retry."""

    __slots__ = ("_admissions", "_clock", "_name", "_now_us", "_timeout")

    def __init__(self, stage: Stage) -> None:
        self._name = stage.pipeline
        self._admissions = stage._admissions
        self._clock = stage.clock
        self._now_us = stage.clock.now_us
        self._timeout = stage.timeout

    def run(self, call: FunctionCall, fn: Callable[..., T], args: Args, kwargs: Kwargs) -> T:
        held = call.held
        try:
            for layer, admit in self._admissions:
                token = admit(call)
                if token is not None:
                    held.append((layer, token))
        except BaseException:  # a refusal, or a key function that raised
            if held:
                _settle(call, Outcome.IGNORED, call.now_us)
            call.settled = True
            raise
        mark = CURRENT.set(call)
        try:
            result = fn(*args, **kwargs)
            if type(result) is CoroutineType:
                raise never_awaited(self._name, result)
        except BaseException as error:
            _settle_error(call, error, self._now_us)
            raise
        finally:
            CURRENT.reset(mark)
        call.settled = True
        if held:  # `_settle_success`, written out
            now_us = self._now_us()
            late = call.deadline_us is not None and now_us > call.deadline_us and call.deadline_counts
            while held:
                holder, token = held.pop()
                holder.settle(token, Outcome.FAILED if late else _OK, call, now_us)
        return result

    async def arun(self, call: FunctionCall, fn: Callable[..., Awaitable[T]], args: Args, kwargs: Kwargs) -> T:
        held = call.held
        try:
            for layer, admit in self._admissions:
                token = admit(call)
                if token is not None:
                    held.append((layer, token))
        except BaseException:
            if held:
                _settle(call, Outcome.IGNORED, call.now_us)
            call.settled = True
            raise
        mark = CURRENT.set(call)
        try:
            if call.deadline_us is None or self._timeout is None:
                result = await fn(*args, **kwargs)
            else:
                result = await within(call, self._timeout, self._clock, partial(fn, *args, **kwargs))
        except BaseException as error:
            _settle_error(call, error, self._now_us)
            raise
        finally:
            CURRENT.reset(mark)
        call.settled = True
        if held:  # `_settle_success`, written out
            now_us = self._now_us()
            late = call.deadline_us is not None and now_us > call.deadline_us and call.deadline_counts
            while held:
                holder, token = held.pop()
                holder.settle(token, Outcome.FAILED if late else _OK, call, now_us)
        return result


class FirstTry:
    """The way with a retry, around which no layer keeps anything to settle."""

    __slots__ = ("_clock", "_inner", "_limits_tries", "_name", "_now_us", "_outer", "_rest", "_retry", "_timeout")

    def __init__(self, name: str, outer: Stage, retry: Retry, inner: Stage) -> None:
        self._name = name
        self._outer = tuple(admit for _, admit in outer._admissions)
        self._inner = inner._admissions
        self._retry = retry
        self._rest = partial(CallPlan, name, outer, retry, inner)
        self._clock = outer.clock
        self._now_us = outer.clock.now_us
        self._limits_tries = inner.timeout is not None
        self._timeout: Timeout | None = inner.timeout or outer.timeout

    def run(self, call: FunctionCall, fn: Callable[..., T], args: Args, kwargs: Kwargs) -> T:
        if self._outer:
            self._pass(call)
        deadline_us, held = call.deadline_us, call.held
        call.retrying = True
        if self._limits_tries:  # its own time says whether a try that runs out of it is evidence
            call.deadline_counts = True
        result: Any = None
        failure: Exception | None = None
        is_admitted = False
        mark = CURRENT.set(call)
        try:
            for layer, admit in self._inner:
                token = admit(call)
                if token is not None:
                    held.append((layer, token))
            is_admitted = True
            result = fn(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # judged below, and raised again if it is the last
            failure = error
        except BaseException as error:  # never tried again
            self._settle(call, error, is_admitted)
            raise
        finally:
            CURRENT.reset(mark)
        if failure is None and not self._retry.judges_results:
            self._succeeded(call)
        else:
            try:
                result = self._go_on(call.whole(deadline_us), call, is_admitted, failure, result, partial(fn, *args, **kwargs))
            finally:
                failure = None  # its traceback refers to this frame
        if type(result) is CoroutineType:
            raise never_awaited(self._name, result)
        done: T = result
        return done

    async def arun(self, call: FunctionCall, fn: Callable[..., Awaitable[T]], args: Args, kwargs: Kwargs) -> T:
        if self._outer:
            self._pass(call)
        deadline_us, held = call.deadline_us, call.held
        call.retrying = True
        if self._limits_tries:  # its own time says whether a try that runs out of it is evidence
            call.deadline_counts = True
        result: Any = None
        failure: Exception | None = None
        is_admitted = False
        mark = CURRENT.set(call)
        try:
            for layer, admit in self._inner:
                token = admit(call)
                if token is not None:
                    held.append((layer, token))
            is_admitted = True
            if call.deadline_us is None or self._timeout is None:
                result = await fn(*args, **kwargs)
            else:
                result = await within(call, self._timeout, self._clock, partial(fn, *args, **kwargs))
        except Exception as error:  # noqa: BLE001  # judged below, and raised again if it is the last
            failure = error
        except BaseException as error:  # never tried again
            self._settle(call, error, is_admitted)
            raise
        finally:
            CURRENT.reset(mark)
        if failure is None and not self._retry.judges_results:
            self._succeeded(call)
            done: T = result
            return done
        try:
            whole = call.whole(deadline_us)
            return await self._ago_on(whole, call, is_admitted, failure, result, partial(fn, *args, **kwargs))
        finally:
            failure = None  # its traceback refers to this frame

    def _pass(self, call: FunctionCall) -> None:
        """Pass the layers before the retry."""
        try:
            for admit in self._outer:
                admit(call)
        except BaseException:
            call.settled = True
            raise

    def _succeeded(self, call: FunctionCall) -> None:
        """The first try is over, and so is the call."""
        if call.held:
            _settle_success(call, self._now_us())
        call.settled = True
        state = self._retry.state
        state.admitted += 1  # no lock: CPython switches threads between calls and rounds of a loop, and here is neither
        if state.health is not None or not state.budget.is_full:
            state.budget.earn(state.factor_ppb(self._now_us()))

    def _settle(self, call: FunctionCall, error: BaseException | None, is_admitted: bool) -> None:
        """The first try is over, which the layers after the retry have let in or not."""
        if error is None:
            _settle_success(call, self._now_us())
        elif is_admitted:
            _settle_error(call, error, self._now_us)
        else:
            _settle(call, Outcome.IGNORED, call.now_us)

    def _go_on(
        self,
        whole: FunctionCall,
        first: FunctionCall,
        is_admitted: bool,
        error: Exception | None,
        result: Any,
        work: Callable[[], T],
    ) -> T:
        """Judge the first try, and make more of them in this thread where that is worth it."""
        mark = CURRENT.set(whole)
        try:
            self._settle(first, error, is_admitted)
            tries = self._retry.begin(whole)
            now_us = self._now_us()
            done: T = (
                drive(self._rest(whole).more_tries(tries), self._clock, work)
                if tries.again(error, result, now_us)
                else tries.finish(error, result, now_us)
            )
            return done
        finally:
            whole.settled = True
            CURRENT.reset(mark)
            error = None  # its traceback refers to this frame

    async def _ago_on(
        self,
        whole: FunctionCall,
        first: FunctionCall,
        is_admitted: bool,
        error: Exception | None,
        result: Any,
        work: Callable[[], Awaitable[T]],
    ) -> T:
        """The same in this task."""
        mark = CURRENT.set(whole)
        try:
            self._settle(first, error, is_admitted)
            tries = self._retry.begin(whole)
            now_us = self._now_us()
            done: T = (
                await adrive(self._rest(whole).more_tries(tries), self._clock, work)
                if tries.again(error, result, now_us)
                else tries.finish(error, result, now_us)
            )
            return done
        finally:
            whole.settled = True
            CURRENT.reset(mark)
            error = None  # its traceback refers to this frame


def never_awaited(pipeline: str, coroutine: Any) -> TypeError:
    """Close a coroutine that nobody will await, and make the error that says so."""
    coroutine.close()
    return TypeError(f"pipeline {pipeline!r}: {coroutine.__qualname__} is a coroutine function; use `await pipeline.acall(...)`")


def _settle(call: FunctionCall, outcome: Outcome, now_us: int) -> None:
    """Give every layer its token back, innermost first."""
    call.settled = True
    held = call.held
    while held:
        layer, token = held.pop()
        layer.settle(token, outcome, call, now_us)


def _settle_success(call: FunctionCall, now_us: int) -> None:
    """Settle a call that returned. One that overran its deadline, where nothing could cancel it, has failed its caller."""
    late = call.deadline_us is not None and now_us > call.deadline_us and call.deadline_counts
    outcome = Outcome.FAILED if late else Outcome.OK
    call.settled = True
    held = call.held
    while held:  # `_settle`, written out
        layer, token = held.pop()
        layer.settle(token, outcome, call, now_us)


def _settle_error(call: FunctionCall, error: BaseException, now_us: Callable[[], int]) -> None:
    """Settle a call that ended with `error`, unless it is known already what ended it."""
    if call.error is None:
        call.error = error
    outcome = judge_error(call, call.error)
    _settle(call, outcome, now_us() if call.held else 0)
    call.error = None  # every layer has seen it, and its traceback refers back to the call
