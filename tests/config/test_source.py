"""Bytes and texts as they come: size, encoding, characters, files."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from pathlib import Path

import pytest
import yaml

from resilience.config import parse, read
from resilience.config.source import _REFUSED, MAX_BYTES
from resilience.errors import ConfigError
from tests.config.reading import EXAMPLE, faults


def test_bytes_and_text_give_the_same_document() -> None:
    data = EXAMPLE.encode()
    assert parse(data, "x") == parse(EXAMPLE, "x")
    assert parse(data, "x").sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("content", ["\ufeffversion: 2\n", b"\xef\xbb\xbfversion: 2\n"])
def test_a_byte_order_mark_is_no_column(content: str | bytes) -> None:
    assert faults(content) == ["1:10: version: must be 1, the one version of the format there is, got 2"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_counts_as_one(end: str) -> None:
    assert faults(f"# a{end}{end}version: 2{end}")[0].startswith("3:10: version: ")


def test_a_file_of_64_kb_is_read_and_one_byte_more_is_not() -> None:
    fits = "version: 1\n#".ljust(MAX_BYTES, "x")
    assert parse(fits, "x").version == 1
    assert faults(f"{fits}x") == ["1:1: a file has at most 65536 bytes (64 KB), this one has more than that"]
    assert faults(fits * 2) == ["1:1: a file has at most 65536 bytes (64 KB), this one has 131072 bytes"]


def test_the_size_is_counted_in_bytes() -> None:
    assert "this one has 80011 bytes" in faults("version: 1\n" + "€" * 26_666 + "12")[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version: 1\nstore: \xff\n", "2:8: is not UTF-8: the byte 0xff; save the file as UTF-8"),
        ("version: 1\n# ü".encode("latin-1"), "2:3: is not UTF-8: the byte 0xfc; save the file as UTF-8"),
        (b"\xef\xbb\xbf\xff", "1:1: is not UTF-8: the byte 0xff; save the file as UTF-8"),
        ("version: 1".encode("utf-16"), "1:1: is UTF-16; save the file as UTF-8"),
        (b"version: 1\n\x00", "2:1: holds the character U+0000, which a text file cannot; remove it"),
        ("version: 1\r\nstore: \x1b[31m\n", "2:8: holds the character U+001B, which a text file cannot; remove it"),
        ("version: 1\u2028", "1:11: holds the character U+2028, which a text file cannot; remove it"),
        ("version: \ud800", "1:10: holds the character U+D800, which a text file cannot; remove it"),
        ("version: 1\n\ufeff", "2:1: holds the character U+FEFF, which a text file cannot; remove it"),
    ],
)
def test_what_is_no_text(content: str | bytes, problem: str) -> None:
    assert faults(content) == [problem]


def test_every_character_let_through_is_one_that_pyyaml_reads() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert yaml.reader.Reader.NON_PRINTABLE.search(_REFUSED.sub("", every)) is None


def test_a_file_is_read_from_disk_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text(EXAMPLE)
    assert read(path) == read(str(path)) == parse(EXAMPLE, str(path))
    path.write_text("version: 2\n")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:1:10: version: ")


def test_a_long_file_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "sparse.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="this one has more than that"):
        read(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read: No such file or directory"):
        read(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="is not a regular file"):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"'a\\x00b': cannot be read: "):
        read("a\0b")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="is not a regular file"):
        read(path)


def test_a_pipe_that_comes_in_the_place_of_the_file_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text(EXAMPLE)
    errors: list[str] = []

    def swap_after(name: Path) -> os.stat_result:
        found = os.lstat(name)
        path.unlink()
        os.mkfifo(path)
        return found

    def look() -> None:
        with pytest.raises(ConfigError) as caught:
            read(path)
        errors.append(str(caught.value))

    monkeypatch.setattr(Path, "stat", swap_after)
    reader = threading.Thread(target=look)
    reader.start()
    reader.join(5.0)
    waits = reader.is_alive()
    if waits:
        os.close(os.open(path, os.O_WRONLY))  # a writer, who lets it go
        reader.join()
    assert not waits
    assert errors == [f"{path}: is not a regular file"]


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(EXAMPLE)
    link = tmp_path / "resilience.yaml"
    link.symlink_to("real.yaml")
    assert read(link).source == str(link)
