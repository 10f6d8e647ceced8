"""Reads one section of named entries into settings, by its declaration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from resilience.config.nodes import MappingNode, Node, ScalarNode
from resilience.config.report import Report
from resilience.config.schema import STORE_SECTIONS, STORE_WORDS, Key, Section, Shape
from resilience.config.shapes import read_key
from resilience.config.walk import dotted, found, known_members, mapping, merges, named_members
from resilience.stores.settings import PROCESS, HostStoreSettings, StoreSettings

_SAID_IN_A_WORD: Final[Mapping[str, StoreSettings]] = {settings.kind: settings for settings in (PROCESS, HostStoreSettings())}
_FAULT: Final = re.compile(r"\w+\.(\w+): (.+)", re.DOTALL)


@dataclass(slots=True)
class Entry:
    """One entry as far as it could be read: `settings` is None when it has a problem.

    others: the values of its keys that set no field of the settings, such as `health`.
    keys: the names of its keys that the file gives.
    """

    path: str
    node: Node
    settings: Any = None
    others: dict[str, Any] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()


def read_section(report: Report, section: Section, node: Node) -> dict[str, Entry]:
    """The entries of a section by name. An entry with a problem is reported and kept, for its name is known."""
    listed = named_members(report, node, section.name)
    return {name: read_entry(report, section, value, path) for name, path, value in listed}


def read_store(report: Report, node: Node, path: str) -> StoreSettings | None:
    """Read where state lives: a word, or a mapping of one word to its settings. Returns None when it has a problem."""
    report.positions[path] = node.position
    word, body = _store_word(node)
    section = next((section for section in STORE_SECTIONS if section.name == word), None)
    if section is not None and body is not None:
        settings: StoreSettings | None = read_entry(report, section, body, dotted(path, word)).settings
        return settings
    if word in STORE_WORDS and body is None:
        return _SAID_IN_A_WORD[word]
    if section is not None:
        message = f"must say where it is: write {{{word}: {{{section.keys[0].name}: {section.keys[0].example}}}}}"
    else:
        message = f"must be {Shape.STORE.value}, got {found(node)}"
    report.problem(node.position, path, message)
    return None


def _store_word(node: Node) -> tuple[str, Node | None]:
    """The store that a scalar names, or the one key of a mapping and what it holds."""
    body = None
    if isinstance(node, MappingNode) and len(node.pairs) == 1:
        node, body = node.pairs[0]
    return node.text if isinstance(node, ScalarNode) else "", body


def read_entry(report: Report, section: Section, node: Node, path: str) -> Entry:
    """One entry, at the dotted key `path`: of a section, or all of a section without names."""
    entry = Entry(path, node)
    body = mapping(report, node, path)
    if body is not None:
        _Reading(report, section, body, entry).read()
    return entry


class _Reading:
    """One entry being read."""

    def __init__(self, report: Report, section: Section, node: MappingNode, entry: Entry) -> None:
        self._report = report
        self._section = section
        self._node = node
        self._entry = entry
        self._keys = {key.name: key for key in section.keys}
        self._bad: set[str] = set()
        self._values: dict[str, Mapping[str, Any]] = {}

    def read(self) -> None:
        """Read every key, then build the settings."""
        given = known_members(self._report, self._node, self._entry.path, self._keys, f"a {self._section.noun}")
        self._entry.keys = frozenset(given)
        for name, (_, value) in given.items():
            fields = self._read(self._keys[name], value, dotted(self._entry.path, name))
            if fields is None:
                self._bad.add(name)
            else:
                self._values[name] = fields
        self._entry.others = self._other_fields()
        if self._has_required():
            self._build()

    def _read(self, key: Key, node: Node, path: str) -> Mapping[str, Any] | None:
        if key.shape is not Shape.STORE:
            return read_key(self._report, key, node, path)
        store = read_store(self._report, node, path)
        return None if store is None else {key.fields[0]: store}

    def _has_required(self) -> bool:
        missing = [key for key in self._section.required if key.name not in self._entry.keys]
        if not merges(self._node):
            for key in missing:
                path = dotted(self._entry.path, key.name)
                self._report.problem(self._node.position, path, f"is missing: {key.options[0].kind.value}")
        return not missing and all(key.name not in self._bad for key in self._section.required)

    def _build(self) -> None:
        """Build the settings, and report every fault between keys that are each right on their own.

        A settings class names one fault at a time: the key at fault is taken out and the rest is tried again.
        """
        while True:
            try:
                settings = self._section.settings(**self._settings_fields())
            except ValueError as error:
                if not self._blame(str(error)):
                    return
            else:
                break
        if not self._bad:
            self._entry.settings = settings

    def _blame(self, fault: str) -> bool:
        """Report a fault that the settings class found. Returns whether another try can find more."""
        match = _FAULT.fullmatch(fault)
        key = self._key_of(match[1]) if match is not None else None
        message = self._in_file_words(match[2] if match is not None else fault)
        if key is not None and key.name in self._values:
            path = dotted(self._entry.path, key.name)
            self._report.problem(self._report.positions[path], path, message)
            del self._values[key.name]
            self._bad.add(key.name)
            return all(key is not required for required in self._section.required)
        if not self._bad:  # else it may only be a default, in the place of a bad value, that does not fit
            path = dotted(self._entry.path, key.name) if key is not None else self._entry.path
            default = ", its default" if key is not None else ""
            self._report.problem(self._node.position, path, f"{message}{default}")
        return False

    def _key_of(self, field_name: str) -> Key | None:
        return next((key for key in self._section.keys if field_name == key.name or field_name in key.fields), None)

    def _in_file_words(self, message: str) -> str:
        """`message` with the names of fields replaced by the names of the keys that set them."""
        names = {name: key.name for key in self._section.keys for name in key.fields if not key.keys}
        return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), message)

    def _settings_fields(self) -> dict[str, Any]:
        read = [(self._keys[name], fields) for name, fields in self._values.items()]
        given = [(key, fields) for key, fields in read if self._sets_settings(key)]
        merged = {name: value for _, fields in given for name, value in fields.items()}
        # What a file gives itself goes before what the short form of another key implies, wherever it stands.
        own = {name: value for key, fields in given for name, value in fields.items() if name in key.fields}
        return {**merged, **own}

    def _other_fields(self) -> dict[str, Any]:
        return {
            name: value
            for key, fields in self._values.items()
            if not self._sets_settings(self._keys[key])
            for name, value in fields.items()
        }

    def _sets_settings(self, key: Key) -> bool:
        return all(name in self._section.setting_fields for name in key.fields)
