"""Calls that a thread makes: waited for, as a future, and with a stream of responses."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Self

import grpc

from resilience.edges import CURRENT, Effect, SteppedPlan
from resilience.integrations.grpc.errors import CancelledRpc, RefusedRpc, number_of
from resilience.integrations.grpc.outgoing import OK, RpcExchange, raise_as_seen, raised
from resilience.integrations.grpc.refused import RefusedCall

Send = Callable[[], Any]


class UnaryRun:
    """Makes the tries of a call with one response, one after the other, wherever the end of the last one is learnt."""

    def __init__(self, exchange: RpcExchange, send: Send) -> None:
        self.exchange = exchange
        self._send = send

    def begin(self) -> Any:
        """Make tries until one has succeeded. Returns its call; the future of the call where one is asked for, and is on its way.

        A call that was refused, or whose last try has failed, is returned too: gRPC raises what it ended with where nobody asked
        for a future. Whatever else happens is raised.
        """
        exchange = self.exchange
        try:
            if not exchange.begin():
                return self._go_on(exchange.go_by_steps())
            first = exchange.first_try()
            if first.refusal is not None:
                return self._go_on(exchange.go_by_steps(first.rest()))
            mark = CURRENT.set(first.attempt)
            try:
                sent = self._send()
            except BaseException as error:  # noqa: BLE001  # it goes on inside the plan
                sent = Failed(error)
            finally:
                CURRENT.reset(mark)
            if not isinstance(sent, Failed) and _was_waited_for(sent) and error_of(sent) is None:
                first.succeeded(sent, OK)
                return sent
            exchange.go_by_steps(first.rest())  # up to this try
            return self._go_on_from(sent)
        except BaseException as error:  # noqa: BLE001  # raised again, or in the call
            return call_of(error)

    def _go_on(self, effect: Effect | None) -> Any:
        return self.over() if self.steps.until_attempt(effect) is None else self._go_on_from(self.sent())

    def _go_on_from(self, sent: Any) -> Any:
        while True:
            if isinstance(sent, Failed):
                effect = self.steps.raised(sent.error)
            elif _was_waited_for(sent):
                effect = self.took(sent)
            else:
                return PendingCall(self, sent)
            if self.steps.until_attempt(effect) is None:
                return self.over()
            sent = self.sent()

    @property
    def steps(self) -> SteppedPlan:
        """What takes the steps of a call whose first try was not enough."""
        return self.exchange.steps

    def sent(self) -> Any:
        """Send the next try: its call, or that it could not be sent."""
        try:
            return self.steps.context.run(self._send)
        except BaseException as error:  # noqa: BLE001  # it goes on inside the plan
            return Failed(error)

    def took(self, call: Any) -> Effect | None:
        """Tell the plan how a try ended. Returns what it asks for then."""
        error = error_of(call)
        return self.steps.returned(call) if error is None else self.steps.raised(self.exchange.as_known(error))

    def over(self) -> Any:
        """The last try has succeeded: settle, and return its call."""
        call = self.steps.result
        self.exchange.ended()
        return call


class Failed(NamedTuple):
    """A try that could not be sent."""

    error: BaseException


def _was_waited_for(call: Any) -> bool:
    """Whether nobody asked for a future. gRPC's own futures, which may have ended too, can be iterated over."""
    return bool(call.done()) and not hasattr(call, "__next__") and type(call) is not PendingCall


def error_of(call: Any) -> BaseException | None:
    """What a call that is over ended with; None where it succeeded."""
    try:
        error: BaseException | None = call.exception()
    except grpc.FutureCancelledError:
        return call if isinstance(call, grpc.RpcError) else concurrent.futures.CancelledError()
    return error


def call_of(error: BaseException) -> Any:
    """The call that has ended with an error that is being handled; raises the error where it is none of a call."""
    seen = raised(error)
    if isinstance(seen, RefusedRpc):
        return RefusedCall(seen)
    if isinstance(seen, grpc.RpcError) and isinstance(seen, grpc.Future):
        return seen
    return raise_as_seen(error)


class PendingCall(grpc.Call, grpc.Future):  # type: ignore[misc]  # grpc ships no types
    """The future of a call. gRPC's own thread learns how a try ended; where it may be worth another, one of its own goes on."""

    def __init__(self, run: UnaryRun, call: Any) -> None:
        self._run = run
        self._call = call
        self._future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        call.add_done_callback(self._ended)

    # --- its tries --------------------------------------------------------------------------------------------------------------

    def _ended(self, call: Any) -> None:
        error = error_of(call)
        if error is not None and self._run.exchange.judges_slowly(error):
            threading.Thread(target=self._go_on, args=(call,), name="resilience-grpc-retry", daemon=True).start()
        else:
            self._go_on(call)

    def _go_on(self, call: Any) -> None:
        run = self._run
        with self._failing():
            effect = run.took(call)
            while run.steps.until_attempt(effect) is not None:
                sent = run.sent()
                if not isinstance(sent, Failed):
                    self._call = sent
                    if run.exchange.is_cancelled:
                        sent.cancel()
                    sent.add_done_callback(self._ended)
                    return
                effect = run.steps.raised(sent.error)
            result = run.over().result()
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled just now
                self._future.set_result(result)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # noqa: BLE001  # whoever asks for the result gets it
            self._end_with(raised(error))

    def _end_with(self, error: BaseException) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # it was cancelled between two tries
            self._future.set_exception(error)

    # --- what a future is -------------------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Cancel it, and all further tries."""
        self._run.exchange.is_cancelled = True
        if not self._call.done():
            return bool(self._call.cancel())
        self._end_with(CancelledRpc("cancelled between two tries"))
        return self.cancelled()

    def cancelled(self) -> bool:
        """Whether it was cancelled before it had ended."""
        return self._run.exchange.is_cancelled and (not self._future.done() or self._future.exception() is not None)

    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._future.done()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> Any:
        """Its response; waits for it."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._future.result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error that it ended with, None where it succeeded; waits for it."""
        try:
            error = self._future.exception(timeout)
        except concurrent.futures.TimeoutError:
            raise grpc.FutureTimeoutError from None
        if error is not None and self._run.exchange.is_cancelled:
            raise grpc.FutureCancelledError from error
        return error

    def traceback(self, timeout: float | None = None) -> Any:
        """The traceback of its error; waits for it."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this when it has ended."""
        self._future.add_done_callback(lambda _: fn(self))

    # --- what a call is ---------------------------------------------------------------------------------------------------------

    def is_active(self) -> bool:
        """Whether it has not ended."""
        return not self._future.done()

    def time_remaining(self) -> float | None:
        """Seconds that the present try may still take."""
        remaining_s: float | None = self._call.time_remaining()
        return remaining_s

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call `callback` when it has ended. False: it has ended."""
        if self._future.done():
            return False
        self._future.add_done_callback(lambda _: callback())
        return True

    def initial_metadata(self) -> Any:
        """That of its last try; waits for its end."""
        return self._last().initial_metadata()

    def trailing_metadata(self) -> Any:
        """That of its last try; waits for its end."""
        return self._last().trailing_metadata()

    def code(self) -> Any:
        """Its status code; waits for its end."""
        return self._last().code()

    def details(self) -> Any:
        """Its details; waits for its end."""
        return self._last().details()

    def _last(self) -> Any:
        error = self._future.exception()
        return error if isinstance(error, grpc.RpcError) else self._call


class StreamCall(grpc.Call):  # type: ignore[misc]  # grpc ships no types
    """A call with a stream of responses, tried again until the first has come: by whoever asks for it, in its thread."""

    def __init__(self, exchange: RpcExchange, send: Send) -> None:
        self._exchange = exchange
        self._send = send
        self._has_begun = False
        self._call: Any = None
        try:
            exchange.begin()
            self._next_try(exchange.go_by_steps())
        except Exception as error:  # noqa: BLE001  # raised again
            raise_as_seen(error)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._later() if self._has_begun else self._first()

    def next(self) -> Any:
        """The same as `next(call)`."""
        return next(self)

    def _first(self) -> Any:
        exchange = self._exchange
        while True:
            try:
                message = self._drawn()
            except StopIteration:
                self._commit()
                exchange.ended()
                raise
            except BaseException as error:  # noqa: BLE001  # the plan raises it again, unless there is another try
                self._go_on(error)
            else:
                self._commit()
                return message

    def _drawn(self) -> Any:
        """The next response, drawn under the span of the try: an interceptor behind ours may begin its own only now."""
        return self._exchange.steps.context.run(next, self._call)

    def _commit(self) -> None:
        self._has_begun = True
        self._exchange.steps.returned(self._call)
        # Its end settles the call, also where nobody asks for more of it. Referred to weakly: gRPC cancels a call to which nobody
        # refers any more, and what waits for its end must not keep it.
        call = self._call
        while isinstance(call, StreamCall):  # of an interceptor like this one
            call = call._call  # noqa: SLF001
        add_callback = getattr(call, "add_callback", None)  # another interceptor may have made a plain iterator of it
        if add_callback is not None:
            told = partial(_terminated, self._exchange, weakref.ref(call))
            if not add_callback(told):
                told()

    def _later(self) -> Any:
        try:
            return self._drawn()
        except StopIteration:
            self._exchange.ended()
            raise
        except BaseException as error:
            self._exchange.broke_off(error)
            raise

    def _go_on(self, error: BaseException) -> None:
        try:
            self._next_try(self._exchange.steps.raised(self._exchange.as_known(error)))
        except BaseException as final:  # noqa: BLE001  # raised again
            if not isinstance(error, grpc.RpcError):
                self.cancel()  # interrupted: nobody will read on
            raise_as_seen(final)

    def _next_try(self, effect: Effect | None) -> None:
        steps = self._exchange.steps
        while steps.until_attempt(effect) is not None:
            try:
                self._call = steps.context.run(self._send)
                return
            except BaseException as error:  # noqa: BLE001  # it goes on inside the plan
                effect = steps.raised(error)

    def cancel(self) -> Any:
        """Cancel it, and all further tries."""
        self._exchange.is_cancelled = True
        if not self._has_begun:
            self._exchange.dropped()  # whoever reads on settles it, but there may be nobody
        cancel = getattr(self._call, "cancel", None) or self._call.close
        return cancel()

    def is_active(self) -> bool:
        """Whether the present try has not ended."""
        active: bool = self._call.is_active()
        return active

    def time_remaining(self) -> Any:
        """Seconds that it may still take."""
        return self._call.time_remaining()

    def add_callback(self, callback: Callable[[], None]) -> Any:
        """Call `callback` when the present try has ended. False: it has ended."""
        return self._call.add_callback(callback)

    def initial_metadata(self) -> Any:
        """That of the present try; waits for it."""
        return self._call.initial_metadata()

    def trailing_metadata(self) -> Any:
        """That of the present try; waits for its end."""
        return self._call.trailing_metadata()

    def code(self) -> Any:
        """The status code of the present try; waits for its end."""
        return self._call.code()

    def details(self) -> Any:
        """The details of the present try; waits for its end."""
        return self._call.details()

    def __getattr__(self, name: str) -> Any:
        """Whatever else gRPC's own calls have, such as what makes a future of them."""
        return getattr(self._call, name)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it never began
            self._exchange.dropped()


def _terminated(exchange: RpcExchange, reference: weakref.ref[Any]) -> None:
    call = reference()
    exchange.ended_with(grpc.StatusCode.CANCELLED.value[0] if call is None else number_of(call.code()))
