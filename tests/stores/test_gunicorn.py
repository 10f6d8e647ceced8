"""Four gunicorn workers share one limit: they admit what one bucket allows, nearly no less, and each has its part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.sizes import by_length
from tests.stores.gunicorn_load import gunicorn, load, warm_up
from tests.stores.servers import Server

CONFIG = """\
version: 1
limiters: {{api: {{rate: 100/s, burst: 100}}}}
pipelines: {{api: [{{limiter: api}}]}}
routes: [{{match: {{path: "/**"}}, pipeline: api}}]
store: {store}
"""
DURATION_S = by_length(3.0, 10.0)


def check(path: Path, store: str, least: float, record: Callable[[str, object], None], *options: str) -> None:
    """Offer four times the limit and more, and compare what was admitted with the bound."""
    path.write_text(CONFIG.format(store=store), encoding="utf-8")
    with gunicorn(path, *options) as port:
        for _ in range(3):
            warm_up(port)
            found = load(port, DURATION_S, 450.0)
            if sum(found.offered.values()) >= 350 * found.lasted_s:
                break
        else:
            pytest.skip("this machine is too busy to ask more than the limit allows")
    bound = 100 + 100 * found.lasted_s
    admitted = sum(found.admitted.values())
    told = f"{admitted} of {sum(found.offered.values())} in {found.lasted_s:.2f} s: {admitted / bound:.4f}"
    record("size", f"{told}, shares {found.fairness:.2f}, {found.without_store} without the store")
    assert set(found.statuses) == {200, 429}, found
    assert admitted <= bound + found.without_store, found
    assert admitted >= least * bound, found
    assert len(found.offered) == 4, found
    assert found.fairness >= by_length(0.25, 0.5), found


PRELOAD = ("--preload",)
FORMS = [("strict", 0.97, PRELOAD), ("lease", 0.95, ()), *by_length([], [("strict", 0.97, ()), ("lease", 0.95, PRELOAD)])]


@pytest.mark.soak
@pytest.mark.parametrize(("mode", "least", "options"), FORMS, ids=[" ".join((mode, *options)) for mode, _, options in FORMS])
def test_four_workers_admit_what_one_bucket_allows(
    server: Server,
    tmp_path: Path,
    name: str,
    mode: str,
    least: float,
    options: tuple[str, ...],
    record_property: Callable[[str, object], None],
) -> None:
    store = f"{{redis: {{url: '{server.url}', name: {name}, mode: {mode}}}}}"
    check(tmp_path / "resilience.yaml", store, least, record_property, *options)
