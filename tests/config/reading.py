"""What the tests of the configuration reader share."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import TypeVar

import pytest

from resilience.config import Document, parse
from resilience.errors import ConfigError, Problem

T = TypeVar("T")

SOURCE = "resilience.yaml"

EXAMPLE = """\
version: 1
health:
  default: {cut: 70%, recover: 5%, every: 1m}
deadlines:
  api: {default: 5s, max: 30s, reserve: 20ms}
limiters:
  api:        {rate: 100/s, burst: 200}
  per_client: {rate: 10/s, burst: 20, key: client_address, max_keys: 100000}
breakers:
  payments: {failure_rate: 50%, window: 30s, min_calls: 20, open_for: 30s, probes: 5}
retries:
  payments: {attempts: 3, backoff: 100ms..2s, jitter: full, budget: {tokens: 10, ratio: 0.1}}
pipelines:
  api:      [{deadline: api}, {limiter: per_client}, {limiter: api}]
  payments: [{deadline: api}, {retry: payments}, {breaker: payments}]      # no route: used by code
routes:
  - {match: {path: /healthz}, pipeline: none}
  - {match: {path: "/orders/**", methods: [GET, POST]}, pipeline: api}
  - {match: {grpc: "/shop.v1.Orders/*"}, pipeline: api}
store: process
"""


def load(body: str) -> Document:
    """Parse a file of this body, to which the version is added."""
    return parse(f"version: 1\n{textwrap.dedent(body)}", SOURCE)


def problems_of(content: str | bytes) -> tuple[Problem, ...]:
    """The problems of a file that must have some."""
    with pytest.raises(ConfigError) as caught:
        parse(content, SOURCE)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return caught.value.problems


def faults(content: str | bytes) -> list[str]:
    """The problems of a file as "line:column: key: message"."""
    return [str(problem).removeprefix(f"{SOURCE}:") for problem in problems_of(content)]


def fault(marked: str) -> str:
    """The one problem of a file, as "key: message".

    It must stand where `marked` has the mark "▶", which is no part of the file.
    """
    marked = textwrap.dedent(marked)
    before, mark, after = marked.partition("▶")
    assert mark, "mark the place of the problem"
    (problem,) = problems_of(before + after)
    lines = re.split(r"\r\n|\n", before)
    assert (problem.line, problem.column) == (len(lines), len(lines[-1]) + 1), problem
    return f"{problem.key}: {problem.message}" if problem.key else problem.message


def value_fault(section: str, key: str, value: str) -> str:
    """The message of the one problem of an entry with one key, which must stand at its value."""
    needed = "rate: 5/s, " if section == "limiters" and key != "rate" else ""
    found = fault(f"version: 1\n{section}: {{x: {{{needed}{key}: ▶{value}}}}}\n")
    assert found.startswith(f"{section}.x.{key}: "), found
    return found.removeprefix(f"{section}.x.{key}: ")


def refusal(parse: Callable[[T], object], value: T) -> str:
    """The message with which `parse` refuses `value`, or an empty text when it does not."""
    try:
        parse(value)
    except ValueError as error:
        return str(error)
    return ""
