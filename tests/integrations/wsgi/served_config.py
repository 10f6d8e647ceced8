"""The configuration of the application that real servers serve in these tests."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FILE: Final = Path(__file__)
"""What it sends as a file."""

CONFIG: Final = """\
version: 1
deadlines:
  api: {default: 60s}
limiters:
  few: {rate: 2/h, burst: 2, fields: always}
  everybody: {rate: 1000000/s, burst: 1000000}
breakers:
  orders: {failure_rate: 1%, min_calls: 1, open_for: 100ms, probes: 5, half_open_for: 1h, health: none}
pipelines:
  few: [{limiter: few}]
  api: [{deadline: api}, {limiter: everybody}]
  orders: [{breaker: orders}]
routes:
  - {match: {path: /status}, pipeline: none}
  - {match: {path: /draws}, pipeline: none} # it draws by a clock of its own, by which a deadline of ours says nothing
  - {match: {path: /bücher}, pipeline: few}
  - {match: {path: "/orders/**"}, pipeline: orders}
  - {match: {path: "/**"}, pipeline: api}
"""
