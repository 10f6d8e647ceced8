"""What a user may import is a list that somebody looked at: a name that comes or goes changes the list too."""

from __future__ import annotations

from pathlib import Path

import public_names


def test_the_public_names_are_those_listed() -> None:
    listed = public_names.LIST.read_text(encoding="utf-8").splitlines()
    changed = public_names.difference(listed, public_names.public_names())
    assert not changed, "if the change is meant, run: .venv/bin/python tools/public_names.py --write"


def test_the_list_is_sorted_and_without_repeats() -> None:
    listed = public_names.LIST.read_text(encoding="utf-8").splitlines()
    assert listed == sorted(set(listed))


def test_rooms_and_their_modules_are_found_by_folder(tmp_path: Path) -> None:
    folder = tmp_path / "integrations"
    for name in ("__init__.py", "asgi.py", "_shared.py", "grpc/__init__.py", "grpc/aio.py", "grpc/_status.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert public_names.integration_modules(folder) == [
        "resilience.integrations.asgi",
        "resilience.integrations.grpc",
        "resilience.integrations.grpc.aio",
    ]


def test_a_new_and_a_lost_name_both_show() -> None:
    assert public_names.difference(["resilience.A", "resilience.B"], ["resilience.B", "resilience.C"]) == [
        "- resilience.A",
        "+ resilience.C",
    ]
