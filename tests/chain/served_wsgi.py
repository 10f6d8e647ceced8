"""A service in Flask that asks the next one by requests. What is to be done takes it as long as the request's `x-work-ms` says."""

from __future__ import annotations

import time
from typing import Any

import requests
from flask import Flask, request
from requests.adapters import HTTPAdapter

import resilience
from resilience import Rejected
from resilience.integrations.requests import ResilienceAdapter
from resilience.integrations.wsgi import ResilienceMiddleware, flask_refusal
from tests.chain import served


def create_app() -> Flask:
    """The application."""
    toolkit = resilience.load(served.CONFIG)
    seen = served.Seen(toolkit)
    session = requests.Session()
    session.trust_env = False
    if served.NEXT:
        session.mount(served.NEXT, ResilienceAdapter(HTTPAdapter(pool_maxsize=100), pipeline=toolkit.pipeline("next")))

    def ask_next(headers: dict[str, str]) -> tuple[int, bytes]:
        try:
            answer = session.request(request.method, served.NEXT + request.path, headers=headers, data=request.get_data())
        except Rejected:
            if served.DEGRADES:
                return served.DEGRADED
            raise
        except requests.RequestException:
            return served.passed_on(*served.UNREACHABLE)
        return served.passed_on(answer.status_code, answer.content)

    def hop(path: str) -> tuple[bytes, int]:
        headers = seen.note(request.headers.get)
        time.sleep(float(headers.get("x-work-ms", "0")) / 1000)
        status, body = ask_next(headers) if served.NEXT else served.ALONE
        return body, status

    def what_was_seen() -> dict[str, Any]:
        return seen.document()

    app = Flask(__name__)
    app.add_url_rule(served.SEEN, view_func=what_was_seen)
    app.add_url_rule("/<path:path>", view_func=hop, methods=served.METHODS)
    app.register_error_handler(Rejected, flask_refusal)
    app.wsgi_app = ResilienceMiddleware(app.wsgi_app, config=toolkit)  # type: ignore[method-assign]  # as Flask documents it
    return app
