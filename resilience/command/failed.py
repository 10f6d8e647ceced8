"""`resilience failed`: what tasks failed for good, and what to do with them."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import click

from resilience.command.entry import TROUBLE
from resilience.command.screen import BAD, DOUBTFUL, GOOD, NAME, QUIET, WHERE, Part, Screen, printable
from resilience.config.values import parse_duration
from resilience.workers import FailedTask, FailedTaskStore, FailedTaskStoreError, Replay, ReplayOutcome, SQLiteStorage, TaskState
from resilience.workers.named import find_task

NOT_ALL: Final = 1
"""The exit status when something that was asked for is not there, or a replay did not succeed."""
_STYLES: Final = {TaskState.FAILED: BAD, TaskState.REPLAYING: DOUBTFUL, TaskState.REPLAYED: GOOD}
_OUTCOMES: Final = {ReplayOutcome.DONE: GOOD, ReplayOutcome.FAILED: BAD}
_ALL: Final = 1_000_000

_store = click.argument("store", metavar="STORE", type=click.Path(dir_okay=False))
_format = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="text for people, json for programs.",
)


@click.group(short_help="List, show, replay and purge failed tasks.")
def failed() -> None:
    """Look after the tasks that failed for good. STORE is the SQLite file in which a pool keeps them."""


@failed.command("list")
@_store
@click.option("--name", metavar="TASK", help="Only tasks of this name.")
@click.option("--state", type=click.Choice([state.value for state in TaskState]), help="Only tasks in this state.")
@click.option("--limit", type=click.IntRange(1, _ALL), default=100, show_default=True, help="So many at most, the oldest first.")
@_format
@click.pass_context
def list_tasks(context: click.Context, store: str, name: str | None, state: str | None, limit: int, form: str) -> None:
    """List failed tasks, those that failed first at the front.

    \b
    Exit status: 0  they are listed, be there any or none
                 2  the store cannot be read, or the command was called in a wrong way
    """
    with _opened(context, store, read_only=True) as found:
        tasks = found.list(name=name, state=None if state is None else TaskState(state), limit=limit)
        if form == "json":
            click.echo(json.dumps([_plain(task) for task in tasks], indent=2))
            return
        screen = Screen(sys.stdout)
        screen.columns([_row(task) for task in tasks])
        more = f", the first {limit}" if len(tasks) == limit else ""
        screen.line(f"{len(tasks) or 'no'} task{'' if len(tasks) == 1 else 's'}{more}")


@failed.command("show")
@_store
@click.argument("task_id", metavar="ID")
@_format
@click.pass_context
def show(context: click.Context, store: str, task_id: str, form: str) -> None:
    """Show one task whole: its arguments, what it failed with, and when.

    \b
    Exit status: 0  it is shown
                 1  there is no such task
                 2  the store cannot be read, or the command was called in a wrong way
    """
    with _opened(context, store, read_only=True) as found:
        task = found.show(task_id)
        if task is None:
            _complain(f"{store}: there is no failed task {task_id}")
            context.exit(NOT_ALL)
        if form == "json":
            click.echo(json.dumps(_plain(task), indent=2))
        else:
            _show(Screen(sys.stdout), task)


@failed.command("replay")
@_store
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--tasks", "modules", metavar="MODULE", multiple=True, required=True, help="Where @task functions are; may be repeated."
)
@click.option("--all", "everything", is_flag=True, help="Every task that is failed, the oldest first.")
@click.option("--name", metavar="TASK", help="With --all: only tasks of this name.")
@click.option(
    "--lease", metavar="DURATION", default="5m", show_default=True, help="How long no other replay takes a task that is begun."
)
@click.pass_context
def replay(
    context: click.Context,
    store: str,
    ids: Sequence[str],
    modules: Sequence[str],
    everything: bool,  # a flag of the command line
    name: str | None,
    lease: str,
) -> None:
    """Run failed tasks again, one after the other, in this process.

    Only functions that are decorated with @task in the modules given are run. A task runs at least once: one whose replay dies is
    failed again when its lease has run out. It has the same idempotency key each time.

    \b
    Exit status: 0  all of them succeeded
                 1  some did not
                 2  the store cannot be written, a module cannot be imported, or the command was called in a wrong way
    """
    if everything == bool(ids):
        raise click.UsageError("say which: the ids of tasks, or --all")
    _import(context, modules)
    with _opened(context, store, lease_s=_duration(lease, "--lease")) as found:
        wanted = [task.id for task in found.list(name=name, state=TaskState.FAILED, limit=_ALL)] if everything else list(ids)
        screen = Screen(sys.stdout)
        results = [_replay(screen, found, task_id) for task_id in wanted]
        done = sum(result.outcome is ReplayOutcome.DONE for result in results)
        screen.line((f"{done} of {len(results)} replayed", GOOD if done == len(results) else BAD))
    if done < len(results):
        context.exit(NOT_ALL)


@failed.command("purge")
@_store
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--replayed", is_flag=True, help="Those that were replayed.")
@click.option("--all", "everything", is_flag=True, help="Those that failed too: their arguments are lost.")
@click.option(
    "--older-than", metavar="DURATION", help="With --replayed or --all: only those whose last news is so old, such as 168h."
)
@click.pass_context
def purge(
    context: click.Context,
    store: str,
    ids: Sequence[str],
    replayed: bool,
    everything: bool,
    older_than: str | None,
) -> None:
    """Delete tasks for good. One that is being replayed is left.

    \b
    Exit status: 0  they are deleted
                 1  some of the ids are not there, or are being replayed
                 2  the store cannot be written, or the command was called in a wrong way
    """
    if sum((bool(ids), replayed, everything)) != 1:
        raise click.UsageError("say which: the ids of tasks, --replayed, or --all")
    older_than_s = None if older_than is None else _duration(older_than, "--older-than")
    with _opened(context, store) as found:
        state = TaskState.REPLAYED if replayed else None
        gone = found.purge(ids or None, state=state, older_than_s=older_than_s)
    Screen(sys.stdout).line(f"{gone} task{'' if gone == 1 else 's'} deleted")
    if ids and gone < len(set(ids)):
        context.exit(NOT_ALL)


@contextmanager
def _opened(context: click.Context, path: str, *, read_only: bool = False, lease_s: float = 300.0) -> Iterator[FailedTaskStore]:
    """The store at `path`, or the end of the command with what is wrong."""
    try:
        with FailedTaskStore(SQLiteStorage(path, create=False, read_only=read_only), lease_s=lease_s) as store:
            yield store
    except FailedTaskStoreError as error:
        _complain(str(error))
        context.exit(TROUBLE)


def _import(context: click.Context, modules: Sequence[str]) -> None:
    sys.path.insert(0, "")  # as `python -m` does: the working directory is where a service starts from
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  # whatever a module of the user's does when it is imported
            _complain(f"--tasks {module}: cannot be imported: {type(error).__name__}: {error}")
            context.exit(TROUBLE)


def _replay(screen: Screen, store: FailedTaskStore, task_id: str) -> Replay:
    task = store.show(task_id)
    fn: Callable[..., Any] | None = None if task is None else find_task(task.name)
    is_async = fn is not None and inspect.iscoroutinefunction(fn)
    result = asyncio.run(store.areplay(task_id)) if is_async else store.replay(task_id)
    why = "" if result.error is None else f"{type(result.error).__name__}: {result.error}".splitlines()[0][:200]
    if result.error is not None and result.outcome is not ReplayOutcome.FAILED:
        why = str(result.error)
    style = _OUTCOMES.get(result.outcome, DOUBTFUL)
    screen.line(
        (task_id, WHERE), "  ", (task.name if task else "?", NAME), "  ", (result.outcome.value, style), f"  {why}" if why else ""
    )
    return result


def _duration(text: str, option: str) -> float:
    try:
        duration_s = parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
    if duration_s <= 0:
        raise click.UsageError(f"{option}: must be above 0s")
    return duration_s


def _complain(message: str) -> None:
    Screen(sys.stderr).line(("resilience: ", BAD), printable(message))


def _row(task: FailedTask) -> Sequence[Part]:
    error = task.error.splitlines()[0] if task.error else ""
    tries = f"{task.attempts} attempt{'' if task.attempts == 1 else 's'}"
    return (
        (task.id, WHERE),
        (_moment(task.failed_s), QUIET),
        (task.state.value, _STYLES[task.state]),
        (task.name, NAME),
        tries,
        error[:80],
    )


def _show(screen: Screen, task: FailedTask) -> None:
    rows: list[Sequence[Part]] = [
        ("id", (task.id, WHERE)),
        ("task", (task.name, NAME)),
        ("pool", task.pool),
        ("state", (task.state.value, _STYLES[task.state])),
        ("accepted", _moment(task.submitted_s)),
        ("last failed" if task.state is not TaskState.REPLAYED else "replayed", _moment(task.failed_s)),
        ("attempts", str(task.attempts)),
        ("replays", str(task.replays)),
        ("idempotency key", task.idempotency_key),
        ("payload", task.payload or "not known"),
        ("error", task.error.replace("\n", " / ")),
    ]
    screen.columns(rows)
    screen.line()
    for line in task.traceback.splitlines():
        screen.line((line, QUIET))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _plain(task: FailedTask) -> dict[str, Any]:
    return {**asdict(task), "state": task.state.value}
