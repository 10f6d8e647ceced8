"""A copy of a configuration file with some values replaced, so that a demo need not last a quarter of an hour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def shortened(text: str, replacements: Mapping[str, str]) -> str:
    """`text` with each key of `replacements`, which must stand in it exactly once, replaced by its value.

    Raises:
        ValueError: one is missing or stands there more than once; then nobody knows what was replaced.
    """
    for old, new in replacements.items():
        count = text.count(old)
        if count != 1:
            raise ValueError(f"{old!r} must stand in the configuration exactly once to be replaced by {new!r}, found {count}")
        text = text.replace(old, new)
    return text


def write_shortened(source: Path, target: Path, replacements: Mapping[str, str]) -> None:
    """Write `target`, the file `source` with `replacements`."""
    target.write_text(shortened(source.read_text(encoding="utf-8"), replacements), encoding="utf-8")
