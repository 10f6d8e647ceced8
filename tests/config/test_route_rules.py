"""The rules of the file: what they say, what they refuse, what they are warned of."""

from __future__ import annotations

import pytest

from resilience.config import Document, RouteRule
from tests.config.reading import fault, load

HEAD = "limiters: {api: {rate: 5/s}}\npipelines: {api: [{limiter: api}]}\n"


def rule_of(match: str, pipeline: str = "api") -> RouteRule:
    (rule,) = load(f"{HEAD}routes:\n  - {{match: {match}, pipeline: {pipeline}}}\n").routes
    return rule


@pytest.mark.parametrize(
    ("match", "rule"),
    [
        ("{path: /healthz}", RouteRule("/healthz", None, None, "api")),
        ("{path: /}", RouteRule("/", None, None, "api")),
        ("{path: '/a/*/b/**'}", RouteRule("/a/*/b/**", None, None, "api")),
        ("{path: '/ä b/$(),;'}", RouteRule("/ä b/$(),;", None, None, "api")),
        ("{path: /a/, methods: [GET, M-SEARCH]}", RouteRule("/a/", frozenset({"GET", "M-SEARCH"}), None, "api")),
        ("{grpc: /shop.v1.Orders/Get}", RouteRule(None, None, "/shop.v1.Orders/Get", "api")),
        ("{grpc: '/**'}", RouteRule(None, None, "/**", "api")),
        ("{grpc: '/*/Get'}", RouteRule(None, None, "/*/Get", "api")),
        ("{grpc: '/shop.v1.Orders/**'}", RouteRule(None, None, "/shop.v1.Orders/**", "api")),
    ],
)
def test_rules(match: str, rule: RouteRule) -> None:
    assert rule_of(match) == rule


def test_no_pipeline_is_said_with_none() -> None:
    assert rule_of("{path: /healthz}", "none").pipeline is None


GRPC = "must be /SERVICE/METHOD, as in /shop.v1.Orders/*, got"


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("{match: {path: ▶orders}, pipeline: api}", ".match.path: must begin with '/', got 'orders'"),
        (
            "{match: {path: ▶'**'}, pipeline: api}",
            ".match.path: must begin with '/', got '**'",
        ),
        (
            "{match: {path: ▶/a*}, pipeline: api}",
            ".match.path: '*' and '**' stand for whole segments between slashes, got 'a*' in '/a*'",
        ),
        (
            "{match: {path: ▶/a/***}, pipeline: api}",
            ".match.path: '*' and '**' stand for whole segments between slashes, got '***' in '/a/***'",
        ),
        (
            "{match: {path: ▶'/a/{id}'}, pipeline: api}",
            ".match.path: a segment of any value is written '*', got '{id}' in '/a/{id}'",
        ),
        (
            "{match: {path: ▶/a/<int:id>}, pipeline: api}",
            ".match.path: a segment of any value is written '*', got '<int:id>' in '/a/<int:id>'",
        ),
        (
            "{match: {path: ▶'/a?b=c'}, pipeline: api}",
            ".match.path: is compared with the path alone, without query or fragment; got '/a?b=c'",
        ),
        (
            "{match: {path: ▶/a%20b}, pipeline: api}",
            ".match.path: is compared with the decoded path; write the character itself, got '/a%20b'",
        ),
        ("{match: {path:▶ }, pipeline: api}", ".match.path: must be text, got nothing"),
        ("{match: {path: ▶[/a]}, pipeline: api}", ".match.path: must be a pattern such as /orders/*, got a list"),
        (
            "{match: {grpc: ▶shop.Orders/Get}, pipeline: api}",
            ".match.grpc: must begin with '/', as in /shop.v1.Orders/*, got 'shop.Orders/Get'",
        ),
        ("{match: {grpc: ▶/Orders}, pipeline: api}", f".match.grpc: {GRPC} '/Orders'"),
        ("{match: {grpc: ▶/a/b/c}, pipeline: api}", f".match.grpc: {GRPC} '/a/b/c'"),
        ("{match: {grpc: ▶/a/b/c/**}, pipeline: api}", f".match.grpc: {GRPC} '/a/b/c/**'"),
        ("{match: {grpc: ▶/a/}, pipeline: api}", f".match.grpc: {GRPC} '/a/'"),
        (
            "{match: {path: /a, methods: ▶GET}, pipeline: api}",
            ".match.methods: must be a list such as [GET, POST], got 'GET'",
        ),
        (
            "{match: {path: /a, methods: ▶[]}, pipeline: api}",
            ".match.methods: must name a method; leave the key out for all methods",
        ),
        (
            "{match: {path: /a, methods: [▶get]}, pipeline: api}",
            ".match.methods[0]: methods are upper-case: write 'GET'",
        ),
        ("{match: {path: /a, methods: [GET, ▶GET]}, pipeline: api}", ".match.methods[1]: 'GET' is listed twice"),
        (
            "{match: {path: /a, methods: [▶'G T']}, pipeline: api}",
            ".match.methods[0]: must be a method such as GET, got 'G T'",
        ),
        (
            "{match: {path: /a, methods: [▶~]}, pipeline: api}",
            ".match.methods[0]: must be a method such as GET, got nothing",
        ),
        (
            "{match: {path: /a, ▶grpc: /a/b}, pipeline: api}",
            ".match: has a path or a grpc pattern, not both; write two rules",
        ),
        (
            "{match: {grpc: /a/b, ▶methods: [GET]}, pipeline: api}",
            ".match.methods: are HTTP's; the pattern of a grpc rule names the method itself",
        ),
        ("{match: ▶{}, pipeline: api}", '.match: needs a path or a grpc pattern; for every path: {path: "/**"}'),
        (
            "{match: ▶{methods: [GET]}, pipeline: api}",
            '.match: needs a path or a grpc pattern; for every path: {path: "/**"}',
        ),
        ("{match: ▶/a, pipeline: api}", ".match: must be a mapping such as {path: /orders, methods: [GET]}, got '/a'"),
        ("{match: {path: /a, ▶host: x}, pipeline: api}", ".match.host: is unknown; a match has path, methods, grpc"),
        ("▶{match: {path: /a}}", ".pipeline: is missing: the name of a pipeline, or none"),
        ("▶{pipeline: api}", ".match: is missing: a mapping such as {path: /orders, methods: [GET]}"),
        ("{match: {path: /a}, pipeline:▶ }", ".pipeline: must be the name of a pipeline, or none, got nothing"),
        ("{match: {path: /a}, pipeline: ▶[api]}", ".pipeline: must be the name of a pipeline, or none, got a list"),
        ("{match: {path: /a}, pipeline: ▶apj}", ".pipeline: no pipeline is called 'apj'; did you mean 'api'?"),
        ("{match: {path: /a}, pipeline: api, ▶name: x}", ".name: is unknown; a rule has match, pipeline"),
        ("▶/a", ": must be a rule such as {match: {path: /orders}, pipeline: api}, got '/a'"),
    ],
)
def test_what_stands_wrong_in_a_rule(marked: str, message: str) -> None:
    assert fault(f"version: 1\n{HEAD}routes:\n  - {marked}\n") == f"routes[0]{message}"


def test_routes_are_a_list() -> None:
    assert fault("version: 1\nroutes: ▶{path: /a}\n") == (
        "routes: must be a list of rules such as [{match: {path: /orders}, pipeline: api}], got a mapping"
    )


def warnings_of(document: Document) -> list[str]:
    return [f"{warning.line}:{warning.column}: {warning.key}: {warning.message}" for warning in document.warnings]


GAP = "that no rule matches is not guarded; if that is meant, say so with a last rule"


@pytest.mark.parametrize(
    ("matches", "warnings"),
    [
        ([], []),
        (['path: "/**"'], []),
        (['path: "/a/**"'], [f'4:1: routes: a path {GAP} {{match: {{path: "/**"}}, pipeline: none}}']),
        (['path: "/**", methods: [GET]'], [f'4:1: routes: a path {GAP} {{match: {{path: "/**"}}, pipeline: none}}']),
        (["grpc: /a/b"], [f'4:1: routes: a gRPC method {GAP} {{match: {{grpc: "/**"}}, pipeline: none}}']),
        (['grpc: "/*/*"'], []),
        (['grpc: "/**"', 'path: "/**"'], []),
        (['path: "/**/**"'], []),
    ],
)
def test_paths_that_nothing_guards_are_warned_of(matches: list[str], warnings: list[str]) -> None:
    rules = "".join(f"  - {{match: {{{match}}}, pipeline: api}}\n" for match in matches) or "  []\n"
    assert warnings_of(load(f"{HEAD}routes:\n{rules}")) == warnings


@pytest.mark.parametrize(
    ("matches", "covered"),
    [
        (["path: /a", "path: /a"], {1: 0}),
        (["path: /a, methods: [GET]", "path: /a"], {}),
        (["path: /a", "path: /a, methods: [GET]"], {1: 0}),
        (["path: /a, methods: [GET]", "path: /a, methods: [POST]", "path: /a, methods: [GET, POST]"], {2: 1}),
        (["path: /a, methods: [GET]", "path: /a, methods: [GET, POST]"], {}),
        (["path: '/a/*'", "path: /a/b"], {1: 0}),
        (["path: '/a/*'", "path: /a/"], {}),
        (["path: '/a/**'", "path: /a"], {1: 0}),
        (["path: '/a/**'", "path: '/a/*/b'", "path: '/a/**/c'"], {1: 0, 2: 0}),
        (["path: '/a/*'", "path: '/a/**'"], {}),
        (["path: '/a/*/**'", "path: '/a/**'"], {}),
        (["path: /a/", "path: '/a/**'"], {}),
        (["path: /x", "path: '/**/b'", "path: '/a/**/b'"], {2: 1}),
        (["grpc: '/a/*'", "grpc: /a/b", "path: /a/b"], {1: 0}),
    ],
)
def test_rules_that_never_match_are_warned_of(matches: list[str], covered: dict[int, int]) -> None:
    rules = "".join(f"  - {{match: {{{match}}}, pipeline: api}}\n" for match in [*matches, "path: '/**'", "grpc: '/**'"])
    assert warnings_of(load(f"{HEAD}routes:\n{rules}")) == [
        f"{5 + index}:5: routes[{index}]: never matches: the rules up to routes[{earlier}] take all of it"
        for index, earlier in covered.items()
    ]


@pytest.mark.parametrize(
    ("entries", "warnings"),
    [
        ("breakers: {b: {health: x}}\nlimiters: {l: {rate: 5/s, health: x}}", []),
        ("breakers: {b: {health: x, force: open}}\nretries: {r: {health: x}}", []),
        ("breakers: {b: {health: x}}\npools: {p: {health: x}}", []),
        ("limiters: {l: {rate: 5/s, health: x}}", ["no breaker writes this signal, so it never cuts anything"]),
        ("breakers: {b: {health: x}}", ["no limiter, no retry and no pool reads this signal, so it cuts nothing"]),
        (
            "breakers: {b: {health: x, shadow: true}, c: {health: x, force: closed}}\nretries: {r: {health: x}}",
            ["every breaker on this signal is in shadow or forced closed, so it never cuts anything"],
        ),
        (
            "{}",
            [
                "no breaker writes this signal, so it never cuts anything",
                "no limiter, no retry and no pool reads this signal, so it cuts nothing",
            ],
        ),
    ],
)
def test_signals_that_do_nothing_are_warned_of(entries: str, warnings: list[str]) -> None:
    text = f"health: {{default: {{}}, x: {{}}}}\n{entries if entries != '{}' else ''}\n"
    found = [warning for warning in warnings_of(load(text)) if "health.x: " in warning]
    assert found == [f"2:23: health.x: {warning}" for warning in warnings]
