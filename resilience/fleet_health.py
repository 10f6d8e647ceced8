"""The health signal of a fleet: the breakers of many processes write it, through a board that a store keeps.

A process tells the board once a second whether a breaker of its own holds the signal, and takes over what the board says. What the
board decides is arithmetic here; the Redis script does the same. All instants of a board are by its store's clock.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

from resilience.clock import Clock, to_us
from resilience.events import Event, emit
from resilience.health import PPB, HealthSettings, HealthSignal, Hold, Phase

LAPSES_US: Final = 5_000_000
"""A mark that is not renewed for so long counts as closed."""
_numbers: Final = itertools.count()
RESTORED: Final = "restored"
"""The mark of nobody, which keeps an incident going in a store that lost its memory until its marks are renewed."""


class FleetState(NamedTuple):
    """What a board says of one signal: the phase that the factor is in, and the incident that is on, or was the last.

    Each change of the phase that is not the passing of time counts `epoch` up.
    """

    epoch: int = 0
    incident: int = 0
    in_incident: int = 0
    start_us: int = 0
    factor_ppb: int = PPB
    step_ppb: int = 0
    every_us: int = 60_000_000

    def factor_ppb_at(self, now_us: int) -> int:
        """The factor at an instant of this phase."""
        return min(PPB, self.factor_ppb + self.step_ppb * (max(0, now_us - self.start_us) // self.every_us))


class Mark(NamedTuple):
    """What a process tells a board of one signal.

    is_open: whether a breaker of its own holds the signal. incident: in which incident that began, 0 where nobody has told it yet.
    quorum: how many processes must have one open before an incident begins.
    kept_ppb, floor_ppb, recover_ppb, every_us: the settings. has_new_settings: they have just been changed.
    seen: what it was told last, for a store that has lost its memory.
    """

    is_open: bool
    incident: int
    quorum: int
    kept_ppb: int
    floor_ppb: int
    recover_ppb: int
    every_us: int
    has_new_settings: bool
    seen: FleetState


class Board(NamedTuple):
    """A signal's board: its state, and since when each process's mark was last renewed."""

    state: FleetState
    marks: Mapping[str, int]


def renewed(board: Board, process: str, mark: Mark, now_us: int) -> Board:
    """The board after a process has told what it has to tell, and lapsed marks are gone."""
    state, marks = board.state, dict(board.marks)
    if mark.seen.epoch > state.epoch:
        state = mark.seen
        if state.in_incident:
            marks[RESTORED] = now_us
    if state.start_us > now_us:  # its clock was set back
        state = state._replace(start_us=now_us)
    ended_us = _drop_lapsed(marks, now_us)
    if not mark.is_open:
        if marks.pop(process, None) is not None:
            ended_us = now_us
    elif mark.incident == 0 or (mark.incident == state.incident and state.in_incident):
        marks[process] = now_us
    # else the mark had lapsed, and the incident is over: whoever slept through its end starts no second one
    if state.in_incident and not marks:
        factor_ppb = state.factor_ppb
        step_ppb = mark.recover_ppb if factor_ppb < PPB else 0
        state = FleetState(state.epoch + 1, state.incident, 0, ended_us or now_us, factor_ppb, step_ppb, mark.every_us)
    elif not state.in_incident and len(marks) >= mark.quorum:
        factor_ppb = cut_ppb(state.factor_ppb_at(now_us), mark)
        state = FleetState(state.epoch + 1, state.incident + 1, 1, now_us, factor_ppb, 0, mark.every_us)
    elif mark.has_new_settings and state.step_ppb and (state.step_ppb, state.every_us) != (mark.recover_ppb, mark.every_us):
        factor_ppb = state.factor_ppb_at(now_us)
        step_ppb = mark.recover_ppb if factor_ppb < PPB else 0
        state = FleetState(state.epoch + 1, state.incident, 0, now_us, factor_ppb, step_ppb, mark.every_us)
    return Board(state, marks)


def _drop_lapsed(marks: dict[str, int], now_us: int) -> int:
    """Drop marks that have lapsed, or come from the future. Returns when the last of them lapsed, 0 where none did."""
    lapsed = {process: seen_us for process, seen_us in marks.items() if not now_us - LAPSES_US < seen_us <= now_us}
    for process in lapsed:
        del marks[process]
    return max((seen_us + LAPSES_US for seen_us in lapsed.values() if seen_us <= now_us), default=0)


def cut_ppb(factor_ppb: int, mark: Mark) -> int:
    """The factor when an incident starts."""
    return min(factor_ppb, max(mark.floor_ppb, factor_ppb * mark.kept_ppb // PPB))


class Wakes(Protocol):
    """What carries marks to the board."""

    def wake(self) -> None:
        """Do so at once: there is news. Callers hold locks: only note it."""


class FleetHealthSignal(HealthSignal):
    """A health signal that follows the board of a store.

    An opening of its own breakers cuts at once, and the board makes it the fleet's incident. That incident is one more hold on this
    signal, which lets go `every_s` after the board was last heard of, and not before marks lapse: without its store, a process does
    not stay cut for ever.
    """

    def __init__(self, board: Wakes, *, quorum: int = 1, settings: HealthSettings, name: str, clock: Clock) -> None:
        super().__init__(
            cut=settings.cut, recover=settings.recover, every_s=settings.every_s, floor=settings.floor, name=name, clock=clock
        )
        self._board = board
        self.quorum = quorum
        self.number = next(_numbers)
        """Which one of this process it is: two of one name, such as those of two files, have marks of their own on the board."""
        self._fleet = Hold()
        self._short_of_quorum: set[Hold] = set()
        self._openings = 0
        self._openings_told = 0
        self._incident = 0
        self._has_new_settings = False
        self._is_away = True
        self._seen = FleetState()
        self._followed: Phase | None = None
        self._followed_epoch = -1

    @property
    def epoch(self) -> int:  # type: ignore[override]
        """Counts the changes of the factor that the fleet has agreed on, from 1: 0 is what no fleet has a part in."""
        return self._seen.epoch + 1

    # --- written by breakers ---------------------------------------------------------------------------------------------------

    def opened(self, hold: Hold, now_us: int, open_until_us: int | None) -> list[Event]:
        with self._lock:
            self._openings += 1
        if self.quorum > 1 and not self._is_away and not self._seen.in_incident:
            with self._lock:
                hold.forever = open_until_us is None
                hold.from_us = now_us if open_until_us is None else max(now_us, open_until_us)
                self._short_of_quorum.add(hold)
            self._board.wake()
            return []
        events = super().opened(hold, now_us, open_until_us)
        self._board.wake()
        return events

    def closed(self, hold: Hold, now_us: int) -> list[Event]:
        self._short_of_quorum.discard(hold)
        events = super().closed(hold, now_us)
        self._board.wake()
        return events

    def configure(self, settings: HealthSettings, now_us: int | None = None) -> None:
        if settings != self.settings:
            self._has_new_settings = True
        super().configure(settings, now_us)

    # --- between the board and this signal ---------------------------------------------------------------------------------------

    def mark(self, now_us: int) -> tuple[Mark, int]:
        """What to tell the board now, and the number of openings that this tells of."""
        with self._lock:
            openings = self._openings
            own = (*self._holds, *self._short_of_quorum)
            holds = any(hold is not self._fleet and hold.until_us(self._every_us) > now_us for hold in own)
            is_new = openings > self._openings_told  # told once also where it is over by now: it was an incident
            settings = self.settings
            kept_ppb = PPB - round(settings.cut * PPB)
            return (
                Mark(
                    holds or is_new,
                    self._incident,
                    self.quorum,
                    kept_ppb,
                    kept_ppb if settings.floor is None else round(settings.floor * PPB),
                    round(settings.recover * PPB),
                    to_us(settings.every_s),
                    self._has_new_settings,
                    self._seen,
                ),
                openings,
            )

    def follow(self, state: FleetState, openings: int, now_us: int, offset_us: int) -> bool:
        """Take over what the board says. `offset_us` is its clock less this one's; `openings` came with the mark that was told.

        False: there is more to tell at once.
        """
        with self._lock:
            self._is_away = False
            self._has_new_settings = False
            present = state.incident if state.in_incident else 0
            is_refused = openings > self._openings_told and self._incident and self._incident != present
            if is_refused:  # a probe failed after the incident of its breaker's mark: that is of the present one, or a new one
                self._incident = 0
                return False
            self._openings_told = openings
            if self._openings > openings:
                return False
            events = self._advance(now_us)
            self._take_over(state, now_us, offset_us)
            has_own = any(hold is not self._fleet for hold in (*self._holds, *self._short_of_quorum))
            self._incident = (self._incident or present) if has_own else 0
            has_fallen = self.phase.factor_ppb_at(now_us) < self._told_ppb
            events += self._tell("incident" if has_fallen else "recovery", now_us)
        emit(events)
        return True

    def _take_over(self, state: FleetState, now_us: int, offset_us: int) -> None:
        self._seen = state
        if state.in_incident:
            self._incidents += not self._holds
            self._fleet.from_us = now_us + max(0, LAPSES_US - self._every_us)
            self._holds |= self._short_of_quorum | {self._fleet}
            self._short_of_quorum.clear()
        elif self.quorum > 1:
            self._short_of_quorum |= self._holds - {self._fleet}
            self._holds.clear()
        else:
            self._holds.clear()
        if self._followed is not self.phase or self._followed_epoch != state.epoch:
            number, start_us = self.phase.number + 1, min(now_us, state.start_us - offset_us)
            self.phase = Phase(number, start_us, state.factor_ppb, state.step_ppb, state.every_us)
            self._phases.append(self.phase)
            self._followed, self._followed_epoch = self.phase, state.epoch
        self._begin_stretch(now_us)

    def away(self, now_us: int) -> None:
        """The board cannot be heard: what was seen last goes on, and own breakers count alone."""
        with self._lock:
            self._is_away = True
            quiet, self._short_of_quorum = self._short_of_quorum, set()
        for hold in quiet:
            emit(super().opened(hold, now_us, None if hold.forever else hold.from_us))

    def renew_locks(self) -> None:
        self._lock = threading.Lock()
        self._incident = 0

    def status(self) -> dict[str, Any]:
        return {
            **super().status(),
            "shared": not self._is_away,
            "fleet_incident": self._seen.incident,
            "epoch": self._seen.epoch,
            "quorum": self.quorum,
        }
