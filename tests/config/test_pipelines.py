"""Pipelines and what they refer to."""

from __future__ import annotations

import pytest

from resilience.config import LayerReference
from tests.config.reading import fault, faults, load

HEAD = """\
version: 1
deadlines: {api: {default: 5s}, short: {default: 1s}}
limiters: {api: {rate: 5/s}}
breakers: {api: {}, pay: {}}
retries: {pay: {}, twice: {}}
"""


def test_layers_keep_their_order_and_kinds_may_repeat() -> None:
    text = HEAD + "pipelines: {p: [{deadline: api}, {retry: pay}, {deadline: short}, {breaker: pay}, {breaker: api}]}\n"
    document = load(text.removeprefix("version: 1\n"))
    assert document.pipelines["p"] == (
        LayerReference("deadline", "api"),
        LayerReference("retry", "pay"),
        LayerReference("deadline", "short"),
        LayerReference("breaker", "pay"),
        LayerReference("breaker", "api"),
    )


LAYER = "must be one layer such as {limiter: api}, got"


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("p: [{limiter: ▶apii}]", "p[0].limiter: no limiter is called 'apii'; did you mean 'api'?"),
        ("p: [{limiter: api}, {breaker: ▶zzz}]", "p[1].breaker: no breaker is called 'zzz'; there is api, pay"),
        ("p: [{retry: ▶api}]", "p[0].retry: no retry is called 'api'; there is pay, twice"),
        ("p: [{▶bulkhead: api}]", "p[0].bulkhead: is unknown; a layer is a deadline, limiter, breaker, retry"),
        ("p: [{▶limiters: api}]", "p[0].limiters: is unknown; did you mean 'limiter'?"),
        ("p: [{limiter:▶ }]", "p[0].limiter: must be the name of a limiter, got nothing"),
        ("p: [{limiter: ▶[api]}]", "p[0].limiter: must be the name of a limiter, got a list"),
        ("p: [{limiter: ▶{rate: 5/s}}]", "p[0].limiter: must be the name of a limiter, got a mapping"),
        ("p: [▶limiter]", f"p[0]: {LAYER} 'limiter'"),
        ("p: [▶[{limiter: api}]]", f"p[0]: {LAYER} a list"),
        ("p: [▶{}]", f"p[0]: {LAYER} a mapping of 0 keys; each layer is an item of its own"),
        (
            "p: [▶{limiter: api, breaker: api}]",
            f"p[0]: {LAYER} a mapping of 2 keys; each layer is an item of its own",
        ),
        ("p: [{▶[a]: api}]", "p[0]: a key must be a word, got a list"),
        ("p: ▶[]", "p: a pipeline needs a layer; to leave requests unguarded, a route says pipeline: none"),
        ("p: ▶{limiter: api}", "p: must be a list of layers such as [{deadline: api}, {limiter: api}], got a mapping"),
        (
            "p: [{breaker: pay}, {breaker: api}, ▶{breaker: pay}]",
            "p[2]: breaker 'pay' is in this pipeline already, at [0]",
        ),
        (
            "p: [{retry: pay}, {limiter: api}, ▶{retry: twice}]",
            "p[2]: a pipeline has one retry, and this one has retry 'pay' at [0]; their attempts would multiply",
        ),
    ],
)
def test_what_stands_wrong_in_a_pipeline(marked: str, message: str) -> None:
    assert fault(f"{HEAD}pipelines:\n  {marked}\n") == f"pipelines.{message}"


def test_a_reference_into_an_empty_section_says_so() -> None:
    assert fault("version: 1\npipelines: {p: [{breaker: ▶x}]}\n") == (
        "pipelines.p[0].breaker: no breaker is called 'x'; none is declared"
    )


def test_many_names_are_not_all_listed() -> None:
    names = ", ".join(f"n{index}: {{}}" for index in range(9))
    assert fault(f"version: 1\nbreakers: {{{names}}}\npipelines: {{p: [{{breaker: ▶zzzz}}]}}\n") == (
        "pipelines.p[0].breaker: no breaker is called 'zzzz'; there is n0, n1, n2, n3, n4, ..."
    )


RETRY = (
    "retry cannot guard a server's requests, and pipeline 'out' has retry 'pay'; a request that has begun cannot be run "
    "again, so put the retry into a pipeline for calls going out"
)


@pytest.mark.parametrize("match", ["path: /x", "grpc: /a/b"])
def test_a_retry_cannot_be_on_a_route(match: str) -> None:
    text = f"{HEAD}pipelines: {{out: [{{retry: pay}}]}}\nroutes: [{{match: {{{match}}}, pipeline: ▶out}}]\n"
    assert fault(text) == f"routes[0].pipeline: {RETRY}"


def test_a_retry_on_two_routes_is_one_problem_at_the_first() -> None:
    rule = "{match: {path: /x}, pipeline: out}"
    text = f"{HEAD}pipelines: {{out: [{{retry: pay}}]}}\nroutes: [{rule}, {rule}]\n"
    assert faults(text) == [f"7:40: routes[0].pipeline: {RETRY}"]
