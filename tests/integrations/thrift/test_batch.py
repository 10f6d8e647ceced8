"""Thrift as a back end of batches, over a real server, in threads and in tasks that wait for threads."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilience import BreakerState, CircuitBreaker, Deadline, Pipeline
from resilience.batch import BatchCaller, Kind, Results
from resilience.integrations.thrift import ThriftBackend
from tests.integrations.thrift.served import Served, serving, shop

Ask = Callable[..., Results[Any]]


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as running:
        yield running


def in_threads(backend: ThriftBackend, requests: Any, **settings: Any) -> Results[Any]:
    with BatchCaller(**settings) as caller, backend:
        return caller.call(backend, requests)


def in_tasks(backend: ThriftBackend, requests: Any, **settings: Any) -> Results[Any]:
    with BatchCaller(**settings) as caller, backend:
        return asyncio.run(caller.acall(backend, requests))


both = pytest.mark.parametrize("ask", [in_threads, in_tasks], ids=["threads", "tasks"])


@both
def test_values_are_what_methods_return(ask: Ask, served: Served) -> None:
    assert ask(ThriftBackend(served.connect, "level"), ["a", "bb", "ccc"]).values() == [1, 2, 3]
    assert ask(ThriftBackend(served.connect, "moved"), [("a", 10), ("bb", 20)]).values() == [11, 22]
    assert ask(ThriftBackend(served.connect, "note"), ["noted"]).values() == [None]


@both
def test_connections_are_used_again(ask: Ask, served: Served) -> None:
    results = ask(ThriftBackend(served.connect, "level"), ["a"] * 50, concurrency=3)
    assert results.values() == [1] * 50
    assert served.connections <= 3


@both
def test_a_declared_exception_is_an_answer(ask: Ask, served: Served) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    backend = ThriftBackend(served.connect, "level", Pipeline("stock", breaker))
    results = ask(backend, ["a", "unknown", "bb"], concurrency=1)
    assert results.values() == [1, 2]
    (failure,) = results.errors()
    assert (failure.kind, type(failure.error), getattr(failure.error, "sku", "")) == (Kind.BUSINESS, shop.Unknown, "unknown")
    assert (breaker.state, served.connections) == (BreakerState.CLOSED, 1)


@both
def test_a_server_that_hangs_is_late_and_opens_its_breaker(ask: Ask, served: Served) -> None:
    breaker = CircuitBreaker(consecutive_failures=1)
    backend = ThriftBackend(served.connect, "level", Pipeline("stock", Deadline(0.2), breaker))
    results = ask(backend, ["hangs"], timeout_s=5.0)
    assert [(failure.kind, failure.abandoned) for failure in results.errors()] == [(Kind.TIMEOUT, False)]
    assert breaker.state is BreakerState.OPEN


@both
def test_the_time_of_the_batch_bounds_its_waits(ask: Ask, served: Served) -> None:
    backend = ThriftBackend(served.connect, "level")
    results = ask(backend, ["hangs", "a"], timeout_s=0.4, grace_s=2.0, concurrency=2)
    assert results.values() == [1]
    assert [(failure.kind, failure.abandoned) for failure in results.errors()] == [(Kind.TIMEOUT, False)]


@both
def test_a_server_that_breaks_off_is_a_transport_failure_and_costs_its_connection(ask: Ask, served: Served) -> None:
    results = ask(ThriftBackend(served.connect, "level"), ["breaks", "a"], concurrency=1)
    assert [failure.kind for failure in results.errors()] == [Kind.TRANSPORT]
    assert (results.values(), served.connections) == ([1], 2)


@both
def test_a_server_that_is_not_there(ask: Ask) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        backend = ThriftBackend(Served(None, unused.getsockname()[1]).connect, "level")  # type: ignore[arg-type]
        assert [failure.kind for failure in ask(backend, ["a"]).errors()] == [Kind.TRANSPORT]


def test_a_method_that_nobody_knows_is_the_callers_fault(served: Served) -> None:
    results = in_threads(ThriftBackend(served.connect, "unheard_of"), ["a"])
    assert [failure.kind for failure in results.errors()] == [Kind.BUSINESS]


def test_what_is_not_told_to_be_repeatable_is_not_hedged(served: Served) -> None:
    assert not ThriftBackend(served.connect, "level").may_hedge("a")
    assert ThriftBackend(served.connect, "level", repeatable=True).may_hedge("a")


def test_without_the_library_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['thriftpy2'] = None; import resilience.integrations.thrift"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "ImportError: resilience.integrations.thrift needs thriftpy2: pip install 'resilience-middleware[thrift]'" in done.stderr
