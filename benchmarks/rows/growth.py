"""Whether an ASGI request costs more with more routes, more clients, or more policies that are not in use."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from benchmarks import guards
from benchmarks.fused_floor import Core, FusedAsgi
from benchmarks.harness import Size, Subject, Table, Take, awaited, measure
from benchmarks.rows.asgi import SCOPE, from_file, raw_app, receive, requests_to, send
from benchmarks.rows.bucket import keys_of
from resilience.integrations.asgi import ResilienceMiddleware

LAYERS: Final = """\
version: 1
deadlines: {api: {default: 5s}}
limiters:
  api: {rate: 1000000000/s, burst: 1000000000, key: client_address}
"""
REST: Final = '  - {match: {path: "/**"}, pipeline: none}\n'
ROUTE: Final = '  - {match: {path: "/orders/*"}, pipeline: api}\n'
CLIENTS: Final = 100_000


def with_routes(count: int, pattern: str) -> str:
    """A file of so many routes, of which the last but one matches."""
    before = "".join(f"  - {{match: {{path: {pattern % number}}}, pipeline: api}}\n" for number in range(count - 2))
    pipelines = "pipelines: {api: [{deadline: api}, {limiter: api}, {breaker: api}]}\n"
    return f"{LAYERS}breakers: {{api: {{}}}}\n{pipelines}routes:\n{before}{ROUTE}{REST}"


def with_policies(count: int) -> str:
    """A file with so many limiters, breakers and pipelines that no request comes to."""
    limiters = "".join(f"  l{number}: {{rate: 9/s, key: client_address}}\n" for number in range(count))
    breakers = "".join(f"  b{number}: {{}}\n" for number in range(count))
    pipelines = "".join(f"  p{number}: [{{limiter: l{number}}}, {{breaker: b{number}}}]\n" for number in range(count))
    routes = "".join(f"  - {{match: {{path: /unused{number}}}, pipeline: p{number}}}\n" for number in range(count))
    return (
        f"{LAYERS}{limiters}breakers:\n  api: {{}}\n{breakers}"
        f"pipelines:\n  api: [{{deadline: api}}, {{limiter: api}}, {{breaker: api}}]\n{pipelines}routes:\n{ROUTE}{routes}{REST}"
    )


def by_clients(make: Callable[[], Any], count: int, loop: asyncio.AbstractEventLoop) -> Take:
    """Requests of so many clients in turn, each of whom has been there before."""
    app = make()
    scopes = itertools.cycle([{**SCOPE, "client": (key, 51_234)} for key in itertools.islice(keys_of(count), count)])
    take = awaited(loop, lambda: app(next(scopes).copy(), receive, send))
    take(count)
    return take


def guarded() -> Any:
    return ResilienceMiddleware(raw_app, pipeline=guards.inbound(max_keys=2 * CLIENTS))


def floor() -> Any:
    """The floor with room for as many."""
    app = FusedAsgi(raw_app)
    app.core = Core(max_keys=2 * CLIENTS)
    return app


def run(size: Size) -> Table:
    loop = asyncio.new_event_loop()

    def of_file(text: str) -> Take:
        return requests_to(from_file(text), loop)

    files = {
        "10 routes": with_routes(10, "/r%d/x"),
        "1,000 routes": with_routes(1_000, "/r%d/x"),
        "10 routes with patterns": with_routes(10, '"/r%d/*"'),
        "1,000 routes with patterns": with_routes(1_000, '"/r%d/*"'),
        "3 policies, 1 pipeline": with_policies(0),
        "and 600 policies, 300 pipelines not in use": with_policies(300),
    }
    subjects = [Subject("raw application", lambda: requests_to(raw_app, loop))]
    subjects += [Subject(name, partial(of_file, text)) for name, text in files.items()]
    for label, count in (("1 client", 1), ("100,000 clients", CLIENTS)):
        makers: dict[str, Callable[[], Any]] = {"raw": lambda: raw_app, "resilience": guarded, "fused floor": floor}
        subjects += [Subject(f"{label}: {name}", partial(by_clients, make, count, loop)) for name, make in makers.items()]
    with guards.not_sampled():
        table = measure(subjects, size)
    loop.close()
    raw = "raw application"
    table.ratio("1,000 routes / 10", "1,000 routes", "10 routes", without=raw)
    table.ratio("1,000 routes / 10, with patterns", "1,000 routes with patterns", "10 routes with patterns", without=raw)
    table.ratio(
        "600 policies not in use / none", "and 600 policies, 300 pipelines not in use", "3 policies, 1 pipeline", without=raw
    )
    for name in ("resilience", "fused floor"):
        many, one = _added(table, "100,000 clients", name), _added(table, "1 client", name)
        if many is not None and one is not None:
            table.figures[f"100,000 clients / 1, {name}"] = many / one
    # So many keys leave the processor's caches, whatever is done with them: that much the floor grows too.
    with contextlib.suppress(KeyError):
        ours, least = table.figures["100,000 clients / 1, resilience"], table.figures["100,000 clients / 1, fused floor"]
        table.figures["growth with clients / that of the floor"] = ours / least
    return table


def _added(table: Table, label: str, name: str) -> float | None:
    above, below = table.median(f"{label}: {name}"), table.median(f"{label}: raw")
    return None if above is None or below is None else above - below
