"""The compiled routes against a matcher that is obviously right, and what a lookup costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.config import RouteRule, RouteTable, routes


def rule(path: str, *methods: str) -> RouteRule:
    return RouteRule(path, frozenset(methods) or None, None, "api")


def grpc_rule(pattern: str) -> RouteRule:
    return RouteRule(None, None, pattern, "api")


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/", ["/", ""], ["/a", "//"]),
        ("/a", ["/a", "a"], ["/", "/a/", "/A", "/ab", "/a/b"]),
        ("/a/", ["/a/"], ["/a", "/a//"]),
        ("/a/*", ["/a/b", "/a/*", "/a/**"], ["/a", "/a/", "/a/b/", "/a/b/c"]),
        ("/*", ["/a"], ["/", "/a/b"]),
        ("/*/b", ["/a/b"], ["//b", "/b"]),
        ("/**", ["/", "", "/a", "/a/b/c", "//", "/a/"], []),
        ("/a/**", ["/a", "/a/", "/a/b", "/a/b/c/"], ["/", "/ab", "/b/a"]),
        ("/a/**/b", ["/a/b", "/a/x/b", "/a/x/y/b", "/a//b", "/a/b/b"], ["/a", "/b", "/a/b/", "/a/b/c"]),
        ("/**/b", ["/b", "/a/b", "/b/b", "//b"], ["/", "/b/a"]),
        ("/**/a/**/b/**", ["/a/b", "/x/a/x/b/x", "/b/a/b"], ["/b/a", "/a"]),
        ("/**/**", ["/", "/a"], []),
        ("/a/**/*", ["/a/b", "/a/b/c"], ["/a", "/a/"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, matching: list[str], others: list[str]) -> None:
    table = RouteTable([rule(pattern)])
    assert [path for path in matching if table.find("GET", path) is None] == []
    assert [path for path in others if table.find("GET", path) is not None] == []


def test_the_first_rule_that_matches_wins() -> None:
    first, second, third = rule("/a/*/c"), rule("/a/**"), rule("/a/b/c")
    table = RouteTable([first, second, third])
    assert table.find("GET", "/a/b/c") is first
    assert table.find("GET", "/a/b/d") is second
    assert RouteTable([third, second, first]).find("GET", "/a/b/c") is third
    assert table.rules == (first, second, third)


def test_a_rule_is_for_its_methods_alone() -> None:
    get, put, rest = rule("/a", "GET"), rule("/a", "PUT", "POST"), rule("/**")
    table = RouteTable([get, put, rest])
    assert [table.find(method, "/a") for method in ("GET", "POST", "PUT")] == [get, put, put]
    assert table.find("HEAD", "/a") is rest
    assert table.find("get", "/a") is rest
    assert RouteTable([get]).find("HEAD", "/a") is None


def test_a_rule_that_guards_nothing_is_found_and_is_not_no_rule() -> None:
    open_rule = RouteRule("/healthz", None, None, None)
    table = RouteTable([open_rule])
    assert table.find("GET", "/healthz") is open_rule
    assert table.find("GET", "/other") is None
    assert RouteTable([]).find("GET", "/") is None


def test_grpc_methods_and_paths_are_apart() -> None:
    path, method = rule("/shop.v1.Orders/Get"), grpc_rule("/shop.v1.Orders/*")
    table = RouteTable([path, method])
    assert table.find("POST", "/shop.v1.Orders/Get") is path
    assert table.find("POST", "/shop.v1.Orders/List") is None
    assert table.find_grpc("/shop.v1.Orders/Get") is method
    assert table.find_grpc("shop.v1.Orders/Get") is method
    assert table.find_grpc("/shop.v1.Carts/Get") is None
    assert table.find_grpc("/shop.v1.Orders/") is None


def naive_matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    @cache
    def matches(at: int, reached: int) -> bool:
        if at == len(pattern):
            return reached == len(path)
        if pattern[at] == "**":
            return any(matches(at + 1, later) for later in range(reached, len(path) + 1))
        if reached == len(path):
            return False
        fits = path[reached] != "" if pattern[at] == "*" else path[reached] == pattern[at]
        return fits and matches(at + 1, reached + 1)

    return matches(0, 0)


def naive_find(rules: Iterable[RouteRule], method: str, path: str) -> RouteRule | None:
    segments = path.removeprefix("/").split("/")
    for candidate in rules:
        fits = candidate.methods is None or method in candidate.methods
        if fits and candidate.path is not None and naive_matches(candidate.path[1:].split("/"), segments):
            return candidate
    return None


SEGMENTS = st.sampled_from(["a", "b", "c", "", "*", "**", "**"])
PATTERNS = st.lists(SEGMENTS, min_size=1, max_size=6).map(lambda segments: "/" + "/".join(segments))
METHODS = st.sampled_from(["GET", "POST", "HEAD"])
RULES = st.lists(st.builds(rule, PATTERNS, *[METHODS] * 2) | st.builds(rule, PATTERNS), max_size=12)
PATHS = st.lists(st.sampled_from(["a", "b", "c", "", "*", "**"]), max_size=8).map(lambda segments: "/" + "/".join(segments))


@given(RULES, st.lists(st.tuples(METHODS, PATHS), min_size=1, max_size=10))
def test_the_table_finds_what_the_naive_matcher_finds(rules: list[RouteRule], requests: list[tuple[str, str]]) -> None:
    table = RouteTable(rules)
    for method, path in requests:
        assert table.find(method, path) is naive_find(rules, method, path)


@given(RULES, st.lists(st.tuples(METHODS, PATHS), min_size=20, max_size=40))
def test_a_covered_rule_is_never_found(rules: list[RouteRule], requests: list[tuple[str, str]]) -> None:
    table = RouteTable(rules)
    covered = [rules[index] for index in range(len(rules)) if table.covered_by(index) is not None]
    for method, path in requests:
        found = naive_find(rules, method, path)
        assert not any(found is candidate for candidate in covered)


class Visits:
    """Counts the nodes that lookups look at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        following = routes._following

        def counted(nodes: Iterable[object], segment: str | None, best: int) -> list[object]:
            return following(self._each(nodes), segment, best)  # type: ignore[arg-type, return-value]

        monkeypatch.setattr(routes, "_following", counted)

    def _each(self, nodes: Iterable[object]) -> Iterator[object]:
        for node in nodes:
            self.count += 1
            yield node

    def of(self, table: RouteTable, path: str) -> int:
        self.count = 0
        table.find("GET", path)
        return self.count


@pytest.mark.parametrize("path", ["/service9/orders/7/items/1", "/service9/none", "/elsewhere", "/"])
def test_a_lookup_among_a_thousand_rules_visits_as_many_nodes_as_among_ten(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(count: int) -> RouteTable:
        patterns = [f"/service{index}/orders/*/items/**" for index in range(count)]
        return RouteTable([*map(rule, patterns), rule("/**/metrics"), rule("/**")])

    visits = Visits(monkeypatch)
    assert visits.of(table(10), path) == visits.of(table(1_000), path) > 0


def test_a_long_path_costs_its_length_whatever_the_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = ["/**" + "/a/**" * 8 + "/b", "/**" + "/*/a/**" * 4 + "/c", "/**/a/a/a/**/a/a/a/d"]
    nodes = sum(pattern.count("/") for pattern in patterns)
    table = RouteTable(map(rule, patterns))
    visits = Visits(monkeypatch)
    assert visits.of(table, "/a" * 10_000) <= 10_000 * nodes
    assert table.find("GET", "/a" * 10_000 + "/b") is table.rules[0]


def test_a_lookup_stops_where_nothing_can_match_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    table = RouteTable([rule("/orders/**"), rule("/carts/*"), rule("/carts/*/items")])
    visits = Visits(monkeypatch)
    assert visits.of(table, "/orders" + "/a" * 10_000) <= 2
    assert visits.of(table, "/carts" + "/a" * 10_000) <= 4
