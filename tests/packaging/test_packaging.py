"""What is packaged, and that the folder `integrations/` has one name however it is reached.

Fast checks only: what a built wheel holds is checked where one is built (`make build`).
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import resilience

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def folders_with_code(folder: Path, package: str) -> set[str]:
    """The packages on disk below `folder`, which is the package `package`."""
    parents = {path.parent.relative_to(folder) for path in folder.rglob("*.py")}
    return {".".join((package, *parent.parts)) for parent in parents}


def test_every_folder_with_code_is_packaged(project: dict[str, Any]) -> None:
    listed = project["tool"]["setuptools"]["packages"]
    on_disk = folders_with_code(ROOT / "resilience", "resilience")
    on_disk |= folders_with_code(ROOT / "integrations", "resilience.integrations")
    assert listed == sorted(on_disk), "tool.setuptools.packages in pyproject.toml must list every folder with code"


def test_every_package_says_that_it_is_one(project: dict[str, Any]) -> None:
    folders = project["tool"]["setuptools"]["package-dir"]
    for package in project["tool"]["setuptools"]["packages"]:
        mapped = max((name for name in folders if f"{package}.".startswith(f"{name}.")), key=len, default="")
        inside = package.removeprefix(mapped).strip(".").replace(".", "/")
        assert (ROOT / folders[mapped] / inside / "__init__.py").is_file(), package


def test_the_version_is_written_once(project: dict[str, Any]) -> None:
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "resilience.__version__"}
    assert project["project"].get("version") is None
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", resilience.__version__)


def test_every_extra_named_by_another_exists(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    for requirements in extras.values():
        for requirement in requirements:
            if requirement.startswith("resilience-middleware["):
                named = requirement.partition("[")[2].removesuffix("]").split(",")
                assert set(named) <= set(extras)


def test_the_link_to_the_integrations_is_relative() -> None:
    link = ROOT / "resilience" / "integrations"
    assert link.is_symlink()
    assert link.readlink() == Path("../integrations")
    assert link.resolve() == ROOT / "integrations"


@pytest.mark.parametrize("statement", ["import integrations", "import integrations.asgi", "from integrations import asgi"])
def test_the_folder_under_its_own_name_says_how_it_is_imported(statement: str) -> None:
    result = run_python(statement, cwd=ROOT)
    assert result.returncode == 1
    last_line = result.stderr.splitlines()[-1]
    assert last_line.startswith("ImportError: this folder is the package 'resilience.integrations'")
    assert "from resilience.integrations.asgi import ResilienceMiddleware" in last_line
    assert "pip install -e ." in last_line


def test_a_module_has_one_identity() -> None:
    package = importlib.import_module("resilience.integrations")
    assert package.__file__ is not None
    assert Path(package.__file__).resolve() == ROOT / "integrations" / "__init__.py"
    others = [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == package.__file__]
    assert others == ["resilience.integrations"]


def test_importing_the_package_brings_no_framework(tmp_path: Path) -> None:
    frameworks = ["aiohttp", "django", "fastapi", "flask", "grpc", "httpx", "litestar", "opentelemetry.sdk", "quart"]
    frameworks += ["redis", "requests", "starlette", "urllib3", "uvicorn"]
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import resilience, resilience.testing\n"
        f"print(*sorted(set({frameworks!r}) & set(sys.modules)))"
    )
    result = run_python(code, cwd=tmp_path)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


def test_what_not_every_service_needs_is_loaded_by_those_that_do(tmp_path: Path) -> None:
    """Importing it is quick: YAML and asyncio cost more than all the rest of it."""
    dear = ["asyncio", "email", "resilience.batch", "resilience.config", "resilience.stores", "resilience.toolkit", "yaml"]
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import resilience\n"
        "from resilience import CircuitBreaker, Deadline, Pipeline, RateLimiter, Retry\n"
        "layers = [Deadline(1.0), RateLimiter(10.0), Retry(), CircuitBreaker()]\n"
        "assert Pipeline('p', *layers).call(len, 'ab') == 2\n"
        f"print(*sorted(set({dear!r}) & set(sys.modules)))\n"
        "from resilience import Toolkit\n"
        "assert resilience.load.__module__ == Toolkit.__module__ == 'resilience.toolkit'\n"
        "print('yaml' in sys.modules)\n"
        "try:\n"
        "    resilience.nothing\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    result = run_python(code, cwd=tmp_path)
    wanted = "\nTrue\nmodule 'resilience' has no attribute 'nothing'\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, wanted, "")
