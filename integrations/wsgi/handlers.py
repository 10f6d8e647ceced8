"""For frameworks that answer every exception themselves: one line, and a refusal that leaves a handler is answered as a refusal.

    app.register_error_handler(Rejected, flask_refusal)
    MIDDLEWARE = ["resilience.integrations.wsgi.django_refusals", ...]

Without it such a framework answers 500, which the breaker around the handler takes for a failure. Pyramid and bare applications let
the refusal pass, and need none.
"""

from __future__ import annotations

from resilience import Rejected
from resilience.edges import answer_in_handler
from resilience.integrations.asgi.handlers import django_refusals

__all__ = ["django_refusals", "flask_refusal"]


def flask_refusal(error: Rejected) -> tuple[bytes, int, dict[str, str]]:
    """Flask's error handler: `app.register_error_handler(Rejected, flask_refusal)`."""
    answer = answer_in_handler(error)
    return answer.body, answer.status, dict(answer.headers)
