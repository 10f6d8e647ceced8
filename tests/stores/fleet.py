"""A fleet for tests: real processes over one configuration file, each told what to do by a line and answering with a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """One process of a fleet, from outside."""

    def __init__(self, config: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stores.fleet", str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            bufsize=1,
        )

    def tell(self, command: str) -> Any:
        """Have it do something, and return what it says."""
        self.say(command)
        return self.hear()

    def say(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError("the worker has ended")
        return json.loads(line)

    @property
    def factor(self) -> float:
        """Its health factor."""
        found: float = self.tell("health")["factor"]
        return found

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def close(self) -> None:
        """End it."""
        self.signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def _work(config: str) -> None:
    import resilience

    with resilience.load(config) as toolkit:
        for line in sys.stdin:
            print(json.dumps(_answer(toolkit, line.split())), flush=True)


def _answer(toolkit: Any, words: list[str]) -> Any:
    from resilience import RateLimited

    states = toolkit.active.states
    if words[0] == "health":
        return toolkit.health(words[1] if len(words) > 1 else "default").status()
    if words[0] == "force":
        states.breakers["payments"].force(None if words[1] == "none" else words[1], toolkit.clock.now_us())
        return True
    if words[0] == "calls":
        admitted = 0
        for _ in range(int(words[1])):
            try:
                toolkit.pipeline("api").call(int)
            except RateLimited:
                continue
            admitted += 1
        return admitted
    return toolkit.status()["limiters"]["api"]


if __name__ == "__main__":
    _work(sys.argv[1])
