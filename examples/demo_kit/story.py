"""The course of a demo: load, an outage, the way down and the way back, and the report at the end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from examples.demo_kit.load import Load, Traffic, stopwatch
from examples.demo_kit.processes import Service
from examples.demo_kit.recording import Recording
from examples.demo_kit.table import Rows, View
from examples.demo_kit.verdict import Promise
from examples.demo_kit.watch import Watch

_WARM_UP_S: Final = 1.5
_STEADY_S: Final = 5.5
_HANGING_S: Final = 1.5
_RECOVERED_S: Final = 4.5
_OPENS_WITHIN_S: Final = 15.0
_CLOSES_WITHIN_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Outage:
    """How long the dependency stays broken once the breaker has opened: long enough for one probe to fail."""

    mended_after_s: float


class Story:
    """Runs the course once and leaves what was seen in `recording`.

    Args:
        guarded: the service under load; it has `GET /status`.
        dependency: the service that is broken. The breaker towards it is called as it is.
        traffic: what the load is.
        promise: what the configuration says; decides how long the recovery is watched.
        outage: how long the dependency stays broken.
        view: where it is shown.
    """

    def __init__(
        self, guarded: Service, dependency: Service, traffic: Traffic, promise: Promise, outage: Outage, view: View
    ) -> None:
        self.recording = Recording()
        self._dependency = dependency
        self._traffic = traffic
        self._promise = promise
        self._outage = outage
        self._view = view
        self._now_s = stopwatch()
        self._load = Load(guarded.url, traffic, self.recording, self._now_s)
        self._watch = Watch(guarded.url, dependency.name, "api", self.recording, self._now_s)

    async def run(self) -> None:
        """Run it."""
        async with asyncio.TaskGroup() as tasks:  # should one fail, all end
            background = [tasks.create_task(self._watch.run()), tasks.create_task(self._show())]
            load = tasks.create_task(self._load.run())
            await self._course()
            self._load.stop()
            await load
            for task in background:
                task.cancel()

    async def _course(self) -> None:
        traffic, promise = self._traffic, self._promise
        self._say(f"{traffic.per_s:g} requests a second are sent, {promise.rate_per_s:g} of them are within the limit")
        await asyncio.sleep(_WARM_UP_S)
        self._mark("steady")
        await asyncio.sleep(_STEADY_S)
        self._mark("broken")
        await self._break("hang", "{} hangs: whoever is admitted waits until the deadline, 504")
        await asyncio.sleep(_HANGING_S)
        await self._break("fail", "{} fails: whoever is admitted gets 502, after a retry while the budget lasts")
        if await self._watch.until(lambda reading: reading.breaker == "open", _OPENS_WITHIN_S) is None:
            return self._say("the breaker did not open")
        kept = f"{promise.share(0):.0%}"
        self._say(f"the breaker is open: the limiter falls to {kept}; whoever is admitted gets 503 at once")
        await asyncio.sleep(self._outage.mended_after_s)
        self._mark("mended")
        await self._break("none", "{} is mended; the breaker does not know yet")
        if await self._watch.until(lambda reading: reading.breaker == "closed", _CLOSES_WITHIN_S) is None:
            return self._say("the breaker did not close")
        self._say(f"the breaker is closed: {promise.recover:.0%} of the rate come back every {promise.every_s:g} s")
        await asyncio.sleep(promise.steps * promise.every_s)
        self._say("the limiter is back at its whole rate")
        await asyncio.sleep(_RECOVERED_S)
        return self._say("the load ends")

    async def _break(self, mode: str, text: str) -> None:
        self._say(text.format(f"the {self._dependency.name} service"))
        await self._dependency.set_fault(mode)

    def _mark(self, name: str) -> None:
        self.recording.marks[name] = self._now_s()

    def _say(self, text: str) -> None:
        self._view.say(f"{self._now_s():5.1f} s  {text}")

    async def _show(self) -> None:
        rows = Rows(self.recording)
        while True:
            now_s = self._now_s()
            await asyncio.sleep(int(now_s) + 1 - now_s)
            row = rows.next(self._now_s())
            if row is not None:
                self._view.add(row)
