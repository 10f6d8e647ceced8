"""Decides which pipeline guards a request, by its path or by its gRPC method.

The rules are compiled into a trie of path segments, so that a lookup costs what the path is long and what patterns it
meets on its way, and not what rules there are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

ANY_SEGMENT: Final = "*"
ANY_SEGMENTS: Final = "**"
_NEVER: Final = sys.maxsize


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One rule: which requests it is for, and the pipeline that guards them.

    Attributes:
        path: pattern of an HTTP path, or None for a rule of gRPC methods.
        methods: the HTTP methods it is for, upper-case, or None for all. `HEAD` is not implied by `GET`.
        grpc: pattern of a gRPC method such as "/shop.v1.Orders/*", or None for a rule of HTTP paths.
        pipeline: a pipeline's name; None means that these requests are not guarded, on purpose.
    """

    path: str | None
    methods: frozenset[str] | None
    grpc: str | None
    pipeline: str | None


class RouteTable:
    """Finds the first rule that matches.

    A pattern is compared with a path segment by segment, exactly, with case, after percent-decoding (servers hand over
    decoded paths). `*` stands for one segment that is not empty, `**` for any number of segments, none included, also
    in the middle. A trailing slash is an empty last segment and so counts: `/orders` is not `/orders/`, and `/orders/*`
    matches neither; `/orders/**` matches both and everything below.

    A lookup takes a step for each segment of the path and each pattern that matches it so far, and stops when nothing
    can match any more. No path makes it slower than its length times the segments of all patterns.
    """

    __slots__ = ("_grpc", "_http", "rules")

    def __init__(self, rules: Iterable[RouteRule]) -> None:
        self.rules: Final = tuple(rules)
        self._http = _Node()
        self._grpc = _Node()
        for index, rule in enumerate(self.rules):
            if rule.path is not None:
                _insert(self._http, split(rule.path), index, rule.methods)
            if rule.grpc is not None:
                _insert(self._grpc, split(rule.grpc), index, None)

    def find(self, method: str, path: str) -> RouteRule | None:
        """The first rule for an HTTP request of this method (upper-case) and decoded path; None when there is none."""
        return self._rule(_lowest(self._http, path.removeprefix("/").split("/"), method))

    def find_grpc(self, full_method: str) -> RouteRule | None:
        """The first rule for a gRPC method such as "/shop.v1.Orders/Get"; None when there is none."""
        return self._rule(_lowest(self._grpc, full_method.removeprefix("/").split("/"), None))

    def covered_by(self, index: int) -> int | None:
        """The first rule before rule `index` that leaves it nothing to match, as far as patterns show it; else None.

        Where several rules do so together, one for each method, it is the last of them.
        """
        rule = self.rules[index]
        root, pattern = (self._http, rule.path) if rule.path is not None else (self._grpc, rule.grpc or "")
        # The pattern is looked up like a path, its `**` as None: only a `**` takes that, and only a `*` takes a `*`.
        segments = [None if segment == ANY_SEGMENTS else segment for segment in split(pattern)]
        methods: Iterable[str | None] = (None,) if rule.methods is None else rule.methods
        covering = max((_lowest(root, segments, method) for method in methods), default=index)
        return covering if covering < index else None

    def _rule(self, index: int) -> RouteRule | None:
        return None if index == _NEVER else self.rules[index]


def split(pattern: str) -> list[str]:
    """The segments of a pattern; what `**` repeats is written once."""
    segments = pattern.removeprefix("/").split("/")
    return [
        segment
        for index, segment in enumerate(segments)
        if segment != ANY_SEGMENTS or index == 0 or segments[index - 1] != ANY_SEGMENTS
    ]


class _Node:
    """The place in the trie that a sequence of segments leads to.

    first: the lowest rule that ends here or below. for_all: the lowest that ends here and is for every method;
    by_method: and is for that one.
    """

    __slots__ = ("any_segment", "any_segments", "by_method", "first", "for_all", "literals")

    def __init__(self) -> None:
        self.literals: dict[str | None, _Node] = {}
        self.any_segment: _Node | None = None
        self.any_segments: _Node | None = None
        self.first = _NEVER
        self.for_all = _NEVER
        self.by_method: dict[str | None, int] = {}

    def child(self, segment: str) -> _Node:
        """The node that `segment` of a pattern leads to, made if need be."""
        if segment == ANY_SEGMENT:
            self.any_segment = self.any_segment or _Node()
            return self.any_segment
        if segment == ANY_SEGMENTS:
            self.any_segments = self.any_segments or _Node()
            return self.any_segments
        return self.literals.setdefault(segment, _Node())

    def ending(self, method: str | None) -> int:
        """The lowest rule that ends here and is for `method`."""
        return min(self.for_all, self.by_method.get(method, _NEVER))


def _insert(root: _Node, segments: Sequence[str], index: int, methods: Iterable[str] | None) -> None:
    node = root
    node.first = min(node.first, index)
    for segment in segments:
        node = node.child(segment)
        node.first = min(node.first, index)
    if methods is None:
        node.for_all = min(node.for_all, index)
        return
    for method in methods:
        node.by_method[method] = min(node.by_method.get(method, _NEVER), index)


def _lowest(root: _Node, segments: Sequence[str | None], method: str | None) -> int:
    """The lowest rule that matches all of `segments`, or `_NEVER`.

    All ways through the trie are followed at once, one segment after the other. A node behind a `**` is entered once
    and stays, so the ways never multiply; a way that can only lead to a later rule than one already found is dropped.
    """
    best = _NEVER
    reached = [root]
    staying: dict[_Node, None] = {}
    for segment in segments:
        for node in reached:
            behind = node.any_segments
            if behind is not None and behind.first < best:
                best = min(best, behind.ending(method))
                if behind.literals or behind.any_segment is not None:
                    staying[behind] = None
        reached = _following((*reached, *staying) if staying else reached, segment, best)
        if not reached and not staying:
            return best
    for node in reached:
        best = min(best, node.ending(method))
        if node.any_segments is not None:
            best = min(best, node.any_segments.ending(method))
    return best


def _following(nodes: Iterable[_Node], segment: str | None, best: int) -> list[_Node]:
    """The nodes that `segment` leads to from `nodes` and that can lead to a rule before `best`."""
    following = []
    for node in nodes:
        literal = node.literals.get(segment)
        if literal is not None and literal.first < best:
            following.append(literal)
        wild = node.any_segment
        if wild is not None and segment and wild.first < best:
            following.append(wild)
    return following
