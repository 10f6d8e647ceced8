"""What a layer is to a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from resilience.call import Call, Outcome


class Wait:
    """An effect: the call must wait `wait_s` seconds before it goes on. `cancel` undoes the reservation behind it."""

    __slots__ = ("cancel", "wait_s")

    def __init__(self, wait_s: float, cancel: Callable[[], None]) -> None:
        self.wait_s = wait_s
        self.cancel = cancel

    def over(self) -> None:
        """The call has waited: its reservation is used. Whoever looks for leaks wants to know."""


class Store(Protocol):
    """A store that is reached over I/O. Both forms answer the same questions."""

    def ask(self, question: Any) -> Any:
        """Answer, blocking this thread."""

    async def aask(self, question: Any) -> Any:
        """Answer, suspending this task."""


class Ask:
    """An effect: `store` must be asked `question`; `resume` turns the answer into a token, a refusal or another effect."""

    __slots__ = ("question", "resume", "store")

    def __init__(self, store: Store, question: Any, resume: Callable[[Any], Any]) -> None:
        self.store = store
        self.question = question
        self.resume = resume


class Attempt:
    """An effect: do the work once. `timeout` makes the error when the call's deadline passes; None: it has none of its own."""

    __slots__ = ("call", "timeout")

    def __init__(self, call: Call, timeout: Callable[[Call], BaseException] | None) -> None:
        self.call = call
        self.timeout = timeout


class Discard:
    """An effect: give up what a try returned, since there will be another. `discard` does it; in a task it is awaited."""

    __slots__ = ("discard", "result")

    def __init__(self, discard: Callable[[Any], Any], result: Any) -> None:
        self.discard = discard
        self.result = result


Effect = Wait | Ask | Attempt | Discard


class Layer(Protocol):
    """One policy of a pipeline. `admit` is plain arithmetic unless `has_effects`: then it may return an `Effect`."""

    kind: ClassVar[str]
    name: str
    votes_at_start: bool

    @property
    def has_effects(self) -> bool:
        """Whether `admit` may ask its driver to wait or to do I/O."""

    def admit(self, call: Call) -> Any:
        """Let the call pass. Returns a token to settle, None when there is nothing to settle, or an effect.

        Raises:
            Rejected: the call must not pass.
        """

    def settle(self, token: Any, outcome: Outcome, call: Call, now_us: int) -> None:
        """Take back what `admit` returned."""

    def attributes(self, call: Call) -> Mapping[str, Any]:
        """Span attributes of the decision just made; asked for only while a span is recorded."""

    def decisions(self) -> Mapping[str, int]:
        """How often each decision was made since the layer was born."""

    def status(self) -> Mapping[str, Any]:
        """What an operator wants to see."""
