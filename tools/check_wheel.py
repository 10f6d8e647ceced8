"""What was built is what was meant: `python tools/check_wheel.py DIST` reads the one wheel and the one sdist there.

The wheel holds every module of `resilience/` and `integrations/` under the package `resilience`, py.typed, its metadata
and nothing else; the sdist holds the same sources once each, and no links.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from source_tree import PACKAGES

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGED: Final = (".lua", ".py", ".typed", ".yaml")


def sources(root: Path) -> dict[str, str]:
    """Every file that is packaged: its path in the checkout, and its path in the wheel."""
    packaged = {}
    for folder, package in PACKAGES.items():
        for path in (root / folder).rglob("*"):
            if path.suffix in PACKAGED:
                inside = path.relative_to(root / folder).as_posix()
                packaged[path.relative_to(root).as_posix()] = f"{package.replace('.', '/')}/{inside}"
    return packaged


def compare(what: str, expected: Iterable[str], found: list[str]) -> list[str]:
    """Say which names are missing, left over, or there twice."""
    wanted, got = set(expected), set(found)
    faults = [f"{what}: {name} is missing" for name in sorted(wanted - got)]
    faults += [f"{what}: {name} does not belong there" for name in sorted(got - wanted)]
    faults += [f"{what}: {name} is there {found.count(name)} times" for name in sorted(got) if found.count(name) > 1]
    return faults


def check_wheel(wheel: Path, packaged: dict[str, str]) -> list[str]:
    """The wheel's files, but for its metadata, are the packaged sources."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    metadata = [name for name in names if ".dist-info/" in name]
    faults = compare(wheel.name, packaged.values(), [name for name in names if name not in metadata])
    if not any(name.endswith("/licenses/LICENSE") for name in metadata):
        faults.append(f"{wheel.name}: the LICENSE is missing")
    return faults


def check_sdist(sdist: Path, packaged: dict[str, str]) -> list[str]:
    """The sdist's Python files are the packaged sources at their places in the checkout, as files."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    faults = [f"{sdist.name}: {member.name} is a link" for member in members if member.issym() or member.islnk()]
    names = [member.name.partition("/")[2] for member in members if member.isfile()]
    code = [name for name in names if name.endswith(PACKAGED)]
    faults += compare(sdist.name, packaged, code)
    beside = {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"}
    return faults + [f"{sdist.name}: {name} is missing" for name in sorted(beside - set(names))]


def check(dist: Path, root: Path) -> list[str]:
    """Every fault of what lies in `dist`."""
    wheels, sdists = sorted(dist.glob("*.whl")), sorted(dist.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        return [f"{dist}: one wheel and one sdist were expected, found {len(wheels)} and {len(sdists)}"]
    packaged = sources(root)
    return check_wheel(wheels[0], packaged) + check_sdist(sdists[0], packaged)


def main() -> int:
    """Check the folder named on the command line."""
    if len(sys.argv) != 2:
        print("usage: check_wheel.py DIST", file=sys.stderr)
        return 2
    faults = check(Path(sys.argv[1]), ROOT)
    for fault in faults:
        print(fault)
    if not faults:
        print(*(f"built {path}" for path in sorted(Path(sys.argv[1]).iterdir())), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
