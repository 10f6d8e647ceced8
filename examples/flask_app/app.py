"""The order service in Flask: guarded on its way in by a middleware, on its way to the payment service by an adapter of requests.

Start it with `PAYMENTS_URL=http://localhost:8001 gunicorn --threads 100 "examples.flask_app.app:from_environment()"`.
"""

from __future__ import annotations

import ipaddress
import os
import threading
import uuid
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import requests
from flask import Flask, abort, request
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from requests.adapters import HTTPAdapter

import resilience
from examples.asgi_app.telemetry import write_spans_to
from resilience.integrations.requests import ResilienceAdapter
from resilience.integrations.wsgi import ResilienceMiddleware, flask_refusal

CONFIG: Final = Path(__file__).resolve().parents[1] / "asgi_app" / "resilience.yaml"
"""Both examples are guarded by the same file."""
_ORDERS_KEPT: Final = 10_000
_CONNECTIONS: Final = 100


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer has bought."""

    id: str
    item: str
    amount_cents: int


class PaymentFailed(Exception):
    """The payment service could not be reached, or answered 5xx."""


class OrderService:
    """The endpoints, and the way to the payment service. All threads of the process share it."""

    def __init__(self, session: requests.Session, payments_url: str) -> None:
        self._session = session
        self._payments_url = payments_url
        self._lock = threading.Lock()
        self._orders: OrderedDict[str, Order] = OrderedDict()

    def create(self) -> tuple[dict[str, Any], int]:
        """`POST /orders`: 201 once it is paid for.

        When the breaker is open or the time has run out, the adapter raises a `Rejected`. Nothing here has to catch it: the one
        line for Flask in `create_app` answers 503 or 504.
        """
        order = _order_from_request()
        if not self._charge(order):
            return {"error": "the payment was declined"}, 402
        with self._lock:
            self._orders[order.id] = order
            if len(self._orders) > _ORDERS_KEPT:
                self._orders.popitem(last=False)
        return asdict(order), 201

    def read(self, order_id: str) -> dict[str, Any]:
        """`GET /orders/{id}`. It needs no payment, so it works while the breaker is open."""
        order = self._orders.get(order_id)
        if order is None:
            abort(404, "no such order")
        return asdict(order)

    def _charge(self, order: Order) -> bool:
        """Charge for `order`; False when the payment is declined.

        The adapter tries again where it is worth it, and no longer than this request has time: nothing here says how long to wait.
        """
        # With the same key on every try: should an answer get lost, the retry does not charge twice. Without a key a POST would
        # not be tried again.
        headers = {"Idempotency-Key": order.id}
        try:
            response = self._session.post(
                f"{self._payments_url}/charges", json={"amount_cents": order.amount_cents}, headers=headers
            )
        except requests.RequestException as error:
            raise PaymentFailed(f"the payment service cannot be reached: {type(error).__name__}") from error
        if response.status_code >= 500:
            raise PaymentFailed(f"the payment service answered {response.status_code}")
        if response.status_code == 402:  # an answer in time: the breaker counts it as a success
            return False
        response.raise_for_status()
        return True


def _order_from_request() -> Order:
    document: Any = request.get_json(force=True, silent=True)
    try:
        item, amount_cents = document["item"], document["amount_cents"]
    except (KeyError, TypeError):
        abort(400, 'the body must be {"item": ..., "amount_cents": ...}')
    if not isinstance(item, str) or type(amount_cents) is not int or amount_cents < 1:
        abort(400, "item must be text, amount_cents a whole number above 0")
    return Order(uuid.uuid4().hex, item, amount_cents)


def _payment_failed(error: PaymentFailed) -> tuple[dict[str, str], int]:
    """Payments fail, and the breaker is not open (yet)."""
    return {"error": str(error)}, 502


def _is_up() -> dict[str, str]:
    """`GET /healthz`."""
    return {"status": "up"}


def create_app(config: Path, payments_url: str) -> Flask:
    """Make the order service.

    Raises:
        ConfigError: the configuration file cannot be used.
    """
    toolkit = resilience.load(config)
    session = requests.Session()
    session.trust_env = False
    session.mount(payments_url, ResilienceAdapter(HTTPAdapter(pool_maxsize=_CONNECTIONS), pipeline=toolkit.pipeline("payments")))
    orders = OrderService(session, payments_url)

    def status() -> dict[str, Any]:
        """`GET /status`: what the guards are doing, for the demo to watch. For this machine only."""
        if not _is_loopback(request.remote_addr or ""):
            abort(403, "only from this machine")
        return toolkit.status()

    app = Flask(__name__)
    app.add_url_rule("/healthz", view_func=_is_up)
    app.add_url_rule("/status", view_func=status)
    app.add_url_rule("/orders", view_func=orders.create, methods=["POST"])
    app.add_url_rule("/orders/<order_id>", view_func=orders.read)
    app.register_error_handler(PaymentFailed, _payment_failed)
    app.register_error_handler(resilience.Rejected, flask_refusal)
    guarded = ResilienceMiddleware(app.wsgi_app, config=toolkit)
    # Outermost, so that its server span is there when the guards decide, and their spans become its children.
    app.wsgi_app = OpenTelemetryMiddleware(guarded)  # type: ignore[method-assign]  # as Flask documents it
    return app


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def from_environment() -> Flask:
    """Make the order service as the environment says: PAYMENTS_URL, RESILIENCE_CONFIG and SPANS_FILE (both optional)."""
    spans_file = os.environ.get("SPANS_FILE")
    if spans_file:
        write_spans_to(Path(spans_file), service="orders")
    config = Path(os.environ.get("RESILIENCE_CONFIG", CONFIG))
    return create_app(config, os.environ.get("PAYMENTS_URL", "http://127.0.0.1:8001"))
