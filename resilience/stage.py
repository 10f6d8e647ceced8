"""Admission through a group of layers: one plain loop, or a generator of effects where a layer may have to wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar

from resilience import tracing
from resilience.call import ADMITTED, CURRENT, Call, Decision, Outcome, Permit, SoleCall
from resilience.clock import US_PER_S, Clock, wall_ns
from resilience.drivers import Timeout, within
from resilience.errors import DeadlineExceeded
from resilience.layers.base import Ask, Effect, Layer, Wait
from resilience.layers.breaker import CircuitBreaker
from resilience.layers.breaker.classify import judge_error
from resilience.layers.deadline import Deadline
from resilience.recorded import RecordedWay, decided, recorded_way, tell_trace_id

T = TypeVar("T")
C = TypeVar("C", bound=Call)
Steps = Generator[Effect, Any, Permit]
noted: Callable[[Call], object] | None = None
"""Who notes the calls that are their own permits, if anybody does: `leaks.py`."""


class Stage:
    """Layers that are passed together: those around the whole call, or those around each attempt."""

    __slots__ = ("_admissions", "_recorded_way", "clock", "deadline", "has_effects", "layers", "pipeline", "timeout")

    def __init__(self, pipeline: str, layers: Sequence[Layer], clock: Clock) -> None:
        self.pipeline = pipeline
        self.layers = tuple(layers)
        self._admissions = tuple((settler_of(layer), layer.admit) for layer in layers)
        self._recorded_way: RecordedWay | None = None
        self.clock = clock
        self.has_effects = any(layer.has_effects for layer in layers)
        self.deadline = next((layer for layer in layers if isinstance(layer, Deadline)), None)
        self.timeout = None if self.deadline is None else self._expired

    def _expired(self, call: Call) -> DeadlineExceeded:
        """Make the error of a call whose time ran out while it was at work; counted, and recorded where the call is."""
        if self.deadline is None:
            raise TypeError("a stage without a deadline has no time that could run out")
        error = self.deadline.exceeded(call)
        if call.trace is not None:
            told = {"resilience.deadline.remaining_s": 0.0}
            call.trace.layer(self.deadline.kind, self.pipeline, self.deadline.name, wall_ns(), Decision.EXPIRED.value, told, error)
            error.trace_id = tracing.trace_id()  # here, where the call's own span is the current one
        return error

    def admit(self, call: Call) -> Permit:
        """Take every layer's permit, outermost first. Only through layers without effects.

        Raises:
            Rejected: a layer refused; the layers before it are settled as ignored.
        """
        permit = Permit(call, self.clock)
        held = call.held
        try:
            if call.trace is not None:
                (self._recorded_way or self._make_recorded_way()).admit(call, call.trace)
                return permit
            for layer, admit in self._admissions:
                token = admit(call)
                if token is not None:
                    held.append((layer, token))
        except BaseException:  # a refusal, or a key function that raised
            permit.settle(Outcome.IGNORED, call.now_us)
            raise
        return permit

    def _make_recorded_way(self) -> RecordedWay:
        """For the first call that is recorded: most pipelines never meet one."""
        way = recorded_way(self.pipeline, self.layers, [settler for settler, _ in self._admissions])
        self._recorded_way = way
        return way

    def run(self, call: Call, work: Callable[[], T]) -> T:
        """Admit, work as the current call in this thread, and settle with how it went. Where `admit` will do."""
        permit = self.admit(call)
        mark = CURRENT.set(call)
        try:
            result = work()
        except BaseException as error:
            settle_error(permit, error)
            raise
        finally:
            CURRENT.reset(mark)
        settle_success(permit, self.clock.now_us())
        return result

    def enter(self, call: C) -> C:
        """`admit` for a call that is its own permit."""
        if noted is not None:
            noted(call)
        held, trace = call.held, call.trace
        try:
            if trace is not None:
                (self._recorded_way or self._make_recorded_way()).admit(call, trace)
                return call
            for layer, admit in self._admissions:
                token = admit(call)
                if token is not None:
                    held.append((layer, token))
        except BaseException:
            ignore(call)
            raise
        return call

    async def arun(self, call: Call, work: Callable[[], Awaitable[T]], timeout: Timeout | None) -> T:
        """The same in this task, cancelled when the call's deadline passes; `timeout` makes the error that is raised then."""
        permit = self.admit(call)
        mark = CURRENT.set(call)
        try:
            result = await within(call, timeout, self.clock, work)
        except BaseException as error:
            settle_error(permit, error)
            raise
        finally:
            CURRENT.reset(mark)
        settle_success(permit, self.clock.now_us())
        return result

    def steps(self, call: Call) -> Steps:
        """`admit` through layers that may have effects: yields what the driver must do, returns the permit."""
        permit = Permit(call, self.clock)
        try:
            for layer in self.layers:
                yield from self._pass(layer, call)
        except BaseException:
            permit.settle(Outcome.IGNORED)
            raise
        return permit

    def _pass(self, layer: Layer, call: Call) -> Generator[Effect, Any, None]:
        trace = call.trace
        began_ns = 0 if trace is None else wall_ns()
        call.decision = ADMITTED
        waited_us = 0
        refusal: BaseException | None = None
        try:
            token = layer.admit(call)
            while isinstance(token, (Wait, Ask)):
                began_us = call.now_us
                token = yield from self._perform(token, call)
                waited_us += call.now_us - began_us
            if token is not None:
                call.held.append((layer, token))
        except BaseException as error:
            refusal = error
            if trace is not None:
                tell_trace_id(error)
            raise
        finally:
            if trace is not None:
                attributes = dict(layer.attributes(call))
                if waited_us:
                    attributes["resilience.limiter.wait_s"] = waited_us / US_PER_S
                trace.layer(layer.kind, self.pipeline, layer.name, began_ns, decided(call, refusal), attributes, refusal)
            refusal = None  # its traceback refers to this frame

    def _perform(self, effect: Wait | Ask, call: Call) -> Generator[Effect, Any, Any]:
        if isinstance(effect, Ask):
            answer = yield effect
            call.now_us = self.clock.now_us()
            return effect.resume(answer)
        try:
            yield effect
        except BaseException:
            effect.cancel()
            raise
        effect.over()
        call.now_us = self.clock.now_us()
        return None


def settler_of(layer: Layer) -> Any:
    """Who takes back what `layer` hands out: itself, unless it is a breaker as it is here, which may have its machine do so."""
    return layer.settler if type(layer) is CircuitBreaker and "settle" not in vars(layer) else layer


def ignore(call: Call) -> None:
    """A layer has refused: that says nothing of what the layers before it guard."""
    call.settled = True
    held = call.held
    while held:
        layer, token = held.pop()
        layer.settle(token, Outcome.IGNORED, call, call.now_us)


def settle_error(
    permit: Permit | SoleCall, error: BaseException, judge: Callable[[Call, BaseException], Outcome] = judge_error
) -> None:
    """Settle a call that ended with `error`, unless it is known already what ended it; `judge` says what that shows."""
    call = permit.call
    if call.error is None:
        call.error = error
    permit.settle(judge(call, call.error))
    call.error = None  # every layer has seen it, and its traceback refers back to the call


def settle_success(permit: Permit, now_us: int) -> None:
    """Settle a call that returned. One that overran its deadline, where nothing could cancel it, has failed its caller."""
    call = permit.call
    late = call.deadline_us is not None and now_us > call.deadline_us and call.deadline_counts
    permit.settle(Outcome.FAILED if late else Outcome.OK, now_us)
