"""The page of offers: forty back-end calls, some of which fail and some of which hang. Real servers, real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.asgi_app import offers as offers_page
from examples.asgi_app import prices
from examples.asgi_app.app import CONFIG, create_app
from tests.integrations.asgi.server import Running, serving


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, Running]]:
    """The order service and the price service, with more time than they have where no tests share the machine."""
    monkeypatch.setattr(offers_page, "PAGE_S", 1.5)
    monkeypatch.setattr(prices, "_SLOW_S", 2.0)
    config = tmp_path / "resilience.yaml"
    config.write_text(CONFIG.read_text(encoding="utf-8").replace("default: 250ms", "default: 1200ms"), encoding="utf-8")
    with serving(prices.create_app()) as back_end, serving(create_app(config, "http://unused", prices_url=back_end.url)) as front:
        yield front, back_end


def trouble(back_end: Running, **faults: Any) -> None:
    with back_end.client() as client:
        assert client.put("/faults", json=faults).status_code == 200


def offers(front: Running) -> httpx.Response:
    return front.get("/offers", x_customer="7")


def test_a_page_shows_forty_prices(shop: tuple[Running, Running]) -> None:
    page = offers(shop[0]).json()
    assert (len(page["offers"]), page["missing"]) == (40, {})
    assert page["offers"][:2] == [{"item": "item-1", "cents": 100}, {"item": "item-2", "cents": 200}]


def test_what_is_slow_or_broken_costs_its_own_part_of_the_page(shop: tuple[Running, Running]) -> None:
    front, back_end = shop
    trouble(back_end, slow=["item-3"], broken=["item-5", "item-40"])
    page = offers(front).json()
    assert page["missing"] == {"item-3": "timeout", "item-5": "transport", "item-40": "transport"}
    assert [offer["item"] for offer in page["offers"]] == [item for item in prices.ITEMS if item not in page["missing"]]


def test_where_nothing_can_be_had_the_page_says_so_and_the_breaker_opens_for_prices_alone(shop: tuple[Running, Running]) -> None:
    front, back_end = shop
    trouble(back_end, broken=list(prices.ITEMS))
    answer = offers(front)
    assert (answer.status_code, answer.json()) == (
        502,
        {"error": "offers: 40 of 40 calls failed (40 transport) (40 sub-exceptions)"},
    )
    status = front.get("/status").json()
    assert (status["breakers"]["prices"]["state"], status["breakers"]["payments"]["state"]) == ("open", "closed")
    assert status["health"]["default"]["factor"] == 1.0
    assert offers(front).status_code == 502


def test_the_price_service_refuses_nonsense(shop: tuple[Running, Running]) -> None:
    with shop[1].client() as client:
        assert client.put("/faults", content=b"nonsense").status_code == 400
        assert client.get("/prices/none").status_code == 404
        assert client.get("/healthz").status_code == 200
