"""Looks at the file as a whole: what cannot work together, and what its author may not have meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from resilience.config.document import Document, LayerReference
from resilience.config.doubts import warn_of_idle_policies
from resilience.config.pipelines import Layers
from resilience.config.report import Report
from resilience.config.routes import RouteRule, RouteTable, split
from resilience.config.schema import DEFAULT_SIGNAL
from resilience.config.values import shown
from resilience.config.walk import dotted

_CATCH_ALL: Final = ["**"]
_GRPC_CATCH_ALLS: Final = (["**"], ["*", "*"], ["*", "**"], ["**", "*"])


def check_routed_retries(report: Report, pipelines: Mapping[str, Layers], routes: Sequence[RouteRule]) -> None:
    """Report every retry in a pipeline that a route uses: a server cannot run a client's request again."""
    users: dict[str, int] = {}
    for index, rule in enumerate(routes):
        if rule.pipeline is not None:
            users.setdefault(rule.pipeline, index)
    for name, route in users.items():
        for layer in pipelines.get(name, ()):
            if layer.kind == "retry":
                _report_retry(report, name, layer, route)


def _report_retry(report: Report, pipeline: str, layer: LayerReference, route: int) -> None:
    path = dotted(f"routes[{route}]", "pipeline")
    report.problem(
        report.positions[path],
        path,
        f"retry cannot guard a server's requests, and pipeline {shown(pipeline)} has retry {shown(layer.name)}; "
        "a request that has begun cannot be run again, so put the retry into a pipeline for calls going out",
    )


def warn_of_doubts(report: Report, document: Document) -> None:
    """Warn of requests that no route guards, rules that never match, and policies and health signals that do nothing."""
    _warn_of_gaps(report, document.routes)
    _warn_of_covered_rules(report, document.routes)
    for name in document.health:
        if name != DEFAULT_SIGNAL:
            _warn_of_idle_signal(report, document, name)
    warn_of_idle_policies(report, document)


def _warn_of_gaps(report: Report, routes: Sequence[RouteRule]) -> None:
    paths = [split(rule.path) for rule in routes if rule.path is not None and rule.methods is None]
    methods = [split(rule.grpc) for rule in routes if rule.grpc is not None]
    if any(rule.path is not None for rule in routes) and _CATCH_ALL not in paths:
        _warn_of_gap(report, "path", 'path: "/**"')
    if methods and not any(pattern in methods for pattern in _GRPC_CATCH_ALLS):
        _warn_of_gap(report, "gRPC method", 'grpc: "/**"')


def _warn_of_gap(report: Report, what: str, pattern: str) -> None:
    rule = f"{{match: {{{pattern}}}, pipeline: none}}"
    message = f"a {what} that no rule matches is not guarded; if that is meant, say so with a last rule {rule}"
    report.warn(report.positions["routes"], "routes", message)


def _warn_of_covered_rules(report: Report, routes: Sequence[RouteRule]) -> None:
    table = RouteTable(routes)
    for index in range(len(routes)):
        earlier = table.covered_by(index)
        if earlier is not None:
            path = f"routes[{index}]"
            message = f"never matches: the rules up to routes[{earlier}] take all of it"
            report.warn(report.positions[path], path, message)


def _warn_of_idle_signal(report: Report, document: Document, name: str) -> None:
    path = dotted("health", name)
    breakers = [entry.settings for entry in document.breakers.values() if entry.health == name]
    limiters = [entry.health for entry in document.limiters.values()]
    retries = [entry.health for entry in document.retries.values()]
    pools = [entry.health for entry in document.pools.values()]
    if not breakers:
        report.warn(report.positions[path], path, "no breaker writes this signal, so it never cuts anything")
    elif all(settings.shadow or settings.force == "closed" for settings in breakers):
        message = "every breaker on this signal is in shadow or forced closed, so it never cuts anything"
        report.warn(report.positions[path], path, message)
    if name not in limiters and name not in retries and name not in pools:
        report.warn(report.positions[path], path, "no limiter, no retry and no pool reads this signal, so it cuts nothing")
