"""The check of what was built sees a file that is missing, left over, linked or there twice."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import pytest

import check_wheel

SOURCES = ("resilience/__init__.py", "resilience/py.typed", "integrations/__init__.py", "integrations/asgi.py")
IN_WHEEL = tuple(name.replace("integrations/", "resilience/integrations/") for name in SOURCES)
LICENSE = "x-1.dist-info/licenses/LICENSE"
BESIDE = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in SOURCES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "resilience" / "integrations").symlink_to("../integrations")
    (tmp_path / "dist").mkdir()
    return tmp_path


def build(
    checkout: Path,
    wheel: Iterable[str] = (*IN_WHEEL, LICENSE),
    sdist: Iterable[str] = (*SOURCES, *BESIDE),
    link: str | None = None,
) -> list[str]:
    """Write a wheel and an sdist with these files, and check them."""
    with zipfile.ZipFile(checkout / "dist" / "x-1.whl", "w") as archive:
        for name in wheel:
            archive.writestr(name, "")
    with tarfile.open(checkout / "dist" / "x-1.tar.gz", "w:gz") as tar:
        for name in sdist:
            tar.addfile(tarfile.TarInfo(f"x-1/{name}"), BytesIO())
        if link is not None:
            member = tarfile.TarInfo(f"x-1/{link}")
            member.type = tarfile.SYMTYPE
            tar.addfile(member)
    return check_wheel.check(checkout / "dist", checkout)


def test_what_was_meant_passes(checkout: Path) -> None:
    assert build(checkout) == []


@pytest.mark.parametrize("missing", ["resilience/py.typed", "resilience/integrations/asgi.py"])
def test_a_file_missing_from_the_wheel(checkout: Path, missing: str) -> None:
    assert build(checkout, wheel={*IN_WHEEL, LICENSE} - {missing}) == [f"x-1.whl: {missing} is missing"]


@pytest.mark.parametrize("extra", ["integrations/asgi.py", "tests/test_it.py", "resilience/notes.txt"])
def test_a_file_that_does_not_belong_in_the_wheel(checkout: Path, extra: str) -> None:
    assert build(checkout, wheel=[*IN_WHEEL, LICENSE, extra]) == [f"x-1.whl: {extra} does not belong there"]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # the archive that the test needs is a bad one
def test_a_file_that_is_in_the_wheel_twice(checkout: Path) -> None:
    found = build(checkout, wheel=[*IN_WHEEL, LICENSE, IN_WHEEL[0]])
    assert found == [f"x-1.whl: {IN_WHEEL[0]} is there 2 times"]


def test_a_wheel_without_its_license(checkout: Path) -> None:
    assert build(checkout, wheel=IN_WHEEL) == ["x-1.whl: the LICENSE is missing"]


def test_an_sdist_with_the_folder_twice(checkout: Path) -> None:
    twice = "resilience/integrations/asgi.py"
    assert build(checkout, sdist=[*SOURCES, *BESIDE, twice]) == [f"x-1.tar.gz: {twice} does not belong there"]


def test_an_sdist_with_a_link(checkout: Path) -> None:
    assert build(checkout, link="resilience/integrations") == ["x-1.tar.gz: x-1/resilience/integrations is a link"]


def test_an_sdist_without_its_changelog(checkout: Path) -> None:
    sdist = [*SOURCES, "LICENSE", "README.md", "pyproject.toml"]
    assert build(checkout, sdist=sdist) == ["x-1.tar.gz: CHANGELOG.md is missing"]


def test_a_folder_with_two_wheels(checkout: Path) -> None:
    (checkout / "dist" / "x-0.whl").touch()
    assert build(checkout) == [f"{checkout / 'dist'}: one wheel and one sdist were expected, found 2 and 1"]
