"""One process of a service that is told what to do line by line, and answers each line with one of JSON.

`python -m tests.stores.host.member FILE` goes by that configuration.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import resilience
from resilience import Toolkit
from resilience.clock import SYSTEM_CLOCK
from resilience.fleet_health import FleetHealthSignal


class _Down(Exception):
    """What the dependency does."""


def fail(toolkit: Toolkit) -> None:
    """Let the breaker see failures until it opens."""

    def work() -> None:
        raise _Down

    for _ in range(10):
        try:
            toolkit.pipeline("out").call(work)
        except _Down:
            continue
        except resilience.CircuitOpen:
            return
    raise AssertionError("the breaker has not opened")


def succeed(toolkit: Toolkit) -> None:
    """Let a probe through that closes the breaker."""
    toolkit.pipeline("out").call(lambda: None)


def tell(toolkit: Toolkit) -> dict[str, Any]:
    """What this process sees."""
    signal = toolkit.health("default")
    assert isinstance(signal, FleetHealthSignal)
    factor = signal.factor
    return {
        "now_us": SYSTEM_CLOCK.now_us(),
        "factor": factor,
        "start_us": signal.phase.start_us,
        "in_incident": bool(signal.status()["fleet_incident"]) and signal.phase.step_ppb == 0 and factor < 1,
        "incident": signal.status()["fleet_incident"],
        "rate_per_s": toolkit.status()["limiters"]["api"]["rate_per_s"],
    }


def main(path: str) -> None:
    toolkit = resilience.load(path)
    orders = {"fail": fail, "succeed": succeed}
    for line in sys.stdin:
        if line.strip() in orders:
            orders[line.strip()](toolkit)
        print(json.dumps(tell(toolkit)), flush=True)
    toolkit.close()


if __name__ == "__main__":
    main(sys.argv[1])
