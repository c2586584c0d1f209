"""The house's floors: a module imports only what is below it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"

FLOORS = {
    "peerload.errors": 0,
    "peerload.clock": 0,
    "peerload.finding": 0,
    "peerload.heap": 0,
    "peerload.locks": 0,
    "peerload.orphans": 0,
    "peerload.stamps": 0,
    "peerload.tally": 0,
    "peerload.tracing": 1,
    "peerload.certificates": 1,
    "peerload.wire": 1,
    "peerload.store.base": 1,
    "peerload.store.examinable": 1,
    "peerload.store.paged": 1,
    "peerload.engines.base": 1,
    "peerload.engines.agents": 1,
    "peerload.metadata.members": 1,
    "peerload.kubernetes": 2,
    "peerload.metadata.records": 2,
    "peerload.metadata": 3,
    "peerload.store": 3,
    "peerload.engines": 3,
    "peerload.checkpoint": 3,
    "peerload.plugins": 4,
    "peerload.hub": 4,
    "peerload.server": 5,
    "peerload.client": 5,
    "peerload.testing": 5,
    "peerload.doctor": 6,
    "peerload.integrations": 7,
    "peerload.demo": 7,
    "peerload.cli": 7,
    "peerload.__main__": 8,
}
"""The longest name that a module's own begins with counts. The package's `__init__` re-exports the client."""

PROGRAMS = ("peerload.cli", "peerload.demo")
"""On one floor, and each may use the other: the demo is a command that plays the others."""

STRANGERS = [
    ("peerload.server", "peerload.client"),
    ("peerload.server", "peerload.engines"),
    ("peerload.client", "peerload.store"),
]
CONCRETE = ("peerload.store.", "peerload.engines.")
CONTRACTS = (
    "peerload.store.base",
    "peerload.store.examinable",
    "peerload.store.paged",
    "peerload.engines.agents",
    "peerload.engines.base",
    "peerload.engines.pieces",
    "peerload.engines.shared",
)


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((SOURCE / "peerload").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def imported_by(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_imports(name, MODULES[name])))


def _imports(name: str, path: Path) -> Iterator[str]:
    """The modules of ours that a module imports, wherever in it, except for types alone."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _run(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "peerload")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                base = ".".join(above[: len(above) - node.level + 1] + ([node.module] if node.module else []))
            if base.split(".")[0] == "peerload":
                for alias in node.names:
                    yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield node
        yield from _run(node)


def under(name: str, folder: str) -> bool:
    return name == folder or name.startswith(folder + ".")


def floor(name: str) -> int | None:
    homes = [home for home in FLOORS if under(name, home)]
    return FLOORS[max(homes, key=len)] if homes else None


def room(name: str) -> str:
    """The package of the house that a module is in: within one, floors do not count."""
    return ".".join(name.split(".")[:2])


def test_every_module_is_on_a_floor() -> None:
    assert [name for name in MODULES if name != "peerload" and floor(name) is None] == []


def test_modules_import_only_from_below() -> None:
    wrong = []
    for name in MODULES:
        for imported in imported_by(name):
            if "peerload" in (name, imported) or room(imported) == room(name):
                continue
            if room(name) in PROGRAMS and room(imported) in PROGRAMS:
                continue
            own, below = floor(name), floor(imported)
            if own is None or below is None or below >= own:
                wrong.append(f"{name} (floor {own}) imports {imported} (floor {below})")
    assert wrong == []


def test_strangers_do_not_import_each_other() -> None:
    assert [
        f"{name} imports {imported}"
        for name in MODULES
        for imported in imported_by(name)
        for one, other in STRANGERS
        if (under(name, one) and under(imported, other)) or (under(name, other) and under(imported, one))
    ] == []


def test_only_the_plug_in_table_names_concrete_stores_and_engines() -> None:
    # The fakes that ship for users are built on the in-memory ones; the modules of one room may name each other.
    assert [
        f"{name} imports {imported}"
        for name in MODULES
        if name != "peerload.plugins" and not under(name, "peerload.testing")
        for imported in imported_by(name)
        if imported.startswith(CONCRETE) and imported not in CONTRACTS and room(imported) != room(name)
    ] == []


def test_the_walk_sees_imports_wherever_they_stand(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from peerload.cli import outcome\n"
        "def late():\n    from peerload.store.sqlite import SqliteStore\n    from . import calls\n"
    )
    assert list(_imports("peerload.server.module", module)) == ["peerload.store.sqlite", "peerload.server.calls"]
