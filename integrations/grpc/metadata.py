"""Metadata as gRPC hands it over: pairs of a key in lower case and a value, text or bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def pairs(metadata: Any) -> list[tuple[str, Any]]:
    """The pairs of any form of metadata: None, tuples, `grpc.aio.Metadata`."""
    return [] if metadata is None else [(key, value) for key, value in metadata]


def values_of(metadata: Iterable[tuple[str, Any]] | None, name: str) -> list[str]:
    """All values of the key `name` (lower case) as text, in order."""
    return [as_text(value) for key, value in metadata or () if key == name]


def as_text(value: Any) -> str:
    """A value as text; bytes are taken for Latin-1, as headers are."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
