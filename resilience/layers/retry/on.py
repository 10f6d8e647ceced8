"""What a policy retries, in the words of its setting `on`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from resilience.errors import CircuitOpen, DeadlineExceeded, RateLimited, Rejected
from resilience.layers.statuses import GRPC_CODES, HIGHEST_STATUS, status_range

LOWEST_RETRIED: Final = 400
"""A status below is no failure, so there is nothing to retry."""

OWN_REFUSALS: Final[Mapping[str, type[Rejected]]] = MappingProxyType(
    {"rate_limited": RateLimited, "circuit_open": CircuitOpen, "deadline": DeadlineExceeded}
)
"""Refusals of our own by the word that asks for their retry."""

DEFAULT_STATUSES: Final = frozenset({429, 502, 503, 504})
DEFAULT_CODES: Final = frozenset({GRPC_CODES["UNAVAILABLE"]})
DEFAULT_ADVISED_CODES: Final = frozenset({GRPC_CODES["RESOURCE_EXHAUSTED"]})


@dataclass(frozen=True, slots=True)
class RetryOn:
    """What a policy retries.

    Attributes:
        statuses: HTTP statuses.
        codes: gRPC codes, by number.
        advised_codes: gRPC codes that are retried only where the server says how long to wait.
        refusals: refusals of our own.
    """

    statuses: frozenset[int] = DEFAULT_STATUSES
    codes: frozenset[int] = DEFAULT_CODES
    advised_codes: frozenset[int] = DEFAULT_ADVISED_CODES
    refusals: tuple[type[Rejected], ...] = ()

    @classmethod
    def of(cls, words: Sequence[str]) -> RetryOn:
        """Read the words of `RetrySettings.on`.

        Statuses go in the place of the default statuses, and codes in the place of the default codes; a kind of which no word is
        given keeps its defaults. Refusals of our own are never among the defaults, and their words take nothing away.

        Raises:
            ValueError: a word is none of these.
        """
        statuses: set[int] = set()
        codes: set[int] = set()
        refusals: list[type[Rejected]] = []
        for word in words:
            if word in OWN_REFUSALS:
                refusals.append(OWN_REFUSALS[word])
            elif word in GRPC_CODES:
                codes.add(GRPC_CODES[word])
            else:
                statuses.update(_statuses(word))
        return cls(
            frozenset(statuses) or DEFAULT_STATUSES,
            frozenset(codes) or DEFAULT_CODES,
            frozenset() if codes else DEFAULT_ADVISED_CODES,
            tuple(refusals),
        )


def _statuses(word: str) -> range:
    found = status_range(word)
    if found is None or found.start < LOWEST_RETRIED:
        raise ValueError(
            f"must be HTTP statuses between {LOWEST_RETRIED} and {HIGHEST_STATUS} such as 503 or 500..504, gRPC codes such as "
            f"UNAVAILABLE, or {', '.join(OWN_REFUSALS)}; got {word!r}"
        )
    return found
