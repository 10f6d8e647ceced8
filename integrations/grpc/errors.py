"""Refusals of ours as gRPC's own errors, so that `except grpc.RpcError` and `except Rejected` both catch them."""

from __future__ import annotations

from typing import Any, Final

import grpc

from resilience import CircuitOpen, DeadlineExceeded, RateLimited, Rejected

NEVER_SENT: Final = frozenset({"Exception serializing request!", "Invalid metadata"})
"""How grpcio says that nothing was sent, since the request could not be serialized, or its metadata cannot travel."""
UNSENDABLE: Final = (ValueError, TypeError, grpc.aio.BaseError)
"""What grpcio raises where it cannot send anything at all: the channel is closed, or metadata are no metadata."""


class RefusedRpc(grpc.aio.AioRpcError):  # type: ignore[misc]  # grpc ships no types
    """A call that was not made, or given up, on this side. It has what callers ask of any error of gRPC.

    It is one of `grpc.aio` too, which that asks for a status only if they are.
    """

    _code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE

    def __init__(self, message: str = "") -> None:
        Exception.__init__(self, message)

    def __str__(self) -> str:
        return Exception.__str__(self)

    def __repr__(self) -> str:
        return Exception.__repr__(self)

    def __reduce__(self) -> Any:
        return Exception.__reduce__(self)

    def code(self) -> grpc.StatusCode:
        """The status code that a server of ours would have answered."""
        return self._code

    def details(self) -> str:
        """Why, in one sentence."""
        return str(self)

    def initial_metadata(self) -> tuple[()]:
        """Nothing was received."""
        return ()

    def trailing_metadata(self) -> tuple[()]:
        """Nothing was received."""
        return ()

    def debug_error_string(self) -> str:
        """The same as `details`."""
        return str(self)


class RpcRateLimited(RateLimited, RefusedRpc):
    """A limiter of the client refused the call."""

    _code = grpc.StatusCode.RESOURCE_EXHAUSTED


class RpcCircuitOpen(CircuitOpen, RefusedRpc):
    """A breaker of the client refused the call."""

    _code = grpc.StatusCode.UNAVAILABLE


class RpcDeadlineExceeded(DeadlineExceeded, RefusedRpc):
    """The time for the call had run out before it was sent, or ran out while it was on its way."""

    _code = grpc.StatusCode.DEADLINE_EXCEEDED


class CancelledRpc(RefusedRpc):
    """The caller cancelled the call between two tries."""

    _code = grpc.StatusCode.CANCELLED


_CLASSES: Final[tuple[tuple[type[Rejected], type[Rejected]], ...]] = (
    (RateLimited, RpcRateLimited),
    (CircuitOpen, RpcCircuitOpen),
    (DeadlineExceeded, RpcDeadlineExceeded),
)


def as_rpc_error(refusal: Rejected) -> Rejected:
    """The same refusal as an error of gRPC; one of a class that is not ours stays as it is."""
    for known, rpc_class in _CLASSES:
        if type(refusal) is known:
            error = rpc_class.__new__(rpc_class)
            error.args = refusal.args
            carried: Any = refusal.__reduce__()[2]  # in slots too
            error.__setstate__(carried)
            error.__cause__ = refusal.__cause__
            return error.with_traceback(refusal.__traceback__)
    return refusal


def code_of(error: BaseException) -> int | None:
    """The number of the status code of an error of gRPC; None for any other error and for refusals of ours."""
    if isinstance(error, Rejected) or not isinstance(error, grpc.RpcError):
        return None
    code = getattr(error, "code", None)
    status: Any = code() if callable(code) else None
    return number_of(status)


def number_of(status: Any) -> int:
    """The number of a `grpc.StatusCode`. None is what a call says of itself whose end nobody knows: UNKNOWN."""
    number: int = grpc.StatusCode.UNKNOWN.value[0] if status is None else status.value[0]
    return number
