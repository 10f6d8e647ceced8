"""The public names, one a line, as `tests/public_names.txt` lists them.

python tools/public_names.py            # show what differs from the list; exit 1 if anything does
python tools/public_names.py --write    # write the list anew, after a change that was meant
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable
from difflib import ndiff
from pathlib import Path
from typing import Final

from import_rules import PUBLIC_MODULES
from source_tree import PACKAGES

ROOT: Final = Path(__file__).resolve().parent.parent
LIST: Final = ROOT / "tests" / "public_names.txt"


class Unlisted(Exception):
    """A public module does not say which of its names are public."""


def integration_modules(folder: Path) -> list[str]:
    """The modules and packages below `folder`, at any depth, that no leading underscore marks as private."""
    package = PACKAGES[folder.name]
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts and not any(part.startswith("_") for part in parts):
            found.append(".".join((package, *parts)))
    return found


def names_of(module_name: str, *, required: bool = True) -> list[str]:
    """The public names of a module with their full names, by importing it.

    Raises:
        Unlisted: the module has no `__all__` and `required` is true, or lists a name that it does not have.
    """
    module = importlib.import_module(module_name)
    listed = getattr(module, "__all__", None)
    if listed is None:
        if required:
            raise Unlisted(f"{module_name} has no __all__: list its public names there")
        return []
    missing = [name for name in listed if not hasattr(module, name)]
    if missing:
        raise Unlisted(f"{module_name}.__all__ lists {', '.join(missing)}, which {module_name} does not have")
    return [f"{module_name}.{name}" for name in listed]


def public_names() -> list[str]:
    """Every public name of this checkout, sorted.

    A room of `integrations/` must have an `__all__`; a module inside a room that is a package is public if it has one.
    """
    names = {name for module in PUBLIC_MODULES for name in names_of(module)}
    for module in integration_modules(ROOT / "integrations"):
        is_room = module.count(".") == PACKAGES["integrations"].count(".") + 1
        names.update(names_of(module, required=is_room))
    return sorted(names)


def difference(listed: Iterable[str], actual: Iterable[str]) -> list[str]:
    """What changed, as lines that begin with "-" (gone) or "+" (new)."""
    return [line for line in ndiff(list(listed), list(actual)) if line.startswith(("-", "+"))]


def main() -> int:
    """Compare or write the list."""
    parser = argparse.ArgumentParser(description="Compare the public names with tests/public_names.txt.")
    parser.add_argument("--write", action="store_true", help="write the list anew")
    arguments = parser.parse_args()
    actual = public_names()
    if arguments.write:
        LIST.write_text("".join(f"{name}\n" for name in actual), encoding="utf-8")
        print(f"{LIST.relative_to(ROOT)}: {len(actual)} names")
        return 0
    changed = difference(LIST.read_text(encoding="utf-8").splitlines(), actual)
    print("\n".join(changed) or f"public names: {len(actual)}, as listed")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout's package, not one that is installed
    sys.exit(main())
