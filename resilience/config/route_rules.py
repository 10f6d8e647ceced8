"""Reads the routes: rules that say which pipeline guards which requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from resilience.config.nodes import MappingNode, Node, ScalarNode
from resilience.config.references import Names, follow, name_in
from resilience.config.report import Report
from resilience.config.routes import ANY_SEGMENT, ANY_SEGMENTS, RouteRule, split
from resilience.config.scalars import parse_method, parse_text
from resilience.config.schema import MATCH_KEYS, NONE, ROUTE_KEYS
from resilience.config.values import shown
from resilience.config.walk import Members, dotted, found, items, known_members, mapping, merges

_RULE: Final = "{match: {path: /orders}, pipeline: api}"
_MATCH_FORM: Final = "a mapping such as {path: /orders, methods: [GET]}"
_GRPC_SEGMENTS: Final = 2
_ENCODED: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_PLACEHOLDER: Final = re.compile(r"\{.*\}|<.*>|:.+")


@dataclass(slots=True)
class _Match:
    path: str | None = None
    methods: frozenset[str] | None = None
    grpc: str | None = None


def read_routes(report: Report, node: Node, pipelines: Names) -> tuple[RouteRule, ...]:
    """The rules in their order. They are complete only if `report` has no problem with any of them.

    Args:
        report: takes the problems.
        node: the list of rules.
        pipelines: the names of the pipelines.
    """
    listed = items(report, node, "routes", f"a list of rules such as [{_RULE}]")
    return tuple(_read_rule(report, item, f"routes[{index}]", pipelines) for index, item in enumerate(listed or ()))


def _read_rule(report: Report, node: Node, path: str, pipelines: Names) -> RouteRule:
    report.positions[path] = node.position
    match, pipeline = _Match(), None
    rule = mapping(report, node, path, f"a rule such as {_RULE}")
    if rule is not None:
        given = known_members(report, rule, path, ROUTE_KEYS, "a rule")
        match = _read_match(report, rule, given, dotted(path, "match"))
        pipeline = _read_pipeline(report, rule, given, dotted(path, "pipeline"), pipelines)
    return RouteRule(match.path, match.methods, match.grpc, pipeline)


def _read_pipeline(report: Report, rule: MappingNode, given: Members, path: str, pipelines: Names) -> str | None:
    if "pipeline" not in given:
        if not merges(rule):
            report.problem(rule.position, path, "is missing: the name of a pipeline, or none")
        return None
    value = given["pipeline"][1]
    report.positions[path] = value.position
    name = name_in(report, value, path, "the name of a pipeline, or none")
    if name is None or name == NONE or not follow(report, value.position, path, name, pipelines):
        return None
    return name


def _read_match(report: Report, rule: MappingNode, given: Members, path: str) -> _Match:
    if "match" not in given:
        if not merges(rule):
            report.problem(rule.position, path, f"is missing: {_MATCH_FORM}")
        return _Match()
    value = given["match"][1]
    report.positions[path] = value.position
    body = mapping(report, value, path, _MATCH_FORM)
    if body is None:
        return _Match()
    keys = known_members(report, body, path, MATCH_KEYS, "a match")
    match = _Match()
    if "path" in keys:
        match.path = _read_pattern(report, keys["path"][1], dotted(path, "path"), _path_fault)
    if "grpc" in keys:
        match.grpc = _read_pattern(report, keys["grpc"][1], dotted(path, "grpc"), _grpc_fault)
    if "methods" in keys:
        match.methods = _read_methods(report, keys["methods"][1], dotted(path, "methods"))
    _check_together(report, body, keys, path)
    return match


def _check_together(report: Report, body: MappingNode, keys: Members, path: str) -> None:
    if "path" not in keys and "grpc" not in keys:
        if not merges(body):
            report.problem(body.position, path, 'needs a path or a grpc pattern; for every path: {path: "/**"}')
    elif "path" in keys and "grpc" in keys:
        report.problem(keys["grpc"][0].position, path, "has a path or a grpc pattern, not both; write two rules")
    elif "grpc" in keys and "methods" in keys:
        report.problem(
            keys["methods"][0].position,
            dotted(path, "methods"),
            "are HTTP's; the pattern of a grpc rule names the method itself",
        )


def _read_pattern(report: Report, node: Node, path: str, fault_of: Callable[[str], str | None]) -> str | None:
    report.positions[path] = node.position
    if not isinstance(node, ScalarNode):
        report.problem(node.position, path, f"must be a pattern such as /orders/*, got {found(node)}")
        return None
    try:
        text = parse_text(node)
    except ValueError as error:
        report.problem(node.position, path, str(error))
        return None
    fault = fault_of(text)
    if fault is not None:
        report.problem(node.position, path, fault)
        return None
    return text


def _path_fault(pattern: str) -> str | None:
    """What is wrong with the pattern of an HTTP path, or None."""
    if not pattern.startswith("/"):
        return f"must begin with '/', got {shown(pattern)}"
    if "?" in pattern or "#" in pattern:
        return f"is compared with the path alone, without query or fragment; got {shown(pattern)}"
    if _ENCODED.search(pattern):
        return f"is compared with the decoded path; write the character itself, got {shown(pattern)}"
    return _segment_fault(pattern)


def _grpc_fault(pattern: str) -> str | None:
    """What is wrong with the pattern of a gRPC method, or None."""
    if not pattern.startswith("/"):
        return f"must begin with '/', as in /shop.v1.Orders/*, got {shown(pattern)}"
    segments = split(pattern)
    fixed = sum(segment != ANY_SEGMENTS for segment in segments)
    if fixed > _GRPC_SEGMENTS or (fixed < _GRPC_SEGMENTS and ANY_SEGMENTS not in segments) or "" in segments:
        return f"must be /SERVICE/METHOD, as in /shop.v1.Orders/*, got {shown(pattern)}"
    return _segment_fault(pattern)


def _segment_fault(pattern: str) -> str | None:
    for segment in split(pattern):
        if ANY_SEGMENT in segment and segment not in (ANY_SEGMENT, ANY_SEGMENTS):
            return f"'*' and '**' stand for whole segments between slashes, got {shown(segment)} in {shown(pattern)}"
        if _PLACEHOLDER.fullmatch(segment):
            return f"a segment of any value is written '*', got {shown(segment)} in {shown(pattern)}"
    return None


def _read_methods(report: Report, node: Node, path: str) -> frozenset[str] | None:
    report.positions[path] = node.position
    listed = items(report, node, path, "a list such as [GET, POST]")
    if listed is None:
        return None
    if not listed:
        report.problem(node.position, path, "must name a method; leave the key out for all methods")
    methods: set[str] = set()
    for index, item in enumerate(listed):
        fault = _method_fault(item, methods)
        if fault is not None:
            report.problem(item.position, f"{path}[{index}]", fault)
        elif isinstance(item, ScalarNode):
            methods.add(item.text)
    return frozenset(methods)


def _method_fault(node: Node, seen: Collection[str]) -> str | None:
    if not isinstance(node, ScalarNode):
        return f"must be a method such as GET, got {found(node)}"
    try:
        method = parse_method(node)
    except ValueError as error:
        return str(error)
    return f"{shown(method)} is listed twice" if method in seen else None
