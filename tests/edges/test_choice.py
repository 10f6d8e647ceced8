"""Which pipeline an outgoing request goes through, and how long its configuration file is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import resilience
from resilience import ConfigError, Pipeline
from resilience.edges import OutgoingPipelines

CONFIG = """\
version: 1
deadlines: {out: {default: 5s}}
retries: {out: {attempts: 2}}
pipelines:
  payments: [{deadline: out}, {retry: out}]
  stock: [{deadline: out}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The file of these tests."""
    path = tmp_path / "resilience.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_a_pipeline_made_in_code() -> None:
    pipeline = Pipeline("payments")
    assert OutgoingPipelines(None, pipeline).find("GET", "payments.example") is pipeline


def test_a_handle_follows_the_file(config: Path) -> None:
    with resilience.load(config) as toolkit:
        pipelines = OutgoingPipelines(None, toolkit.pipeline("payments"))
        before = pipelines.find("GET", "payments.example")
        toolkit.reload()
        after = pipelines.find("GET", "payments.example")
        assert before is not None
        assert after is not None
        assert before is not after
        assert before.name == after.name == "payments"


def test_a_name_in_a_toolkit_follows_it_too_and_leaves_it_to_its_owner(config: Path) -> None:
    with resilience.load(config) as toolkit:
        pipelines = OutgoingPipelines(toolkit, "payments")
        assert pipelines.find("GET", "payments.example") is toolkit.resolve("payments")
        config.write_text(CONFIG.replace("payments:", "orders:"), encoding="utf-8")
        toolkit.reload()
        with pytest.raises(ConfigError, match="has no pipeline called 'payments'; it has orders, stock"):
            pipelines.find("GET", "payments.example")
        pipelines.close()
        toolkit.reload()  # it is not closed


def test_a_path_is_opened_watched_and_given_up_once(config: Path) -> None:
    pipelines = OutgoingPipelines(config, "payments")
    with resilience.load(config) as toolkit:
        assert toolkit.status()["watched"]
        assert pipelines.find("GET", "payments.example") is toolkit.resolve("payments")
        pipelines.close()
        pipelines.close()
        toolkit.reload()  # the other use goes on
    with pytest.raises(ConfigError, match="this toolkit is closed"):
        toolkit.reload()


def test_a_function_chooses_by_method_and_host(config: Path) -> None:
    own = Pipeline("own")
    asked = []

    def choose(method: str, host: str) -> Any:
        asked.append((method, host))
        return {"GET": "stock", "POST": "payments", "PUT": own}.get(method)

    pipelines = OutgoingPipelines(config, choose)
    names = [getattr(pipelines.find(method, "shop.example:8443"), "name", None) for method in ("GET", "POST", "PUT", "DELETE")]
    assert names == ["stock", "payments", "own", None]
    assert asked[0] == ("GET", "shop.example:8443")
    pipelines.close()


@pytest.mark.parametrize("chosen", [42, "payments", ()])
def test_a_function_that_chooses_something_else_is_told_so(chosen: Any) -> None:
    with pytest.raises(TypeError, match="which is no Pipeline and no name of one in config="):
        OutgoingPipelines(None, lambda method, host: chosen).find("GET", "payments.example")


@pytest.mark.parametrize("pipeline", [None, 42, b"payments"])
def test_what_is_no_pipeline_is_refused(pipeline: Any) -> None:
    with pytest.raises(TypeError, match="pipeline= must be a Pipeline, the name of one in config=, or a function"):
        OutgoingPipelines(None, pipeline)


def test_a_name_needs_a_file() -> None:
    with pytest.raises(TypeError, match="pipeline='payments' is a name: give config="):
        OutgoingPipelines(None, "payments")


def test_a_file_needs_a_name(config: Path) -> None:
    with pytest.raises(TypeError, match="pipeline= is no name, so config= says nothing"):
        OutgoingPipelines(config, Pipeline("payments"))


def test_a_name_that_the_file_does_not_have_is_told_at_once_and_the_file_given_up(config: Path) -> None:
    with pytest.raises(ConfigError, match="has no pipeline called 'payment'; it has payments, stock"):
        OutgoingPipelines(config, "payment")
    with resilience.load(config) as toolkit:
        assert not toolkit.status()["watched"]
