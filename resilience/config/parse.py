"""Reads a configuration file: from bytes to a `Document`, or to one error that reports every fault at its place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from types import MappingProxyType

from resilience.config.checks import check_routed_retries, warn_of_doubts
from resilience.config.document import BreakerEntry, Document, LimiterEntry, PoolEntry, RetryEntry
from resilience.config.entries import Entry, read_entry, read_section, read_store
from resilience.config.nodes import MappingNode, Node, Pause, ScalarNode, compose
from resilience.config.pipelines import Layers, read_pipelines
from resilience.config.references import Names, check_references, check_signals
from resilience.config.report import Report, in_order
from resilience.config.route_rules import read_routes
from resilience.config.routes import RouteRule
from resilience.config.scalars import parse_count
from resilience.config.schema import (
    BREAKERS,
    DEADLINES,
    DEFAULT_SIGNAL,
    FORMAT_VERSION,
    HEALTH,
    LAYERS,
    LIMITERS,
    POOLS,
    REFUSALS,
    RETRIES,
    SECTIONS,
    STORE,
    TOP_LEVEL,
    Section,
)
from resilience.config.source import clean_text, fingerprint, read_bytes
from resilience.config.walk import check_keys, found, known_members, mapping, members, merges
from resilience.health import HealthSettings
from resilience.refusals import RefusalSettings
from resilience.stores.settings import PROCESS, StoreSettings


def read(path: str | os.PathLike[str]) -> Document:
    """Read the configuration file at `path`.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong; `problems` then lists all of it.
    """
    return parse(read_bytes(path), os.fspath(path))


def parse(content: str | bytes, source: str, pause: Pause | None = None) -> Document:
    """Read the text of a configuration file.

    Args:
        content: YAML, at most 64 KB of UTF-8.
        source: what the file is called in messages.
        pause: called again and again meanwhile, for a thread that lets others go first.

    Raises:
        ConfigError: something is wrong; `problems` lists every fault found, in the order of the file.
    """
    report = Report(source)
    root = _root(report, content, pause)
    parts = _Parts(report, root)
    report.raise_if_unusable()
    document = _document(report, parts, fingerprint(content))
    warn_of_doubts(report, document)
    return dataclasses.replace(document, warnings=in_order(report.warnings))


def _root(report: Report, content: str | bytes, pause: Pause | None) -> MappingNode:
    text = clean_text(content, report)
    root = compose(text, report, pause) if text is not None else None
    if root is not None:
        check_keys(report, root)
        body = mapping(report, root, "", f"a mapping that begins with version: {FORMAT_VERSION}")
        if body is not None:
            return body
    raise report.error()


class _Parts:
    """The parts of one file as far as they could be read; whole if the report has no problem."""

    def __init__(self, report: Report, root: MappingNode) -> None:
        self._report = report
        self._top = known_members(report, root, "", TOP_LEVEL, "the file")
        unknown = members(root).keys() - self._top.keys()
        self._misspelt = {report.guess(name, TOP_LEVEL) for name in sorted(unknown)}
        self._check_version(root)
        self.entries = {section.name: self._section(section) for section in SECTIONS}
        signals = self._names(HEALTH, DEFAULT_SIGNAL)
        for section in (LIMITERS, BREAKERS, RETRIES, POOLS):
            check_signals(report, self.entries[section.name], signals)
        check_references(report, self.entries[POOLS.name], LIMITERS.noun, self._names(LIMITERS))
        check_references(report, self.entries[POOLS.name], "pipeline", Names("pipeline", self._known("pipelines")))
        self.pipelines = self._pipelines()
        self.routes = self._routes()
        check_routed_retries(report, self.pipelines, self.routes)
        self.refusals = self._refusals()
        self.store = self._store()

    def _check_version(self, root: MappingNode) -> None:
        if "version" not in self._top:
            if not merges(root):
                message = f"is missing: write version: {FORMAT_VERSION} on the first line"
                self._report.problem(root.position, "version", message)
            return
        node = self._top["version"][1]
        self._report.positions["version"] = node.position
        try:
            if not isinstance(node, ScalarNode) or node.is_null:
                raise ValueError(f"must be {FORMAT_VERSION}, got {found(node)}")
            version = parse_count(node)
            if version != FORMAT_VERSION:
                raise ValueError(f"must be {FORMAT_VERSION}, the one version of the format there is, got {version}")
        except ValueError as error:
            self._report.problem(node.position, "version", str(error))

    def _value(self, key: str) -> Node | None:
        """The node of a top-level key, its position noted; None when the file does not give it."""
        if key not in self._top:
            return None
        name, value = self._top[key]
        self._report.positions[key] = name.position
        return value

    def _section(self, section: Section) -> dict[str, Entry]:
        node = self._value(section.name)
        return read_section(self._report, section, node) if node is not None else {}

    def _names(self, section: Section, *always: str) -> Names:
        known = self._known(section.name)
        return Names(section.noun, None if known is None else {*known, *always})

    def _known(self, key: str) -> Collection[str] | None:
        """The names in a section, or None when it is misspelt or no mapping, so that nobody knows them."""
        if key not in self._top:
            return None if key in self._misspelt else ()
        node = self._top[key][1]
        return members(node).keys() if isinstance(node, MappingNode) else None

    def _pipelines(self) -> dict[str, Layers]:
        node = self._value("pipelines")
        declared = {noun: self._names(section) for noun, section in LAYERS.items()}
        return read_pipelines(self._report, node, declared) if node is not None else {}

    def _routes(self) -> tuple[RouteRule, ...]:
        node = self._value("routes")
        return read_routes(self._report, node, Names("pipeline", self._known("pipelines"))) if node is not None else ()

    def _refusals(self) -> RefusalSettings | None:
        """None where something is wrong with them, which is reported by then."""
        node = self._value(REFUSALS.name)
        if node is None:
            return RefusalSettings()
        settings: RefusalSettings | None = read_entry(self._report, REFUSALS, node, REFUSALS.name).settings
        return settings

    def _store(self) -> StoreSettings:
        node = self._value(STORE.name)
        found = read_store(self._report, node, STORE.name) if node is not None else None
        return PROCESS if found is None else found


def _document(report: Report, parts: _Parts, sha256: str) -> Document:
    entries = parts.entries
    health = {name: entry.settings for name, entry in entries[HEALTH.name].items()}
    limiters = {name: _limiter(entry, parts.store) for name, entry in entries[LIMITERS.name].items()}
    return Document(
        source=report.source,
        sha256=sha256,
        version=FORMAT_VERSION,
        store=parts.store,
        health=MappingProxyType({DEFAULT_SIGNAL: HealthSettings(), **health}),
        deadlines=MappingProxyType({name: entry.settings for name, entry in entries[DEADLINES.name].items()}),
        limiters=MappingProxyType(limiters),
        breakers=MappingProxyType({name: _breaker(entry) for name, entry in entries[BREAKERS.name].items()}),
        retries=MappingProxyType({name: _retry(entry) for name, entry in entries[RETRIES.name].items()}),
        pools=MappingProxyType({name: PoolEntry(entry.settings, **entry.others) for name, entry in entries[POOLS.name].items()}),
        pipelines=MappingProxyType(parts.pipelines),
        routes=parts.routes,
        refusals=parts.refusals or RefusalSettings(),
        warnings=(),
        positions=MappingProxyType(report.positions),
    )


def _limiter(entry: Entry, store: StoreSettings) -> LimiterEntry:
    return LimiterEntry(entry.settings, **{"health": DEFAULT_SIGNAL, "store": store, **entry.others})


def _breaker(entry: Entry) -> BreakerEntry:
    # One dead host among many must not cut everybody: a keyed breaker writes no signal unless it names one.
    fallback = DEFAULT_SIGNAL if entry.settings.key is None else None
    return BreakerEntry(entry.settings, entry.others.get("health", fallback))


def _retry(entry: Entry) -> RetryEntry:
    return RetryEntry(entry.settings, entry.others.get("health", DEFAULT_SIGNAL))
