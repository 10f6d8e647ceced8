"""The order service: guarded on its way in by a middleware, and on its way to the payment service by a pipeline.

Start it with `PAYMENTS_URL=http://localhost:8001 uvicorn --factory examples.asgi_app.app:from_environment`.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import httpx
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import resilience
from examples.asgi_app.local import local_only
from examples.asgi_app.offers import Offers, no_offers
from examples.asgi_app.stock import NotInStock, Plenty, Stock, StockFailed
from examples.asgi_app.telemetry import write_spans_to
from resilience.batch import BatchFailed
from resilience.integrations.asgi import ResilienceMiddleware

CONFIG: Final = Path(__file__).with_name("resilience.yaml")
_ORDERS_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer has bought."""

    id: str
    item: str
    amount_cents: int


class PaymentFailed(ConnectionError):
    """The payment service could not be reached, or answered 5xx. A connection error, so the retry policy tries again."""


class OrderService:
    """The endpoints, and the way to the payment service."""

    def __init__(self, payments: resilience.PipelineHandle, client: httpx.AsyncClient, stock: Stock) -> None:
        self._payments = payments
        self._client = client
        self._stock = stock
        self._orders: OrderedDict[str, Order] = OrderedDict()

    async def create(self, request: Request) -> Response:
        """`POST /orders`: 201 once it is paid for.

        When the breaker is open or the time has run out, `acall` raises a `Rejected`. Nothing here has to catch it: the
        middleware answers 503 or 504.
        """
        order = _order_from(await request.body())
        await self._stock.reserve(order.id, order.item)
        try:
            if not await self._payments.acall(self._charge, order):
                raise HTTPException(402, "the payment was declined")
        except BaseException:  # the cancellation at the deadline too
            self._stock.put_back(order.id)
            raise
        self._orders[order.id] = order
        if len(self._orders) > _ORDERS_KEPT:
            self._orders.popitem(last=False)
        return JSONResponse(asdict(order), 201)

    async def read(self, request: Request) -> Response:
        """`GET /orders/{id}`. It needs no payment, so it works while the breaker is open."""
        order = self._orders.get(request.path_params["id"])
        if order is None:
            raise HTTPException(404, "no such order")
        return JSONResponse(asdict(order))

    async def _charge(self, order: Order) -> bool:
        """Charge for `order` once; False when the payment is declined. The pipeline cancels this when the time has run out."""
        try:
            # The same key on every try: should an answer get lost, the retry does not charge twice.
            headers = {"idempotency-key": order.id}
            response = await self._client.post("/charges", json={"amount_cents": order.amount_cents}, headers=headers)
        except httpx.TransportError as error:
            raise PaymentFailed(f"the payment service cannot be reached: {type(error).__name__}") from error
        if response.status_code >= 500:
            raise PaymentFailed(f"the payment service answered {response.status_code}")
        if response.status_code == 402:  # an answer in time: the breaker counts it as a success
            return False
        response.raise_for_status()
        return True


def _order_from(body: bytes) -> Order:
    try:
        document = json.loads(body)
        item, amount_cents = document["item"], document["amount_cents"]
    except (ValueError, KeyError, TypeError):
        raise HTTPException(400, 'the body must be {"item": ..., "amount_cents": ...}') from None
    if not isinstance(item, str) or type(amount_cents) is not int or amount_cents < 1:
        raise HTTPException(400, "item must be text, amount_cents a whole number above 0")
    return Order(uuid.uuid4().hex, item, amount_cents)


async def dependency_failed(request: Request, error: Exception) -> Response:
    """Payments or the inventory fail, and the breaker is not open (yet)."""
    return JSONResponse({"error": str(error)}, 502)


async def not_in_stock(request: Request, error: Exception) -> Response:
    """The inventory has answered in time that there is none."""
    return JSONResponse({"error": str(error)}, 409)


async def is_up(request: Request) -> Response:
    """`GET /healthz`."""
    return JSONResponse({"status": "up"})


def create_app(
    config: Path, payments_url: str, stock: Stock | None = None, prices_url: str | None = None
) -> OpenTelemetryMiddleware:
    """Make the order service.

    Args:
        config: the file that says how it is guarded.
        payments_url: where the payment service is.
        stock: what orders are taken from; default `Plenty()`.
        prices_url: where the price service is; default none, and no page of offers.

    Raises:
        ConfigError: the configuration file cannot be used.
    """
    toolkit = resilience.load(config)
    # No time-out of its own: the pipeline's deadline bounds every charge. Idle connections are dropped before the server drops
    # them (uvicorn: after 5 s), so that no request is sent into a connection that is being closed.
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=50, keepalive_expiry=2.0)
    client = httpx.AsyncClient(base_url=payments_url, timeout=None, limits=limits, trust_env=False)
    price_client = httpx.AsyncClient(base_url=prices_url or "", timeout=None, limits=limits, trust_env=False)
    stock = Plenty() if stock is None else stock
    orders = OrderService(toolkit.pipeline("payments"), client, stock)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client, price_client:
            await stock.open()
            yield
            await stock.close()
        toolkit.close()

    @local_only
    async def status(request: Request) -> Response:
        """`GET /status`: what the guards are doing, for the demo to watch."""
        return JSONResponse(toolkit.status())

    pages = [] if prices_url is None else [Route("/offers", Offers(toolkit.pipeline("prices"), price_client).page)]
    app = Starlette(
        routes=[
            Route("/healthz", is_up),
            Route("/status", status),
            Route("/orders", orders.create, methods=["POST"]),
            Route("/orders/{id}", orders.read),
            *pages,
        ],
        exception_handlers={
            PaymentFailed: dependency_failed,
            StockFailed: dependency_failed,
            NotInStock: not_in_stock,
            BatchFailed: no_offers,
        },
        lifespan=lifespan,
    )
    app.add_middleware(ResilienceMiddleware, config=toolkit)
    # Outermost, so that its server span is there when the guards decide, and their spans become its children.
    return OpenTelemetryMiddleware(app, exclude_spans=["receive", "send"])


def from_environment() -> OpenTelemetryMiddleware:
    """Make the order service as the environment says: PAYMENTS_URL, PRICES_URL, RESILIENCE_CONFIG and SPANS_FILE (all optional)."""
    spans_file = os.environ.get("SPANS_FILE")
    if spans_file:
        write_spans_to(Path(spans_file), service="orders")
    config = Path(os.environ.get("RESILIENCE_CONFIG", CONFIG))
    payments_url = os.environ.get("PAYMENTS_URL", "http://127.0.0.1:8001")
    return create_app(config, payments_url, prices_url=os.environ.get("PRICES_URL", "http://127.0.0.1:8002"))
