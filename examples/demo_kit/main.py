"""Runs a demo from start to report. What differs between demos is a `Demo`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.demo_kit.load import Traffic
from examples.demo_kit.plot import draw
from examples.demo_kit.processes import ROOT, Service, StartError
from examples.demo_kit.recording import Recording
from examples.demo_kit.report import print_checks, print_trees
from examples.demo_kit.shorten import write_shortened
from examples.demo_kit.story import Outage, Story
from examples.demo_kit.table import view_for_output
from examples.demo_kit.verdict import Promise, Result, judge, overall

EXIT_STATUS: Final = {Result.OK: 0, Result.FAILED: 1, Result.UNCLEAR: 2}
_DID_NOT_START: Final = 3
_STOPPED: Final = 130


@dataclass(frozen=True, slots=True)
class Files:
    """Where a run keeps what it needs: all in one temporary folder."""

    folder: Path

    @property
    def config(self) -> Path:
        """The configuration that the service under load is given."""
        return self.folder / "resilience.yaml"

    @property
    def spans(self) -> Path:
        """Where it writes its spans."""
        return self.folder / "spans.jsonl"


@dataclass(frozen=True, slots=True)
class Demo:
    """One demo.

    Attributes:
        name: of its plot.
        title: what is shown, in a line.
        config: the example's configuration file.
        shortened: texts of that file and what stands for them here.
        promise: what the shortened file says.
        traffic: what is sent.
        outage: how long the dependency stays broken.
        services: makes the service under load, the one that it depends on and that is broken, and any others.
    """

    name: str
    title: str
    config: Path
    shortened: Mapping[str, str]
    promise: Promise
    traffic: Traffic
    outage: Outage
    services: Callable[[Files], tuple[Service, Service, *tuple[Service, ...]]]


def main(demo: Demo) -> int:
    """Run `demo` as a program; returns its exit status.

    0: the promise was kept. 1: it was not. 2: the machine was too busy to say. 3: a service did not start.
    """
    parser = argparse.ArgumentParser(description=demo.title)
    parser.add_argument("--out", type=Path, default=ROOT / "demo-out", help="folder for the plot; default demo-out")
    folder: Path = parser.parse_args().out
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that knows no box-drawing shows "?"
    try:
        return asyncio.run(_cancelled_by_signals(demo, folder))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nstopped; the services that were started are stopped too", file=sys.stderr)
        return _STOPPED
    except StartError as error:
        print(f"the demo could not start: {error}", file=sys.stderr)
        return _DID_NOT_START


async def _cancelled_by_signals(demo: Demo, folder: Path) -> int:
    """Run, and stop in good order when told to; by SIGINT also where a shell in the background had it ignored."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
    with tempfile.TemporaryDirectory(prefix="resilience-demo-") as temporary:
        return await _run(demo, Files(Path(temporary)), folder)


async def _run(demo: Demo, files: Files, folder: Path) -> int:
    print(demo.title)
    write_shortened(demo.config, files.config, demo.shortened)
    print(f"  {demo.config.relative_to(ROOT)} is used, with less waiting than a real service wants:")
    for old, new in demo.shortened.items():
        print(f"    {old}  becomes  {new}")
    with contextlib.ExitStack() as running:
        guarded, dependency, *others = (running.enter_context(service) for service in demo.services(files))
        for service in (*others, dependency, guarded):
            await service.wait_ready()
            print(f"  the {service.name} service is process {service.pid} at {service.url}")
        print(flush=True)
        with view_for_output() as view:
            story = Story(guarded, dependency, demo.traffic, demo.promise, demo.outage, view)
            await story.run()
        status = _report(demo, story.recording, files, folder, dependency.name)
        if status:
            for service in (guarded, dependency, *others):
                print(f"the {service.name} service printed:\n{service.printed()}")
        return status


def _report(demo: Demo, recording: Recording, files: Files, folder: Path, broken: str) -> int:
    plot = folder / f"{demo.name}.png"
    draw(recording, plot, title=demo.title, rate_per_s=demo.promise.rate_per_s, broken=broken)
    print_trees(recording, files.spans)
    checks = judge(recording, demo.promise)
    print_checks(checks)
    print(f"\nplot: {plot}")
    outcome = overall(checks)
    print(_LAST_WORDS[outcome], flush=True)
    return EXIT_STATUS[outcome]


_LAST_WORDS: Final = {
    Result.OK: "verdict: the promise was kept",
    Result.FAILED: "verdict: THE PROMISE WAS NOT KEPT, see FAILED above",
    Result.UNCLEAR: "verdict: none. This machine was too busy for the load or the services; see above, and try again",
}
