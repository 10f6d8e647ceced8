"""ASGI: Starlette, FastAPI, Quart, Litestar, Django and bare applications."""

from __future__ import annotations

from resilience.integrations.asgi.handlers import django_refusals, litestar_refusal, quart_refusal
from resilience.integrations.asgi.middleware import ResilienceMiddleware

__all__ = ["ResilienceMiddleware", "django_refusals", "litestar_refusal", "quart_refusal"]
