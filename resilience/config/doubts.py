"""Warns of policies that are declared and do not do what their author may have meant them to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from resilience.config.document import Document, LayerReference
from resilience.config.report import Report
from resilience.config.schema import BREAKERS, LAYERS, LIMITERS, POOLS, STORE
from resilience.config.values import shown
from resilience.config.walk import dotted
from resilience.stores.settings import PROCESS

_ADDRESS_KEYS: Final = ("client_address", "forwarded_address")
_BREAKER: Final = BREAKERS.noun

# Keys that a file may give without their doing anything: what makes them do something, and how to say so.
_IDLE_KEYS: Final[Mapping[str, Mapping[str, tuple[Callable[[Any], bool], str]]]] = {
    LIMITERS.name: {
        "trusted_proxies": (
            lambda settings: settings.key in _ADDRESS_KEYS,
            f"is read for key: {' and key: '.join(_ADDRESS_KEYS)} only",
        ),
        "max_keys": (lambda settings: settings.key is not None, "has no effect without key: there is one bucket"),
    },
    BREAKERS.name: {
        "max_keys": (lambda settings: settings.key is not None, "has no effect without key: there is one breaker"),
        "slow_call_rate": (
            lambda settings: settings.slow_call_s is not None,
            "has no effect without slow_call, which says when a call is slow",
        ),
        "open_max": (lambda settings: settings.open_growth > 1, "has no effect without an open_growth above 1"),
    },
}


def warn_of_idle_policies(report: Report, document: Document) -> None:
    """Warn of policies in no pipeline, pipelines that are in the wrong place, and settings that cannot work."""
    _warn_of_unused(report, document)
    _warn_of_both_ways(report, document)
    _warn_of_addresses_in_code(report, document)
    _warn_of_costs(report, document)
    _warn_of_idle_keys(report, document)
    _warn_of_lonely_health(report, document)
    _warn_of_pools(report, document)


def _warn_of_pools(report: Report, document: Document) -> None:
    """A limiter that has no address to go by, a retry that a timeout leaves no time, a pool that may not grow."""
    for name, pool in document.pools.items():
        path = dotted(POOLS.name, name)
        if pool.limiter is not None and document.limiters[pool.limiter].settings.key in _ADDRESS_KEYS:
            key = dotted(path, "limiter")
            message = f"limiter {shown(pool.limiter)} goes by the client's address, and a task has none: all share one bucket"
            report.warn(report.positions[key], key, message)
        settings = pool.settings
        for key in ("grow_wait", "grow_by", "shrink_by", "cool_down"):
            given = dotted(path, key)
            if settings.min_workers == settings.max_workers and given in report.positions:
                report.warn(
                    report.positions[given], given, "has no effect while min_workers is max_workers: the pool keeps its size"
                )
        if settings.timeout_s is not None and settings.timeout_s <= settings.grow_wait_s:
            given = dotted(path, "timeout")
            message = "is no longer than grow_wait, so tasks time out in the queue before the pool grows for them"
            report.warn(report.positions[given], given, message)
        if pool.pipeline is not None and pool.pipeline in {rule.pipeline for rule in document.routes}:
            key = dotted(path, "pipeline")
            message = f"pipeline {shown(pool.pipeline)} guards requests coming in too, so that tasks and requests share its limits"
            report.warn(report.positions[key], key, message)


def _warn_of_unused(report: Report, document: Document) -> None:
    used = {(layer.kind, layer.name) for layers in document.pipelines.values() for layer in layers}
    used |= {("limiter", entry.limiter) for entry in document.pools.values() if entry.limiter is not None}
    for noun, section in LAYERS.items():
        for name in getattr(document, section.name):
            if (noun, name) not in used:
                path = dotted(section.name, name)
                report.warn(report.positions[path], path, "no pipeline has this layer, so it guards nothing")


def _warn_of_both_ways(report: Report, document: Document) -> None:
    """A breaker in a pipeline that a route uses and in one that only code can use takes votes of two different peers."""
    of_code = _without_route(document)
    inbound: dict[LayerReference, str] = {}
    for name in [name for name in document.pipelines if name not in of_code]:
        inbound |= {layer: name for layer in document.pipelines[name] if layer.kind == _BREAKER}
    for name in of_code:
        for path, layer in _layers(document, name):
            if layer in inbound:
                message = (
                    f"breaker {shown(layer.name)} guards calls going out here and requests coming in by pipeline "
                    f"{shown(inbound[layer])}, so that failures of either open it for both; give each a breaker of its own"
                )
                report.warn(report.positions[path], path, message)


def _warn_of_addresses_in_code(report: Report, document: Document) -> None:
    if not document.routes:  # then the whole application may be guarded by one pipeline, which code names
        return
    for name in _without_route(document):
        for path, layer in _layers(document, name):
            if layer.kind == LIMITERS.noun and document.limiters[layer.name].settings.key in _ADDRESS_KEYS:
                message = (
                    f"limiter {shown(layer.name)} goes by the client's address, but no route uses this pipeline, and calls made by "
                    "code have no such address: they would share one bucket; is a route missing?"
                )
                report.warn(report.positions[path], path, message)


def _warn_of_costs(report: Report, document: Document) -> None:
    for name, entry in document.limiters.items():
        cost, capacity = entry.settings.cost, entry.settings.capacity
        if cost > capacity:
            path = dotted(LIMITERS.name, name)
            held = f"{capacity}" if entry.settings.burst is not None else f"{capacity} (no burst is given: one second of the rate)"
            message = f"a call costs {cost} and a full bucket holds {held}, so every call is refused; write burst: {cost} or more"
            # The default cost of 1 fits every bucket, so the file gives this one.
            report.warn(report.positions[dotted(path, "cost")], dotted(path, "cost"), message)


def _warn_of_idle_keys(report: Report, document: Document) -> None:
    for section, keys in _IDLE_KEYS.items():
        for name, entry in getattr(document, section).items():
            for key, (works, message) in keys.items():
                path = dotted(dotted(section, name), key)
                if path in report.positions and not works(entry.settings):
                    report.warn(report.positions[path], path, message)


def _warn_of_lonely_health(report: Report, document: Document) -> None:
    """A limit that more share than share the health that cuts it: each of them would cut its own view of it."""
    sharing = "process" if document.store == PROCESS else "machine"
    for name, entry in document.limiters.items():
        path = dotted(dotted(LIMITERS.name, name), STORE.name)
        is_lonely = entry.store != PROCESS and not document.has_fleet_health(name)
        if is_lonely and entry.health is not None and path in document.positions:
            message = (
                f"is shared, but health signal {shown(entry.health)} is each {sharing}'s own, so an open breaker cuts the limit "
                f"for its own {sharing} only; write this store at the top of the file, or health: none"
            )
            report.warn(document.positions[path], path, message)


def _without_route(document: Document) -> dict[str, None]:
    """The pipelines that only code can use, in the order of the file."""
    routed = {rule.pipeline for rule in document.routes}
    return {name: None for name in document.pipelines if name not in routed}


def _layers(document: Document, pipeline: str) -> Iterator[tuple[str, LayerReference]]:
    """The layers of a pipeline with their dotted keys."""
    for index, layer in enumerate(document.pipelines[pipeline]):
        yield dotted(f"{dotted('pipelines', pipeline)}[{index}]", layer.kind), layer
