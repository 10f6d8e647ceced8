"""Follows names: every reference in the file leads to something the file declares."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from resilience.config.entries import Entry
from resilience.config.nodes import Node, ScalarNode
from resilience.config.report import Position, Report
from resilience.config.values import shown
from resilience.config.walk import dotted, found

_MOST_LISTED: Final = 5


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one section, whose entries are called `noun`; `known` is None where the section cannot be read."""

    noun: str
    known: Collection[str] | None


def follow(report: Report, position: Position, path: str, name: str, names: Names) -> bool:
    """Whether `name` is among `names`, or nobody can say; when not, a problem with a guess or with what there is."""
    if names.known is None or name in names.known:
        return True
    hint = report.did_you_mean(name, names.known) or _listed(names.known)
    report.problem(position, path, f"no {names.noun} is called {shown(name)}{hint}")
    return False


def name_in(report: Report, node: Node, path: str, form: str) -> str | None:
    """The name that a node holds, or None and a problem."""
    if isinstance(node, ScalarNode) and not node.is_null and node.text:
        return node.text
    report.problem(node.position, path, f"must be {form}, got {found(node)}")
    return None


def check_signals(report: Report, entries: Mapping[str, Entry], signals: Names) -> None:
    """Report every entry that names a health signal which is not declared."""
    check_references(report, entries, "health", signals)


def check_references(report: Report, entries: Mapping[str, Entry], key: str, names: Names) -> None:
    """Report every entry whose `key` names something that is not declared."""
    for entry in entries.values():
        name = entry.others.get(key)
        if name is not None:
            path = dotted(entry.path, key)
            follow(report, report.positions[path], path, name, names)


def _listed(declared: Collection[str]) -> str:
    if not declared:
        return "; none is declared"
    names = sorted(declared)
    return f"; there is {', '.join(names[:_MOST_LISTED])}{', ...' if len(names) > _MOST_LISTED else ''}"
