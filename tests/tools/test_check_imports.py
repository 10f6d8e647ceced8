"""Each rule of the import checker catches its violation, with the line and what to do, and lets the right way pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import check_imports
import import_rules

Write = Callable[..., list[str]]


@pytest.fixture
def violations(tmp_path: Path) -> Write:
    """Write files (path: source) into an empty house and return what the checker says, as lines."""

    def write_and_check(files: dict[str, str]) -> list[str]:
        for name, source in {"resilience/clock.py": "", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return [str(violation) for violation in check_imports.check(tmp_path)]

    return write_and_check


def only(found: list[str]) -> str:
    """The one violation there is."""
    assert len(found) == 1, found
    return found[0]


PUBLIC = {"resilience/__init__.py": '__all__ = ["Pipeline"]\n', "resilience/pipeline.py": ""}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("resilience/health.py", "from resilience.clock import Clock"),
        ("resilience/health.py", "from resilience import clock"),
        ("resilience/call.py", "from .clock import Clock"),
        ("resilience/layers/limiter/layer.py", "from resilience.layers.limiter import state\nimport resilience.health"),
        ("resilience/layers/limiter/layer.py", "from . import state\nfrom ..base import Wait"),
        ("resilience/layers/__init__.py", "from resilience.layers.retry import Retry"),
        ("resilience/drivers.py", "import time\nfrom resilience.pipeline import Pipeline"),
        ("resilience/config/schema.py", "import yaml\nfrom resilience.pipeline import Pipeline"),
        ("resilience/telemetry/spans.py", "from opentelemetry import trace"),
        ("resilience/stores/redis.py", "def connect():\n    import redis"),
        ("resilience/stores/redis.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import redis"),
        ("resilience/toolkit.py", "from resilience.config import load\nfrom resilience.telemetry import spans"),
        ("resilience/testing.py", "from resilience.toolkit import Toolkit"),
        ("integrations/asgi.py", "from resilience import Pipeline\nimport resilience.testing"),
        ("integrations/asgi.py", "import resilience\nresilience.Pipeline()"),
        ("integrations/asgi/__init__.py", "from resilience.integrations.asgi.exchange import Exchange"),
        ("integrations/grpc/aio.py", "import grpc"),
        ("resilience/events.py", "from datetime import datetime\ndatetime.fromisoformat('2026-01-01')"),
    ],
)
def test_the_right_way_passes(violations: Write, path: str, source: str) -> None:
    assert violations({**PUBLIC, path: source}) == []


@pytest.mark.parametrize(
    ("path", "imported"),
    [
        ("resilience/clock.py", "resilience.health"),
        ("resilience/health.py", "resilience.layers.base"),
        ("resilience/layers/base.py", "resilience.layers.retry"),
        ("resilience/layers/retry/layer.py", "resilience.layers"),
        ("resilience/layers/deadline.py", "resilience.pipeline"),
        ("resilience/pipeline.py", "resilience.telemetry.spans"),
        ("resilience/drivers.py", "resilience.toolkit"),
        ("resilience/config/parse.py", "resilience.toolkit"),
        ("resilience/stores/host.py", "resilience.testing"),
        ("resilience/toolkit.py", "resilience"),
        ("resilience/testing.py", "resilience.integrations.asgi"),
    ],
)
def test_an_import_upwards_is_caught(violations: Write, path: str, imported: str) -> None:
    message = only(violations({path: f"\nimport {imported}"}))
    assert message.startswith(f"{path}:2: ")
    assert f"imports {imported}, which lies on a higher floor" in message


@pytest.mark.parametrize(
    ("path", "imported"),
    [
        ("resilience/layers/retry/layer.py", "resilience.layers.breaker"),
        ("resilience/config/routes.py", "resilience.telemetry"),
        ("resilience/telemetry/metrics.py", "resilience.config"),
        ("resilience/testing.py", "resilience"),
    ],
)
def test_an_import_from_another_room_of_the_floor_is_caught(violations: Write, path: str, imported: str) -> None:
    message = only(violations({path: f"import {imported}"}))
    assert f"imports {imported}, which is another room of the same floor" in message


@pytest.mark.parametrize(
    "source",
    [
        "def late():\n    from resilience import pipeline",
        "async def late():\n    from resilience.pipeline import Pipeline",
        "class Holder:\n    import resilience.pipeline",
        "if TYPE_CHECKING:\n    from resilience.pipeline import Pipeline",
        "import typing\nif typing.TYPE_CHECKING:\n    from resilience.pipeline import Pipeline",
        "if not ready:\n    pass\nelse:\n    import resilience.pipeline",
        "try:\n    import resilience.pipeline\nexcept ImportError:\n    pass",
        "with lock:\n    from .pipeline import Pipeline",
        "importlib.import_module('resilience.pipeline')",
        "import_module('.pipeline', __package__)",
        "def late(cls=__import__('resilience.pipeline')): ...",
    ],
)
def test_an_import_counts_wherever_it_stands(violations: Write, source: str) -> None:
    message = only(violations({**PUBLIC, "resilience/events.py": source}))
    assert "resilience.events imports resilience.pipeline, which lies on a higher floor" in message


@pytest.mark.parametrize("path", ["resilience/novel.py", "resilience/layers/bulkhead.py", "resilience/limits/__init__.py"])
def test_a_file_without_a_place_is_caught(violations: Write, path: str) -> None:
    message = only(violations({path: ""}))
    assert message.startswith(f"{path}:1: ")
    assert message.endswith("has no place in the house: give it one in FLOORS in tools/import_rules.py")


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("resilience/events.py", "opentelemetry"),
        ("resilience/layers/limiter/state.py", "yaml"),
        ("resilience/pipeline.py", "yaml"),
        ("resilience/config/parse.py", "opentelemetry"),
        ("resilience/telemetry/spans.py", "yaml"),
        ("resilience/toolkit.py", "redis"),
        ("resilience/testing.py", "hypothesis"),
        ("resilience/__init__.py", "starlette"),
        ("integrations/asgi.py", "starlette"),
        ("integrations/asgi.py", "grpc"),
        ("integrations/httpx.py", "requests"),
    ],
)
def test_a_package_that_the_room_was_not_granted_is_caught(violations: Write, path: str, package: str) -> None:
    for source in (f"import {package}.part", f"from {package} import part", f"def late():\n    import {package}"):
        message = only(violations({path: source}))
        assert f"may not import {package} here: use the standard library, or grant it" in message


def test_a_package_granted_late_is_caught_at_import_time(violations: Write) -> None:
    message = only(violations({"resilience/stores/redis.py": "import redis.asyncio"}))
    assert message.endswith("may not import redis here: import it inside the function that needs it")


@pytest.mark.parametrize(
    "source",
    ["from resilience.pipeline import Pipeline", "import resilience.pipeline", "from resilience import pipeline"],
)
def test_an_integration_that_imports_a_private_module_is_caught(violations: Write, source: str) -> None:
    message = only(violations({**PUBLIC, "integrations/asgi.py": source}))
    assert message.startswith("integrations/asgi.py:1: resilience.integrations.asgi uses resilience.pipeline, which is not ")


@pytest.mark.parametrize("source", ["from resilience import Hidden", "def late():\n    import resilience\n    resilience.Hidden()"])
def test_an_integration_that_uses_an_unlisted_name_is_caught(violations: Write, source: str) -> None:
    message = only(violations({**PUBLIC, "integrations/asgi.py": source}))
    assert "uses resilience.Hidden, which is not in resilience.__all__: export it or do without" in message


def test_an_unlisted_name_of_another_public_module_is_caught(violations: Write) -> None:
    files = {"resilience/testing.py": "__all__: list[str] = ['ManualClock']"}
    source = "from resilience.testing import ManualClock, _heap"
    message = only(violations({**PUBLIC, **files, "integrations/asgi.py": source}))
    assert "uses resilience.testing._heap, which is not in resilience.testing.__all__" in message


def test_a_public_module_without_a_list_has_no_public_names(violations: Write) -> None:
    found = violations({"resilience/__init__.py": "", "integrations/asgi.py": "from resilience import Pipeline"})
    assert "is not in resilience.__all__" in only(found)


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "def late():\n    import time",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.now(datetime.UTC)",
        "from datetime import datetime\nstamp = datetime.utcnow",
        "from datetime import date\ndate.today()",
    ],
)
@pytest.mark.parametrize("path", ["resilience/health.py", "resilience/layers/limiter/tokens.py", "integrations/asgi.py"])
def test_reading_the_time_is_caught(violations: Write, path: str, source: str) -> None:
    assert "take a clock (only resilience.clock and resilience.drivers read the time)" in only(violations({path: source}))


def test_the_linked_folder_is_read_once_under_its_own_name(violations: Write, tmp_path: Path) -> None:
    (tmp_path / "resilience").mkdir()
    (tmp_path / "integrations").mkdir()
    (tmp_path / "resilience" / "integrations").symlink_to("../integrations")
    message = only(violations({"integrations/asgi.py": "import time"}))
    assert message.startswith("integrations/asgi.py:1: resilience.integrations.asgi imports time")


def test_a_folder_that_is_no_checkout_does_not_pass(tmp_path: Path) -> None:
    assert "is this the checkout?" in only([str(violation) for violation in check_imports.check(tmp_path)])


def test_no_module_is_placed_twice() -> None:
    placed = [entry for rooms in import_rules.FLOORS for room in rooms for entry in room]
    assert len(placed) == len(set(placed))
    overlapping = [(outer, inner) for outer in placed for inner in placed if outer != inner and check_imports.within(inner, outer)]
    assert overlapping == []


def test_the_command_fails_the_build_on_a_violation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], violations: Write, tmp_path: Path
) -> None:
    monkeypatch.setattr(check_imports, "__file__", str(tmp_path / "tools" / "check_imports.py"))
    assert violations({}) == []
    assert check_imports.main() == 0
    violations({"resilience/health.py": "import time"})
    assert check_imports.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "imports: 1 violation"
