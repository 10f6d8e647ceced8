"""The live toolkit: one a file, counted by its users, and the same states over a reload."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import resilience
from resilience import BreakerState, CircuitOpen, ConfigError, RateLimited, Toolkit
from resilience import toolkit as toolkit_module
from resilience.config import Document
from resilience.config.differences import Differences, differences
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import ManualClock, RecordingObserver
from tests.integrations.asgi.apps import answering
from tests.integrations.asgi.conversation import Conversation, run

CONFIG = """\
version: 1
health:
  default: {cut: 70%, recover: 5%, every: 1m}
deadlines:
  api: {default: 5s}
limiters:
  api: {rate: 1/s, burst: 10}
breakers:
  payments: {min_calls: 1, probes: 1, open_for: 30s}
retries:
  payments: {attempts: 2, backoff: 100ms, budget: {tokens: 10, ratio: 0.5}}
pipelines:
  api: [{deadline: api}, {limiter: api}]
  payments: [{deadline: api}, {retry: payments}, {breaker: payments}]
routes:
  - {match: {path: "/orders/**"}, pipeline: api}
"""


class File:
    """The configuration file of a test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write()

    def write(self, *changes: tuple[str, str]) -> None:
        """Write it, with parts of it replaced."""
        text = CONFIG
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        self.path.write_text(text, encoding="utf-8")


@pytest.fixture
def file(tmp_path: Path) -> File:
    """A file that can be used."""
    return File(tmp_path / "resilience.yaml")


@pytest.fixture
def clock() -> ManualClock:
    """Time that moves when told."""
    return ManualClock()


@pytest.fixture
def toolkit(file: File, clock: ManualClock) -> Iterator[Toolkit]:
    """The file, alive."""
    with resilience.load(file.path, clock=clock) as loaded:
        yield loaded


def fail(toolkit: Toolkit) -> None:
    """One outgoing call, all of whose attempts fail."""

    def work() -> None:
        raise OSError("the dependency is down")

    with contextlib.suppress(OSError, CircuitOpen):
        toolkit.pipeline("payments").call(work)


def spend(toolkit: Toolkit, count: int) -> None:
    """So many calls through the limiter."""
    for _ in range(count):
        toolkit.pipeline("api").call(str)


# --- one a file ---------------------------------------------------------------------------------------------------------------


def test_one_file_has_one_toolkit_until_its_last_user_closes_it(file: File) -> None:
    first, second = resilience.load(file.path), resilience.load(str(file.path))
    assert first is second
    first.close()
    third = resilience.load(file.path)
    assert third is second
    third.close()
    second.close()
    with resilience.load(file.path) as fresh:
        assert fresh is not first


def test_all_ways_to_the_file_are_one(file: File, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, folder = tmp_path / "link.yaml", tmp_path / "folder"
    link.symlink_to(file.path)
    folder.symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    ways: list[str | Path] = [file.path, link, folder / "resilience.yaml", folder / "link.yaml", "resilience.yaml", "./link.yaml"]
    toolkits = [resilience.load(way) for way in ways]
    assert all(toolkit is toolkits[0] for toolkit in toolkits)
    assert toolkits[0].path == os.path.realpath(file.path)
    for toolkit in toolkits:
        toolkit.close()


def test_a_link_that_leads_elsewhere_since_is_still_the_same_file(file: File, tmp_path: Path) -> None:
    """As a mounted folder of Kubernetes does it: what the path led to when it was loaded is gone, and its toolkit lives on."""
    other, link = File(tmp_path / "other.yaml"), tmp_path / "link.yaml"
    link.symlink_to(file.path)
    with resilience.load(link) as toolkit:
        assert toolkit.path == str(link)
        link.unlink()
        link.symlink_to(other.path)
        file.path.unlink()
        with resilience.load(link) as by_its_name, resilience.load(other.path) as by_where_it_leads:
            assert by_its_name is toolkit
            assert by_where_it_leads is toolkit
        toolkit.reload()
        assert toolkit.status()["version"] == 2


def test_files_of_the_same_text_are_two(file: File, tmp_path: Path) -> None:
    other = File(tmp_path / "other.yaml")
    with resilience.load(file.path) as one, resilience.load(other.path) as two:
        assert one is not two
        assert one.health() is not two.health()
        assert one.status()["sha256"] == two.status()["sha256"]


def test_a_file_that_cannot_be_used_leaves_no_toolkit(file: File) -> None:
    file.write(("rate: 1/s", "rate: soon"))
    with pytest.raises(ConfigError, match=r"resilience\.yaml:7:15: limiters\.api\.rate: ") as caught:
        resilience.load(file.path)
    assert [(problem.line, problem.column) for problem in caught.value.problems] == [(7, 15)]
    file.write()
    with resilience.load(file.path) as toolkit:
        assert toolkit.status()["version"] == 1


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read: No such file or directory"):
        resilience.load(tmp_path / "missing.yaml")


def test_a_path_that_starts_from_nowhere_is_a_configuration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match=r"resilience\.yaml: cannot be found: the working directory: No such file or directory"):
        resilience.load("resilience.yaml")


def test_a_middleware_given_the_path_and_a_load_of_it_share_one_health_signal(file: File, clock: ManualClock) -> None:
    with resilience.load(file.path, clock=clock) as toolkit:
        app = ResilienceMiddleware(answering(), config=file.path)
        fail(toolkit)
        assert toolkit.health().factor == 0.3

        async def scenario() -> list[int | None]:
            return [(await Conversation(app, "/orders/1").run()).status for _ in range(4)]

        assert run(scenario()) == [200, 200, 200, 429]  # the bucket of 10 is cut to 3
        app.close()


def test_closing_lets_go_of_the_health_signal_and_calls_under_way_settle(file: File, clock: ManualClock) -> None:
    toolkit = resilience.load(file.path, clock=clock)
    fail(toolkit)
    health, api = toolkit.health(), toolkit.resolve("api")
    assert health.in_incident
    guard = api.guard()
    with guard:
        toolkit.close()
        assert not health.in_incident
    clock.advance(60.0)
    assert health.factor == 0.35


# --- reloading ----------------------------------------------------------------------------------------------------------------


def test_a_bucket_is_not_refilled_by_a_reload(toolkit: Toolkit, file: File) -> None:
    spend(toolkit, 10)
    for _ in range(3):
        toolkit.reload()
        with pytest.raises(RateLimited):
            spend(toolkit, 1)
    file.write(("burst: 10", "burst: 1000"))
    toolkit.reload()
    with pytest.raises(RateLimited):
        spend(toolkit, 1)


def test_a_new_rate_counts_from_the_reload_on(toolkit: Toolkit, file: File, clock: ManualClock) -> None:
    spend(toolkit, 10)
    clock.advance(2.0)  # 2 tokens at the old rate
    file.write(("rate: 1/s", "rate: 4/s"))
    toolkit.reload()
    clock.advance(0.5)  # 2 at the new one
    spend(toolkit, 4)
    with pytest.raises(RateLimited):
        spend(toolkit, 1)
    assert toolkit.status()["limiters"]["api"]["rate_per_s"] == 4.0


def test_an_open_breaker_stays_open_with_its_timer_and_the_factor_stays_cut(
    toolkit: Toolkit, file: File, clock: ManualClock
) -> None:
    fail(toolkit)
    opens_for_s = toolkit.status()["breakers"]["payments"]["opens_for_s"]
    clock.advance(10.0)
    file.write(("probes: 1", "probes: 2"))
    toolkit.reload()
    status = toolkit.status()["breakers"]["payments"]
    assert (status["state"], status["opens_for_s"]) == ("open", pytest.approx(opens_for_s - 10.0))
    assert toolkit.health().factor == 0.3
    with pytest.raises(CircuitOpen):
        toolkit.pipeline("payments").call(str)
    clock.advance(opens_for_s - 10.0)
    for _ in range(2):
        assert toolkit.pipeline("payments").call(str) == ""
    assert toolkit.status()["breakers"]["payments"]["state"] == "closed"
    assert toolkit.health().factor == 0.3


def test_the_factor_climbs_on_over_a_reload(toolkit: Toolkit, file: File, clock: ManualClock) -> None:
    fail(toolkit)
    clock.advance(30.0)
    toolkit.pipeline("payments").call(str)
    clock.advance(120.0)
    assert toolkit.health().factor == 0.4
    toolkit.reload()
    clock.advance(60.0)
    assert toolkit.health().factor == 0.45
    file.write(("every: 1m", "every: 10s"))
    toolkit.reload()
    clock.advance(20.0)
    assert toolkit.health().factor == 0.55


def test_the_retry_budget_stays(toolkit: Toolkit) -> None:
    fail(toolkit)
    left = toolkit.status()["retries"]["payments"]["budget_tokens"]
    assert left < 10
    toolkit.reload()
    assert toolkit.status()["retries"]["payments"]["budget_tokens"] == left


def test_counts_stay(toolkit: Toolkit) -> None:
    spend(toolkit, 3)
    toolkit.reload()
    spend(toolkit, 2)
    status = toolkit.status()
    assert (status["limiters"]["api"]["admitted"], status["deadlines"]["api"]["admitted"]) == (5, 5)


BAD = [
    ("rate: 1/s", "rate: 0/s"),
    ("version: 1", "version: 2"),
    ("{deadline: api}, {limiter: api}", "{deadline: api}, {limiter: nobody}"),
    ("{deadline: api}, {limiter: api}", "{deadline: api}, {retry: payments}"),
    ("min_calls: 1,", "min_call: 1,"),
    ("health:", "health"),
]


@pytest.mark.parametrize("change", BAD)
def test_a_bad_file_changes_nothing_and_can_be_seen(change: tuple[str, str], toolkit: Toolkit, file: File) -> None:
    spend(toolkit, 4)
    before, resolved = toolkit.status(), toolkit.resolve("api")
    file.write(change)
    with RecordingObserver() as observer, pytest.raises(ConfigError) as caught:
        toolkit.reload()
    after = toolkit.status()
    assert after.pop("last_error") == str(caught.value)
    assert before.pop("last_error") is None
    assert after == before
    assert toolkit.resolve("api") is resolved
    assert [(type(event).__name__, vars_of(event)["error"]) for event in observer.events] == [("ConfigRefused", str(caught.value))]
    spend(toolkit, 6)
    file.write()
    toolkit.reload()
    assert toolkit.status()["last_error"] is None
    assert toolkit.status()["version"] == before["version"] + 1


def vars_of(event: Any) -> dict[str, Any]:
    """The fields of an event."""
    return {name: getattr(event, name) for name in type(event).__slots__}


def test_an_outcome_that_was_overtaken_is_not_told_after_the_newer_one(
    toolkit: Toolkit, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads reload; the first to read is the last to tell. The second one is played where the first stands still."""
    observer = RecordingObserver()
    unsubscribe = resilience.subscribe(observer)

    def overtaken(old: Document, new: Document) -> Differences:
        monkeypatch.undo()
        file.write(("burst: 10", "burst: many"))
        with pytest.raises(ConfigError, match="burst"):
            toolkit.reload()
        return differences(old, new)

    monkeypatch.setattr(toolkit_module, "differences", overtaken)
    file.write(("burst: 10", "burst: 20"))
    toolkit.reload()
    file.write()
    toolkit.reload()
    unsubscribe()
    assert [type(event) for event in observer.events] == [resilience.ConfigRefused, resilience.ConfigLoaded]
    assert toolkit.active.version == 3


@pytest.mark.parametrize(("idle", "told"), [(1, 1), (20, 20), (21, 20), (900, 20)])
def test_warnings_are_told_and_after_twenty_counted(
    idle: int, told: int, toolkit: Toolkit, file: File, caplog: pytest.LogCaptureFixture
) -> None:
    added = "".join(f"  idle{number}: {{rate: 1/s}}\n" for number in range(idle))
    file.write(("limiters:\n", f"limiters:\n{added}"), ('"/orders/**"', '"/**"'))
    with caplog.at_level(logging.WARNING, "resilience"):
        toolkit.reload()
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "guards nothing" in line] == lines[:told]
    assert lines[0].startswith(f"{file.path}:7:3: limiters.idle0: no pipeline has this layer")
    assert lines[told:] == ([f"{file.path}: has {idle - told} more warnings; `resilience check` shows all"] if idle > told else [])


def test_a_file_that_has_gone_changes_nothing(toolkit: Toolkit, file: File) -> None:
    file.path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        toolkit.reload()
    spend(toolkit, 1)
    assert "cannot be read" in toolkit.status()["last_error"]


def test_a_handle_follows_a_reload(toolkit: Toolkit, file: File) -> None:
    handle = toolkit.pipeline("api")
    decorated = handle(lambda: "called")
    before = handle.current
    assert decorated() == "called"
    file.write(("{limiter: api}]\n  payments", "{limiter: api}, {breaker: payments}]\n  payments"))
    toolkit.reload()
    assert handle.current is not before
    assert [layer.kind for layer in handle.current.layers] == ["deadline", "limiter", "breaker"]
    fail(toolkit)
    with pytest.raises(CircuitOpen):
        decorated()


def test_a_handle_of_a_pipeline_that_has_gone_says_so(toolkit: Toolkit, file: File) -> None:
    handle = toolkit.pipeline("api")
    file.write(("  api: [{deadline: api}, {limiter: api}]\n", ""), ("pipeline: api", "pipeline: none"))
    toolkit.reload()
    with pytest.raises(ConfigError, match=r"resilience\.yaml: has no pipeline called 'api'; it has payments"):
        handle.call(str)


def test_a_call_under_way_settles_where_it_was_admitted(toolkit: Toolkit, file: File, clock: ManualClock) -> None:
    file.write(("{limiter: api}]\n  payments", "{limiter: api}, {breaker: payments}]\n  payments"))
    toolkit.reload()
    with contextlib.suppress(OSError), toolkit.pipeline("api").guard():
        toolkit.reload()
        raise OSError("the dependency is down")
    assert toolkit.status()["breakers"]["payments"]["state"] == "open"


def test_a_breaker_that_is_removed_lets_go_of_the_signal(toolkit: Toolkit, file: File, clock: ManualClock) -> None:
    fail(toolkit)
    assert toolkit.health().in_incident
    file.write(("breakers:\n  payments: {min_calls: 1, probes: 1, open_for: 30s}\n", ""), (", {breaker: payments}]", "]"))
    toolkit.reload()
    assert not toolkit.health().in_incident
    assert "payments" not in toolkit.status()["breakers"]
    clock.advance(60.0)
    assert toolkit.health().factor == 0.35


def test_a_breaker_that_comes_back_is_a_new_one(toolkit: Toolkit, file: File) -> None:
    fail(toolkit)
    file.write(("breakers:\n  payments: {min_calls: 1, probes: 1, open_for: 30s}\n", ""), (", {breaker: payments}]", "]"))
    toolkit.reload()
    file.write()
    toolkit.reload()
    assert toolkit.status()["breakers"]["payments"]["state"] == "closed"


def test_a_breaker_that_moves_to_another_signal_takes_its_incident_along(toolkit: Toolkit, file: File) -> None:
    fail(toolkit)
    file.write(("every: 1m}", "every: 1m}\n  out: {cut: 50%}"), ("open_for: 30s}", "open_for: 30s, health: out}"))
    toolkit.reload()
    assert (toolkit.health().in_incident, toolkit.health("out").in_incident) == (False, True)
    assert toolkit.health("out").factor == 0.5


def test_a_limiter_that_moves_to_another_signal_follows_it(toolkit: Toolkit, file: File) -> None:
    fail(toolkit)
    assert toolkit.status()["limiters"]["api"]["rate_per_s"] == 0.3
    file.write(("burst: 10}", "burst: 10, health: none}"))
    toolkit.reload()
    assert toolkit.status()["limiters"]["api"]["rate_per_s"] == 1.0


def test_a_breaker_forced_in_the_file_and_let_go_again(toolkit: Toolkit, file: File) -> None:
    file.write(("open_for: 30s}", "open_for: 30s, force: open}"))
    toolkit.reload()
    assert toolkit.health().factor == 0.3
    with pytest.raises(CircuitOpen):
        toolkit.pipeline("payments").call(str)
    file.write()
    toolkit.reload()
    assert toolkit.pipeline("payments").call(str) == ""
    assert not toolkit.health().in_incident


@pytest.mark.parametrize("before", ["", ", force: open"])
def test_a_breaker_that_holds_the_signal_lets_go_when_it_is_forced_open_in_the_shadow(
    before: str, toolkit: Toolkit, file: File, clock: ManualClock
) -> None:
    file.write(("open_for: 30s}", f"open_for: 30s{before}}}"))
    toolkit.reload()
    with contextlib.suppress(CircuitOpen):
        fail(toolkit)
    assert toolkit.health().in_incident
    file.write(("open_for: 30s}", "open_for: 30s, force: open, shadow: true}"))
    toolkit.reload()
    assert not toolkit.health().in_incident
    clock.advance(60.0)
    assert toolkit.health().factor == 0.35


# --- telling ------------------------------------------------------------------------------------------------------------------


def test_status_tells_what_is_in_force(toolkit: Toolkit, file: File, clock: ManualClock) -> None:
    clock.advance(90.0)
    spend(toolkit, 1)
    assert toolkit.status() == {
        "path": str(file.path),
        "version": 1,
        "sha256": toolkit.active.document.sha256,
        "age_s": 90.0,
        "last_error": None,
        "watched": False,
        "health": {"default": {"factor": 1.0, "in_incident": False, "incidents": 0}},
        "deadlines": {"api": {"default_s": 5.0, "malformed_headers": 0, "admitted": 1, "expired": 0}},
        "limiters": {
            "api": {
                "shadow": False,
                "remaining": 9,
                "rate_per_s": 1.0,
                "configured_rate_per_s": 1.0,
                "capacity": 10.0,
                "keys": 0,
                "shared_the_overflow_bucket": 0,
                "admitted": 1,
                "rejected": 0,
                "queued": 0,
                "would_reject": 0,
            }
        },
        "breakers": {
            "payments": {
                "shadow": False,
                "state": "closed",
                "forced": None,
                "generation": 1,
                "failure_rate": 0.0,
                "opens_for_s": 0.0,
                "keys": 0,
                "admitted": 0,
                "rejected": 0,
                "probe": 0,
                "would_reject": 0,
            }
        },
        "retries": {"payments": {"budget_tokens": 10.0, "admitted": 0, "retried": 0, "rejected": 0}},
        "pools": {},
    }


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda toolkit: toolkit.pipeline("ap"), "has no pipeline called 'ap'; it has api, payments"),
        (lambda toolkit: toolkit.resolve(""), "has no pipeline called ''; it has api, payments"),
        (lambda toolkit: toolkit.health("orders"), "has no health signal called 'orders'; it has default"),
    ],
)
def test_unknown_names_are_told_with_those_that_are_known(ask: Callable[[Toolkit], object], message: str, toolkit: Toolkit) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(toolkit)
    assert str(caught.value) == f"{toolkit.path}: {message}"


def test_it_says_what_it_is(toolkit: Toolkit, file: File) -> None:
    assert repr(toolkit) == f"Toolkit({str(file.path)!r}, version 1)"
    assert toolkit.health() is toolkit.health("default")
    assert toolkit.pipeline("api").current.layers[1].status()["keys"] == 0
    assert BreakerState.CLOSED.value == toolkit.status()["breakers"]["payments"]["state"]
