"""Every example of the pages in docs/ runs as it stands there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest

from resilience import Pipeline
from resilience.config import parse
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.workers import WorkerPool
from tests.integrations.asgi.server import serving
from tests.integrations.grpc.client.peer import SERVICE, UNAVAILABLE, served
from tests.integrations.grpc.hops import aio_rpc, grpc_threads
from tests.integrations.grpc.server.served import refuses_the_call_after
from tests.integrations.outgoing.peer import peering, says

ROOT = Path(__file__).parent.parent
PAGES = ("docs/grpc.md", "docs/errors.md", "docs/workers.md", "docs/batch.md")


def examples(page: str, language: str = "python") -> list[str]:
    """All examples of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def shown(words: str) -> str:
    """The example that has these words in it."""
    (found,) = (example for page in PAGES for example in examples(page) if words in example)
    return found


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds the README's configuration file."""
    path = tmp_path / "resilience.yaml"
    path.write_text(examples("README.md", "yaml")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return path


def test_the_pages_have_the_examples_that_are_run_here() -> None:
    assert [len(examples(page)) for page in PAGES] == [3, 1, 2, 3]


def test_a_client_is_guarded_as_shown(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = shown("ClientInterceptor")
    with served() as peer:
        here = example.replace("localhost:50051", peer.target).replace("/shop.v1.Stock/Level", f"/{SERVICE}/unary_unary")
        peer.script = [UNAVAILABLE]  # tried again
        for expected in ("b're: order-7'\n", "StatusCode.UNAVAILABLE\n"):
            names: dict[str, Any] = {"__name__": "page"}
            exec(compile(here, "docs/grpc.md", "exec"), names)
            names["channel"].close()
            names["guard"].close()
            assert capsys.readouterr().out == expected
            peer.script = [UNAVAILABLE] * 9
        configured.write_text(configured.read_text().replace("{default: 5s", "{default: 10ms"), encoding="utf-8")
        exec(compile(here, "docs/grpc.md", "exec"), names)
        assert capsys.readouterr().out == "expired_on_arrival None\n"
        names["channel"].close()
        names["guard"].close()


def test_a_channel_and_a_server_find_each_other_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trustme

    monkeypatch.chdir(tmp_path)
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    for name, identity in (("server", "stock.internal"), ("client", "orders.internal")):
        made = authority.issue_cert(identity)
        made.private_key_pem.write_to_path(f"{name}-key.pem")
        made.cert_chain_pems[0].write_to_path(f"{name}.pem")
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(shown("ChannelSettings"), "docs/grpc.md", "exec"), names)
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: repr(context.invocation_metadata()).encode())
    names["server"].add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.Stock", {"Echo": echo})])
    names["server"].start()
    try:
        with names["channel"] as channel:
            assert b"key='x-tenant', value='blue'" in channel.unary_unary("/shop.Stock/Echo")(b"", timeout=10)
    finally:
        names["server"].stop(0).wait()


def test_a_grpc_server_is_guarded_as_shown(configured: Path) -> None:
    configured.write_text(configured.read_text().replace("rate: 10/s", "rate: 10/h"), encoding="utf-8")  # however slow this machine
    names: dict[str, Any] = {}
    exec(compile(shown("import ServerInterceptor"), "docs/grpc.md", "exec"), names)
    refuses_the_call_after(20, names["server"])
    names["resilience"].close()


def test_a_pool_works_and_an_effect_happens_once_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(shown("PoolFull"), "docs/workers.md", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out == "sent order-7\n"
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(shown("first_time"), "docs/workers.md", "exec"), names)
    with WorkerPool() as pool:
        for _ in range(3):
            pool.options(idempotency_key="order-7").submit(names["charge"], "order-7").result(10)
    assert names["shop"].execute("SELECT count(*) FROM charges").fetchone() == (1,)
    names["shop"].close()


def test_the_file_of_the_page_of_pools_is_right() -> None:
    (text,) = examples("docs/workers.md", "yaml")
    assert parse(text, "resilience.yaml").warnings == ()


@pytest.mark.parametrize(("status", "told"), [(200, 200), (404, 404), (503, 503), (401, 500)])
def test_errors_cross_services_as_shown(status: int, told: int) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Route

    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(shown("http_answer"), "docs/errors.md", "exec"), names)
    unguarded = Pipeline("api")
    app = Starlette(routes=[Route("/orders/{number}", names["get_order"])])
    app.add_middleware(ResilienceMiddleware, pipeline=unguarded)
    with (
        peering() as peer,
        httpx.Client(base_url=peer.url, trust_env=False) as names["client"],
        grpc_threads(unguarded, lambda context: names["get"](b"7", context), told=True) as address,
        serving(app) as server,
    ):
        names["orders"] = SimpleNamespace(get=lambda number: aio_rpc(address)())
        peer.will(says(status, b"done", retry_after="7"))
        response = server.get("/orders/7")
        assert response.status_code == told
        assert [request.path for request in peer.seen] == ["/orders/7"]
    if told == 200:
        assert response.text == "done"
    if told in (404, 503):
        detail = "no such order" if told == 404 else "something that this service depends on cannot be called now"
        assert response.json()["detail"] == detail
        assert int(response.headers["retry-after"]) >= 7


@pytest.mark.parametrize("words", ["price_of", "AsyncIterator"])
def test_batches_run_as_shown(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = shown(words)
    (promised,) = re.findall(r"^print\(.*\)  # (.*)$", example, flags=re.MULTILINE)
    exec(compile(example, "docs/batch.md", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out == f"{promised}\n"


def test_unlike_back_ends_are_called_at_once_as_shown() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(shown("HttpxBackend"), "docs/batch.md", "exec"), names)
    with peering() as peer:
        response, level = asyncio.run(names["fetch"]([peer.url]))
    assert (response.text, level) == ("done", 3)
