"""The order service that asks an inventory over gRPC, as processes of their own; and the inventory on both kinds of server."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import resilience
from examples.asgi_app import demo as asgi_demo
from examples.asgi_app.app import create_app
from examples.demo_kit.processes import StartError
from examples.demo_kit.shorten import write_shortened
from examples.demo_kit.trace_tree import read_spans, tree_of
from examples.grpc_service.client import InventoryStock
from examples.grpc_service.demo import DEMO, services
from examples.grpc_service.faults import fault_in
from examples.grpc_service.inventory import Inventory, Refused
from examples.grpc_service.orders import CONFIG
from examples.grpc_service.process import GrpcService
from examples.grpc_service.serve import CONFIG as INVENTORY_CONFIG
from examples.grpc_service.stubs import SERVICE, protos
from examples.grpc_service.stubs import services as stubs
from tests.examples.inventory import SERVERS, inventory
from tests.examples.shop import ORDER, Shop, opened
from tests.integrations.asgi.server import serving
from tests.watch.waiting import wait_until

CODES = grpc.StatusCode


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    with opened(lambda files: services(files, request.param), tmp_path, CONFIG) as running:
        yield running


def left_of(shop: Shop, item: str) -> int:
    with grpc.insecure_channel(shop.dependency.address) as channel:
        left: int = stubs.InventoryStub(channel).GetStock(protos.GetStockRequest(item=item), timeout=5).left
        return left


def test_orders_are_met_from_stock_and_an_inventory_that_hangs_or_fails_is_given_up(shop: Shop) -> None:
    trace_id = _orders_are_met_refused_or_put_back(shop)
    _one_trace_goes_through_both(shop, trace_id)
    _an_inventory_that_hangs_is_given_up_at_the_deadline(shop)
    _one_that_fails_opens_the_breaker(shop)


def _orders_are_met_refused_or_put_back(shop: Shop) -> str:
    trace_id = secrets.token_hex(16)
    created = shop.order(traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-01")
    order = created.json()
    assert (created.status_code, order | ORDER) == (201, order)
    assert left_of(shop, "tea") == 999_999
    unknown = shop.orders.post("/orders", json=ORDER | {"item": "car"})
    assert (unknown.status_code, unknown.json()) == (409, {"error": "the shop does not sell it"})
    for _ in range(4):  # one more than there is: each is put back
        assert shop.orders.post("/orders", json={"item": "sugar", "amount_cents": 1_000_001}).status_code == 402
        wait_until(lambda: left_of(shop, "sugar") == 3, "it is put back")
    answers = [shop.orders.post("/orders", json={"item": "sugar", "amount_cents": 1}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 409]
    assert answers[-1].json() == {"error": "only 0 are left"}
    breaker = shop.orders.get("/status").json()["breakers"]["inventory"]
    assert (breaker["state"], breaker["failure_rate"]) == ("closed", 0.0)  # an answer in time, whatever it says
    return trace_id


def _one_trace_goes_through_both(shop: Shop, trace_id: str) -> None:
    wait_until(lambda: len(read_spans(shop.files.spans)) >= 12, "both have written their spans")
    spans = read_spans(shop.files.spans)
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{trace_id}"}, "nobody asked for the spans of the others"
    lines = tree_of(spans, trace_id)
    reserve = f"/{SERVICE}/Reserve"
    names = [next(word for word in line.split() if word.startswith(("POST", "resilience.", "/"))) for line in lines]
    assert names == [
        "POST",
        *["resilience.deadline", "resilience.limiter", "resilience.limiter"],
        *["resilience.deadline", "resilience.retry", "resilience.breaker"],
        *[reserve, reserve],  # of the client, and of the server in the other process
        *["resilience.deadline", "resilience.limiter"],
        *["resilience.deadline", "resilience.retry", "resilience.breaker"],
    ]
    assert all("decision=admitted" in line for line in lines if "resilience." in line)


def _an_inventory_that_hangs_is_given_up_at_the_deadline(shop: Shop) -> None:
    shop.break_dependency("hang")
    late = shop.order()
    assert (late.status_code, late.headers["content-type"], late.json()["reason"]) == (504, "application/problem+json", "expired")
    shop.break_dependency("slow")
    assert shop.order().status_code == 201


def _one_that_fails_opens_the_breaker(shop: Shop) -> None:
    shop.break_dependency("fail")
    failed = shop.order()
    assert (failed.status_code, failed.json()) == (502, {"error": "the inventory answered UNAVAILABLE"})
    give_up_s = time.monotonic() + 20
    while (answer := shop.order()).status_code != 503:  # 502 until it opens, and 429 in between
        assert time.monotonic() < give_up_s, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["reason"] == "open"
    status = shop.orders.get("/status").json()
    assert {name: breaker["state"] for name, breaker in status["breakers"].items()} == {"payments": "closed", "inventory": "open"}
    assert status["health"]["default"]["factor"] == 0.3
    assert status["limiters"]["api"]["rate_per_s"] == 15.0


@pytest.mark.parametrize("server", SERVERS)
def test_a_refusal_of_the_inventory_is_answered_as_one(server: str, tmp_path: Path) -> None:
    config = tmp_path / "resilience.yaml"
    write_shortened(INVENTORY_CONFIG, config, {"{rate: 300/s, burst: 100,": "{rate: 1/m, burst: 1,"})
    with inventory(server, config) as port:
        with dialled(port) as channel:
            stubs.InventoryStub(channel).GetStock(protos.GetStockRequest(item="tea"))  # the one that is within the limit
        app = create_app(CONFIG, "http://127.0.0.1:9", InventoryStock(CONFIG, f"127.0.0.1:{port}"))
        with serving(app) as orders, orders.client() as client:
            refused = client.post("/orders", json=ORDER)
    assert refused.status_code == 429
    assert refused.json()["type"].endswith("#temporary-reduced-capacity")  # it is not the customer's quota
    assert 50 < int(refused.headers["retry-after"]) <= 90  # jittered
    assert "per_caller" not in refused.text


# --- the inventory by itself --------------------------------------------------------------------------------------------------


def dialled(port: int) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{port}")


def code_of(call: Any, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=5)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("server", SERVERS)
def test_its_methods_and_what_it_says_of_its_health(server: str) -> None:
    with inventory(server) as port, dialled(port) as channel:
        stub = stubs.InventoryStub(channel)
        assert stub.GetStock(protos.GetStockRequest(item="sugar")) == protos.Stock(item="sugar", left=3)
        reserve = protos.ReserveRequest(order_id="7", item="sugar", quantity=2)
        assert [stub.Reserve(reserve).left, stub.Reserve(reserve).left] == [1, 1]  # again for the same order: nothing more
        assert code_of(stub.Reserve, protos.ReserveRequest(order_id="8", item="sugar", quantity=2)) == (
            CODES.FAILED_PRECONDITION,
            "only 1 are left",
        )
        stub.Release(protos.ReleaseRequest(order_id="7"))
        stub.Release(protos.ReleaseRequest(order_id="7"))
        assert stub.GetStock(protos.GetStockRequest(item="sugar")).left == 3
        assert code_of(stub.GetStock, protos.GetStockRequest(item="car")) == (CODES.NOT_FOUND, "the shop does not sell it")
        for order_id, quantity in (("", 1), ("9" * 101, 1), ("9", 0), ("9", -1)):
            request = protos.ReserveRequest(order_id=order_id, item="tea", quantity=quantity)
            assert code_of(stub.Reserve, request)[0] is CODES.INVALID_ARGUMENT
        assert code_of(stubs.FaultsStub(channel).Set, protos.SetRequest())[0] is CODES.INVALID_ARGUMENT
        check = health_pb2_grpc.HealthStub(channel).Check
        assert check(health_pb2.HealthCheckRequest(service=SERVICE)).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("server", SERVERS)
def test_it_is_guarded_by_a_file_of_its_own_and_its_health_checks_are_not(server: str, tmp_path: Path) -> None:
    config = tmp_path / "resilience.yaml"
    write_shortened(INVENTORY_CONFIG, config, {"{rate: 300/s, burst: 100,": "{rate: 1/m, burst: 1,"})
    with inventory(server, config) as port, dialled(port) as channel:
        request = protos.GetStockRequest(item="tea")
        stubs.InventoryStub(channel).GetStock(request)
        with pytest.raises(grpc.RpcError) as caught:
            stubs.InventoryStub(channel).GetStock(request, timeout=5)
        assert caught.value.code() is CODES.RESOURCE_EXHAUSTED
        assert 50_000 < int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) <= 60_000
        for _ in range(3):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))


def test_older_reservations_count_as_sold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.grpc_service.inventory._RESERVATIONS_KEPT", 2)
    stock = Inventory({"tea": 10})
    for number in range(3):
        stock.reserve(protos.ReserveRequest(order_id=str(number), item="tea", quantity=1))
    for number in range(3):
        stock.release(protos.ReleaseRequest(order_id=str(number)))
    assert stock.get_stock(protos.GetStockRequest(item="tea")).left == 9


@pytest.mark.parametrize(
    ("peer", "is_let"),
    [
        ("ipv4:127.0.0.1:1234", True),
        ("ipv6:%5B::1%5D:1234", True),
        ("ipv6:[::1]:1234", True),
        ("unix:", True),
        ("ipv4:203.0.113.7:1234", False),
        ("ipv6:%5B2001:db8::1%5D:1234", False),
        ("", False),
    ],
)
def test_faults_are_switched_from_this_machine_only(peer: str, is_let: bool) -> None:
    request = protos.SetRequest(fault=protos.FAULT_SLOW)
    if is_let:
        assert fault_in(request, peer) == protos.FAULT_SLOW
    else:
        with pytest.raises(Refused, match="only from this machine") as caught:
            fault_in(request, peer)
        assert caught.value.code is CODES.PERMISSION_DENIED


# --- its files, its process and its demo ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, INVENTORY_CONFIG], ids=["orders", "inventory"])
def test_its_files_load_without_a_warning(config: Path) -> None:
    with resilience.load(config) as toolkit:
        assert toolkit.active.document.warnings == ()


def test_the_order_service_is_guarded_as_in_the_other_examples_but_for_the_inventory() -> None:
    with resilience.load(CONFIG) as ours, resilience.load(asgi_demo.DEMO.config) as theirs:
        mine, other = ours.active.document, theirs.active.document
        for section in ("deadlines", "limiters", "breakers", "retries", "health"):
            entries = dict(getattr(mine, section))
            assert (entries.pop("inventory", None) is None) == (section in ("limiters", "health"))
            assert entries == {name: entry for name, entry in dict(getattr(other, section)).items() if name != "prices"}


def test_the_demo_tells_the_same_story_and_promises_what_its_file_says(tmp_path: Path) -> None:
    for name in ("promise", "traffic", "outage"):
        assert getattr(DEMO, name) == getattr(asgi_demo.DEMO, name)
    assert DEMO.name != asgi_demo.DEMO.name  # or one plot would take the place of the other
    copy = tmp_path / "resilience.yaml"
    write_shortened(DEMO.config, copy, DEMO.shortened)
    with resilience.load(copy) as toolkit:
        health = toolkit.health().settings
        assert (health.cut, health.recover, health.every_s) == (DEMO.promise.cut, DEMO.promise.recover, DEMO.promise.every_s)
        assert toolkit.active.document.limiters["api"].settings.rate_per_s == DEMO.promise.rate_per_s
        assert toolkit.active.document.breakers["inventory"].settings.open_for_s == 3.0


def test_a_bad_configuration_is_shown_line_by_line(tmp_path: Path) -> None:
    bad = tmp_path / "resilience.yaml"
    bad.write_text("version: 1\nlimiters: {api: {rate: 100}}\n", encoding="utf-8")
    environment = {"RESILIENCE_CONFIG": str(bad)}
    service = GrpcService("inventory", "examples.grpc_service.serve", tmp_path, environment, server="tasks")
    with service, pytest.raises(StartError, match=r"resilience.yaml:2:24: limiters\.api\.rate"):
        asyncio.run(service.wait_ready())
