"""Every example in the README is run as it stands there."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

import resilience
from resilience import Deadline, HealthSignal, Pipeline, RateLimiter
from resilience.health import Hold
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.asgi.conversation import Conversation, run
from tests.integrations.grpc.server.served import refuses_the_call_after
from tests.integrations.outgoing.peer import peering

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds the README's configuration file."""
    path = tmp_path / "resilience.yaml"
    path.write_text(blocks("yaml")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return path


def shown(words: str) -> str:
    """The example that has these words in it."""
    (block,) = (block for block in blocks("python") if words in block)
    return block


def test_the_readme_has_the_examples_that_are_run_here() -> None:
    assert (len(blocks("python")), len(blocks("yaml"))) == (11, 2)


def test_the_ten_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks("python")[0], "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out == "charged order-7\n"


def test_the_middleware_is_added_in_one_line(configured: Path) -> None:
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(blocks("python")[1], "README.md", "exec"), names)
    app = names["app"]
    guarded = app.build_middleware_stack().app  # type: ignore[attr-defined]  # within the one that answers errors
    assert resilience.load(configured).status()["watched"]
    resilience.load(configured).close()
    resilience.load(configured).close()
    guarded.close()


def test_flask_is_guarded_as_shown(configured: Path) -> None:
    configured.write_text(configured.read_text().replace("rate: 10/s", "rate: 10/h"), encoding="utf-8")  # however slow this machine
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(blocks("python")[2], "README.md", "exec"), names)
    app = names["app"]
    guarded = app.wsgi_app
    app.add_url_rule("/orders", view_func=lambda: "ordered", endpoint="orders")
    app.add_url_rule("/payments", view_func=_refused)
    try:
        with app.test_client() as client:
            statuses = [client.get("/orders").status_code for _ in range(21)]
            assert client.get("/payments", environ_overrides={"REMOTE_ADDR": "203.0.113.7"}).status_code == 503
        assert statuses == [200] * 20 + [429]
    finally:
        guarded.close()


def _refused() -> None:
    raise resilience.CircuitOpen("payments: open", policy="payments")


def test_the_toolkit_is_read_as_shown(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(blocks("python")[3], "README.md", "exec"), names)
    assert capsys.readouterr().out == "1.0 100.0\n"
    toolkit = names["toolkit"]
    assert isinstance(toolkit, resilience.Toolkit)
    toolkit.close()


def test_the_status_is_served_as_shown(configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.applications import Starlette

    monkeypatch.setenv("STATUS_TOKEN", "a-token-of-the-operator")
    app = Starlette()
    exec(compile(blocks("python")[4], "README.md", "exec"), {"app": app, "ResilienceMiddleware": ResilienceMiddleware})
    guarded = app.build_middleware_stack().app  # type: ignore[attr-defined]  # within the one that answers errors
    try:
        talk = Conversation(guarded, "/-/resilience", headers=[("authorization", "Bearer a-token-of-the-operator")])
        status = json.loads(run(talk.run()).body)
        assert (talk.status, status["last_error"], list(status["limiters"])) == (200, None, ["api", "per_client"])
        assert run(Conversation(guarded, "/-/resilience").run()).status == 401
    finally:
        guarded.close()


def test_calls_that_leave_the_process_go_through_the_pipeline_as_shown(configured: Path) -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(blocks("python")[5], "README.md", "exec"), names)
    client, session = names["client"], names["session"]
    with peering() as peer, client, session:
        session.mount("http://", session.get_adapter("https://payments.example"))
        session.trust_env = False
        assert (client.get(peer.url).text, session.get(peer.url).text) == ("done", "done")
    assert all(0 < int(said or 0) <= 4980 for said in peer.values("x-envoy-expected-rq-timeout-ms"))


def test_a_pool_works_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(shown("WorkerPool"), "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out == "sent order-7\n"


def test_a_page_is_put_together_as_shown() -> None:
    async def price_of(sku: str) -> int:
        if sku == "gone":
            raise ConnectionError(sku)
        await asyncio.sleep(10 if sku == "slow" else 0)
        return len(sku)

    names: dict[str, Any] = {"price_of": price_of}
    exec(compile(shown("BatchCaller"), "README.md", "exec"), names)
    page = asyncio.run(names["page"](["tea", "slow", "gone", "coffee"]))
    assert page == ["3", "timeout", "transport", "6"]


def test_errors_are_written_as_shown(configured: Path) -> None:
    from starlette.applications import Starlette

    from resilience.integrations.asgi import ResilienceMiddleware

    app = Starlette()
    exec(compile(shown("import json"), "README.md", "exec"), {"app": app, "ResilienceMiddleware": ResilienceMiddleware})
    guarded = app.build_middleware_stack().app  # type: ignore[attr-defined]  # within the one that answers errors
    try:
        talk = run(Conversation(guarded, headers=[("grpc-timeout", "0S")]).run())
        assert (talk.status, json.loads(talk.body)) == (504, {"error": "expired_on_arrival"})
        assert talk.header("content-type") == "application/json"
    finally:
        guarded.close()


def test_a_grpc_server_is_guarded_as_shown(configured: Path) -> None:
    configured.write_text(configured.read_text().replace("rate: 10/s", "rate: 10/h"), encoding="utf-8")  # however slow this machine
    names: dict[str, Any] = {}
    exec(compile(shown("ServerInterceptor"), "README.md", "exec"), names)
    refuses_the_call_after(20, names["server"])
    names["resilience"].close()
    names["stock"].close()


def test_a_handler_leaves_out_what_is_dear_as_shown() -> None:
    names: dict[str, Any] = {}
    exec(compile(shown("current_call"), "README.md", "exec"), names)
    clock = ManualClock()
    health = HealthSignal(clock=clock)
    pipeline = Pipeline("api", Deadline(1.0, clock=clock), RateLimiter(10.0, health=health, clock=clock))

    def seen(after_s: float = 0.0) -> list[str]:
        with pipeline.guard():
            clock.advance(after_s)
            shown: list[str] = names["recommendations"]("order-7", lambda order: [f"like {order}"])
        return shown

    assert names["recommendations"]("order-7", lambda order: ["unguarded"]) == ["unguarded"]
    assert (seen(), seen(after_s=0.9)) == (["like order-7"], [])
    health.opened(Hold(), clock.now_us(), None)
    assert seen() == []


def test_the_error_shown_is_the_error_reported(configured: Path) -> None:
    shown = next(line for line in README.splitlines() if line.startswith("resilience.yaml:"))
    configured.write_text(configured.read_text().replace("failure_rate: 50%", "failure_rate: 150%"), encoding="utf-8")
    with pytest.raises(resilience.ConfigError) as caught:
        resilience.load(configured)
    assert str(caught.value).replace(str(configured.resolve()), "resilience.yaml") == shown
