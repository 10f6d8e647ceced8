"""Writes what guards a request: routes, pipelines, layers, and settings with the lines they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from resilience.command.requests import MATCHES, Request, Tried, path_rule, pattern, target, tried
from resilience.command.screen import BAD, DOUBTFUL, GOOD, NAME, QUIET, WHERE, Part, Screen
from resilience.config import Document, LayerReference
from resilience.config.effective import Effective, effective, rate_text
from resilience.config.schema import HEALTH, LAYERS, POOLS, REFUSALS, Section
from resilience.config.walk import dotted
from resilience.health import PPB

_MOST_PASSED_OVER: Final = 20


class Explanation:
    """Explains parts of one document on a screen."""

    def __init__(self, screen: Screen, document: Document) -> None:
        self._screen = screen
        self._document = document

    def overview(self) -> None:
        """All routes and all pipelines, in short."""
        screen, document = self._screen, self._document
        screen.line(("routes", WHERE), ", the first match wins" if document.routes else ": none, so nothing is guarded by path")
        screen.columns([self._route(Tried(index, rule, "")) for index, rule in enumerate(document.routes)], "  ")
        routed = {rule.pipeline for rule in document.routes}
        screen.line()
        screen.line(("pipelines", WHERE), ", outermost layer first" if document.pipelines else ": none")
        screen.columns([self._pipeline_row(name, is_routed=name in routed) for name in document.pipelines], "  ")
        if document.pools:
            screen.line()
            screen.line(("pools", WHERE))
            screen.columns([self._pool_row(name) for name in document.pools], "  ")

    def request(self, request: Request) -> None:
        """The rules that a request meets, and the pipeline that guards it."""
        screen, rules = self._screen, self._document.routes
        screen.line((str(request), WHERE))
        screen.line()
        looked_at = list(tried(rules, request))
        hidden = max(0, len(looked_at) - _MOST_PASSED_OVER)
        if hidden:
            screen.line(("  ", ""), (f"{hidden} rules before these are for other requests", QUIET))
        screen.columns([self._route(one) for one in looked_at[hidden:]], "  ")
        if not looked_at or not looked_at[-1].matches:
            screen.line(("  no route matches: this request is not guarded", f"bold {BAD}"))
            self._http_instead(request)
            return
        left = len(rules) - len(looked_at)
        if left:
            screen.line((f"  the {left} after it {'are' if left > 1 else 'is'} not looked at: the first match wins", QUIET))
        screen.line()
        name = looked_at[-1].rule.pipeline
        if name is None:
            screen.line(("not guarded, on purpose: the route says pipeline: none", DOUBTFUL))
        else:
            self.pipeline(name)
            if request.method is not None:
                self._refusals()

    def _http_instead(self, request: Request) -> None:
        """Say so where a request was taken for a gRPC call, and a rule is for its path over HTTP."""
        met = path_rule(self._document.routes, request) if request.method is None else None
        if met is not None:
            index, meant = met
            self._screen.line((f"  over HTTP it would meet routes[{index}]: say the method first, as in {meant}", DOUBTFUL))

    def pipeline(self, name: str) -> None:
        """A pipeline: its layers in order, their settings, and the health signals they go by."""
        layers = self._document.pipelines[name]
        self._heading("pipeline", name, dotted("pipelines", name), ", outermost layer first")
        for number, layer in enumerate(layers, 1):
            self._screen.line()
            self._entry(LAYERS[layer.kind], layer.name, f"{number}. ")
        for signal in dict.fromkeys(self._signals(layers)):
            self._screen.line()
            self._entry(HEALTH, signal, "")

    def pool(self, name: str) -> None:
        """A worker pool: its settings, what admits tasks, what they go through, and the signal that bounds it."""
        entry = self._document.pools[name]
        self._entry(POOLS, name, "")
        if entry.limiter is not None:
            self._screen.line()
            self._entry(LAYERS["limiter"], entry.limiter, "")
        if entry.pipeline is not None:
            self._screen.line()
            self.pipeline(entry.pipeline)
        elif entry.health is not None:
            self._screen.line()
            self._entry(HEALTH, entry.health, "")

    def _pool_row(self, name: str) -> Sequence[Part]:
        entry, line = self._document.pools[name], self._document.positions[dotted(POOLS.name, name)].line
        workers = f"{entry.settings.min_workers} to {entry.settings.max_workers} workers, queue {entry.settings.queue}"
        through = [f"{noun} {found}" for noun, found in (("limiter", entry.limiter), ("pipeline", entry.pipeline)) if found]
        return (name, NAME), f"line {line}", workers, " > ".join(through)

    def _refusals(self) -> None:
        """How a refusal of the request is answered, where the file says it."""
        if REFUSALS.name in self._document.positions:
            self._screen.line()
            self._heading("answers to", REFUSALS.name, REFUSALS.name)
            self._screen.columns([*map(_row, effective(self._document, REFUSALS, None))], "     ")

    def _entry(self, section: Section, name: str, number: str) -> None:
        self._heading(f"{number}{section.noun}", name, dotted(section.name, name))
        settings = effective(self._document, section, name)
        self._screen.columns([*map(_row, settings), *self._when_cut(section, name)], "     ")

    def _heading(self, noun: str, name: str, path: str, rest: str = "") -> None:
        position = self._document.positions.get(path)
        where = "by default" if position is None else f"line {position.line}"
        self._screen.line(f"{noun} ", (name, f"bold {NAME}"), (f" ({where})", QUIET), rest)

    def _signals(self, layers: Sequence[LayerReference]) -> Iterator[str]:
        """The health signals that the layers of a pipeline write and read."""
        for layer in layers:
            entry = getattr(self._document, LAYERS[layer.kind].name)[layer.name]
            signal = getattr(entry, "health", None)
            if signal is not None:
                yield signal

    def _when_cut(self, section: Section, name: str) -> Iterator[Sequence[Part]]:
        """What an incident leaves of a limiter, if there is a breaker to start one."""
        limiter = self._document.limiters.get(name) if section is LAYERS["limiter"] else None
        if limiter is None or limiter.health is None:
            return
        writers = [entry.settings for entry in self._document.breakers.values() if entry.health == limiter.health]
        if all(breaker.shadow or breaker.force == "closed" for breaker in writers):
            return
        kept = self._document.health[limiter.health].cut_ppb(PPB) / PPB
        rate, burst = rate_text(limiter.settings.rate_per_s * kept), max(1.0, limiter.settings.capacity * kept)
        yield ("when cut", f"{rate}, burst {burst:.10g}", (f"an open breaker on {limiter.health} leaves {kept * 100:.10g}%", QUIET))

    def _route(self, one: Tried) -> Sequence[Part]:
        position = self._document.positions[f"routes[{one.index}]"]
        style = f"bold {GOOD}" if one.verdict == MATCHES else QUIET if one.verdict else ""
        cells = (f"routes[{one.index}]", f"line {position.line}", pattern(one.rule), f"-> {target(one.rule)}", one.verdict)
        return [(cell, style) for cell in cells if cell]

    def _pipeline_row(self, name: str, *, is_routed: bool) -> Sequence[Part]:
        line = self._document.positions[dotted("pipelines", name)].line
        layers = " > ".join(f"{layer.kind} {layer.name}" for layer in self._document.pipelines[name])
        row: list[Part] = [(name, NAME), f"line {line}", layers]
        return row if is_routed else [*row, ("no route: for code", QUIET)]


def _row(setting: Effective) -> Sequence[Part]:
    cells = (setting.key, setting.text, setting.origin)
    return cells if setting.position is not None else [(cell, QUIET) for cell in cells]
