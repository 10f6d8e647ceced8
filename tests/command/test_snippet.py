"""The caret stands under the spot: behind tabs, wide characters and escapes, and in the middle of a very long line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from resilience.command.screen import printable
from resilience.command.snippet import Snippet, lines_of, snippet


def drawn(line: str, column: int, width: int = 60, encoding: str = "utf-8") -> list[str]:
    shown = snippet(line, column, width, encoding)
    assert shown is not None
    return [shown.line, shown.carets]


@pytest.mark.parametrize(
    ("line", "column", "shown", "carets"),
    [
        ("rate: 100/s", 7, "rate: 100/s", "      ^^^^^"),
        ("rate: 100/s", 1, "rate: 100/s", "^^^^"),
        ("a: {rate: 5, x: 1}", 11, "a: {rate: 5, x: 1}", "          ^"),
        ("key: header:x-api-key", 6, "key: header:x-api-key", "     ^^^^^^^^^^^^^^^^"),
        ('path: "/a b/**"}', 7, 'path: "/a b/**"}', "      ^^^^^^^^^"),
        ("path: 'it''s', x", 7, "path: 'it''s', x", "      ^^^^^^^"),
        ("a: {b: 1}", 4, "a: {b: 1}", "   ^"),
        ("short", 9, "short", "     ^"),
        ("a:\tb", 4, "a:    b", "      ^"),
        ("\tx: 1", 1, "    x: 1", "^^^^"),
        ("漢字: 値, x: 1", 8, "漢字: 値, x: 1", "          ^"),
        ("漢字: 1", 1, "漢字: 1", "^^^^"),
        ("e\u0301t\u00e9: x", 7, "e\u0301t\u00e9: x", "     ^"),
        ("a: \x1b[31mred", 9, "a: \\x1b[31mred", "           ^^^"),
        ("a: \u202ex", 4, "a: \\u202ex", "   ^^^^^^^"),
        ("a:\u00a0b", 3, "a:\\xa0b", "  ^^^^"),
    ],
)
def test_a_line_that_fits(line: str, column: int, shown: str, carets: str) -> None:
    assert drawn(line, column) == [shown, carets]


def test_what_the_terminal_cannot_show_is_escaped_and_counted() -> None:
    assert drawn("größe: 値, x: 1", 8, encoding="ascii") == [r"gr\xf6\xdfe: \u5024, x: 1", "             ^^^^^^"]
    assert drawn("größe: 値, x: 1", 8, encoding="latin-1") == [r"größe: \u5024, x: 1", "       ^^^^^^"]


@pytest.mark.parametrize(
    ("line", "column", "shown", "carets"),
    [
        ("XY, " + "0123456789" * 9, 1, "XY, 012345678901234567890123456789012...", "^^"),
        ("0123456789" * 5 + " XY " + "0123456789" * 5, 52, "...1234567890123456789 XY 01234567890...", " " * 23 + "^^"),
        ("0123456789" * 9 + " XY", 92, "...1234567890123456789 XY", " " * 23 + "^^"),
        ("値" * 50 + " XY", 52, "..." + "値" * 9 + " XY", " " * 22 + "^^"),
        ("0123456789" * 9, 90, "...901234567890123456789", " " * 23 + "^"),
    ],
)
def test_a_long_line_is_cut_around_the_spot(line: str, column: int, shown: str, carets: str) -> None:
    assert drawn(line, column, width=40) == [shown, carets]


@pytest.mark.parametrize("line", ["", "   ", "\t"])
def test_a_blank_line_shows_nothing(line: str) -> None:
    assert snippet(line, 1, 60) is None


CHARACTERS = st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Z", "C"]) | st.sampled_from("\t\x1b\u202e\u3000\udcff")


@given(
    st.text(CHARACTERS, min_size=1, max_size=200), st.integers(1, 201), st.integers(32, 120), st.sampled_from(["utf-8", "ascii"])
)
def test_the_caret_is_under_the_character_and_nothing_is_too_wide(line: str, column: int, width: int, encoding: str) -> None:
    shown = snippet(line, column, width, encoding)
    if shown is None:
        assert not line.strip()
        return
    assert shown.line.isprintable()
    assert shown.line.encode(encoding).decode(encoding) == shown.line
    assert cell_len(shown.line) <= width
    assert set(shown.carets) <= {" ", "^"}
    spot = len(shown.carets) - len(shown.carets.lstrip())
    if column <= len(line):
        at = "    " if line[column - 1] == "\t" else printable(line[column - 1], encoding)
        ends = [end for end in range(len(shown.line) + 1) if cell_len(shown.line[:end]) == spot]
        assert any(shown.line[end:].startswith(at) for end in ends)


def test_a_line_of_64_kilobytes_takes_no_longer_than_what_is_shown() -> None:
    line = "x" * 30_000 + "@" + "\u0301" * 30_000
    shown = snippet(line, 30_001, 80)
    assert shown is not None
    assert len(shown.line) < 300
    assert "@" in shown.line


def test_lines_are_counted_as_the_reader_counts_them() -> None:
    assert lines_of(b"\xef\xbb\xbfa\r\nb\rc\nd\xff") == ["a", "b", "c", "d\udcff"]
    assert Snippet("d\\xff", "^^^^^") == snippet("d\udcff", 1, 60)
