"""Any pattern against any path: what the table finds is what a plain comparison finds, and no path takes long or fails."""

from __future__ import annotations

import functools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilience.config import RouteTable
from resilience.config.routes import RouteRule

SEGMENT = st.one_of(
    st.sampled_from(["", "a", "b", "orders", "*", "**", ".", "..", "%2F", "\x00", "\ud800", "\U0010ffff"]),
    st.text(st.characters(exclude_characters="/"), max_size=5),
)
PATTERN = st.lists(SEGMENT, min_size=1, max_size=6).map(lambda segments: "/" + "/".join(segments))
PATH = st.one_of(PATTERN, st.text(max_size=20), st.sampled_from(["", "/", "//", "*", "a", "/" * 100]))
METHODS = st.sampled_from([None, frozenset({"GET"}), frozenset({"GET", "POST"})])


def matches(pattern: str, path: str) -> bool:
    """The rule as the documentation words it, without any cleverness."""
    wanted, given_ = pattern.removeprefix("/").split("/"), path.removeprefix("/").split("/")

    @functools.cache
    def from_here(i: int, j: int) -> bool:
        if i == len(wanted):
            return j == len(given_)
        if wanted[i] == "**":
            return from_here(i + 1, j) or (j < len(given_) and from_here(i, j + 1))
        return j < len(given_) and (given_[j] != "" if wanted[i] == "*" else wanted[i] == given_[j]) and from_here(i + 1, j + 1)

    return from_here(0, 0)


@given(st.lists(st.tuples(PATTERN, METHODS), max_size=6), PATH, st.sampled_from(["GET", "POST", "", "\ud800"]))
@example([("/**/b", None), ("/a/**", None)], "/a/b", "GET")
@example([("/orders/*", None)], "/orders/", "GET")
@example([("/**", None)], "", "GET")
def test_the_first_rule_that_matches_is_found(rules: list[tuple[str, frozenset[str] | None]], path: str, method: str) -> None:
    table = RouteTable(RouteRule(pattern, methods, None, str(index)) for index, (pattern, methods) in enumerate(rules))
    expected = next(
        (
            str(index)
            for index, (pattern, methods) in enumerate(rules)
            if (methods is None or method in methods) and matches(pattern, path)
        ),
        None,
    )
    found = table.find(method, path)
    assert (None if found is None else found.pipeline) == expected


@given(st.lists(PATTERN, max_size=6), PATH)
def test_grpc_patterns_too(patterns: list[str], path: str) -> None:
    table = RouteTable(RouteRule(None, None, pattern, str(index)) for index, pattern in enumerate(patterns))
    expected = next((str(index) for index, pattern in enumerate(patterns) if matches(pattern, path)), None)
    found = table.find_grpc(path)
    assert (None if found is None else found.pipeline) == expected


@given(st.lists(PATTERN, min_size=1, max_size=6), PATH)
def test_a_rule_that_is_said_to_be_covered_never_decides(patterns: list[str], path: str) -> None:
    rules = [RouteRule(pattern, None, None, str(index)) for index, pattern in enumerate(patterns)]
    table = RouteTable(rules)
    found = table.find("GET", path)
    assert found is None or table.covered_by(rules.index(found)) is None


MANY = [RouteRule("/**/a" * count + tail, None, None, "x") for count in (1, 5, 20) for tail in ("", "/b", "/*/b", "/**")]


@pytest.mark.parametrize(
    "path",
    ["/a" * 10_000, "/" * 10_000, "/a/b" * 5_000, "/" + "a" * 100_000, "/\x00" * 10_000, "/\ud800" * 10_000, "/a" * 9_999 + "/b"],
)
def test_long_paths_are_looked_up(path: str) -> None:
    table = RouteTable([RouteRule("/never/matches", None, None, "y"), *MANY])
    found = table.find("GET", path)
    if path.endswith(("/a", "/b")):
        assert found is not None
    assert table.find_grpc(path) is None
