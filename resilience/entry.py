"""How a request enters a pipeline: begun, and admitted where that is plain arithmetic.

Most services have a deadline, a limiter and a breaker around a request, in this order, or some of these. What usually happens there
is one function here, since a layer that is a call by itself costs twice as much. All else is for the layer's own `admit`.
"""

from __future__ import annotations

from typing import Any, Final

from resilience import clock as clocks
from resilience import stage as stages
from resilience import tracing
from resilience.call import CURRENT, Call, enclosing_call
from resilience.clock import NS_PER_US, Clock, SystemClock
from resilience.layers.address import address_key, known_key
from resilience.layers.breaker import CircuitBreaker
from resilience.layers.deadline import Deadline, deadline_us_around
from resilience.layers.limiter import RateLimiter
from resilience.recorded import USUAL_ORDER
from resilience.stage import Stage

_current: Final = CURRENT.get


def enclose(call: Call) -> None:
    """Tell `call` what encloses it."""
    call.parent = parent = enclosing_call()
    call.deadline_us = deadline_us_around(parent)
    if parent is not None and parent.attempt > call.attempt:
        call.attempt = parent.attempt


class Entrance:
    """The way into a pipeline, as far as it is the same for all calls."""

    name: str
    clock: Clock
    outer: Stage

    def _look_ahead(self) -> None:
        """Work out what is the same for all calls, once the layers are known."""
        layers: dict[type, Any] = {type(layer): layer for layer in self.outer.layers}
        kinds = [type(layer) for layer in self.outer.layers]
        is_usual = (
            kinds == [kind for kind in USUAL_ORDER if kind in layers]
            and not self.outer.has_effects
            and type(self).begin is Entrance.begin
            and not any("admit" in vars(layer) for layer in self.outer.layers)  # somebody has put another in its place
        )
        self._deadline: Deadline | None = layers.get(Deadline)
        self._limiter: RateLimiter | None = layers.get(RateLimiter)
        self._breaker: CircuitBreaker | None = layers.get(CircuitBreaker)
        self._key_of = None if self._limiter is None else self._limiter.key_of
        self._way = self._usual_way() if is_usual else None

    def _usual_way(self) -> tuple[Any, ...]:
        """What `enter` asks of the layers, looked up once: each request would ask all of it again."""
        deadline, limiter, breaker = self._deadline, self._limiter, self._breaker
        return (
            type(self.clock) is SystemClock,
            *((None, None) if deadline is None else (deadline.default_us or None, deadline.state)),
            *(
                (None,) * 4
                if limiter is None
                else (
                    limiter.is_usual,
                    limiter.goes_by_peer and limiter.is_usual,
                    limiter.state.draw,
                    limiter.settings,
                )
            ),
            *((None, None) if breaker is None else (breaker.single, stages.settler_of(breaker))),
        )

    def begin(self, call: Call) -> bool:
        """Prepare a call: read the clock, find what encloses it, ask whether to record it.

        True: nobody records it and no layer needs a driver, so `outer.admit` will do.
        """
        call.now_us = self.clock.now_us()
        call.pipeline = self  # type: ignore[assignment]  # what else a call wants to know of it, a pipeline has
        if _current() is not None:
            enclose(call)
        call.trace = tracing.begin(self.name, call)
        return call.trace is None and not self.outer.has_effects

    def enter(self, call: Call, peer: str | None = None) -> bool:  # noqa: C901, PLR0912  # written out: every request goes through here
        """Begin a call that is its own permit, and admit it where nobody records it and no layer needs a driver: True.

        False: it has begun, and its layers are still to be passed. The call need not have `held`, `now_us` and `pipeline` before.
        `peer` is what `call.peer()` says, where that is known without asking; empty where there is none. Such a call has no key and
        no cost of its own.

        Raises:
            Rejected: a layer refused.
        """
        way = self._way
        if way is None:
            return self._enter(call)
        is_by_system_clock, default_us, deadlines, is_usual, goes_by_peer, draw, limits, machine, settler = way
        # `begin`, and `SystemClock.now_us`, written out.
        call.now_us = now_us = clocks.monotonic_ns() // NS_PER_US if is_by_system_clock else self.clock.now_us()
        call.pipeline = self  # type: ignore[assignment]  # what else a call wants to know of it, a pipeline has
        if _current() is not None:
            enclose(call)
        call.trace = trace = tracing.begin(self.name, call)
        if trace is not None:
            call.held = []
            return False
        try:
            if default_us is not None and call.timeout_s is None and call.deadline_us is None:
                call.deadline_us = now_us + default_us
                deadlines.admitted += 1  # no lock: see `mark.py`
            elif self._deadline is not None:
                self._deadline.admit(call)
            key: str | None
            if goes_by_peer and peer is not None:
                key = known_key(peer) or address_key(peer)
                short_us = draw(key, None, now_us, limits)
            elif is_usual and call.key is None and call.cost is None:
                key_of = self._key_of
                if goes_by_peer:
                    peer = call.peer()
                    key = known_key(peer) or address_key(peer)
                else:
                    key = None if key_of is None else key_of(call)
                short_us = draw(key, None, now_us, limits)
            else:
                key, short_us = None, 0
                if self._limiter is not None:
                    self._limiter.admit(call)
            if short_us and self._limiter is not None:
                self._limiter.refuse(call, key, self._limiter.usual_cost, -short_us)
            ticket = None if machine is None or call.parent is not None else machine.closed_ticket
            if ticket is None and self._breaker is not None:
                ticket = self._breaker.admit(call)
            call.held = [] if ticket is None else [(settler, ticket)]
        except BaseException:  # a refusal, or a key function that raised
            call.held = []  # the breaker comes last
            call.settled = True
            raise
        if stages.noted is not None:
            stages.noted(call)
        return True

    def _enter(self, call: Call) -> bool:
        """The same through layers of other kinds or in another order."""
        call.held = []
        if not self.begin(call):
            return False
        self.outer.enter(call)
        return True
