"""How long to wait before the next try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from resilience.layers.retry.settings import RetrySettings

Uniform = Callable[[], float]
"""Draws from [0, 1)."""
_DECORRELATED_GROWTH: Final = 3.0


def delay_s(settings: RetrySettings, tries: int, previous_s: float, uniform: Uniform) -> float:
    """The wait after `tries` failed tries, in seconds.

    The ceiling doubles from `backoff_base_s` to at most `backoff_max_s`. Jitter as in "Exponential Backoff And Jitter" (AWS
    Architecture Blog, 2015): full draws from [0, ceiling), equal from the upper half, decorrelated from the base to three times
    the previous wait (or the base, before the first), none takes the ceiling.
    """
    base_s, most_s = settings.backoff_base_s, settings.backoff_max_s
    if settings.jitter == "decorrelated":
        top_s = max(base_s, previous_s) * _DECORRELATED_GROWTH
        return min(most_s, base_s + (top_s - base_s) * uniform())
    ceiling_s = min(most_s, base_s * 2.0 ** min(tries - 1, 64))
    if settings.jitter == "full":
        return ceiling_s * uniform()
    if settings.jitter == "equal":
        return ceiling_s * (1.0 + uniform()) / 2.0
    return ceiling_s
