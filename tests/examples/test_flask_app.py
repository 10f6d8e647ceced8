"""The order service in Flask under gunicorn, and the payment service, as processes of their own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.asgi_app import demo as asgi_demo
from examples.demo_kit.trace_tree import read_spans, tree_of
from examples.flask_app.app import CONFIG, create_app
from examples.flask_app.demo import DEMO, services
from tests.examples.shop import ORDER, Shop, opened


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with opened(services, tmp_path) as running:
        yield running


def test_an_order_is_taken_refused_or_not_paid_for_and_recorded_where_that_is_asked_for(shop: Shop) -> None:
    trace_id = secrets.token_hex(16)
    created = shop.order(traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-01")
    order = created.json()
    assert (created.status_code, order | ORDER) == (201, order)
    assert shop.orders.get(f"/orders/{order['id']}").json() == order
    assert shop.orders.get("/orders/unknown").status_code == 404
    for body in (b"nonsense", b"[]", b'{"item": "tea", "amount_cents": -1}', b'{"item": 7, "amount_cents": 1}'):
        assert shop.orders.post("/orders", content=body).status_code == 400
    assert shop.orders.post("/orders", json=ORDER | {"amount_cents": 1_000_001}).status_code == 402
    assert shop.orders.get("/status").json()["breakers"]["payments"]["failure_rate"] == 0.0  # declined in time: an answer
    _every_layer_left_a_span(shop, trace_id)


def _every_layer_left_a_span(shop: Shop, trace_id: str) -> None:
    spans = read_spans(shop.files.spans)
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{trace_id}"}, "nobody asked for the spans of the others"
    lines = tree_of(spans, trace_id)
    names = [next(word for word in line.split() if word.startswith(("POST", "resilience."))) for line in lines]
    assert names == [
        "POST",
        "resilience.deadline",
        "resilience.limiter",
        "resilience.limiter",
        "resilience.deadline",
        "resilience.retry",
        "resilience.breaker",
    ]
    assert all("decision=admitted" in line for line in lines[1:])


def test_payments_that_hang_are_given_up_at_the_deadline_and_those_that_fail_open_the_breaker(shop: Shop) -> None:
    shop.break_dependency("hang")
    late = shop.order()
    assert (late.status_code, late.headers["content-type"]) == (504, "application/problem+json")
    shop.break_dependency("none")
    assert shop.order().status_code == 201
    shop.break_dependency("fail")
    assert shop.order().status_code == 502
    give_up_s = time.monotonic() + 20
    while (answer := shop.order()).status_code != 503:  # 502 until it opens, and 429 in between
        assert time.monotonic() < give_up_s, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["reason"] == "open"
    status = shop.orders.get("/status").json()
    assert status["breakers"]["payments"]["state"] == "open"
    assert status["health"]["default"]["factor"] == 0.3
    assert status["limiters"]["api"]["rate_per_s"] == 15.0


@pytest.mark.parametrize(("peer", "status"), [("203.0.113.7", 403), ("127.0.0.1", 200), ("::1", 200), ("", 403)])
def test_its_status_is_told_to_this_machine_only(peer: str, status: int) -> None:
    app = create_app(CONFIG, "http://127.0.0.1:9")
    environment: dict[str, Any] = {"REMOTE_ADDR": peer}
    with app.test_client().get("/status", environ_overrides=environment) as response:
        assert response.status_code == status


def test_the_demo_tells_the_same_story() -> None:
    for name in ("shortened", "promise", "traffic", "outage", "config"):
        assert getattr(DEMO, name) == getattr(asgi_demo.DEMO, name)
    assert DEMO.name != asgi_demo.DEMO.name  # or one plot would take the place of the other
    assert DEMO.config == CONFIG
