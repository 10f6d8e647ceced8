"""The call of a thread that was refused before any of it was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Self

import grpc

from resilience.integrations.grpc.errors import RefusedRpc


class RefusedCall(grpc.Call, grpc.Future):  # type: ignore[misc]  # grpc ships no types
    """It has ended. Of an error that an interceptor raises, gRPC makes a call that says INTERNAL of itself."""

    def __init__(self, refusal: RefusedRpc) -> None:
        self._refusal = refusal

    def code(self) -> grpc.StatusCode:
        """The status code that a server of ours would have answered."""
        return self._refusal.code()

    def details(self) -> str:
        """Why, in one sentence."""
        return self._refusal.details()

    def initial_metadata(self) -> tuple[()]:
        """Nothing was received."""
        return ()

    def trailing_metadata(self) -> tuple[()]:
        """Nothing was received."""
        return ()

    def result(self, timeout: float | None = None) -> NoReturn:
        """Raise the refusal."""
        raise self._refusal

    def exception(self, timeout: float | None = None) -> RefusedRpc:
        """The refusal."""
        return self._refusal

    def traceback(self, timeout: float | None = None) -> Any:
        """The traceback of the refusal."""
        return self._refusal.__traceback__

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> NoReturn:
        raise self._refusal

    def cancel(self) -> bool:
        """It is too late for that."""
        return False

    def cancelled(self) -> bool:
        """No."""
        return False

    def running(self) -> bool:
        """No."""
        return False

    def done(self) -> bool:
        """Yes."""
        return True

    def is_active(self) -> bool:
        """No."""
        return False

    def time_remaining(self) -> None:
        """There is none."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """False: it has ended."""
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this, now."""
        fn(self)
