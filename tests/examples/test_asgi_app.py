"""The order service and the payment service, as processes of their own under uvicorn."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from examples.asgi_app.demo import services
from examples.asgi_app.payments import create_app
from examples.demo_kit.trace_tree import read_spans, tree_of
from tests.examples.shop import ORDER, Shop, opened


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with opened(services, tmp_path) as running:
        yield running


def test_it_takes_an_order_and_gives_it_back(shop: Shop) -> None:
    created = shop.order()
    assert created.status_code == 201
    order = created.json()
    assert order | ORDER == order
    assert shop.orders.get(f"/orders/{order['id']}").json() == order
    assert shop.orders.get("/orders/unknown").status_code == 404
    assert shop.orders.get("/healthz").status_code == 200


def test_it_refuses_what_is_no_order_and_what_is_not_paid_for(shop: Shop) -> None:
    assert shop.orders.post("/orders", content=b"nonsense").status_code == 400
    assert shop.orders.post("/orders", json={"item": "tea", "amount_cents": -1}).status_code == 400
    assert shop.orders.post("/orders", json=ORDER | {"amount_cents": 1_000_001}).status_code == 402
    breaker = shop.orders.get("/status").json()["breakers"]["payments"]
    assert breaker["failure_rate"] == 0.0  # declined in time: that is an answer


def test_a_customer_over_the_limit_gets_429(shop: Shop) -> None:
    async def order_at_once(number: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=shop.orders.base_url, timeout=20, trust_env=False) as client:
            return await asyncio.gather(*(client.post("/orders", json=ORDER) for _ in range(number)))

    answers = asyncio.run(order_at_once(100))
    assert {answer.status_code for answer in answers} == {201, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["type"].endswith("#quota-exceeded")
    assert int(refused.headers["retry-after"]) >= 1


def test_payments_that_hang_are_given_up_at_the_deadline(shop: Shop) -> None:
    shop.break_dependency("hang")
    answer = shop.order()
    assert answer.status_code == 504
    assert answer.headers["content-type"] == "application/problem+json"
    shop.break_dependency("none")
    assert shop.order().status_code == 201


def test_payments_that_fail_open_the_breaker_which_cuts_the_limiter(shop: Shop) -> None:
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


def test_a_recorded_request_leaves_the_span_of_every_layer(shop: Shop) -> None:
    trace_id = secrets.token_hex(16)
    assert shop.order(traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-01").status_code == 201
    assert shop.order().status_code == 201  # nobody asked for the spans of this one
    spans = read_spans(shop.files.spans)
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{trace_id}"}
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


@pytest.mark.parametrize(("peer", "status"), [("203.0.113.7", 403), ("127.0.0.1", 200), ("::1", 200), ("testclient", 403)])
def test_faults_are_switched_from_this_machine_only(peer: str, status: int) -> None:
    async def switch() -> int:
        transport = httpx.ASGITransport(create_app(), client=(peer, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://payments") as client:
            return (await client.put("/faults", content=json.dumps({"mode": "slow"}))).status_code

    assert asyncio.run(switch()) == status


def test_a_fault_that_does_not_exist_is_refused() -> None:
    async def switch(body: bytes) -> tuple[int, str]:
        transport = httpx.ASGITransport(create_app())
        async with httpx.AsyncClient(transport=transport, base_url="http://payments") as client:
            answer = await client.put("/faults", content=body)
            return answer.status_code, answer.text

    for body in (b'{"mode": "explode"}', b"{}", b"[]", b"nonsense"):
        status, text = asyncio.run(switch(body))
        assert status == 400
        assert "none, fail, slow, hang" in text


def test_a_charge_is_made_once_however_often_it_is_asked_for() -> None:
    async def charge_twice() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app())
        async with httpx.AsyncClient(transport=transport, base_url="http://payments") as client:
            headers = {"idempotency-key": "order-7"}
            first = await client.post("/charges", json={"amount_cents": 5}, headers=headers)
            again = await client.post("/charges", json={"amount_cents": 6}, headers=headers)
            without = await client.post("/charges", json={"amount_cents": 7})
            return [first, again, without]

    first, again, without = asyncio.run(charge_twice())
    assert first.json() == again.json() == {"charge": "order-7", "amount_cents": 5}
    assert without.status_code == 400
