"""How layers admit a call that somebody records: all of them decide first, and are told of then, each as a leaf span.

So what a span costs to make, ten times what a layer costs, is in none of them, and what all spans share is looked up once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from resilience import tracing
from resilience.call import ADMITTED, Call, Decision
from resilience.clock import US_PER_S, wall_ns
from resilience.errors import Rejected
from resilience.health import PPB
from resilience.layers.address import address_key, known_key
from resilience.layers.base import Layer
from resilience.layers.breaker import CircuitBreaker
from resilience.layers.deadline import Deadline
from resilience.layers.keys import bounded
from resilience.layers.limiter import RateLimiter
from resilience.tracing import CallTrace, Leaf

USUAL_ORDER: Final = (Deadline, RateLimiter, CircuitBreaker)
"""The layers that most requests meet, outermost first: these, or some of these."""
_PIPELINE: Final = "resilience.pipeline"
_POLICY: Final = "resilience.policy"
_DECISION: Final = "resilience.decision"
_FACTOR: Final = "resilience.health.factor"
_RATE: Final = "resilience.limiter.rate"
_REMAINING: Final = "resilience.limiter.remaining"
_GENERATION: Final = "resilience.breaker.generation"
_FAILURE_RATE: Final = "resilience.breaker.failure_rate"


class RecordedWay:
    """The way through layers without effects, one after the other."""

    __slots__ = ("_layers", "_names", "_pipeline", "_settlers")

    def __init__(self, pipeline: str, layers: Sequence[Layer], settlers: Sequence[Any]) -> None:
        self._pipeline = pipeline
        self._layers = tuple(layers)
        self._settlers = tuple(settlers)
        self._names = tuple(f"resilience.{layer.kind}" for layer in layers)

    def admit(self, call: Call, trace: CallTrace) -> None:
        """Take every layer's permit, and record what they decided.

        Raises:
            Rejected: a layer refused. It is recorded, with an error, and so are those before it.
        """
        leaves: list[Leaf] = []
        began_ns = wall_ns()
        try:
            for layer, settler in zip(self._layers, self._settlers, strict=True):
                began_ns = self._pass(layer, settler, call, leaves, began_ns)
        except BaseException as error:  # a refusal, or a key function that raised
            self._refused(call, trace, leaves, began_ns, error)
            raise
        trace.leaves(leaves)

    def _pass(self, layer: Layer, settler: Any, call: Call, leaves: list[Leaf], began_ns: int) -> int:
        """Let one layer decide as it does for every call. Returns when it had decided."""
        call.decision = ADMITTED
        token = layer.admit(call)
        if token is not None:
            call.held.append((settler, token))
        told = self._told(layer, call, call.decision.value)
        ended_ns = wall_ns()
        leaves.append((self._names[len(leaves)], told, began_ns, ended_ns))
        return ended_ns

    def _told(self, layer: Layer, call: Call, decision: str) -> dict[str, Any]:
        return {_PIPELINE: self._pipeline, _POLICY: layer.name, _DECISION: decision, **layer.attributes(call)}

    def _refused(self, call: Call, trace: CallTrace, leaves: list[Leaf], began_ns: int, error: BaseException) -> None:
        """Record a call that was refused, or broken off, in the first layer that has no leaf yet."""
        tell_trace_id(error)
        if len(leaves) == len(self._names):  # broken off when all had decided, by a signal's handler say
            trace.leaves(leaves)
            return
        name, layer = self._names[len(leaves)], self._layers[len(leaves)]
        try:
            told = self._told(layer, call, decided(call, error))
        except BaseException:  # what could not be read to decide cannot be read to tell of it either, the client's address say
            trace.leaves(leaves)
            raise
        leaves.append((name, told, began_ns, wall_ns()))
        trace.leaves(leaves, error)


class UsualRecordedWay(RecordedWay):
    """The way through a deadline, a limiter and a breaker, in this order, or through some of these."""

    __slots__ = ("_breaker", "_breaker_told", "_deadline", "_deadline_told", "_limiter", "_limiter_told", "_settler")

    def __init__(self, pipeline: str, layers: Sequence[Layer], settlers: Sequence[Any]) -> None:
        super().__init__(pipeline, layers, settlers)
        found: dict[type, Any] = {type(layer): layer for layer in layers}
        self._deadline: Deadline | None = found.get(Deadline)
        self._limiter: RateLimiter | None = found.get(RateLimiter)
        self._breaker: CircuitBreaker | None = found.get(CircuitBreaker)
        self._settler: Any = None if self._breaker is None else settlers[-1]
        # What the spans of an admitted call tell; to copy it and to set what changes is half the price of making it anew.
        self._deadline_told, self._limiter_told, self._breaker_told = (
            {_PIPELINE: pipeline, _POLICY: getattr(found.get(kind), "name", ""), _DECISION: ADMITTED.value} for kind in USUAL_ORDER
        )
        if self._deadline is not None and self._deadline.default_us is not None:
            self._deadline_told["resilience.deadline.remaining_s"] = self._deadline.default_us / US_PER_S
        self._limiter_told |= {_FACTOR: 1.0, _RATE: 0.0, _REMAINING: 0}
        self._breaker_told |= {"resilience.breaker.state": "closed", _GENERATION: 1, _FAILURE_RATE: 0.0}

    def admit(self, call: Call, trace: CallTrace) -> None:  # noqa: C901, PLR0912, PLR0915
        """The same, written out as `Entrance.enter` is, and for its reason; what is not usual goes by the layer's own `admit`.

        What a span tells of the bucket and of the window is read in one go with what decides.
        """
        leaves: list[Leaf] = []
        now_us = call.now_us
        call.decision = ADMITTED
        began_ns = wall_ns()
        try:
            deadline, limiter, breaker = self._deadline, self._limiter, self._breaker
            if deadline is not None:
                if deadline.default_us and call.timeout_s is None and call.deadline_us is None:
                    call.deadline_us = now_us + deadline.default_us
                    deadline.state.admitted += 1  # no lock: see `mark.py`
                    ended_ns = wall_ns()
                    leaves.append(("resilience.deadline", self._deadline_told.copy(), began_ns, ended_ns))
                    began_ns = ended_ns
                else:
                    began_ns = self._pass(deadline, deadline, call, leaves, began_ns)
            if limiter is not None:
                if limiter.is_usual and call.cost is None:
                    key: str | None
                    if call.key is not None:
                        key = None if limiter.key_of is None else bounded(call.key)
                    elif limiter.goes_by_peer:
                        peer = call.peer()
                        key = known_key(peer) or address_key(peer)
                    else:
                        key = None if limiter.key_of is None else limiter.key_of(call)
                    state, settings = limiter.state, limiter.settings
                    short_us, tokens, left = state.draw_telling(key, None, now_us, settings)
                    told = self._limiter_told.copy()
                    if short_us:
                        limiter.refuse(call, key, limiter.usual_cost, -short_us)
                        told[_DECISION] = call.decision.value
                        tokens, left = state.standing(key, now_us, settings)
                    if tokens.factor_ppb != PPB:
                        told[_FACTOR] = tokens.factor_ppb / PPB
                    told[_RATE] = tokens.rate_per_s
                    told[_REMAINING] = left
                    ended_ns = wall_ns()
                    leaves.append(("resilience.limiter", told, began_ns, ended_ns))
                    began_ns = ended_ns
                else:
                    began_ns = self._pass(limiter, limiter, call, leaves, began_ns)
            if breaker is not None:
                machine = breaker.single
                ticket = None if machine is None or call.parent is not None else machine.closed_ticket
                if ticket is None:
                    call.decision = ADMITTED
                    ticket = breaker.admit(call)
                if ticket is not None:
                    call.held.append((self._settler, ticket))
                if machine is not None and ticket is not None and ticket is machine.closed_ticket:
                    told = self._breaker_told.copy()
                    told[_GENERATION] = machine._generation
                    if machine._window.failures:
                        told[_FAILURE_RATE] = machine.failure_rate(now_us)
                    health = machine.health
                    if health is not None:
                        is_well = health.phase.factor_ppb == PPB and now_us < health.stretch.until_us
                        told[_FACTOR] = 1.0 if is_well else health.factor_ppb_at(now_us) / PPB
                else:
                    told = self._told(breaker, call, call.decision.value)
                leaves.append(("resilience.breaker", told, began_ns, wall_ns()))
        except BaseException as error:
            self._refused(call, trace, leaves, began_ns, error)
            raise
        trace.leaves(leaves)


def recorded_way(pipeline: str, layers: Sequence[Layer], settlers: Sequence[Any]) -> RecordedWay:
    """The way through layers without effects; each of `settlers` takes back what the layer at its place hands out."""
    kinds = [type(layer) for layer in layers]
    if kinds != [kind for kind in USUAL_ORDER if kind in kinds]:
        return RecordedWay(pipeline, layers, settlers)
    if any("admit" in vars(layer) or "attributes" in vars(layer) for layer in layers):  # somebody has put another in its place
        return RecordedWay(pipeline, layers, settlers)
    return UsualRecordedWay(pipeline, layers, settlers)


def tell_trace_id(error: BaseException) -> None:
    """Where a call is refused its own span is the current one."""
    if isinstance(error, Rejected):
        error.trace_id = tracing.trace_id()


def decided(call: Call, refusal: BaseException | None) -> str:
    """What a layer has decided, which may have refused."""
    if isinstance(refusal, Rejected) and call.decision is ADMITTED:
        return Decision.REJECTED.value
    return call.decision.value
