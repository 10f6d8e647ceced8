"""Where an integration finds the pipeline of a request: a configuration file, a toolkit, or one pipeline made in code."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

from resilience.clock import SystemClock
from resilience.edges.answers import AS_USUAL, Answers, ChangeAnswer
from resilience.edges.attempts import ATTEMPT_HEADER
from resilience.errors import ConfigError
from resilience.layers.breaker import CircuitBreaker
from resilience.layers.deadline import Deadline
from resilience.layers.limiter import RateLimiter
from resilience.pipeline import Pipeline
from resilience.refusals import RefusalSettings
from resilience.states import Active
from resilience.status import pipeline_status
from resilience.toolkit import Toolkit, load

log = logging.getLogger("resilience")
_MOST_KEPT: Final = 1_024
_LONGEST_KEPT: Final = 128
"""So many paths of so many characters are remembered with what guards them."""


class Guarded:
    """A pipeline as an edge uses it: what can be known of it before any request is worked out once."""

    __slots__ = (
        "answers",
        "deadline",
        "inbound_environ",
        "inbound_headers",
        "is_by_system_clock",
        "pipeline",
        "quota_limiters",
        "reads_grpc_timeout",
        "streams_have_deadline",
        "telling_environ",
        "times_start",
    )

    def __init__(self, pipeline: Pipeline, answers: Answers = AS_USUAL) -> None:
        self.pipeline = pipeline
        self.is_by_system_clock = type(pipeline.clock) is SystemClock
        self.answers = answers
        self.deadline: Deadline | None = pipeline.outer.deadline
        read = () if self.deadline is None else self.deadline.settings.read
        names = (*read, ATTEMPT_HEADER)
        self.reads_grpc_timeout = "grpc-timeout" in read
        self.inbound_headers: frozenset[bytes] = frozenset(name.encode() for name in names)
        self.inbound_environ = {f"HTTP_{name.upper().replace('-', '_')}": name for name in names}  # the same by CGI (RFC 3875)
        self.telling_environ = (*self.inbound_environ, "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING")  # and of a body
        self.streams_have_deadline = self.deadline is not None and self.deadline.settings.streams
        self.times_start = any(
            isinstance(layer, CircuitBreaker) and layer.settings.slow_call_s is not None for layer in pipeline.layers
        )
        # A limit in the shadow is not in force: clients that heed the fields must not be slowed down by it.
        self.quota_limiters: tuple[RateLimiter, ...] = tuple(
            layer
            for layer in pipeline.layers
            if isinstance(layer, RateLimiter) and layer.settings.fields == "always" and not layer.settings.shadow
        )


class RouteSource(Protocol):
    """Answers which pipeline guards a request."""

    @property
    def sole(self) -> Guarded | None:
        """What guards every request, whatever it is; None where routes say it."""

    def find(self, method: str, path: str) -> Guarded | None:
        """The guarded pipeline of an HTTP request, or None where it is not guarded."""

    def find_grpc(self, method: str) -> Guarded | None:
        """The guarded pipeline of a gRPC method such as "/shop.v1.Orders/Get", or None where it is not guarded."""

    def status(self) -> dict[str, Any]:
        """What an operator wants to see, as plain data for JSON."""


class _OnePipeline:
    def __init__(self, pipeline: Pipeline, answers: Answers) -> None:
        self.sole = Guarded(pipeline, answers)

    def find(self, method: str, path: str) -> Guarded | None:
        return self.sole

    def find_grpc(self, method: str) -> Guarded | None:
        return self.sole

    def status(self) -> dict[str, Any]:
        return pipeline_status(self.sole.pipeline)


class _Routes:
    """The routes of a toolkit. What was worked out for a pipeline is kept until the toolkit's configuration changes."""

    sole: Final = None

    def __init__(self, toolkit: Toolkit, change: ChangeAnswer | None) -> None:
        self._toolkit = toolkit
        self._change = change
        self._known: dict[Pipeline, Guarded] = {}
        self._version = -1
        self._found: tuple[Active, dict[tuple[str, str], Guarded | None]] = (toolkit.active, {})
        if not toolkit.active.document.routes:  # right for a file whose pipelines only code uses, and so no doubt of the file's
            log.warning("%s: has no routes, so no request is guarded; a rule is {match: {path: /**}, pipeline: NAME}", toolkit.path)

    def find(self, method: str, path: str) -> Guarded | None:
        active = self._toolkit.active
        found_in, found = self._found
        if found_in is not active:
            found_in, found = self._found = (active, {})
        request = method, path
        if request in found:
            return found[request]
        guarded = self._guarded(active, active.find(method, path))
        if len(method) + len(path) <= _LONGEST_KEPT:
            if len(found) >= _MOST_KEPT:  # paths with numbers in them, or somebody who tries all there are
                found = {}
                self._found = active, found
            found[request] = guarded
        return guarded

    # Methods with what guards them, under one configuration. It is replaced and then filled, so that no two of them are mixed.
    _by_method: tuple[Active | None, dict[str, Guarded | None]] = (None, {})

    def find_grpc(self, method: str) -> Guarded | None:
        active = self._toolkit.active
        known_of, known = self._by_method
        if known_of is active:
            try:
                return known[method]
            except KeyError:
                pass
        return self._looked_up(active, method)

    def _looked_up(self, active: Active, method: str) -> Guarded | None:
        guarded = self._guarded(active, active.find_grpc(method))
        if len(method) > _LONGEST_METHOD:
            return guarded
        known_of, known = self._by_method
        if known_of is not active or len(known) >= _MOST_METHODS:  # a generic handler serves any method that a client makes up
            known = {}
            self._by_method = active, known
        known[method] = guarded
        return guarded

    def _guarded(self, active: Active, pipeline: Pipeline | None) -> Guarded | None:
        if pipeline is None:
            return None
        guarded = self._known.get(pipeline)
        if guarded is None:
            self._toolkit.keep_watching()  # here, where it is rare: the first request in a worker process comes this way
            if active.version != self._version:
                self._version, self._known = active.version, {}
            guarded = self._known[pipeline] = Guarded(pipeline, Answers(active.document.refusals, self._change))
        return guarded

    def status(self) -> dict[str, Any]:
        return self._toolkit.status()


_MOST_METHODS: Final = 1_024
_LONGEST_METHOD: Final = 256
"""So many methods, of names so long, are remembered with what guards them."""


def open_source(
    config: str | os.PathLike[str] | Toolkit | None,
    pipeline: Pipeline | None,
    refusals: RefusalSettings | None = None,
    answer: ChangeAnswer | None = None,
) -> tuple[RouteSource, Callable[[], None]]:
    """Find the pipelines for an integration; also returns what to call when it is closed.

    Args:
        config: the path of a configuration file, which is watched from then on, or a toolkit, which stays as its owner made it.
        pipeline: one pipeline made in code for every request instead. It must have no retry.
        refusals: how refusals are answered, beside `pipeline`; a file has a section of that name.
        answer: has the last word on each answer.

    Raises:
        ConfigError: the file cannot be used, or the pipeline cannot guard a server's requests.
        TypeError: neither or both of `config` and `pipeline` are given, or `refusals` without `pipeline`.
    """
    if (config is None) == (pipeline is None):
        raise TypeError("give either config= (a path or a Toolkit) or pipeline= (a Pipeline made in code)")
    if refusals is not None and pipeline is None:
        raise TypeError("refusals= goes with pipeline=; a configuration file has a section called refusals")
    if pipeline is not None:
        if pipeline.retry is not None:
            raise ConfigError(
                f"pipeline {pipeline.name!r}: has a retry, and a server's request cannot be run again; "
                f"take the retry out, and use it in the pipeline of the calls that the handler makes"
            )
        return _OnePipeline(pipeline, Answers(refusals, answer)), _nothing_to_close
    if isinstance(config, Toolkit):
        return _Routes(config, answer), _nothing_to_close
    if config is None:
        raise TypeError("config= must be a path or a Toolkit")
    toolkit = load(config, watch=True)
    return _Routes(toolkit, answer), toolkit.close


def _nothing_to_close() -> None:
    """What the caller made, the caller closes."""
