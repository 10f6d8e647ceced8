"""Turns YAML text into a tree of nodes that know their place, and refuses what of YAML a configuration has no use for.

Only PyYAML's scanner and parser are used: nothing is constructed, and the tree is built from their events on a stack of
its own, so no nesting can exhaust Python's. Reading stops at the first level too deep, before the scanner's cost for
nested brackets (quadratic in their number) can be felt. The pure-Python scanner is used on purpose: libyaml's reports
other places for some nodes and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
)

from resilience.config.report import START, Position, Report
from resilience.config.syntax import explain

MAX_DEPTH: Final = 32
Pause = Callable[[], object]
_EVENTS_A_PAUSE: Final = 20
"""A fraction of a millisecond's work."""
_TAG_PREFIX: Final = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """One text. `tag` is what YAML 1.1 would take it for (`str`, `int`, `float`, `bool`, `null`, `merge`, ...)."""

    position: Position
    text: str
    tag: str = "str"
    plain: bool = True

    @property
    def is_null(self) -> bool:
        """Whether nothing was written, or YAML's word for nothing."""
        return self.tag == "null"


@dataclass(frozen=True, slots=True)
class ListNode:
    """A list of nodes."""

    position: Position
    items: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Pairs of key and value, as they stand in the file: keys may be of any kind and may repeat."""

    position: Position
    pairs: list[tuple[Node, Node]] = field(default_factory=list)


Node = ScalarNode | ListNode | MappingNode


def compose(text: str, report: Report, pause: Pause | None = None) -> Node | None:
    """The root node of the one document in `text`. What YAML or this reader refuses goes into `report`.

    `pause` is called again and again meanwhile: nearly all of the time that reading a file takes is spent here.

    Returns None when there is no tree to look at further: a syntax error, too deep a nesting, or nothing in the file.
    """
    loader: Any = yaml.SafeLoader(text)  # Any: PyYAML's stubs leave most of a loader's methods untyped
    tree = _Tree(loader, report)
    try:
        while tree.wants_more and loader.check_event():
            tree.take(loader.get_event())
            if pause is not None and tree.events % _EVENTS_A_PAUSE == 0:
                pause()
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError) as error:
        # The last three escape PyYAML on escapes beyond Unicode, such as "\UFFFFFFFF", and on absurd directives.
        line, column, message = explain(error, loader.get_mark())
        report.problem(Position(line, column), "", message)
        return None
    finally:
        loader.dispose()
    return tree.finished()


class _Tree:
    """Builds the tree from events and notes what is refused."""

    def __init__(self, loader: Any, report: Report) -> None:
        self.wants_more = True
        self.events = 0
        self._loader = loader
        self._report = report
        self._documents = 0
        self._too_deep = False
        self._root: Node | None = None
        self._open: list[ListNode | MappingNode] = []
        self._keys: list[Node | None] = []

    def take(self, event: Event) -> None:
        """Add one event of the parser."""
        self.events += 1
        if isinstance(event, NodeEvent):
            self._refuse_extras(event)
            self._take_node(event)
        elif isinstance(event, CollectionEndEvent):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, DocumentStartEvent):
            self._start_document(event)

    def finished(self) -> Node | None:
        """The root, or None when there is none to go on with."""
        if self._too_deep:
            return None
        if self._root is None or (isinstance(self._root, ScalarNode) and self._root.is_null and self._root.text == ""):
            self._report.problem(START, "", "the file is empty; the least it can say is: version: 1")
            return None
        return self._root

    def _start_document(self, event: DocumentStartEvent) -> None:
        self._documents += 1
        if self._documents > 1:
            self._report.problem(_position(event), "", "a second document starts here; a file holds one")
            self.wants_more = False
        elif event.version or event.tags:
            self._report.problem(_position(event), "", "a directive (%YAML, %TAG) is not allowed; remove the line")

    def _refuse_extras(self, event: NodeEvent) -> None:
        if isinstance(event, AliasEvent):
            self._report.refuse(_position(event), "an alias (*name) is not allowed; write the value out")
            return
        if event.anchor is not None:
            self._report.problem(_position(event), "", "an anchor (&name) is not allowed; remove it")
        if isinstance(event, (ScalarEvent, CollectionStartEvent)) and event.tag is not None:
            self._report.refuse(_position(event), "a tag (!name) is not allowed; remove it")

    def _take_node(self, event: NodeEvent) -> None:
        position = _position(event)
        if isinstance(event, CollectionStartEvent):
            node = MappingNode(position) if isinstance(event, MappingStartEvent) else ListNode(position)
            self._attach(node)
            self._open.append(node)
            self._keys.append(None)
            if len(self._open) > MAX_DEPTH:
                self._report.problem(position, "", f"lists and mappings nest at most {MAX_DEPTH} levels deep")
                self._too_deep, self.wants_more = True, False
        elif isinstance(event, ScalarEvent):
            tag: str = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
            self._attach(ScalarNode(position, event.value, tag.removeprefix(_TAG_PREFIX), not event.style))
        else:
            self._attach(ScalarNode(position, "", "null"))

    def _attach(self, node: Node) -> None:
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if isinstance(parent, ListNode):
            parent.items.append(node)
        elif (key := self._keys[-1]) is None:
            self._keys[-1] = node
        else:
            parent.pairs.append((key, node))
            self._keys[-1] = None


def _position(event: Event) -> Position:
    mark = cast(yaml.Mark, event.start_mark)
    return Position(mark.line + 1, mark.column + 1)
