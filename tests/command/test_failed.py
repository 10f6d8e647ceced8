"""`resilience failed`: list, show, replay, purge."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from resilience.command.group import resilience
from resilience.workers import FailedTask, FailedTaskStore, TaskState

TASKS = """
from resilience.workers import current_task, task

@task(name="cli.note")
def note(text):
    with open("notes.txt", "a") as file:
        file.write(f"{text} {current_task().idempotency_key}\\n")

@task(name="cli.anote")
async def anote(text):
    note(text)

@task(name="cli.breaks")
def breaks(text):
    raise ValueError("bad \\x1b[31m " + text)
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailedTaskStore]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cli_tasks.py").write_text(TASKS, encoding="utf-8")
    with FailedTaskStore("failed.db") as found:
        for number, name in enumerate(("cli.note", "cli.breaks", "cli.anote", "gone"), 1):
            payload = f'{{"args":["text {number}"],"kwargs":{{}}}}'
            told = "ValueError: no\nand more"
            found.keep(FailedTask(f"id{number}", name, "mail", payload, f"key-{number}", told, "Traceback", 3, 1e9, 1e9 + number))
        yield found


def run(*words: str) -> Result:
    return CliRunner().invoke(resilience, ["failed", *words], catch_exceptions=False)


def test_list(store: FailedTaskStore) -> None:
    result = run("list", "failed.db")
    assert (result.exit_code, result.output.splitlines()[0].split()[:4]) == (0, ["id1", "2001-09-09", "01:46:41Z", "failed"])
    assert "cli.note" in result.output
    assert "ValueError: no" in result.output
    assert "and more" not in result.output
    assert result.output.splitlines()[-1] == "4 tasks"
    assert run("list", "failed.db", "--name", "gone").output.splitlines()[-1] == "1 task"
    assert run("list", "failed.db", "--state", "replayed").output == "no tasks\n"
    assert run("list", "failed.db", "--limit", "2").output.splitlines()[-1] == "2 tasks, the first 2"
    assert [task["id"] for task in json.loads(run("list", "failed.db", "--format", "json").output)] == ["id1", "id2", "id3", "id4"]


def test_show(store: FailedTaskStore) -> None:
    result = run("show", "failed.db", "id2")
    rows = dict(line.split("  ", 1) for line in result.output.splitlines() if "  " in line)
    assert {key: value.strip() for key, value in rows.items()} == {
        "id": "id2",
        "task": "cli.breaks",
        "pool": "mail",
        "state": "failed",
        "accepted": "2001-09-09 01:46:40Z",
        "last failed": "2001-09-09 01:46:42Z",
        "attempts": "3",
        "replays": "0",
        "idempotency key": "key-2",
        "payload": '{"args":["text 2"],"kwargs":{}}',
        "error": "ValueError: no / and more",
    }
    assert json.loads(run("show", "failed.db", "id2", "--format", "json").output)["state"] == "failed"
    missing = run("show", "failed.db", "nothing")
    assert (missing.exit_code, missing.stderr) == (1, "resilience: failed.db: there is no failed task nothing\n")


def test_replay(store: FailedTaskStore, tmp_path: Path) -> None:
    result = run("replay", "failed.db", "--tasks", "cli_tasks", "id1", "id3")
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "2 of 2 replayed")
    assert (tmp_path / "notes.txt").read_text() == "text 1 key-1\ntext 3 key-3\n"
    result = run("replay", "failed.db", "--tasks", "cli_tasks", "--all")
    told = result.output.splitlines()
    assert (result.exit_code, told[-1]) == (1, "0 of 2 replayed")
    assert "\x1b[31m" not in result.output, "what a task says never reaches the terminal as it is"
    assert "failed" in told[0]
    assert "no function is registered as 'gone'" in told[1]
    assert [task.id for task in store.list(state=TaskState.REPLAYED)] == ["id1", "id3"]
    again = run("replay", "failed.db", "--tasks", "cli_tasks", "id1")
    assert (again.exit_code, "taken" in again.output) == (1, True)
    assert run("replay", "failed.db", "--tasks", "cli_tasks", "--all", "--name", "nothing").output == "0 of 0 replayed\n"


def test_purge(store: FailedTaskStore) -> None:
    run("replay", "failed.db", "--tasks", "cli_tasks", "id1")
    assert run("purge", "failed.db", "--replayed", "--older-than", "1h").output == "0 tasks deleted\n"
    assert run("purge", "failed.db", "--replayed").output == "1 task deleted\n"
    missing = run("purge", "failed.db", "id2", "id1")
    assert (missing.exit_code, missing.output) == (1, "1 task deleted\n")
    assert run("purge", "failed.db", "--all").output == "2 tasks deleted\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list", "none.db"], "there is no such file"),
        (["list", "cli_tasks.py"], "file is not a database; it is another file"),
        (["purge", "none.db", "--all"], "there is no such file"),
        (["replay", "failed.db", "--tasks", "no_such_module", "--all"], "cannot be imported: ModuleNotFoundError"),
        (["replay", "failed.db", "--tasks", "cli_tasks"], "say which: the ids of tasks, or --all"),
        (["replay", "failed.db", "--tasks", "cli_tasks", "--all", "id1"], "say which"),
        (["replay", "failed.db", "--tasks", "cli_tasks", "--all", "--lease", "5"], "say the unit: 5s is seconds"),
        (["replay", "failed.db", "--all"], "Missing option '--tasks'"),
        (["purge", "failed.db"], "say which: the ids of tasks, --replayed, or --all"),
        (["purge", "failed.db", "--all", "--older-than", "0s"], "must be above 0s"),
    ],
)
def test_what_cannot_be_done_says_why(store: FailedTaskStore, words: Sequence[str], told: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert told in result.stderr
    assert len(store.list()) == 4
