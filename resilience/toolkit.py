"""A toolkit: everything that one configuration file describes, alive.

A new content of the file is read whole, validated, built beside what is in force, and put in force by rebinding one reference.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from types import TracebackType
from typing import Any, Final, NamedTuple

from resilience.clock import SYSTEM_CLOCK, Clock, to_us
from resilience.config import Document, parse
from resilience.config.differences import differences
from resilience.config.source import fingerprint, has_end_mark, read_bytes
from resilience.errors import ConfigError
from resilience.events import ConfigLoaded, ConfigRefused, Event, emit, held_back
from resilience.handle import PipelineHandle
from resilience.health import HealthSignal
from resilience.live import Live, absolute
from resilience.pipeline import Pipeline
from resilience.pools import Pools
from resilience.states import Active, States
from resilience.status import active_status, shortened
from resilience.watch import HANG_UP, THREAD, Job, Known, News, Watcher
from resilience.workers import AsyncWorkerPool, WorkerPool

log = logging.getLogger("resilience")
_SETTLING_US: Final = 50_000
"""How soon to look again at a file that is being changed."""
_WAIT_S: Final = 5.0
"""The longest that closing waits for a look that is under way."""
_MOST_WARNINGS: Final = 20
"""How many a reload writes to the log: a file can have thousands."""
_SHORTEST_S: Final = 0.05
_LONGEST_S: Final = 3600.0
_Change = tuple[Document, Document]
"""What was in force, and what is now."""


class _Outcome(NamedTuple):
    """What became of a content. The numbers count up in the order in which contents were read."""

    number: int
    result: _Change | ConfigError


class Toolkit:
    """The live policies, pipelines, routes and health signals of one configuration file. Made by `load`."""

    def __init__(self, path: str, clock: Clock = SYSTEM_CLOCK) -> None:
        content = read_bytes(path)
        self.path = path
        self.clock = clock
        self.lock = threading.Lock()
        """Held while the file is read and put in force."""
        self.active = Active(1, States(parse(content, path), clock))
        self._pools = Pools(path, clock, self.resolve)
        self._known = Known(fingerprint(content), has_end_mark(content))
        self._last_error: str | None = None
        self._taken = self._told = 0  # numbers of outcomes
        self._users = 0
        self._is_closed = False
        self._watcher: Watcher | None = None
        self._every_us = 0
        self._job = Job(path, self._look, self._on_hang_up)

    # --- following the file ---------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the file again, as it is, and put it in force. A file that cannot be used changes nothing.

        Raises:
            ConfigError: what is wrong with the file, and the configuration in force stays; or the toolkit is closed.
        """
        LIVE.ensure()
        with held_back(), self.lock:
            self._refuse_if_closed()
            outcome = self._take(_read(self.path))
        self._tell(outcome)
        if isinstance(outcome.result, ConfigError):
            raise outcome.result

    def watch(self, every_s: float = 1.0) -> None:
        """Follow the file from now on, until the toolkit is closed.

        Args:
            every_s: seconds between two looks, 0.05 to 3600; default 1. The shortest that anybody asks for holds.

        Raises:
            ValueError: `every_s` is out of range.
            ConfigError: the toolkit is closed.
        """
        if not _SHORTEST_S <= every_s <= _LONGEST_S:
            raise ValueError(f"every_s: must be between {_SHORTEST_S:g} and {_LONGEST_S:g} seconds, got {every_s!r}")
        LIVE.ensure()
        self._begin_to_watch(to_us(every_s))
        THREAD.add(self._job)

    def _begin_to_watch(self, every_us: int) -> None:
        with self.lock:
            self._refuse_if_closed()
            if self._watcher is None:
                self._watcher, self._every_us = Watcher(self.path), every_us
            self._every_us = min(self._every_us, every_us)
            self._job.wake()

    def reload_on_sighup(self) -> None:
        """Reload at once whenever this process is sent SIGHUP. A handler that was set before is still called.

        The file is read in the thread that watches files, whether this one is watched or not; what is wrong with it is told as it
        is by the watch. Servers set handlers of their own when they start worker processes: call this in the worker.

        Raises:
            RuntimeError: this is not the main thread, or the system has no SIGHUP.
            ConfigError: the toolkit is closed.
        """
        LIVE.ensure()
        self._refuse_if_closed()
        HANG_UP.ask(self._job)
        THREAD.add(self._job)

    def keep_watching(self) -> None:
        """See that the file is watched in this process too, were it forked in a way that Python was not told of."""
        LIVE.ensure()

    def _look(self, clock: Clock) -> int | None:
        """What the watching thread does when the file is due. Returns when it is due again."""
        watcher, now_us = self._watcher, clock.now_us()
        if watcher is None or self._is_closed:
            return None
        if watcher.is_at_rest(now_us):
            return now_us + self._every_us
        with held_back(), self.lock:
            if self._is_closed:
                return None
            news = watcher.poll(clock, self._known)
            outcome = None if news is None else self._take(news)
        if outcome is not None:
            self._tell(outcome)
        return now_us + (min(_SETTLING_US, self._every_us) if watcher.is_settling else self._every_us)

    def _on_hang_up(self) -> None:
        with contextlib.suppress(ConfigError):  # it has been told
            self.reload()

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise ConfigError(f"{self.path}: this toolkit is closed; load the file again")

    def _take(self, news: News) -> _Outcome:
        self._taken += 1
        return _Outcome(self._taken, self._put_in_force(news))

    def _put_in_force(self, news: News) -> _Change | ConfigError:
        """Put a content in force, or note why it cannot be."""
        before = self.active
        if isinstance(news.content, ConfigError):
            return self._refuse(news, news.content)
        try:
            states = States(parse(news.content, self.path, THREAD.give_way), self.clock, before.states)
            self.active = Active(before.version + 1, states, before)
            self._pools.follow(self.active)
        except ConfigError as error:
            return self._refuse(news, error)
        except Exception as error:  # a fault of ours must not end the watch, and is as visible as one of the file
            log.exception("%s: could not be put in force", self.path)
            return self._refuse(news, ConfigError(f"{self.path}: could not be put in force: {error!r}"))
        self._known = Known(news.key, has_end_mark(news.content))
        self._last_error = None
        return before.document, self.active.document

    def _refuse(self, news: News, error: ConfigError) -> ConfigError:
        self._known = Known(news.key, self._known.has_end_mark)
        self._last_error = shortened(str(error))  # 64 KB of faults can be told in 30 MB
        return error

    def _tell(self, outcome: _Outcome) -> None:
        """Tell of what was read, once every lock is released: an observer may look at the toolkit.

        What another thread has overtaken is not told any more: the last word in a log is to be what holds.
        """
        event, warnings = self._event(outcome.result)
        if outcome.number < self._told:
            return
        self._told = outcome.number
        emit([event])
        for warning in warnings[:_MOST_WARNINGS]:
            log.warning("%s", warning)
        if len(warnings) > _MOST_WARNINGS:
            log.warning("%s: has %d more warnings; `resilience check` shows all", self.path, len(warnings) - _MOST_WARNINGS)

    def _event(self, result: _Change | ConfigError) -> tuple[Event, tuple[object, ...]]:
        """What observers are told, and the warnings that go with it."""
        if isinstance(result, ConfigError):
            return ConfigRefused(self.path, shortened(str(result))), ()
        old, new = result
        found = differences(old, new)
        return ConfigLoaded(self.path, new.sha256, found.added, found.removed, found.restarted), tuple(new.warnings)

    # --- what it holds --------------------------------------------------------------------------------------------------------

    def pipeline(self, name: str) -> PipelineHandle:
        """A handle on the pipeline called `name`; it follows changes of the configuration.

        Raises:
            ConfigError: there is no such pipeline now.
        """
        LIVE.ensure()
        self.resolve(name)
        return PipelineHandle(name, self.resolve)

    def resolve(self, name: str) -> Pipeline:
        """The pipeline called `name` as it is now."""
        pipeline = self.active.pipelines.get(name)
        if pipeline is None:
            known = ", ".join(sorted(self.active.pipelines)) or "none at all"
            raise ConfigError(f"{self.path}: has no pipeline called {name!r}; it has {known}")
        return pipeline

    def worker_pool(self, name: str) -> WorkerPool:
        """The pool of threads called `name`. There is one of a name, until it is drained; it follows changes of the configuration.

        Raises:
            ConfigError: there is no such pool now.
            FailedTaskStoreError: its store of failed tasks cannot be opened.
        """
        LIVE.ensure()
        return self._pools.get(WorkerPool, self.active, name)

    def async_worker_pool(self, name: str) -> AsyncWorkerPool:
        """The same as a pool of asyncio tasks, for the event loop that uses it first."""
        LIVE.ensure()
        return self._pools.get(AsyncWorkerPool, self.active, name)

    def health(self, name: str = "default") -> HealthSignal:
        """The health signal called `name`.

        Raises:
            ConfigError: there is no such signal.
        """
        signals = self.active.states.signals
        if name not in signals:
            raise ConfigError(f"{self.path}: has no health signal called {name!r}; it has {', '.join(signals)}")
        return signals[name]

    def status(self) -> dict[str, Any]:
        """What an operator wants to see, as plain data for JSON: the configuration in force, how old it is, what is wrong with the
        file if it could not be used since (each fault with line and column), and the state of every policy."""
        LIVE.ensure()
        return {
            "path": self.path,
            "watched": self._watcher is not None,
            "last_error": self._last_error,
            **active_status(self.active, self.clock.now_us()),
            "pools": self._pools.status(),
        }

    def renew_locks(self) -> None:
        """In a forked child: another thread of the parent may have held them."""
        self._pools.renew_lock()

    # --- its end --------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give up one use of the toolkit; the last one ends it. What is under way settles as before.

        **Call it once for each `load`, never twice.** All loads of a file share one object, so a second call cannot be told from
        another user's: it gives up a use that somebody else still has, and the toolkit ends while they need it. The end of a
        `with` block is such a call: do not call `close` inside `with load(path) as toolkit:`.
        """
        with LIVE.lock:
            self._users -= 1
            if self._users > 0:
                return
            LIVE.forget(self)
        self._is_closed = True
        HANG_UP.leave(self._job)
        THREAD.remove(self._job)
        with held_back():
            has_lock = self.lock.acquire(timeout=_WAIT_S)  # a look that hangs in the file system must not hold up the end
            self.active.states.retire()
            if has_lock:
                self.lock.release()

    def __enter__(self) -> Toolkit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Toolkit({self.path!r}, version {self.active.version})"


LIVE: Final[Live[Toolkit]] = Live()


def load(path: str | os.PathLike[str], *, watch: bool = False, every_s: float = 1.0, clock: Clock = SYSTEM_CLOCK) -> Toolkit:
    """Bring the configuration file at `path` to life. One real path has one live toolkit in a process; each `load` is one use.

    Give up each use exactly once: leave the `with` block, or call `close()`, never both. All loads of a file share one object, and
    a `close()` too many takes the toolkit from another user; see `Toolkit.close`.

    Args:
        path: the YAML file.
        watch: follow the file while the process runs. It is followed until its last user closes the toolkit, if any user asked.
        every_s: seconds between two looks at a watched file, 0.05 to 3600; default 1. The shortest that anybody asks for holds.
        clock: where time comes from; only the first load of a path decides. Looks go by the real time.

    Raises:
        ConfigError: every fault of the file, each with line and column.
        ValueError: `every_s` is out of range.
    """
    LIVE.ensure()
    name = absolute(path)
    with held_back(), LIVE.lock:
        found = LIVE.find(name)
        toolkit = found or Toolkit(name, clock)
        toolkit._users += 1
        if found is None:
            LIVE.add(toolkit)
        document = toolkit.active.document
    if found is None:
        toolkit._tell(_Outcome(0, (document, document)))
    if watch:
        try:
            toolkit.watch(every_s)
        except BaseException:
            toolkit.close()
            raise
    return toolkit


def _read(path: str) -> News:
    """What is in the file, as it is."""
    try:
        content = read_bytes(path)
    except ConfigError as error:
        return News(str(error), error)
    return News(fingerprint(content), content)
