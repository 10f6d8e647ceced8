"""The example's configuration file: it loads, says what its comments say, and fits the demo."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilience
from examples.asgi_app.app import CONFIG
from examples.asgi_app.demo import DEMO
from examples.demo_kit.shorten import shortened, write_shortened
from resilience.config.schema import MATCH_KEYS, ROUTE_KEYS, SECTIONS, TOP_LEVEL, Key

TEXT = CONFIG.read_text(encoding="utf-8")


@pytest.fixture
def toolkit() -> Iterator[resilience.Toolkit]:
    with resilience.load(CONFIG) as loaded:
        yield loaded


def test_it_loads_without_a_warning(toolkit: resilience.Toolkit) -> None:
    assert toolkit.active.document.warnings == ()


def test_its_limiters_retries_and_breakers_share_the_default_signal(toolkit: resilience.Toolkit) -> None:
    document = toolkit.active.document
    limiters, breakers, retries = document.limiters.values(), document.breakers.values(), document.retries.values()
    assert [entry.health for entry in limiters] == ["default", "default"]
    assert [entry.health for entry in breakers] == ["default", None]  # but for the prices of a page
    assert [entry.health for entry in retries] == ["default"]


@pytest.mark.parametrize(
    ("method", "path", "pipeline"),
    [
        ("GET", "/orders/1", "api"),
        ("POST", "/orders", "api"),
        ("HEAD", "/orders/1", "api"),
        ("GET", "/healthz", None),
        ("GET", "/status", None),
    ],
)
def test_it_guards_orders_and_nothing_else(toolkit: resilience.Toolkit, method: str, path: str, pipeline: str | None) -> None:
    found = toolkit.active.find(method, path)
    assert (found.name if found else None) == pipeline


def test_the_demo_promises_what_its_shortened_copy_says(tmp_path: Path) -> None:
    copy = tmp_path / "resilience.yaml"
    write_shortened(CONFIG, copy, DEMO.shortened)
    with resilience.load(copy) as toolkit:
        health = toolkit.health().settings
        api = toolkit.active.document.limiters["api"].settings
        promise = DEMO.promise
        assert (health.cut, health.recover, health.every_s) == (promise.cut, promise.recover, promise.every_s)
        assert api.rate_per_s == promise.rate_per_s
        assert toolkit.active.document.breakers["payments"].settings.open_for_s == 3.0


def test_the_demo_changes_nothing_but_the_waiting() -> None:
    assert set(DEMO.shortened) == {"every: 1m", "open_for: 30s"}
    old, new = TEXT.splitlines(), shortened(TEXT, DEMO.shortened).splitlines()
    changed = [after for before, after in zip(old, new, strict=True) if before != after]
    assert [line.partition("#")[0].strip() for line in changed] == ["every: 2s", "open_for: 3s"]


def test_no_customer_of_the_demo_meets_the_limit_of_one_customer(toolkit: resilience.Toolkit) -> None:
    """Else a 429 would not tell the shared limit's share."""
    per_customer = toolkit.active.document.limiters["per_customer"].settings
    assert DEMO.traffic.per_s / DEMO.traffic.customers < (1 - DEMO.promise.cut) * per_customer.rate_per_s


def every_key(keys: tuple[Key, ...]) -> Iterator[str]:
    for key in keys:
        yield key.name
        yield from every_key(key.keys)


ENTRY_KEYS = frozenset(name for section in SECTIONS for name in every_key(section.keys))
KNOWN_KEYS = ENTRY_KEYS | {*TOP_LEVEL, *ROUTE_KEYS, *MATCH_KEYS}


def test_comments_mention_only_keys_that_exist() -> None:
    comments = [line.partition("#")[2] for line in TEXT.splitlines() if "#" in line]
    mentioned = {word for comment in comments for word in re.findall(r"`(\w+): ", comment)}
    assert mentioned == {"health"}
    assert mentioned <= KNOWN_KEYS


def test_every_setting_is_explained_beside_it() -> None:
    settings = re.findall(r"^ +(\w+): [^\s#{\[][^#\n]*(#.*)?$", TEXT.partition("\npipelines:")[0], flags=re.MULTILINE)
    names = [name for name, _ in settings]
    assert len(names) >= 20
    assert set(names) <= ENTRY_KEYS
    unexplained = [name for name, comment in settings if not comment]
    assert unexplained == ["burst"]  # of the second limiter: it is explained at the first


@pytest.mark.parametrize("replacements", [{"every: 9m": "every: 2s"}, {"api": "orders"}])
def test_a_text_that_is_not_there_exactly_once_is_not_replaced(replacements: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        shortened(TEXT, replacements)
