"""Writes lines for people: styled where a terminal reads them, plain elsewhere, and never a character that a terminal obeys."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

Part = str | tuple[str, str]
"""A text, or a text and its style."""

WHERE: Final = "bold"
QUIET: Final = "dim"
NAME: Final = "cyan"
GOOD: Final = "green"
DOUBTFUL: Final = "yellow"
BAD: Final = "red"

_UNMEASURED_WIDTH: Final = 120
_NARROWEST: Final = 40
_WIDEST_COLUMN: Final = 40
_BYTES: Final = range(0xDC80, 0xDD00)


def printable(text: str, encoding: str = "utf-8") -> str:
    """`text` with everything escaped that is no visible character or space, and what `encoding` has no character for.

    Escaped are control characters and escape sequences, and what turns or hides text: direction marks, joiners, no-break spaces.
    """
    visible = "".join(character if character.isprintable() else _escaped(character) for character in text)
    return visible.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(character: str) -> str:
    if ord(character) in _BYTES:  # a byte that is no UTF-8, as Python decodes it for keeping
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


class Screen:
    """Writes to one stream. Styles go to terminals only, and not where NO_COLOR is set. No line is wrapped.

    Attributes:
        encoding: of the stream.
        width: the cells in which a line should end where it can be cut.
    """

    def __init__(self, stream: TextIO) -> None:
        is_plain = bool(os.environ.get("NO_COLOR"))
        self._console = Console(
            file=stream, color_system=None if is_plain else "auto", highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.width = max(_NARROWEST, self._console.width) if self._console.is_terminal else _UNMEASURED_WIDTH

    def line(self, *parts: Part) -> None:
        """Write one line."""
        self._console.print(Text.assemble(*(self._cleaned(part) for part in parts)))

    def columns(self, rows: Iterable[Sequence[Part]], indent: str = "") -> None:
        """Write rows whose parts stand below each other. A part that is very wide moves the rest of its own row only."""
        cleaned = [_without_empty_end([self._cleaned(part) for part in row]) for row in rows]
        widths: list[int] = []
        for row in cleaned:
            widths += [0] * (len(row) - len(widths))
            for column, (text, _) in enumerate(row):
                width = cell_len(text)
                widths[column] = max(widths[column], width if width <= _WIDEST_COLUMN else 0)
        for row in cleaned:
            filled: list[Part] = [indent]
            for part, width in zip(row[:-1], widths, strict=False):
                filled += [part, " " * (max(0, width - cell_len(part[0])) + 2)]
            self.line(*filled, *row[-1:])

    def _cleaned(self, part: Part) -> tuple[str, str]:
        text, style = (part, "") if isinstance(part, str) else part
        return printable(text, self.encoding), style


def _without_empty_end(row: list[tuple[str, str]]) -> list[tuple[str, str]]:
    while row and not row[-1][0]:
        row.pop()
    return row
