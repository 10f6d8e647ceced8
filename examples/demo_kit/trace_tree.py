"""Prints the spans of one request as a tree, from a file of spans in OpenTelemetry's JSON form, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

Span = Mapping[str, Any]

_OURS: Final = "resilience."
_SHOWN: Final = ("http.status_code", "http.response.status_code")
_LEFT_OUT: Final = ("resilience.pipeline",)


def read_spans(file: Path) -> list[Span]:
    """All spans of the file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def tree_of(spans: Sequence[Span], trace_id: str) -> list[str]:
    """The lines of one trace's tree; none when the trace was not recorded.

    Args:
        spans: of any number of traces.
        trace_id: in hexadecimal.
    """
    mine = [span for span in spans if span["context"]["trace_id"].removeprefix("0x") == trace_id]
    mine.sort(key=lambda span: str(span["start_time"]))
    known = {span["context"]["span_id"] for span in mine}
    lines: list[str] = []
    for root in mine:
        if root["parent_id"] not in known:
            lines += _lines(root, mine, "", "")
    return lines


def _lines(span: Span, spans: Sequence[Span], indent: str, branch: str) -> Iterator[str]:
    yield f"{indent}{branch}{describe(span)}"
    children = [child for child in spans if child["parent_id"] == span["context"]["span_id"]]
    below = indent + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
    for event in span["events"]:
        yield f"{below}{'│  ' if children else '   '}* {event['name']}{_attributes(event['attributes'])}"
    for child in children:
        yield from _lines(child, spans, below, "└─ " if child is children[-1] else "├─ ")


def describe(span: Span) -> str:
    """One line for a span: its name, how long it took, what was decided and why."""
    status = span["status"]
    failed = f"  ERROR {status.get('description', '')}".rstrip() if status["status_code"] == "ERROR" else ""
    return f"{span['name']}  {_duration_ms(span):.1f} ms{_attributes(span['attributes'])}{failed}"


def _attributes(attributes: Mapping[str, Any]) -> str:
    shown = {
        name.removeprefix(_OURS).removeprefix("http."): value
        for name, value in attributes.items()
        if (name.startswith(_OURS) or name in _SHOWN) and name not in _LEFT_OUT
    }
    return "".join(f"  {name}={_value(value)}" for name, value in shown.items())


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration_ms(span: Span) -> float:
    start, end = (datetime.fromisoformat(str(span[edge]).replace("Z", "+00:00")) for edge in ("start_time", "end_time"))
    return (end - start).total_seconds() * 1000
