"""Compares two configurations: which policies, pipelines and routes change, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final, Literal

from resilience.command.kept_state import state_of_added, state_of_changed, state_of_removed
from resilience.config import Document, Position, RouteRule
from resilience.config.effective import Effective, effective
from resilience.config.schema import REFUSALS, SECTIONS, Section
from resilience.config.walk import dotted

Sign = Literal["+", "-", "~"]
ADDED: Final = "+"
REMOVED: Final = "-"
CHANGED: Final = "~"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting that changes; `old` or `new` is None where the policy itself comes or goes."""

    key: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One policy or pipeline that changes.

    Attributes:
        sign: added, removed or changed.
        noun: "limiter", "pipeline", ...
        name: of the policy.
        position: where it stands in the new file; of a removed one, in the old file. None for a signal that no file writes.
        settings: what changes about it; of an added one, what its file gives.
        state: what becomes of its state, a sentence each.
    """

    sign: Sign
    noun: str
    name: str
    position: Position | None
    settings: tuple[Setting, ...]
    state: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouteLine:
    """One route in the lists of old and new ones, laid side by side. `moved`: the other list has it at another place."""

    sign: Literal["+", "-", " "]
    rule: RouteRule
    moved: bool = False


def policy_changes(old: Document, new: Document) -> Iterator[Change]:
    """What changes about the policies, section by section. State goes by kind and name."""
    for section in SECTIONS:
        before, after = _entries(old, section), _entries(new, section)
        gone, come = [name for name in before if name not in after], [name for name in after if name not in before]
        for name in gone:
            position = old.positions.get(dotted(section.name, name))
            yield Change(REMOVED, section.noun, name, position, (), state_of_removed(section.noun))
        for name in after:
            if name not in before:
                # Renamed with other changes: that can only be guessed where one is gone and one has come.
                alike = [other for other in gone if before[other] == after[name] or len(gone) == len(come) == 1]
                yield _added(new, section, name, alike)
            else:
                yield from _changed(old, new, section, name)


def _entries(document: Document, section: Section) -> Mapping[str, Any]:
    entries: Mapping[str, Any] = getattr(document, section.name)
    return entries


def _added(new: Document, section: Section, name: str, alike: Sequence[str]) -> Change:
    settings = effective(new, section, name)
    given = tuple(Setting(setting.key, None, setting.text) for setting in settings if setting.position is not None)
    state = state_of_added(section.noun, _entries(new, section)[name], alike)
    return Change(ADDED, section.noun, name, new.positions.get(dotted(section.name, name)), given, state)


def _changed(old: Document, new: Document, section: Section, name: str) -> Iterator[Change]:
    settings = _changed_settings(old, new, section, name)
    if settings:
        entries = _entries(old, section)[name], _entries(new, section)[name]
        state = state_of_changed(section.noun, *entries, {setting.key for setting in settings})
        yield Change(CHANGED, section.noun, name, new.positions.get(dotted(section.name, name)), settings, state)


def _changed_settings(old: Document, new: Document, section: Section, name: str | None) -> tuple[Setting, ...]:
    pairs = zip(effective(old, section, name), effective(new, section, name), strict=True)
    return tuple(Setting(after.key, _told(before), _told(after)) for before, after in pairs if before.value != after.value)


def refusal_changes(old: Document, new: Document) -> Iterator[Change]:
    """What changes about the answers to refused requests."""
    settings = _changed_settings(old, new, REFUSALS, None)
    if settings:
        state = ("holds for what is refused from now on",)
        yield Change(CHANGED, "answers to", REFUSALS.name, new.positions.get(REFUSALS.name), settings, state)


def _told(setting: Effective) -> str:
    return setting.text if setting.position is not None else f"{setting.text} ({setting.origin})"


def pipeline_changes(old: Document, new: Document) -> Iterator[Change]:
    """What changes about the pipelines."""
    for name in old.pipelines:
        if name not in new.pipelines:
            state = ("calls under way end as they began; code that still asks for it by name gets a ConfigError",)
            yield Change(REMOVED, "pipeline", name, old.positions[dotted("pipelines", name)], (), state)
    for name in new.pipelines:
        before, after = _layers(old, name), _layers(new, name)
        position = new.positions[dotted("pipelines", name)]
        if before is None:
            yield Change(ADDED, "pipeline", name, position, (Setting("layers", None, after),), ())
        elif before != after:
            state = ("calls under way keep the layers with which they began",)
            yield Change(CHANGED, "pipeline", name, position, (Setting("layers", before, after),), state)


def _layers(document: Document, pipeline: str) -> str | None:
    layers = document.pipelines.get(pipeline)
    return None if layers is None else ", ".join(f"{layer.kind} {layer.name}" for layer in layers)


def route_changes(old: Document, new: Document) -> list[RouteLine]:
    """All routes of both files in their order, or nothing where they are the same."""
    before, after = old.routes, new.routes
    if before == after:
        return []
    common = set(before) & set(after)
    lines: list[RouteLine] = []
    for tag, first, last, start, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            lines += [RouteLine(" ", rule) for rule in after[start:end]]
        else:
            lines += [RouteLine("-", rule, rule in common) for rule in before[first:last]]
            lines += [RouteLine("+", rule, rule in common) for rule in after[start:end]]
    return lines
