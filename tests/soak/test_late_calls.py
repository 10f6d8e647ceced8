"""Calls that come late to a limiter, beside a model that keeps levels of buckets and every change of settings there ever was."""

from __future__ import annotations

import copy
import random
import threading
from collections import defaultdict
from fractions import Fraction

import pytest

from resilience.layers.limiter import RateLimiterSettings
from resilience.layers.limiter.state import LimiterState
from tests.soak.sizes import by_length

STRAGGLE_US = 500_000
NEARLY = Fraction(1, 10**6)
"""The limiter counts in billionths of a token; the model loses nothing."""
pytestmark = pytest.mark.soak
KEYS = ("a", "b", "c")
RATES = (0.001, 0.5, 3.0, 10.0, 1_000.0, 1e6)
BURSTS = (1, 2, 5, 8, 20, 100)


class Spell:
    """Settings that have been in force: what was in each bucket at their end, and what was taken since, by whom."""

    def __init__(self, settings: RateLimiterSettings) -> None:
        self.settings = settings
        self.ended_us = -1
        self.left: dict[str, Fraction] = {}
        self.by_own: defaultdict[str, int] = defaultdict(int)
        self.by_all: defaultdict[str, int] = defaultdict(int)


class Model:
    """Buckets as levels, brought up to each instant."""

    def __init__(self, settings: RateLimiterSettings) -> None:
        self.now_us = 0
        self.spells = [Spell(settings)]
        self.levels = dict.fromkeys(KEYS, Fraction(settings.capacity))

    def advance(self, elapsed_us: int) -> None:
        settings = self.spells[-1].settings
        self.now_us += elapsed_us
        more = settings.exact_rate_per_s * elapsed_us / 1_000_000
        self.levels = {key: min(Fraction(settings.capacity), level + more) for key, level in self.levels.items()}

    def reload(self, settings: RateLimiterSettings) -> None:
        self.spells[-1].ended_us = self.now_us
        self.spells[-1].left = dict(self.levels)
        self.spells.append(Spell(settings))
        self.levels = {key: min(Fraction(settings.capacity), level) for key, level in self.levels.items()}

    def took(self, spell: Spell, key: str, cost: int) -> None:
        self.levels[key] -= cost
        for ended in self.spells[:-1]:
            ended.by_own[key] += cost * (ended is spell)
            ended.by_all[key] += cost

    def may(self, spell: Spell, key: str, cost: int) -> bool | None:
        """Whether so much must be let in, or must not; None: both are right."""
        there = self.levels[key]
        most = least = there
        if spell is not self.spells[-1]:
            most = min(there, spell.left[key] - spell.by_own[key])
            # What others have taken since is taken from the books of now, and may count for more here than it was.
            least = most if spell.by_all[key] == spell.by_own[key] else Fraction(0)
        if cost > most + NEARLY:
            return False
        return True if cost <= least - NEARLY else None


def some_settings(dice: random.Random) -> RateLimiterSettings:
    return RateLimiterSettings(dice.choice(RATES), dice.choice(BURSTS))


def twin(state: LimiterState) -> LimiterState:
    """The same in every way, to try on it what the other is not to feel."""
    lock, state.lock = state.lock, None  # type: ignore[assignment]  # it cannot be copied
    try:
        found = copy.deepcopy(state)
    finally:
        state.lock = lock
    found.lock = threading.Lock()
    return found


@pytest.mark.parametrize("seed", range(by_length(20, 2_000)))
def test_any_late_calls_get_what_both_their_settings_and_those_of_now_have(seed: int) -> None:
    dice = random.Random(seed)
    first = some_settings(dice)
    state, model = LimiterState(first, None, 0), Model(first)
    for _ in range(120):
        what = dice.random()
        if what < 0.15:
            settings = some_settings(dice)
            if any((settings.rate_per_s, settings.burst) == (s.settings.rate_per_s, s.settings.burst) for s in model.spells):
                continue  # of two spells of the same settings, the limiter cannot tell whose a call is
            state.configure(settings, model.now_us)
            model.reload(settings)
        elif what < 0.4:
            model.advance(dice.choice((0, 1, 999, 50_000, 120_000, 499_999, 700_000)))
        else:
            late = [spell for spell in model.spells[-17:-1] if model.now_us - spell.ended_us < STRAGGLE_US]
            spell = dice.choice((model.spells[-1], *late))
            key, cost = dice.choice(KEYS), dice.choice((0, 1, 1, 2, 3, 5, 30))
            if cost > spell.settings.capacity:
                continue  # refused before it comes to the state
            by_ones = twin(state)
            one_by_one = [by_ones.reserve(key, 1, model.now_us, 0, spell.settings)[0] == 0 for _ in range(cost)]
            if dice.random() < 0.5:
                is_in = state.reserve(key, cost, model.now_us, 0, spell.settings)[0] == 0
            else:
                is_in = state.take(key, cost, model.now_us, spell.settings) == 0
            assert is_in == all(one_by_one), (cost, one_by_one)
            if is_in:
                everywhere = [(each, of) for each in KEYS for of in model.spells[-17:]]
                assert [levels(state, each, of, model.now_us) for each, of in everywhere] == [
                    levels(by_ones, each, of, model.now_us) for each, of in everywhere
                ]
            may = model.may(spell, key, cost)
            assert may is None or is_in == may, (seed, spell.settings, key, cost, may)
            if is_in:
                model.took(spell, key, cost)


def levels(state: LimiterState, key: str, spell: Spell, now_us: int) -> int:
    """What is left for a call of these settings."""
    own = state.clock_of(spell.settings, now_us)
    return min(state._level(own, key, now_us), state._level(state.tokens, key, now_us))
