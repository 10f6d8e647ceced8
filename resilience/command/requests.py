"""Which rule a request meets, and why the rules before it were passed over."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from resilience.config import RouteRule, RouteTable

_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_GRPC: Final = re.compile(r"/[^/]+/[^/]+")
MATCHES: Final = "matches"


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request, or a gRPC call where `method` is None; `path` is then its full method."""

    path: str
    method: str | None = None

    @classmethod
    def http(cls, method: str, target: str) -> Request:
        """A request as a person writes it: a path, with a query or not, encoded or not, or a whole URL.

        Raises:
            ValueError: there is no such request.
        """
        if _METHOD.fullmatch(method) is None:
            raise ValueError(f"{method!r} is no HTTP method; write one such as GET")
        path = target.partition("#")[0].partition("?")[0]
        if re.match(r"[A-Za-z][A-Za-z0-9+.\-]*://", target):
            path = urlsplit(target).path or "/"
        if not path.startswith("/"):
            raise ValueError(f"a path begins with '/', got {target!r}")
        return cls(unquote(path), method.upper())

    @classmethod
    def grpc(cls, full_method: str) -> Request:
        """A gRPC call by its full method.

        Raises:
            ValueError: it is no such method.
        """
        if _GRPC.fullmatch(full_method) is None:
            raise ValueError(
                f"{full_method!r} is no gRPC method such as /shop.v1.Orders/Create; "
                "for HTTP say the method first, as in GET /orders/7"
            )
        return cls(full_method)

    def __str__(self) -> str:
        return f"gRPC {self.path}" if self.method is None else f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Tried:
    """One rule that was looked at, by its place in the file, and what came of it."""

    index: int
    rule: RouteRule
    verdict: str

    @property
    def matches(self) -> bool:
        """Whether this rule decides."""
        return self.verdict == MATCHES


def tried(rules: Sequence[RouteRule], request: Request) -> Iterator[Tried]:
    """The rules that a request meets, in order, up to the one that matches."""
    for index, rule in enumerate(rules):
        verdict = _verdict(rule, request)
        yield Tried(index, rule, verdict)
        if verdict == MATCHES:
            return


def _verdict(rule: RouteRule, request: Request) -> str:
    table = RouteTable([rule])
    if request.method is None:
        if rule.grpc is None:
            return "is for HTTP"
        return MATCHES if table.find_grpc(request.path) is not None else "another method"
    if rule.path is None:
        return "is for gRPC"
    if table.find(request.method, request.path) is not None:
        return MATCHES
    of_all_methods = RouteTable([dataclasses.replace(rule, methods=None)])
    return "another path" if of_all_methods.find(request.method, request.path) is None else f"not for {request.method}"


def path_rule(rules: Sequence[RouteRule], request: Request) -> tuple[int, Request] | None:
    """The first rule for the request's path over HTTP, by its place in the file, and an HTTP request that it is for."""
    for index, rule in enumerate(rules):
        if rule.path is None:
            continue
        method = "GET" if rule.methods is None or "GET" in rule.methods else min(rule.methods)
        meant = Request.http(method, request.path)
        if RouteTable([rule]).find(method, meant.path) is not None:
            return index, meant
    return None


def pattern(rule: RouteRule) -> str:
    """The requests that a rule is for, in short."""
    if rule.grpc is not None:
        return f"gRPC {rule.grpc}"
    methods = "" if rule.methods is None else f"{','.join(sorted(rule.methods))} "
    return f"{methods}{rule.path}"


def target(rule: RouteRule) -> str:
    """The pipeline that a rule leads to, in short."""
    return "not guarded" if rule.pipeline is None else f"pipeline {rule.pipeline}"
