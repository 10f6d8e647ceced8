"""A line of a file with a caret under the spot that is spoken of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len

from resilience.command.screen import printable

_TAB: Final = "    "
_CUT: Final = "..."
_LINE_END: Final = re.compile(r"\r\n?|\n")
# A quoted text, or what reaches to the next space, bracket, comma or colon that ends a key.
_WORD: Final = re.compile(r'"(?:[^"\\]|\\.)*"|' r"'(?:[^']|'')*'|" r"(?:[^\s,\[\]{}:]|:(?!\s|$))+")
_LONGEST_MARK: Final = 40


@dataclass(frozen=True, slots=True)
class Snippet:
    """What to print: the line as far as it is shown, and the line of carets below it."""

    line: str
    carets: str


def lines_of(content: bytes) -> list[str]:
    """The lines of a file as the reader counts them; bytes that are no UTF-8 are kept as lone surrogates."""
    return _LINE_END.split(content.decode("utf-8", "surrogateescape").removeprefix("\ufeff"))


def snippet(line: str, column: int, width: int, encoding: str = "utf-8") -> Snippet | None:
    """The part of `line` around `column` (from 1, in characters) that fits into `width` cells. None where it shows nothing."""
    if not line.strip():
        return None
    spot = min(column - 1, len(line))
    before, after = line[max(0, spot - width) : spot], line[spot : spot + width]  # a line has up to 64 KB; no more can be seen
    left, right = [_shown(character, encoding) for character in before], [_shown(character, encoding) for character in after]
    if len(before) + len(after) < len(line) or _cells(left + right) > width:
        kept = _fitting(left[::-1], width // 2)[::-1]
        if len(kept) < spot:
            kept.insert(0, _CUT)
        left = kept
        kept = _fitting(right, width - _cells(left) - len(_CUT))
        right = kept if len(kept) == len(line) - spot else [*kept, _CUT]
    marked = _WORD.match(line, spot, spot + _LONGEST_MARK)
    length = marked.end() - spot if marked is not None else 1
    carets = "^" * max(1, _cells(right[:length]))
    return Snippet("".join(left + right), " " * _cells(left) + carets)


def _fitting(texts: Sequence[str], room: int) -> list[str]:
    """As many of the first texts as fit into `room` cells."""
    kept: list[str] = []
    for text in texts:
        room -= cell_len(text)
        if room < 0:
            break
        kept.append(text)
    return kept


def _shown(character: str, encoding: str) -> str:
    return _TAB if character == "\t" else printable(character, encoding)


def _cells(texts: Sequence[str]) -> int:
    return cell_len("".join(texts))
