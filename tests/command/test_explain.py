"""`resilience explain`: the route that a request meets, and every setting with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilience.command.requests import Request
from resilience.config import parse
from tests.command.running import run, starts_with, write
from tests.config.reading import EXAMPLE


@pytest.fixture(autouse=True)
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("it.yaml").write_text(EXAMPLE, encoding="utf-8")


def explained(*words: str) -> list[str]:
    ran = run("explain", "it.yaml", *words)
    assert (ran.status, ran.err) == (0, "")
    return ran.out.splitlines()


def test_the_route_the_pipeline_and_its_layers_in_order() -> None:
    lines = explained("GET", "/orders/7")
    assert lines[:7] == [
        "GET /orders/7",
        "",
        "  routes[0]  line 17  /healthz             -> not guarded   another path",
        "  routes[1]  line 18  GET,POST /orders/**  -> pipeline api  matches",
        "  the 1 after it is not looked at: the first match wins",
        "",
        "pipeline api (line 14), outermost layer first",
    ]
    assert [line for line in lines if line[:2] in ("1.", "2.", "3.", "he")] == [
        "1. deadline api (line 5)",
        "2. limiter per_client (line 8)",
        "3. limiter api (line 7)",
        "health signal default (line 3)",
    ]


def test_every_value_with_its_line_or_default() -> None:
    lines = explained("GET", "/orders/7")
    per_client = lines[lines.index("2. limiter per_client (line 8)") + 1 :][:14]
    assert [line.split(maxsplit=2) for line in per_client] == [
        ["rate", "10/s", "line 8"],
        ["burst", "20", "line 8"],
        ["key", "client_address", "line 8"],
        ["cost", "1", "default"],
        ["max_wait", "0s", "default"],
        ["max_keys", "100000", "line 8"],
        ["status", "429", "default"],
        ["fields", "refused", "default"],
        ["trusted_proxies", "[]", "default"],
        ["shadow", "false", "default"],
        ["health", "default", "default"],
        ["store", "process", "line 20"],
        ["on_store_error", "local", "default"],
        ["when", "cut", "3/s, burst 6    an open breaker on default leaves 30%"],
    ]


def test_how_a_refusal_is_answered_where_the_file_says_it() -> None:
    assert not any("refusals" in line for line in explained("GET", "/orders/7"))
    Path("it.yaml").write_text(EXAMPLE + "refusals: {body: none}\n", encoding="utf-8")
    lines = explained("GET", "/orders/7")
    assert [line.split() for line in lines[-6:]] == [
        [],
        ["answers", "to", "refusals", "(line", "21)"],
        ["quota_status", "429", "default"],
        ["open_status", "503", "default"],
        ["deadline_status", "504", "default"],
        ["body", "none", "line", "21"],
    ]
    for words in (["/shop.v1.Orders/Create"], ["GET", "/healthz"], ["--pipeline", "payments"]):  # no HTTP, or nothing refuses
        assert not any("refusals" in line for line in explained(*words))


def test_a_limiter_that_no_breaker_can_cut_says_nothing_of_it(tmp_path: Path) -> None:
    for settings in ("health: none", "health: default"):
        file = write(tmp_path, f"limiters: {{a: {{rate: 5/s, {settings}}}}}\npipelines: {{p: [{{limiter: a}}]}}\n")
        out = run("explain", file, "--pipeline", "p").out
        assert "when cut" not in out
        assert ("health signal default (by default)" in out) == (settings == "health: default")


@pytest.mark.parametrize(
    ("breaker", "is_cut"), [("{}", True), ("{shadow: true}", False), ("{force: closed}", False), ("{health: none}", False)]
)
def test_only_a_breaker_that_writes_the_signal_can_cut(tmp_path: Path, breaker: str, is_cut: bool) -> None:
    body = f"limiters: {{a: {{rate: 5/s, burst: 2}}}}\nbreakers: {{b: {breaker}}}\npipelines: {{p: [{{limiter: a}}]}}\n"
    out = run("explain", write(tmp_path, body), "--pipeline", "p").out
    assert ("when cut         1.5/s, burst 1  an open breaker on default leaves 30%" in out) == is_cut
    assert ("when cut" in out) == is_cut


def test_a_grpc_method() -> None:
    assert explained("/shop.v1.Orders/Create")[2:5] == [
        "  routes[0]  line 17  /healthz                -> not guarded   is for HTTP",
        "  routes[1]  line 18  GET,POST /orders/**     -> pipeline api  is for HTTP",
        "  routes[2]  line 19  gRPC /shop.v1.Orders/*  -> pipeline api  matches",
    ]


@pytest.mark.parametrize(
    ("words", "verdicts", "outcome"),
    [
        (
            ["GET", "/healthz"],
            ["matches"],
            "not guarded, on purpose: the route says pipeline: none",
        ),
        (
            ["PUT", "/orders/7"],
            ["another path", "not for PUT", "is for gRPC"],
            "no route matches: this request is not guarded",
        ),
        (
            ["/shop.v1.Carts/Add"],
            ["is for HTTP", "is for HTTP", "another method"],
            "no route matches: this request is not guarded",
        ),
    ],
)
def test_requests_that_nothing_guards(words: list[str], verdicts: list[str], outcome: str) -> None:
    lines = explained(*words)
    routes = starts_with(lines, "routes[")
    assert [line.split("  ")[-1].strip() for line in routes] == verdicts
    assert lines[-1].strip() == outcome


def test_a_method_that_was_forgotten_is_asked_for() -> None:
    lines = explained("/orders/7")
    assert lines[-2:] == [
        "  no route matches: this request is not guarded",
        "  over HTTP it would meet routes[1]: say the method first, as in GET /orders/7",
    ]
    assert "over HTTP" not in "".join(explained("/shop.v1.Orders/Create") + explained("/shop.v1.Carts/Add"))
    assert "over HTTP" not in "".join(explained("PUT", "/orders/7"))


def test_it_is_asked_for_as_the_rule_has_it(tmp_path: Path) -> None:
    rules = "[{match: {path: /x}, pipeline: none}, {match: {path: /orders/*, methods: [PUT, POST]}, pipeline: none}]"
    out = run("explain", write(tmp_path, f"routes: {rules}\n", "put.yaml"), "/orders/7%37?page=2").out
    assert out.splitlines()[-1] == "  over HTTP it would meet routes[1]: say the method first, as in POST /orders/77"


@pytest.mark.parametrize(
    ("method", "target", "request_line"),
    [
        ("get", "/orders/7", "GET /orders/7"),
        ("GET", "/orders/7?page=2#x", "GET /orders/7"),
        ("GET", "/a%20b/%C3%A9", "GET /a b/é"),
        ("GET", "https://shop.example/orders/7?x=1", "GET /orders/7"),
        ("GET", "https://shop.example", "GET /"),
        ("M-SEARCH", "/", "M-SEARCH /"),
        ("GET", "//x//y", "GET //x//y"),
    ],
)
def test_a_request_as_people_write_it(method: str, target: str, request_line: str) -> None:
    assert str(Request.http(method, target)) == request_line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["GET", "orders"], "a path begins with '/', got 'orders'"),
        (["G T", "/orders"], "'G T' is no HTTP method; write one such as GET"),
        (
            ["/orders"],
            "'/orders' is no gRPC method such as /shop.v1.Orders/Create; for HTTP say the method first, as in GET /orders/7",
        ),
        (["GET", "/a", "b"], "a request is METHOD PATH, such as GET /orders/7, or a gRPC method; quote what holds spaces"),
        (["GET", "/a", "--pipeline", "api"], "a request, --pipeline or --pool, not more than one of them"),
        (["--pipeline", "apj"], "it.yaml has no pipeline 'apj'; it has api, payments"),
    ],
)
def test_what_cannot_be_explained_is_a_usage_error(words: list[str], said: str) -> None:
    ran = run("explain", "it.yaml", *words)
    assert (ran.status, ran.out) == (2, "")
    assert said in " ".join(ran.err.split())


def test_the_overview_names_what_only_code_uses() -> None:
    assert explained() == [
        "routes, the first match wins",
        "  routes[0]  line 17  /healthz                -> not guarded",
        "  routes[1]  line 18  GET,POST /orders/**     -> pipeline api",
        "  routes[2]  line 19  gRPC /shop.v1.Orders/*  -> pipeline api",
        "",
        "pipelines, outermost layer first",
        "  api       line 14  deadline api > limiter per_client > limiter api",
        "  payments  line 15  deadline api > retry payments > breaker payments  no route: for code",
    ]


def test_a_pipeline_by_its_name() -> None:
    lines = explained("--pipeline", "payments")
    assert lines[0] == "pipeline payments (line 15), outermost layer first"
    assert "     budget.tokens  10                                        line 12" in lines
    assert [line for line in lines if line.startswith(("2.", "3.", "health"))] == [
        "2. retry payments (line 12)",
        "3. breaker payments (line 10)",
        "health signal default (line 3)",
    ]


def test_a_file_without_routes_and_pipelines(tmp_path: Path) -> None:
    file = write(tmp_path, "store: process\n", "least.yaml")
    assert run("explain", file).out == "routes: none, so nothing is guarded by path\n\npipelines: none\n"
    assert run("explain", file, "GET", "/").out.splitlines()[-1] == "  no route matches: this request is not guarded"


def test_of_many_routes_the_last_that_were_tried_are_shown(tmp_path: Path) -> None:
    rules = "".join(f"  - {{match: {{path: /r{number}}}, pipeline: none}}\n" for number in range(100))
    ran = run("explain", write(tmp_path, f"routes:\n{rules}", "many.yaml"), "GET", "/r99")
    assert "  80 rules before these are for other requests" in ran.out.splitlines()
    assert len(starts_with(ran.out.splitlines(), "routes[")) == 20


def test_patterns_from_the_file_are_escaped(tmp_path: Path) -> None:
    text = 'version: 1\nroutes: [{match: {path: "/\\x1b[2J/\\u202e"}, pipeline: none}]\n'
    assert parse(text, "x").routes[0].path == "/\x1b[2J/\u202e"
    file = tmp_path / "sly.yaml"
    file.write_text(text, encoding="utf-8")
    out = run("explain", file).out
    assert "/\\x1b[2J/\\u202e" in out
    assert "\x1b" not in out


def test_a_bad_file_is_reported_on_standard_error() -> None:
    ran = run("explain", "-", "GET", "/", stdin="version: 1\nx: 1\n")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.splitlines()[1:] == ["    2 | x: 1", "      | ^"]
