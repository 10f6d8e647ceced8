"""Warnings of policies and settings that do not do what their author may have meant."""

from __future__ import annotations

import textwrap

import pytest

from resilience.config import parse
from tests.config.reading import EXAMPLE, SOURCE


def warnings_of(marked: str) -> list[str]:
    """The warnings of a file as "key: message"; the first must stand at the mark "▶", which is no part of the file."""
    text = textwrap.dedent(marked)
    before, mark, after = text.partition("▶")
    warnings = parse(f"version: 1\n{before}{after}", SOURCE).warnings
    if mark:
        lines = before.split("\n")
        assert (warnings[0].line, warnings[0].column) == (len(lines) + 1, len(lines[-1]) + 1), warnings[0]
    return [f"{warning.key}: {warning.message}" for warning in warnings]


@pytest.mark.parametrize(
    ("section", "entry"),
    [("deadlines", "{}"), ("limiters", "{rate: 1/s}"), ("breakers", "{}"), ("retries", "{}")],
)
def test_a_policy_in_no_pipeline(section: str, entry: str) -> None:
    noun = {"retries": "retry"}.get(section, section[:-1])
    used = f"pipelines: {{p: [{{{noun}: used}}]}}\n"
    assert warnings_of(f"{section}:\n  used: {entry}\n  ▶idle: {entry}\n{used}") == [
        f"{section}.idle: no pipeline has this layer, so it guards nothing"
    ]


def test_the_same_name_in_another_section_is_no_use() -> None:
    assert warnings_of("limiters: {▶api: {rate: 1/s}}\ndeadlines: {api: {}}\npipelines: {p: [{deadline: api}]}\n") == [
        "limiters.api: no pipeline has this layer, so it guards nothing"
    ]


BOTH_WAYS = """\
    breakers: {shared: {}, own: {}}
    pipelines:
      inbound: [{breaker: shared}]
      outgoing: [{breaker: own}, {breaker: ▶shared}]
    routes: [{match: {path: "/**"}, pipeline: inbound}]
"""


def test_a_breaker_of_requests_that_come_in_and_of_calls_that_go_out() -> None:
    (warning,) = warnings_of(BOTH_WAYS)
    assert warning == (
        "pipelines.outgoing[1].breaker: breaker 'shared' guards calls going out here and requests coming in by pipeline 'inbound', "
        "so that failures of either open it for both; give each a breaker of its own"
    )


@pytest.mark.parametrize(
    "routes",
    [
        "[]",
        '[{match: {path: /a}, pipeline: inbound}, {match: {path: "/**"}, pipeline: outgoing}]',
        '[{match: {path: "/**"}, pipeline: none}]',
    ],
)
def test_a_breaker_in_two_pipelines_of_one_direction(routes: str) -> None:
    body = textwrap.dedent(BOTH_WAYS).replace("▶", "").partition("routes:")[0]
    assert warnings_of(f"{body}routes: {routes}\n") == []


ADDRESSED = """\
    limiters: {per_client: {rate: 1/s, key: KEY}}
    pipelines:
      routed: [{limiter: per_client}]
      lost: [{limiter: ▶per_client}]
    routes: [{match: {path: "/**"}, pipeline: routed}]
"""


@pytest.mark.parametrize("key", ["client_address", "forwarded_address"])
def test_a_limiter_by_address_where_only_code_can_call_it(key: str) -> None:
    (warning,) = warnings_of(ADDRESSED.replace("KEY", key))
    assert warning == (
        "pipelines.lost[0].limiter: limiter 'per_client' goes by the client's address, but no route uses this pipeline, and calls "
        "made by code have no such address: they would share one bucket; is a route missing?"
    )


def test_a_limiter_by_address_where_it_can_be_meant() -> None:
    by_header = ADDRESSED.replace("KEY", "header:x-api-key").replace("▶", "")
    without_routes = textwrap.dedent(ADDRESSED).replace("KEY", "client_address").replace("▶", "").partition("routes:")[0]
    assert (warnings_of(by_header), warnings_of(without_routes)) == ([], [])


@pytest.mark.parametrize(
    ("limiter", "held"),
    [
        ("{rate: 100/s, burst: 4, cost: ▶5}", "4"),
        ("{rate: 1/m, cost: ▶5}", "1 (no burst is given: one second of the rate)"),
        ("{rate: 5/s, cost: 5}", ""),
        ("{rate: 1/s, burst: 1, cost: 0}", ""),
    ],
)
def test_a_cost_that_no_bucket_can_hold(limiter: str, held: str) -> None:
    expected = f"limiters.a.cost: a call costs 5 and a full bucket holds {held}, so every call is refused; write burst: 5 or more"
    assert warnings_of(f"limiters: {{a: {limiter}}}\npipelines: {{p: [{{limiter: a}}]}}\n") == ([expected] if held else [])


@pytest.mark.parametrize(
    ("kind", "settings", "warning"),
    [
        (
            "limiter",
            "{rate: 1/s, trusted_proxies: ▶[10.0.0.0/8]}",
            "trusted_proxies: is read for key: client_address and key: forwarded_address only",
        ),
        (
            "limiter",
            "{rate: 1/s, key: header:x, trusted_proxies: ▶[10.0.0.1]}",
            "trusted_proxies: is read for key: client_address and key: forwarded_address only",
        ),
        ("limiter", "{rate: 1/s, max_keys: ▶5}", "max_keys: has no effect without key: there is one bucket"),
        ("breaker", "{max_keys: ▶5}", "max_keys: has no effect without key: there is one breaker"),
        (
            "breaker",
            "{slow_call_rate: ▶5%}",
            "slow_call_rate: has no effect without slow_call, which says when a call is slow",
        ),
        ("breaker", "{open_max: ▶10m}", "open_max: has no effect without an open_growth above 1"),
        ("breaker", "{open_max: ▶10m, open_growth: 1}", "open_max: has no effect without an open_growth above 1"),
        ("limiter", "{rate: 1/s, key: client_address, max_keys: 5, trusted_proxies: [10.0.0.1]}", ""),
        ("limiter", "{rate: 1/s, key: forwarded_address, trusted_proxies: [10.0.0.1]}", ""),
        ("breaker", "{key: host, max_keys: 5, slow_call: 1s, slow_call_rate: 5%, open_growth: 2, open_max: 10m}", ""),
    ],
)
def test_a_key_that_does_nothing(kind: str, settings: str, warning: str) -> None:
    found = warnings_of(f"{kind}s: {{a: {settings}}}\npipelines: {{p: [{{{kind}: a}}]}}\n")
    assert found == ([f"{kind}s.a.{warning}"] if warning else [])


def test_the_design_s_example_warns_of_its_gaps_only() -> None:
    warnings = parse(EXAMPLE, SOURCE).warnings
    assert [warning.key for warning in warnings] == ["routes", "routes"]


def test_many_names_are_looked_at_once_each() -> None:
    """A file at its greatest size: were each name looked for among all others, this would take minutes."""
    names = [f"b{number}" for number in range(900)]
    breakers = "".join(f"  {name}: {{}}\n" for name in names)
    pipelines = "".join(f"  {name}: [{{breaker: {name}}}]\n" for name in names)
    warnings = parse(f"version: 1\nbreakers:\n{breakers}pipelines:\n{pipelines}", SOURCE).warnings
    assert warnings == ()
