"""Hold the direction of imports: `python tools/check_imports.py` lists every violation and exits 1 if there is one.

- Every module has a place on a floor, and imports from its own room and from lower floors only.
- It imports the standard library and what its room is granted, and nothing else.
- Integrations use public names only.
- Only the clock's readers read the time.

The tables are in `import_rules.py`. An import counts wherever it stands: in a function and under TYPE_CHECKING too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from import_rules import CLOCK_READERS, FLOORS, LAZY_THIRD_PARTY, PUBLIC_MODULES, THIRD_PARTY, Room
from source_tree import Import, Module, imports_of, last_name, read_modules

INTEGRATIONS: Final = "resilience.integrations"
RULES_FILE: Final = "tools/import_rules.py"

Modules = Mapping[str, Module]


class Violation(NamedTuple):
    """One broken rule: where, and what to do about it."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


class Place(NamedTuple):
    """Where a module lives. Floor 0 is the lowest."""

    floor: int
    room: Room


def within(name: str, package: str) -> bool:
    """Whether `name` is `package` or lies in it."""
    return name == package or name.startswith(f"{package}.")


def place_of(name: str) -> Place | None:
    """The place of a module. A name that places one module alone goes before those that hold submodules."""
    for alone in (True, False):
        for floor, rooms in enumerate(FLOORS):
            for room in rooms:
                if f"{name}:" in room if alone else any(within(name, entry) for entry in room):
                    return Place(floor, room)
    return None


def granted(table: Mapping[str, frozenset[str]], name: str) -> set[str]:
    """What `table` grants a module, itself or through a package that holds it."""
    return {package for room, packages in table.items() if within(name, room) for package in packages}


def check_placed(module: Module, modules: Modules) -> Iterator[Violation]:
    """Every file has a place, so that a new one is thought about."""
    if place_of(module.name) is None:
        message = f"{module.name} has no place in the house: give it one in FLOORS in {RULES_FILE}"
        yield Violation(module.path, 1, message)


def check_direction(module: Module, modules: Modules) -> Iterator[Violation]:
    """Imports stay in the room or go down."""
    here = place_of(module.name)
    for found in imports_of(module):
        target = found.target(modules)
        there = place_of(target)
        if here is None or there is None or there.room == here.room or there.floor < here.floor:
            continue
        if there.floor == here.floor:
            reason = "is another room of the same floor: move what both need to a lower floor"
        else:
            reason = "lies on a higher floor: move what is needed down, or take it as an argument"
        yield Violation(module.path, found.line, f"{module.name} imports {target}, which {reason}")


def check_third_party(module: Module, modules: Modules) -> Iterator[Violation]:
    """Nothing from outside the standard library that the tables do not grant."""
    always = granted(THIRD_PARTY, module.name)
    lazily = granted(LAZY_THIRD_PARTY, module.name)
    for found in imports_of(module):
        package = found.module.partition(".")[0]
        if package in sys.stdlib_module_names or package == "resilience" or package in always:
            continue
        if package not in lazily:
            cure = f"use the standard library, or grant it to the room in THIRD_PARTY in {RULES_FILE}"
        elif not found.lazy:
            cure = "import it inside the function that needs it"
        else:
            continue
        yield Violation(module.path, found.line, f"{module.name} may not import {package} here: {cure}")


def check_public(module: Module, modules: Modules) -> Iterator[Violation]:
    """Integrations use public names only, as any user could."""
    if not within(module.name, INTEGRATIONS):
        return
    for found in [*imports_of(module), *_attributes(module)]:
        message = _not_public(found, found.target(modules), modules)
        if message is not None:
            yield Violation(module.path, found.line, f"{module.name} uses {message}")


def _not_public(found: Import, target: str, modules: Modules) -> str | None:
    if not within(target, "resilience") or within(target, INTEGRATIONS):
        return None
    if found.module not in PUBLIC_MODULES:
        wanted = f"a name of {' or '.join(PUBLIC_MODULES)}"
        return f"{target}, which is not public: use {wanted}, or argue for it in {RULES_FILE}"
    if found.name is None or (target in PUBLIC_MODULES and target != found.module):
        return None
    source = modules.get(found.module)
    if source is not None and found.name in (source.exported() or ()):
        return None
    return f"{found.module}.{found.name}, which is not in {found.module}.__all__: export it or do without"


def _attributes(module: Module) -> Iterator[Import]:
    """Uses of `resilience.name` after a plain `import resilience`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "resilience":
            yield Import(node.lineno, "resilience", node.attr)


def check_clock(module: Module, modules: Modules) -> Iterator[Violation]:
    """Time is injected; the clock's readers alone read it."""
    if module.name in CLOCK_READERS:
        return
    cure = f"take a clock (only {' and '.join(CLOCK_READERS)} read the time)"
    for found in imports_of(module):
        if found.module == "time":
            yield Violation(module.path, found.line, f"{module.name} imports time: {cure}")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today"):
            owner = last_name(node.value)
            if owner in ("datetime", "date"):
                yield Violation(module.path, node.lineno, f"{module.name} calls {owner}.{node.attr}: {cure}")


RULES: Final = (check_placed, check_direction, check_third_party, check_public, check_clock)


def check(root: Path) -> list[Violation]:
    """Every violation in the checkout at `root`, in the order of files and lines."""
    modules = read_modules(root)
    if not modules:
        return [Violation(str(root), 1, "no modules below resilience/ and integrations/: is this the checkout?")]
    return sorted({violation for module in modules.values() for rule in RULES for violation in rule(module, modules)})


def main() -> int:
    """Check this checkout and say what was found."""
    violations = check(Path(__file__).resolve().parent.parent)
    for violation in violations:
        print(violation)
    print(f"imports: {len(violations) or 'no'} violation{'' if len(violations) == 1 else 's'}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
