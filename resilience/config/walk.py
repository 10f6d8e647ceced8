"""Walks the tree: which keys a mapping has, what kind a node is, and what its dotted key is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from resilience.config.nodes import ListNode, MappingNode, Node, ScalarNode
from resilience.config.report import Report
from resilience.config.schema import MAX_ENTRIES, NAME_PATTERN, NONE
from resilience.config.values import shown

Members = Mapping[str, tuple[ScalarNode, Node]]
"""The keys of a mapping with their nodes and the nodes of their values."""

_NAME: Final = re.compile(NAME_PATTERN)
_MERGE: Final = "merge"


def dotted(path: str, name: str) -> str:
    """The key `name` under `path`, escaped where it is no plain word."""
    word = name if _NAME.fullmatch(name) else shown(name)
    return f"{path}.{word}" if path else word


def found(node: Node) -> str:
    """What a node is, as the end of "must be ..., got"."""
    if isinstance(node, ListNode):
        return "a list"
    if isinstance(node, MappingNode):
        return "a mapping"
    return "nothing" if node.is_null else shown(node.text)


def check_keys(report: Report, node: Node, path: str = "") -> None:
    """Report every key in the tree that is no text, a merge key, or given twice in its mapping."""
    if isinstance(node, ListNode):
        for index, item in enumerate(node.items):
            check_keys(report, item, f"{path}[{index}]")
    elif isinstance(node, MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.pairs:
            check_keys(report, value, _check_key(report, key, path, seen))


def _check_key(report: Report, key: Node, path: str, seen: dict[str, int]) -> str:
    if not isinstance(key, ScalarNode) or key.is_null:
        report.problem(key.position, path, f"a key must be a word, got {found(key)}")
        return path
    name = dotted(path, key.text)
    if key.tag == _MERGE:
        report.problem(key.position, name, "merge keys are not allowed; write the keys out")
    elif key.text in seen:
        report.problem(key.position, name, f"is given twice, first on line {seen[key.text]}")
    seen.setdefault(key.text, key.position.line)
    return name


def members(node: MappingNode) -> Members:
    """The keys of a mapping that can be looked at; of a key given twice, the first."""
    kept: dict[str, tuple[ScalarNode, Node]] = {}
    for key, value in node.pairs:
        if isinstance(key, ScalarNode) and not key.is_null and key.tag != _MERGE:
            kept.setdefault(key.text, (key, value))
    return kept


def merges(node: MappingNode) -> bool:
    """Whether a mapping has a merge key, so that nobody can say what is missing from it."""
    return any(isinstance(key, ScalarNode) and key.tag == _MERGE for key, _ in node.pairs)


def mapping(report: Report, node: Node, path: str, form: str = "a mapping of keys") -> MappingNode | None:
    """`node` as a mapping, or None and a problem."""
    if isinstance(node, MappingNode):
        return node
    hint = "; write {} for an empty one" if isinstance(node, ScalarNode) and node.is_null else ""
    report.problem(node.position, path, f"must be {form}, got {found(node)}{hint}")
    return None


def items(report: Report, node: Node, path: str, form: str) -> Sequence[Node] | None:
    """The items of a list, or None and a problem."""
    if not isinstance(node, ListNode):
        report.problem(node.position, path, f"must be {form}, got {found(node)}")
        return None
    if len(node.items) > MAX_ENTRIES:
        extra = node.items[MAX_ENTRIES].position
        report.problem(extra, path, f"has at most {MAX_ENTRIES} items, this one has {len(node.items)}")
    return node.items[:MAX_ENTRIES]


def known_members(report: Report, node: MappingNode, path: str, known: Iterable[str], what: str) -> Members:
    """The keys of a mapping that are among `known`; a problem for each other."""
    names = tuple(known)
    kept: dict[str, tuple[ScalarNode, Node]] = {}
    for name, (key, value) in members(node).items():
        if name in names:
            kept[name] = (key, value)
        else:
            guessed = report.did_you_mean(name, names) or f"; {what} has {', '.join(names)}"
            report.problem(key.position, dotted(path, name), f"is unknown{guessed}")
    return kept


def named_members(report: Report, node: Node, path: str) -> Iterator[tuple[str, str, Node]]:
    """The name, dotted key and value of each entry of a section; problems for names that none can have."""
    section = mapping(report, node, path, "a mapping of names")
    if section is None:
        return
    for count, (name, (key, value)) in enumerate(members(section).items()):
        if count == MAX_ENTRIES:
            report.problem(key.position, path, f"has at most {MAX_ENTRIES} names")
            return
        entry = dotted(path, name)
        if name == NONE:
            report.problem(key.position, entry, "nothing can be called none, the word for no signal and no pipeline")
        elif _NAME.fullmatch(name) is None:
            report.problem(
                key.position,
                entry,
                "a name is at most 64 ASCII letters, digits, '_', '-' and '.', and begins with a letter or '_'",
            )
        report.positions[entry] = key.position
        yield name, entry, value
