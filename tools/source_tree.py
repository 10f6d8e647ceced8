"""The checkout's modules, parsed, and every import in them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PACKAGES = {"resilience": "resilience", "integrations": "resilience.integrations"}
"""Folders of the checkout, and the packages that they are."""


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed source file under the name it is imported by."""

    name: str
    path: str
    tree: ast.Module
    is_package: bool

    def exported(self) -> frozenset[str] | None:
        """The names in `__all__`, or None where there is none that can be read without running the module."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            else:
                continue
            if "__all__" in names and isinstance(node.value, (ast.List, ast.Tuple)):
                return frozenset(ast.literal_eval(node.value))
        return None


@dataclass(frozen=True, slots=True)
class Import:
    """One import: `module` alone, or `name` from it. `lazy`: importing the file does not run it."""

    line: int
    module: str
    name: str | None = None
    lazy: bool = False

    def target(self, modules: Iterable[str]) -> str:
        """The module that is reached: `from resilience import clock` reaches resilience.clock."""
        submodule = f"{self.module}.{self.name}"
        return submodule if submodule in modules else self.module


def read_modules(root: Path) -> dict[str, Module]:
    """Parse the packages below `root`. `rglob` follows no links, so `integrations/` is read once."""
    modules = {}
    for folder, package in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py")):
            module = _read(root, path, package, folder)
            modules[module.name] = module
    return modules


def _read(root: Path, path: Path, package: str, folder: str) -> Module:
    parts = [package, *path.relative_to(root / folder).with_suffix("").parts]
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return Module(name, path.relative_to(root).as_posix(), tree, is_package)


def imports_of(module: Module) -> list[Import]:
    """Every import of a module, in the order of the file."""
    visitor = _Imports(module)
    visitor.visit(module.tree)
    return visitor.found


class _Imports(ast.NodeVisitor):
    """Collects the imports of one module, in functions and conditions too, and those by `import_module("name")`."""

    def __init__(self, module: Module) -> None:
        self._package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
        self._lazy = 0
        self.found: list[Import] = []

    def _add(self, line: int, module: str, name: str | None = None) -> None:
        self.found.append(Import(line, module, name, lazy=self._lazy > 0))

    def _absolute(self, level: int, module: str) -> str:
        if not level:
            return module
        package = self._package[: len(self._package) - level + 1]
        return ".".join([*package, module] if module else package)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(node.lineno, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self._add(node.lineno, self._absolute(node.level, node.module or ""), alias.name)

    def visit_Call(self, node: ast.Call) -> None:
        if last_name(node.func) in ("import_module", "__import__") and node.args:
            named = node.args[0]
            if isinstance(named, ast.Constant) and isinstance(named.value, str):
                module = named.value.lstrip(".")
                self._add(node.lineno, self._absolute(len(named.value) - len(module), module))
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self._visit_all(node.body, lazy=last_name(node.test) == "TYPE_CHECKING")
        self._visit_all(node.orelse)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all([*node.decorator_list, node.args])
        self._visit_all(node.body, lazy=True)

    def _visit_all(self, nodes: Iterable[ast.AST], *, lazy: bool = False) -> None:
        self._lazy += lazy
        for node in nodes:
            self.visit(node)
        self._lazy -= lazy


def last_name(node: ast.expr) -> str | None:
    """The last word of a name or an attribute: `datetime` of both `datetime` and `datetime.datetime`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None
