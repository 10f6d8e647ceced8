"""Takes in the text of a configuration file: from disk or from memory, bounded, as clean Unicode."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from stat import S_ISREG
from typing import Final, NamedTuple

from resilience.config.report import START, Position, Report
from resilience.config.values import shown
from resilience.errors import ConfigError

MAX_BYTES: Final = 64 * 1024
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_LINE_END: Final = re.compile(r"\r\n?|\n")
# What YAML calls printable, without the three characters that YAML 1.1 takes for line ends though editors do not show
# them as such, and without the byte order mark, which is removed at the start and invisible elsewhere.
_KEPT: Final = "\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"
_REFUSED: Final = re.compile(f"[^{_KEPT}]")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of the file at `path`, and one byte more than is allowed when it is longer.

    Raises:
        ConfigError: it cannot be read, or is no regular file.
    """
    return read_observed(path, os.fspath(path)).content


class Reading(NamedTuple):
    """The content of a file, and what the system said of the open file before and after it was read."""

    content: bytes
    before: os.stat_result
    after: os.stat_result


def read_observed(path: str | os.PathLike[str], called: str) -> Reading:
    """As `read_bytes`, for those who must know whether the file was at rest. `called` is its name in messages.

    Raises:
        ConfigError: it cannot be read, or is no regular file.
    """
    name = called if called.isprintable() else shown(called)
    irregular = ConfigError(f"{name}: is not a regular file")
    try:
        # Asked before opening, since opening a device may do something; and anew below, since it may be replaced meanwhile.
        if not S_ISREG(Path(path).stat().st_mode):
            raise irregular
        with open(path, "rb", opener=_open_at_once) as opened:
            before = os.fstat(opened.fileno())
            if not S_ISREG(before.st_mode):
                raise irregular
            content = opened.read(MAX_BYTES + 1)
            return Reading(content, before, os.fstat(opened.fileno()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be read: {reason(error)}") from error


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: to open a pipe would wait for its writer, for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def reason(error: OSError | ValueError) -> str:
    """What the system says is wrong, without the path."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def has_end_mark(content: bytes) -> bool:
    """Whether the last line that is neither blank nor a comment is `...`, YAML's mark for the end of a document."""
    for line in reversed(content.splitlines()):
        words = line.split()
        if words and not words[0].startswith(b"#"):
            return line.startswith(b"...") and words[0] == b"..."
    return False


def fingerprint(content: str | bytes) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()


def clean_text(content: str | bytes, report: Report) -> str | None:
    """The text of a file without a byte order mark; None, and a problem in `report`, when it is no text to read.

    Refused: more than 64 KB, encodings other than UTF-8, an empty file, and control or invisible line-end characters.
    """
    size = len(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        held = "more than that" if size == MAX_BYTES + 1 else f"{size} bytes"
        report.problem(START, "", f"a file has at most {MAX_BYTES} bytes (64 KB), this one has {held}")
        return None
    text = _decoded(content, report) if isinstance(content, bytes) else content
    if text is None:
        return None
    text = text.removeprefix("\ufeff")
    refused = _REFUSED.search(text)
    if refused is not None:
        _report_character(refused, text, report)
        return None
    return text


def _decoded(content: bytes, report: Report) -> str | None:
    if content.startswith(_UTF16_MARKS):
        report.problem(START, "", "is UTF-16; save the file as UTF-8")
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        byte = content[error.start]
        message = f"is not UTF-8: the byte 0x{byte:02x}; save the file as UTF-8"
        report.problem(_end_of(before.removeprefix("\ufeff")), "", message)
        return None


def _report_character(refused: re.Match[str], text: str, report: Report) -> None:
    code = f"U+{ord(refused[0]):04X}"
    message = f"holds the character {code}, which a text file cannot; remove it"
    report.problem(_end_of(text[: refused.start()]), "", message)


def _end_of(text: str) -> Position:
    """Where the character after `text` stands."""
    lines = _LINE_END.split(text)
    return Position(len(lines), len(lines[-1]) + 1)
