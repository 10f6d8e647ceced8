"""Several endpoints of one back end as one: each request goes to one of them, and those whose breaker is open are skipped."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from resilience.batch.adapter import Adapter, Backend, Guard
from resilience.batch.flight import flight_here
from resilience.batch.kinds import kind_of
from resilience.batch.result import Kind, RequestNotMade
from resilience.clock import SYSTEM_CLOCK, Clock, to_us
from resilience.errors import CircuitOpen
from resilience.handle import PipelineHandle
from resilience.layers.breaker import CircuitBreaker
from resilience.registry import enrol

Q = TypeVar("Q")
T = TypeVar("T")

RULES: Final = ("round_robin", "least_in_flight", "latency")
_WELL: Final = (None, Kind.BUSINESS)
"""How calls end that an endpoint has answered."""
_PENALTY: Final = 10
"""A failure counts as ten times the quickest endpoint's latency at least: one that fails at once must not look quick."""
_LEAST_WEIGHT: Final = 0.1
"""What the latest call counts in the average, however soon it follows the one before."""


class Standing:
    """What a balance knows of one endpoint."""

    __slots__ = ("endpoint", "in_flight", "last_us", "latency_us")

    def __init__(self, endpoint: Adapter[Any, Any]) -> None:
        self.endpoint = endpoint
        self.in_flight = 0
        self.latency_us = 0.0
        self.last_us = 0

    def took(self, latency_us: float, now_us: int, decay_us: int) -> None:
        """A call has ended: take its latency into the average, which forgets by half every `decay_us`."""
        sample = max(1.0, latency_us)
        age_us = max(0, now_us - self.last_us)
        kept = min(1.0 - _LEAST_WEIGHT, 0.5 ** (age_us / decay_us)) if self.latency_us else 0.0
        self.latency_us = self.latency_us * kept + sample * (1.0 - kept)
        self.last_us = now_us


def choose(rule: str, standings: Sequence[Standing], turn: int, draw: Callable[[], float]) -> Standing:
    """One of `standings`, of which there is at least one.

    Args:
        rule: "round_robin" goes by `turn`; "least_in_flight" takes one with the fewest calls, by `turn` among equals; "latency"
            draws with weights 1 / (average latency x (calls in flight + 1)), and takes one that has not been tried first.
        standings: those that may be chosen.
        turn: counts the calls.
        draw: from [0, 1).
    """
    start = turn % len(standings)
    if rule == "round_robin":
        return standings[start]
    if rule == "least_in_flight":
        return min((*standings[start:], *standings[:start]), key=lambda standing: standing.in_flight)
    untried = [standing for standing in standings if not standing.latency_us and not standing.in_flight]
    if untried:
        return untried[0]
    known = [standing.latency_us for standing in standings if standing.latency_us]
    usual_us = sum(known) / len(known) if known else 1.0
    weights = [1.0 / ((standing.latency_us or usual_us) * (standing.in_flight + 1)) for standing in standings]
    rest = draw() * sum(weights)
    for standing, weight in zip(standings, weights, strict=True):
        rest -= weight
        if rest < 0:
            return standing
    return standings[-1]


class Balanced(Backend[Q, T]):
    """Endpoints of one back end as one. A second try goes to another endpoint than the first.

    Args:
        endpoints: adapters with a pipeline each, all that block or all for tasks.
        rule: "round_robin" (default), "least_in_flight", or "latency": weighted by the moving average of how long calls took.
        name: for spans and errors.
        half_life_s: seconds in which the average forgets half; default 10.
        clock: where time comes from.
        uniform: draws from [0, 1); default the process's random numbers.

    Raises:
        ValueError: there is no endpoint, or no such rule.
        TypeError: some endpoints block and others do not.
    """

    def __init__(
        self,
        *endpoints: Adapter[Q, T],
        rule: str = "round_robin",
        name: str = "balanced",
        half_life_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        if not endpoints:
            raise ValueError(f"{name}: needs at least one endpoint")
        if rule not in RULES:
            raise ValueError(f"{name}: rule must be one of {', '.join(RULES)}, got {rule!r}")
        if not half_life_s > 0:
            raise ValueError(f"{name}: half_life_s must be above 0, got {half_life_s!r}")
        if len({endpoint.is_async for endpoint in endpoints}) > 1:
            raise TypeError(f"{name}: some endpoints are for tasks and others block; make two balances of them")
        super().__init__(name, None, is_async=endpoints[0].is_async)
        self.rule = rule
        self.clock = clock
        self.standings = tuple(Standing(endpoint) for endpoint in endpoints)
        self._decay_us = to_us(half_life_s)
        self._uniform = uniform
        self._turn = 0
        self._lock = threading.Lock()
        enrol(self)

    def renew_locks(self) -> None:
        """In a forked child: those of the parent's other threads stay locked there."""
        self._lock = threading.Lock()
        for standing in self.standings:
            standing.in_flight = 0

    # --- choosing ---------------------------------------------------------------------------------------------------------------

    def _begin(self, tried: set[Standing]) -> tuple[Standing, int]:
        """Choose an endpoint for a call that begins now. Where all are open, one that says so."""
        now_us = self.clock.now_us()
        left = [standing for standing in self.standings if standing not in tried]
        flight = flight_here()
        ready = [standing for standing in left if not is_open(standing.endpoint.pipeline)]
        if flight is not None and flight.twin is not None:
            ready = [standing for standing in ready if standing is not flight.twin.endpoint] or ready
        with self._lock:
            standing = choose(self.rule, ready or left, self._turn, self._uniform)
            self._turn += 1
            standing.in_flight += 1
        if flight is not None:
            flight.endpoint = standing
        tried.add(standing)
        return standing, now_us

    def _end(self, standing: Standing, began_us: int, kind: Kind | None) -> None:
        now_us = self.clock.now_us()
        with self._lock:
            standing.in_flight -= 1
            if kind is Kind.CANCELLED or kind is Kind.REFUSED:
                return
            latency_us = float(now_us - began_us)
            if kind not in _WELL:
                quickest_us = min((known.latency_us for known in self.standings if known.latency_us), default=0.0)
                latency_us = max(latency_us, quickest_us * _PENALTY)
            standing.took(latency_us, now_us, self._decay_us)

    def _may_go_elsewhere(self, error: BaseException, tried: set[Standing]) -> bool:
        """Nothing was sent: its breaker has just opened, or its probes are taken."""
        return isinstance(error, CircuitOpen) and len(tried) < len(self.standings)

    # --- sending ----------------------------------------------------------------------------------------------------------------

    def send(self, prepared: Any) -> Any:
        """Send it to one of the endpoints."""
        return self._asend(prepared) if self.is_async else self._send(prepared)

    def _send(self, request: Any) -> Any:
        tried: set[Standing] = set()
        while True:
            standing, began_us = self._begin(tried)
            kind: Kind | None = Kind.CANCELLED
            try:
                value = standing.endpoint.send(_prepared(standing.endpoint, request))
                kind = None
                return value
            except BaseException as error:
                kind = _kind(standing.endpoint, error)
                if not self._may_go_elsewhere(error, tried):
                    raise
            finally:
                self._end(standing, began_us, kind)

    async def _asend(self, request: Any) -> Any:
        tried: set[Standing] = set()
        while True:
            standing, began_us = self._begin(tried)
            kind: Kind | None = Kind.CANCELLED
            try:
                value = await standing.endpoint.send(_prepared(standing.endpoint, request))
                kind = None
                return value
            except BaseException as error:
                kind = _kind(standing.endpoint, error)
                if not self._may_go_elsewhere(error, tried):
                    raise
            finally:
                self._end(standing, began_us, kind)

    def kind_of(self, error: BaseException) -> Kind:
        """As its endpoints say."""
        return _kind(self.standings[0].endpoint, error)

    def may_hedge(self, request: Q) -> bool:
        """As its endpoints say."""
        return self.standings[0].endpoint.may_hedge(request)

    def status(self) -> list[dict[str, Any]]:
        """What an operator wants to see of each endpoint, as plain data for JSON."""
        return [
            {
                "name": standing.endpoint.name,
                "in_flight": standing.in_flight,
                "latency_s": standing.latency_us / 1e6,
                "open": is_open(standing.endpoint.pipeline),
            }
            for standing in self.standings
        ]


def is_open(pipeline: Guard | None) -> bool:
    """Whether a breaker of `pipeline` would refuse a call now. One that must be reached to go on, half-open, is not open."""
    if pipeline is None:
        return False
    found = pipeline.current if isinstance(pipeline, PipelineHandle) else pipeline
    now_us = found.clock.now_us()
    return any(isinstance(layer, CircuitBreaker) and layer.would_refuse(now_us) for layer in found.layers)


def _prepared(endpoint: Adapter[Any, Any], request: Any) -> Any:
    try:
        return endpoint.prepare(request)
    except Exception as error:
        raise RequestNotMade(f"{endpoint.name}: the request could not be made: {error!r:.200}") from error


def _kind(endpoint: Adapter[Any, Any], error: BaseException) -> Kind:
    return kind_of(error) if isinstance(error, RequestNotMade) else endpoint.kind_of(error)
