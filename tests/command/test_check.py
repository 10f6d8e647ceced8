"""`resilience check`: what it says of files, in which form, and with which exit status."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.command.findings import Finding, github_command
from tests.command.running import run, write

GOOD = 'limiters: {api: {rate: 5/s}}\npipelines: {api: [{limiter: api}]}\nroutes: [{match: {path: "/**"}, pipeline: api}]\n'
DOUBTFUL = "limiters: {api: {rate: 5/s}}\n"
NO_SUCH_SECTION = (
    "is unknown; the file has version, health, deadlines, limiters, breakers, retries, pools, pipelines, routes, refusals, store"
)
BAD = "limiters:\n  api: {rate: 100, bust: 3}\nbreakers:\n\t- x\n"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_error_at_once_with_its_line_and_a_caret() -> None:
    Path("it.yaml").write_text(
        "version: 1\nlimiters:\n  api: {rate: 100, bust: 3}\nroutes:\n  - {match: {path: /**}, pipeline: apj}\n", encoding="utf-8"
    )
    assert run("check", "it.yaml") == (
        1,
        """\
it.yaml:3:15: error: limiters.api.rate: must be a rate such as 100/s, 600/m or 5/10s, got '100'; say per what: 100/s
    3 |   api: {rate: 100, bust: 3}
      |               ^^^
it.yaml:3:20: error: limiters.api.bust: is unknown; did you mean 'burst'?
    3 |   api: {rate: 100, bust: 3}
      |                    ^^^^
it.yaml:5:36: error: routes[0].pipeline: no pipeline is called 'apj'; none is declared
    5 |   - {match: {path: /**}, pipeline: apj}
      |                                    ^^^
1 file checked: 3 errors, no warnings
""",
        "",
    )


@pytest.mark.parametrize(
    ("body", "options", "status", "summary"),
    [
        (GOOD, [], 0, "1 file checked: no errors, no warnings"),
        (GOOD, ["--strict"], 0, "1 file checked: no errors, no warnings"),
        (DOUBTFUL, [], 0, "1 file checked: no errors, 1 warning"),
        (DOUBTFUL, ["--strict"], 1, "1 file checked: no errors, 1 warning (--strict: warnings fail)"),
        (BAD, [], 1, "1 file checked: 1 error, no warnings"),
    ],
)
def test_the_status_and_the_last_line(tmp_path: Path, body: str, options: list[str], status: int, summary: str) -> None:
    ran = run("check", *options, write(tmp_path, body))
    assert (ran.status, ran.out.splitlines()[-1], ran.err) == (status, summary, "")


def test_a_warning_is_told_as_one(tmp_path: Path) -> None:
    write(tmp_path, DOUBTFUL)
    assert run("check", "resilience.yaml").out.splitlines()[:3] == [
        "resilience.yaml:2:12: warning: limiters.api: no pipeline has this layer, so it guards nothing",
        "    2 | limiters: {api: {rate: 5/s}}",
        "      |            ^^^",
    ]


def test_several_files_are_all_checked_also_when_one_cannot_be_read(tmp_path: Path) -> None:
    files = [write(tmp_path, GOOD, "a.yaml"), "no\x1b[2J.yaml", str(tmp_path), write(tmp_path, DOUBTFUL, "d.yaml")]
    ran = run("check", *files)
    assert ran.status == 1
    assert "no\\x1b[2J.yaml: error: cannot be read: No such file or directory" in ran.out.splitlines()
    assert f"{tmp_path}: error: is not a regular file" in ran.out.splitlines()
    assert ran.out.splitlines()[-1] == "4 files checked: 2 errors, 1 warning"


def test_standard_input(tmp_path: Path) -> None:
    assert run("check", "-", stdin=f"version: 1\n{GOOD}").status == 0
    ran = run("check", "-", stdin="version: 2\n")
    assert (ran.status, ran.out.splitlines()[0].split(" error")[0]) == (1, "<stdin>:1:10:")
    twice = run("check", "-", "-", stdin="version: 1\n")
    assert (twice.status, twice.err.splitlines()[-1]) == (2, "Error: standard input (-) can be read once only")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_to_its_end() -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text("version: 1\nlimitters: {}\n", encoding="utf-8"))
    writer.start()
    ran = run("check", "pipe")
    writer.join(30)
    assert ran.out.startswith("pipe:2:1: error: limitters: is unknown; did you mean 'limiters'?\n")


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", ["it.yaml:1:1: error: the file is empty; the least it can say is: version: 1"]),
        (
            b"version: 1\nlimiters: {\xff: 1}\n",
            [
                "it.yaml:2:12: error: is not UTF-8: the byte 0xff; save the file as UTF-8",
                "    2 | limiters: {\\xff: 1}",
                "      |            ^^^^",
            ],
        ),
        (
            b"version: 1\nlimiters: {'\x1b]0;owned\x07': 1}\n",
            [
                "it.yaml:2:13: error: holds the character U+001B, which a text file cannot; remove it",
                "    2 | limiters: {'\\x1b]0;owned\\x07': 1}",
                "      |             ^^^^",
            ],
        ),
        (
            "version: 1\r\n漢字: {}\r\n".encode(),
            [
                f"it.yaml:2:1: error: '漢字': {NO_SUCH_SECTION}",
                "    2 | 漢字: {}",
                "      | ^^^^",
            ],
        ),
        (
            "\ufeffversion: 1\n\N{RIGHT-TO-LEFT OVERRIDE}x: 1\n".encode(),
            [
                f"it.yaml:2:1: error: '\\u202ex': {NO_SUCH_SECTION}",
                "    2 | \\u202ex: 1",
                "      | ^^^^^^^",
            ],
        ),
        (
            b"version: 1\nlimiters:\n\tapi: {}\n",
            ["it.yaml:3:1: error: is no YAML: a tab cannot indent a line; use spaces", "    3 |     api: {}", "      | ^^^^"],
        ),
    ],
)
def test_what_a_file_holds_never_reaches_the_terminal_as_it_is(content: bytes, lines: list[str]) -> None:
    Path("it.yaml").write_bytes(content)
    ran = run("check", "it.yaml")
    assert ran.out.splitlines()[:-1] == lines
    assert "\x1b" not in ran.out


def test_one_line_of_64_kilobytes_is_cut_around_each_spot() -> None:
    entries = ", ".join(f"l{number}: {{rate: 1/s}}" for number in range(900))
    text = f"{{version: 1, limiters: {{{entries}, bad: {{rate: 5}}, {entries.replace('l', 'm')}}}}}"
    Path("it.yaml").write_text(text, encoding="utf-8")
    first, line, carets, *_ = run("check", "it.yaml").out.splitlines()
    assert first.startswith(f"it.yaml:1:{text.index('rate: 5}') + 7}: error: limiters.bad.rate: must be a rate")
    assert len(line) <= 120
    assert line.startswith("    1 | ...")
    assert line.endswith("...")
    assert line[carets.index("^") :].startswith("5}, m0: ")


PIECES = st.sampled_from(
    ["version: 1\n", "limiters: {", "rate: ", "}", "\t", "\x1b[", "\r", "\x85", "'", "- ", ": ", "🙂", "\u202e", "\ufeff"]
)


@given(st.lists(PIECES | st.text(max_size=5)).map("".join).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary())
def test_no_bytes_end_it_otherwise_than_with_a_verdict(content: bytes) -> None:
    ran = run("check", "-", stdin=content)
    assert ran.status in (0, 1)
    assert ran.out.splitlines()[-1].startswith("1 file checked: ")
    assert all(line.isprintable() for line in ran.out.split("\n"))
    assert run("check", "--format", "json", "-", stdin=content).status == ran.status


def test_a_file_that_is_too_long_is_told_of_and_its_beginning_shown() -> None:
    Path("it.yaml").write_text(f"version: 1 # {'x' * 70_000}", encoding="utf-8")
    first, line, _, last = run("check", "it.yaml").out.splitlines()
    assert first == "it.yaml:1:1: error: a file has at most 65536 bytes (64 KB), this one has more than that"
    assert line.endswith("...")
    assert len(line) <= 120
    assert last == "1 file checked: 1 error, no warnings"


def test_colours_are_for_terminals_and_not_where_no_color_is_set(tmp_path: Path) -> None:
    file = write(tmp_path, BAD)
    forced: dict[str, str | None] = {"FORCE_COLOR": "1", "TERM": "xterm"}
    assert "\x1b[" not in run("check", file).out
    assert "\x1b[" in run("check", file, env=forced).out
    assert "\x1b[" not in run("check", file, env={**forced, "NO_COLOR": "1"}).out


def test_github_s_workflow_commands(tmp_path: Path) -> None:
    write(tmp_path, "limiters:\n  api: {rate: 100}\n", "a,b:c%.yaml")
    write(tmp_path, DOUBTFUL, "d.yaml")
    ran = run("check", "--format", "github", "a,b:c%.yaml", "d.yaml", "none.yaml")
    assert (ran.status, ran.err) == (1, "")
    assert ran.out == (
        "::error file=a%2Cb%3Ac%25.yaml,line=3,col=15,title=resilience error::"
        "a,b:c%25.yaml:3:15: limiters.api.rate: must be a rate such as 100/s, 600/m or 5/10s, got '100'; say per what: 100/s\n"
        "::warning file=d.yaml,line=2,col=12,title=resilience warning::"
        "d.yaml:2:12: limiters.api: no pipeline has this layer, so it guards nothing\n"
        "::error file=none.yaml,title=resilience error::none.yaml: cannot be read: No such file or directory\n"
    )


def test_no_text_can_end_a_workflow_command_or_begin_another() -> None:
    finding = Finding("x\r\n::stop-commands::y.yaml", "100 %\r\n::set-env name=A::b\x1b[2J", 1, 2, "key")
    command = github_command(finding)
    assert command == (
        "::error file=x%0D%0A%3A%3Astop-commands%3A%3Ay.yaml,line=1,col=2,title=resilience error::"
        "x%0D%0A::stop-commands::y.yaml:1:2: key: 100 %25%0D%0A::set-env name=A::b\\x1b[2J"
    )
    assert len(command.splitlines()) == 1


def test_json_for_programs(tmp_path: Path) -> None:
    write(tmp_path, "limiters:\n  \N{SNOWMAN}: {rate: 100}\n", "bad.yaml")
    write(tmp_path, DOUBTFUL, "d.yaml")
    ran = run("check", "--format=json", "bad.yaml", "d.yaml", "none.yaml")
    told = json.loads(ran.out)
    assert (ran.status, told["errors"], told["warnings"]) == (1, 3, 1)
    assert ran.out.isascii()
    assert [(one["severity"], one["file"], one["line"], one["column"], one["key"]) for one in told["findings"]] == [
        ("error", "bad.yaml", 3, 3, "limiters.'\N{SNOWMAN}'"),
        ("error", "bad.yaml", 3, 13, "limiters.'\N{SNOWMAN}'.rate"),
        ("warning", "d.yaml", 2, 12, "limiters.api"),
        ("error", "none.yaml", None, None, ""),
    ]
    assert told["findings"][2]["message"] == "no pipeline has this layer, so it guards nothing"
    clean = run("check", "--format=json", write(tmp_path, GOOD, "good.yaml"))
    assert (clean.status, json.loads(clean.out)) == (0, {"errors": 0, "warnings": 0, "findings": []})


@pytest.mark.parametrize("words", [["check"], ["check", "--format", "xml", "a"], ["check", "--no-such", "a"], ["chek"]])
def test_a_wrong_call_has_status_2_and_says_so_on_standard_error(words: list[str]) -> None:
    ran = run(*words)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.splitlines()[0].startswith("Usage: resilience")
    assert "Error: " in ran.err
