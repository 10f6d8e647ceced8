"""For frameworks that answer every exception themselves: one line, and a refusal that leaves a handler is answered as a refusal.

    app.register_error_handler(Rejected, flask_refusal)                    # Flask
    MIDDLEWARE = ["resilience.integrations.wsgi.django_refusals", ...]     # Django
    config.add_exception_view(pyramid_refusal, context=Rejected)           # Pyramid, where a view answers every exception

They take errors of client libraries too, such as `app.register_error_handler(grpc.RpcError, flask_refusal)`: one by which a service
further in has refused is answered as a refusal, any other is raised again.

Without it Flask and Django answer 500, which the breaker around the handler takes for a failure. Pyramid lets a refusal pass unless
an exception view of the application takes it, and so do bare applications: the middleware answers it.
"""

from __future__ import annotations

from typing import Any

from resilience.edges import answer_in_handler
from resilience.integrations.asgi.handlers import django_refusals

__all__ = ["django_refusals", "flask_refusal", "pyramid_refusal"]


def flask_refusal(error: Exception) -> tuple[bytes, int, dict[str, str]]:
    """Flask's error handler: `app.register_error_handler(Rejected, flask_refusal)`."""
    answer = answer_in_handler(error)
    return answer.body, answer.status, dict(answer.headers)


def pyramid_refusal(error: Exception, request: Any) -> Any:
    """Pyramid's exception view: `config.add_exception_view(pyramid_refusal, context=Rejected)`."""
    answer = answer_in_handler(error)
    response = request.response  # a new one: Pyramid drops what the view began
    response.status_int = answer.status
    response.headers.update(answer.headers)
    response.body = answer.body
    return response
