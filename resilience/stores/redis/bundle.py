"""Questions that share a trip: on one server they are one call of the script, in a cluster one for each slot."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import Decided
from resilience.stores.redis.replies import Reply, Trouble
from resilience.stores.redis.scripts import Questions


class Place(NamedTuple):
    """Where a cluster keeps a bucket, and how it must be asked for while that slot is being moved.

    is_alone: without other keys in the same call. is_asking: out of turn, at the node that takes the slot over.
    """

    slot: int
    is_alone: bool = False
    is_asking: bool = False


class Bundle:
    """The questions of one trip."""

    def __init__(self, prefix: str, questions: Sequence[Take]) -> None:
        if questions[0].place is None:
            self.calls = [Questions(prefix, questions)]
            return
        self._numbers = _by_call(questions)
        self.calls = []
        for numbers in self._numbers:
            asked = [questions[number] for number in numbers]
            self.calls.append(Questions(prefix, asked, is_asking=asked[0].place.is_asking))

    def answers(self, replies: Sequence[Reply]) -> list[Decided | Trouble]:
        """What became of each question, in their order.

        Raises:
            ValueError: a reply is not one to these questions.
        """
        if len(self.calls) == 1 and isinstance(replies[0], bytes):
            return self.calls[0].answers(replies[0])  # type: ignore[return-value]  # a list that nobody else has
        found: dict[int, Decided | Trouble] = {}
        for call, numbers, reply in zip(self.calls, self._numbers, replies, strict=True):
            told = call.answers(reply) if isinstance(reply, bytes) else [reply] * len(numbers)
            found.update(zip(numbers, told, strict=True))
        return [found[number] for number in range(len(found))]

    @staticmethod
    def instant_us(replies: Sequence[Reply]) -> int | None:
        """When they were decided, by the server's clock; None where none was."""
        for reply in replies:
            if isinstance(reply, bytes):
                return Questions.instant_us(reply)
        return None


def _by_call(questions: Sequence[Take]) -> list[list[int]]:
    """The numbers of the questions that one call can ask: all keys of a call are in one slot."""
    calls: dict[Hashable, list[int]] = {}
    for number, question in enumerate(questions):
        place = question.place
        calls.setdefault((place, question.limit, question.key) if place.is_alone else place, []).append(number)
    return list(calls.values())
