"""WSGI: Flask, Django, Pyramid and bare applications."""

from __future__ import annotations

from resilience.integrations.wsgi.handlers import django_refusals, flask_refusal, pyramid_refusal
from resilience.integrations.wsgi.middleware import ResilienceMiddleware

__all__ = ["ResilienceMiddleware", "django_refusals", "flask_refusal", "pyramid_refusal"]
