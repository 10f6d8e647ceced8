"""What docs/fleet.md shows is read, and what it counts is so."""

from __future__ import annotations

import re
from pathlib import Path

from resilience.config import parse
from resilience.stores.redis.lanes import MOST_TOGETHER
from resilience.stores.redis.servers import MOST_HOPS
from resilience.stores.settings import RedisStoreSettings
from tests.stores.clusters import CLUSTER_RIGHTS
from tests.stores.test_connections import RIGHTS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "fleet.md").read_text(encoding="utf-8")


def test_the_files_on_the_page_are_read_without_a_warning() -> None:
    texts = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(texts) == 1
    for text in texts:
        document = parse(text, "fleet.md")
        assert document.warnings == ()
        assert document.store == RedisStoreSettings("redis://127.0.0.1:6379/0", name="shop")


def test_the_rights_on_the_page_are_those_that_are_tried() -> None:
    (line,) = re.findall(r"^ACL SETUSER .*$", PAGE, flags=re.MULTILINE)
    assert line.split("-@all ")[1].split() == RIGHTS
    assert f"`{' '.join(CLUSTER_RIGHTS)}`" in PAGE


def test_figures_on_the_page() -> None:
    assert f"up to {MOST_TOGETHER} at a time" in PAGE
    assert MOST_HOPS == 5
    assert "at most five times" in PAGE
    assert RedisStoreSettings("redis://h").timeout_s == 0.04
    assert "(40 ms, at most 50)" in PAGE
