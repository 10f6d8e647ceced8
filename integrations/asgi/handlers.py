"""For frameworks that answer every exception themselves: one line, and a refusal that leaves a handler is answered as a refusal.

    app.register_error_handler(Rejected, quart_refusal)
    Litestar(..., exception_handlers={Rejected: litestar_refusal})
    MIDDLEWARE = ["resilience.integrations.asgi.django_refusals", ...]

They take errors of client libraries too, such as `app.register_error_handler(grpc.RpcError, quart_refusal)`: one by which a service
further in has refused is answered as a refusal, any other is raised again.

Without it such a framework answers 500, which the breaker around the handler takes for a failure. Starlette and FastAPI need none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from resilience.edges import answer_in_handler, relayed_in

if TYPE_CHECKING:
    from django.http import HttpResponse
    from litestar import Response


async def quart_refusal(error: Exception) -> tuple[bytes, int, dict[str, str]]:
    """Quart's error handler: `app.register_error_handler(Rejected, quart_refusal)`."""
    answer = answer_in_handler(error)
    return answer.body, answer.status, dict(answer.headers)


def litestar_refusal(request: Any, error: Exception) -> Response[bytes]:
    """Litestar's exception handler: `exception_handlers={Rejected: litestar_refusal}`."""
    from litestar import Response  # noqa: PLC0415

    answer = answer_in_handler(error)
    headers = dict(answer.headers)
    return Response(answer.body, status_code=answer.status, media_type=headers.pop("content-type", "text/plain"), headers=headers)


def django_refusals(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Django's middleware; name it in `MIDDLEWARE`."""
    from asgiref.sync import iscoroutinefunction  # noqa: PLC0415
    from django.http import HttpResponse  # noqa: PLC0415

    def process_exception(request: Any, error: Exception) -> HttpResponse | None:
        if relayed_in(error) is None:
            return None
        answer = answer_in_handler(error)
        return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))

    def passes_on(request: Any) -> Any:
        return get_response(request)

    async def awaits(request: Any) -> Any:
        response: Awaitable[Any] = get_response(request)
        return await response

    middleware: Any = awaits if iscoroutinefunction(get_response) else passes_on
    middleware.process_exception = process_exception
    return middleware  # type: ignore[no-any-return]  # functions declare no attributes


django_refusals.sync_capable = django_refusals.async_capable = True  # type: ignore[attr-defined]  # as Django's decorator does it
