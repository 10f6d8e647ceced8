"""Finds what a piece of code leaves behind: threads, asyncio tasks, and calls that were admitted and never settled.

Nothing here runs unless a guard is entered. While one is, permits, calls of functions and waits are made of subclasses that note
themselves; with the last guard the plain classes are back, so the hot path knows nothing of this.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Final

import resilience.layers.limiter.layer as limiter_layer
import resilience.layers.limiter.shared as shared_limiter_layer
from resilience import pipeline, stage
from resilience.call import Call, FunctionCall, Outcome, Passed, Permit
from resilience.clock import SYSTEM_CLOCK, Clock, to_us
from resilience.layers.base import Wait
from resilience.layers.breaker import CircuitBreaker
from resilience.layers.breaker.machine import Machine, Ticket
from resilience.registry import members
from resilience.stores.base import CONNECT_THREAD, LANE_TASK, STORE_THREAD
from resilience.watch.thread import NAME as WATCH_THREAD

Task = asyncio.Task[Any]
_LOOK_EVERY_S: Final = 0.005
_GRPC_POLLER: Final = "(_poll_wrapper)"  # grpc.aio has one thread for all loops, until the last of its objects is gone
_FORGOTTEN_EVERY: Final = 1_024
_TEST_RUNNERS: Final = frozenset({"TestRunner._run_tests_and_fixtures"})  # anyio's pytest plugin runs tests in a task of its own
_MACHINERY: Final = frozenset({"anyio", "asyncio", "concurrent", "contextlib", "functools", "resilience", "threading"})


class Leaked(AssertionError):
    """Something was left behind; `leaks` says what, one text each."""

    def __init__(self, leaks: list[str]) -> None:
        super().__init__(_told(leaks))
        self.leaks = leaks


def _told(leaks: list[str]) -> str:
    return "left behind:" + "".join(f"\n  {leak}" for leak in leaks)


def _place(frame: FrameType | None) -> str:
    """Where the code stands that `frame` belongs to or was called by: not here and not in what runs tasks and threads."""
    found = frame
    while found is not None and found.f_globals.get("__name__", "").partition(".")[0] in _MACHINERY:
        found = found.f_back
    found = found or frame
    return "no line of Python" if found is None else f"{found.f_code.co_filename}:{found.f_lineno} ({found.f_code.co_qualname})"


# --- what is noted while a guard is active ----------------------------------------------------------------------------------


class _Admission:
    """A permit that is out, or a call that needs none. Neither is kept alive by this."""

    __slots__ = ("_name", "_permit", "_where", "held")

    def __init__(self, permit: Permit | FunctionCall, call: Call, where: str) -> None:
        self._permit = weakref.ref(permit)
        self._name = call.name or "a call"
        self._where = where
        self.held: list[tuple[Any, Any]] = call.held

    def __str__(self) -> str:
        lost = "" if self._permit() is not None else ", and was garbage collected so"
        holds = ", ".join(f"{layer.kind} {layer.name!r}" for layer, _ in self.held)
        return f"permit: of {self._name}, admitted at {self._where}, never settled{lost}" + (f"; holds {holds}" if holds else "")


def _nobody_knows() -> bool:
    """Whether it was garbage collected meanwhile is not said."""
    return True


class _SoleAdmission(_Admission):
    """A call that is its own permit. It is over when it holds nothing any more."""

    __slots__ = ()

    def __init__(self, call: Call) -> None:
        self._permit = _nobody_knows  # type: ignore[assignment]  # it cannot be referred to without being kept alive
        self._name = call.name or "a call"
        self._where = _place(sys._getframe())
        self.held = call.held


class _Reservation:
    """Tokens that a call has reserved in a limiter's queue. `driven`: somebody waits for them, or has waited."""

    __slots__ = ("_wait_s", "_where", "driven")

    def __init__(self, wait_s: float, where: str) -> None:
        self._wait_s = wait_s
        self._where = where
        self.driven = False

    def __str__(self) -> str:
        how = "is still waited for" if self.driven else "was neither waited for nor cancelled"
        return f"reservation: of tokens that come in {self._wait_s:g} s, queued at {self._where}, {how}"


class _Notes:
    """What was admitted, queued and started since the first guard was entered. Numbers tell what is younger than a guard."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.admissions: dict[int, _Admission] = {}
        self.reservations: dict[int, _Reservation] = {}
        self.cut_off: list[tuple[int, str]] = []
        self._tasks: weakref.WeakKeyDictionary[Task, int] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._guards = 0

    def enter(self) -> int:
        """One more guard. Returns the number above which everything is younger than it."""
        with self._lock:
            self._guards += 1
            if self._guards == 1:
                _put_in_place(_NotedPermit, _NotedCall, _NotedWait, _create_task, _close_runner)
            return next(self.numbers)

    def leave(self) -> None:
        """One guard less; with the last, all is as it was."""
        with self._lock:
            self._guards -= 1
            if self._guards == 0:
                _put_in_place(Permit, FunctionCall, Wait, _PLAIN_CREATE_TASK, _PLAIN_CLOSE)
                self.admissions.clear()
                self.reservations.clear()
                self.cut_off.clear()
                self._tasks.clear()

    def note_task(self, task: Task) -> None:
        """It was started."""
        with self._lock:
            self._tasks[task] = next(self.numbers)

    def note_cut_off(self, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` is about to be closed, and what still runs on it to be cancelled."""
        for task in asyncio.all_tasks(loop):
            if task.cancelling() or not _is_code_under_guard(task):
                continue
            with self._lock:  # the tasks of other loops than asyncio's own are not noted when they start
                number = self._tasks.get(task, 0) if isinstance(loop, asyncio.BaseEventLoop) else next(self.numbers)
                self.cut_off.append((number, f"task: under way when its event loop was closed: {task!r}"))

    def tasks_since(self, number: int) -> list[Task]:
        """The tasks younger than `number` that are not done."""
        with self._lock:
            return [task for task, born in self._tasks.items() if born > number and not task.done()]


class _NotedPermit(Permit):
    """A permit that is known until it is settled."""

    __slots__ = ("__weakref__", "_number")

    def __init__(self, call: Call, clock: Clock) -> None:
        super().__init__(call, clock)
        if isinstance(call, _NotedCall):
            call.forget()  # it goes with this permit
        self._number = next(_notes.numbers)
        _notes.admissions[self._number] = _Admission(self, call, _place(sys._getframe()))

    def settle(self, outcome: Outcome, now_us: int | None = None) -> bool:
        try:
            return super().settle(outcome, now_us)
        finally:
            _notes.admissions.pop(self._number, None)


class _NotedCall(FunctionCall):
    """A call of a function that is known until it is settled: one that goes the direct way has no permit."""

    __slots__ = ("__weakref__", "_is_settled", "_number")

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], now_us: int, pipeline: Passed | None) -> None:
        self._number = next(_notes.numbers)
        super().__init__(name, args, kwargs, now_us, pipeline)
        _notes.admissions[self._number] = _Admission(self, self, _place(sys._getframe()))

    @property
    def settled(self) -> bool:  # whoever writes this settles it
        return self._is_settled

    @settled.setter
    def settled(self, value: bool) -> None:
        self._is_settled = value
        if value:
            self.forget()

    def forget(self) -> None:
        """It is over, or a permit stands for it."""
        _notes.admissions.pop(self._number, None)


class _NotedWait(Wait):
    """A wait in a limiter's queue that is known until it is over or cancelled."""

    __slots__ = ("_cancel", "_number", "_reservation", "_wait_s")

    def __init__(self, wait_s: float, cancel: Callable[[], None]) -> None:
        self._wait_s = wait_s
        self._number = next(_notes.numbers)
        self._reservation = _notes.reservations[self._number] = _Reservation(wait_s, _place(sys._getframe()))
        self._cancel = cancel

    @property
    def wait_s(self) -> float:  # type: ignore[override]  # whoever reads this is about to wait
        self._reservation.driven = True
        return self._wait_s

    def cancel(self) -> None:
        _notes.reservations.pop(self._number, None)
        self._cancel()

    def over(self) -> None:
        _notes.reservations.pop(self._number, None)

    def __del__(self) -> None:  # whoever drives a layer by hand, as tests do, says nothing when the wait is over
        if self._reservation.driven:
            _notes.reservations.pop(self._number, None)


_notes: Final = _Notes()
_PLAIN_CREATE_TASK: Final = asyncio.BaseEventLoop.create_task
_PLAIN_CLOSE: Final = asyncio.Runner.close


def _note_sole(call: Call) -> None:
    admissions, number = _notes.admissions, next(_notes.numbers)
    admissions[number] = _SoleAdmission(call)
    if number % _FORGOTTEN_EVERY == 0:
        for earlier, admission in list(admissions.items()):
            if not admission.held and type(admission) is _SoleAdmission:
                admissions.pop(earlier, None)


def _create_task(loop: asyncio.BaseEventLoop, *args: Any, **kwargs: Any) -> Task:
    task: Task = _PLAIN_CREATE_TASK(loop, *args, **kwargs)
    _notes.note_task(task)
    return task


def _close_runner(runner: asyncio.Runner) -> None:
    loop: asyncio.AbstractEventLoop | None = getattr(runner, "_loop", None)  # `get_loop` would make one
    if loop is not None and not loop.is_closed():
        _notes.note_cut_off(loop)
    _PLAIN_CLOSE(runner)


def _put_in_place(permit: type[Permit], call: type[FunctionCall], wait: type[Wait], create_task: Any, close: Any) -> None:
    for owner, name, value in (
        (stage, "Permit", permit),
        (pipeline, "FunctionCall", call),
        (limiter_layer, "Wait", wait),
        (shared_limiter_layer, "Wait", wait),
        (asyncio.BaseEventLoop, "create_task", create_task),
        (asyncio.Runner, "close", close),
    ):
        setattr(owner, name, value)
    stage.noted = None if permit is Permit else _note_sole


# --- looking ----------------------------------------------------------------------------------------------------------------


class LeakGuard:
    """Fails the block that it guards when something that began inside has not ended. See `resilience.testing.nothing_leaks`."""

    def __init__(self, *, threads: bool, tasks: bool, permits: bool, wait_s: float) -> None:
        self._looks = [
            look for wanted, look in ((threads, self._threads), (tasks, self._tasks), (permits, self._permits)) if wanted
        ]
        self._wait_us = to_us(wait_s)
        self._since = 0
        self._known_threads: set[threading.Thread] = set()
        self._known_probes: set[Ticket] = set()

    def __enter__(self) -> LeakGuard:
        self._known_threads = set(threading.enumerate())
        self._known_probes = set(_probes())
        self._since = _notes.enter()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            until_us = SYSTEM_CLOCK.now_us() + self._wait_us
            while (leaks := self._leaks()) and SYSTEM_CLOCK.now_us() < until_us:
                SYSTEM_CLOCK.sleep(_LOOK_EVERY_S)
        finally:
            _notes.leave()
        self._tell(leaks, error)

    async def __aenter__(self) -> LeakGuard:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            until_us = SYSTEM_CLOCK.now_us() + self._wait_us
            while (leaks := self._leaks()) and SYSTEM_CLOCK.now_us() < until_us:
                await SYSTEM_CLOCK.asleep(_LOOK_EVERY_S)
        finally:
            _notes.leave()
        self._tell(leaks, error)

    def _tell(self, leaks: list[str], error: BaseException | None) -> None:
        if not leaks:
            return
        if error is None:
            raise Leaked(leaks)
        error.add_note(_told(leaks))  # what failed goes first: it may be why

    def _leaks(self) -> list[str]:
        return [leak for look in self._looks for leak in look()]

    def _threads(self) -> Iterator[str]:
        for thread in threading.enumerate():
            if thread.name in (WATCH_THREAD, STORE_THREAD, CONNECT_THREAD) or thread.name.endswith(_GRPC_POLLER):
                continue  # the process's own, while something follows a file or shares a store, or grpc.aio is in use
            if thread not in self._known_threads and thread is not threading.current_thread():
                stands = sys._current_frames().get(thread.ident or 0)
                yield f"thread: {thread.name}, which stands at {_place(stands)}"

    def _tasks(self) -> Iterator[str]:
        yield from (text for number, text in list(_notes.cut_off) if number > self._since)
        current = _current_task()
        for task in _notes.tasks_since(self._since):
            if task is not current and _is_code_under_guard(task):
                yield f"task: {task!r}"

    def _permits(self) -> Iterator[str]:
        in_permits: set[int] = set()
        for number, admission in list(_notes.admissions.items()):
            if number > self._since and (admission.held or type(admission) is _Admission):
                in_permits.update(id(token) for _, token in admission.held)
                yield str(admission)
        for number, reservation in list(_notes.reservations.items()):
            if number > self._since:
                yield str(reservation)
        for ticket in _probes():
            if ticket not in self._known_probes and id(ticket) not in in_permits:
                yield f"probe: of breaker {_named(ticket.machine)}, let through half-open and never settled"


def _probes() -> Iterator[Ticket]:
    for breaker in members(CircuitBreaker):
        for machine in breaker.pool:
            yield from list(machine._probes)


def _named(machine: Machine) -> str:
    return repr(machine.name) if machine.key is None else f"{machine.name!r} for key {machine.key!r}"


def _is_code_under_guard(task: Task) -> bool:
    """Not so: a test runner's own, a store's, and the loop's, made to close an asynchronous generator that somebody gave up."""
    coroutine = task.get_coro()
    if task.get_name() == LANE_TASK:  # lives as long as its loop
        return False
    return inspect.iscoroutine(coroutine) and coroutine.__qualname__ not in _TEST_RUNNERS


def _current_task() -> Task | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None
