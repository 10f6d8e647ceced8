"""A limit in Redis in front of an ASGI application under a real uvicorn: the way of a request that asks a store."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.server import serving
from tests.stores.servers import Server, free_port

CONFIG = """\
version: 1
deadlines: {{api: {{default: 5s}}}}
limiters: {{api: {{rate: 1/h, burst: 10, fields: always, on_store_error: {on_store_error}}}}}
pipelines: {{api: [{{deadline: api}}, {{limiter: api}}]}}
routes: [{{match: {{path: "/**"}}, pipeline: api}}]
store: {{redis: {{url: '{url}', name: {name}, mode: {mode}}}}}
"""


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def application(path: Path, url: str, name: str, mode: str = "strict", on_store_error: str = "local") -> ResilienceMiddleware:
    path.write_text(CONFIG.format(url=url, name=name, mode=mode, on_store_error=on_store_error), encoding="utf-8")
    return ResilienceMiddleware(hello, config=path)


@pytest.mark.parametrize("mode", ["strict", "lease"])
def test_requests_share_one_bucket(tmp_path: Path, server: Server, name: str, mode: str) -> None:
    app = application(tmp_path / "resilience.yaml", server.url, name, mode)
    with serving(app, lifespan="off") as running:
        first = running.get("/")
        assert first.headers["ratelimit"].startswith('"api";r=9')
        with ThreadPoolExecutor(8) as pool:
            found = Counter(response.status_code for response in pool.map(lambda number: running.get(f"/{number}"), range(20)))
        assert found in (Counter({200: 9, 429: 11}), Counter({200: 10, 429: 10})), "one more if the store was late once"
        refused = running.get("/")
        assert refused.headers["ratelimit-policy"].startswith('"api";q=10')
        assert int(refused.headers["retry-after"]) > 300
        assert refused.json()["type"].endswith("#quota-exceeded")
    app.close()


@pytest.mark.parametrize(("answer", "status"), [("local", 200), ("open", 200), ("closed", 429)])
def test_nobody_sees_that_the_store_is_away(tmp_path: Path, name: str, answer: str, status: int) -> None:
    app = application(tmp_path / "resilience.yaml", f"redis://127.0.0.1:{free_port()}/0", name, on_store_error=answer)
    with serving(app, lifespan="off") as running:
        responses = [running.get("/") for _ in range(5)]
    assert [response.status_code for response in responses] == [status] * 5
    if status == 429:
        assert responses[0].json()["type"].endswith("#temporary-reduced-capacity")
    app.close()
