"""Imports point one way, and each dangerous module has its room.

``halbctl -> protocol <- agent``; ARCHITECTURE.md says why. Each rule is a
function from source text to complaints, so that it is tested itself, on small
samples that break it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocol", "agent", "halbctl")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

MAY_IMPORT = {
    "protocol": {"protocol", "msgpack", "msgspec"},
    "agent": {
        "agent", "protocol", "aiozmq", "msgpack", "msgspec", "nftables", "yaml", "zmq",
    },
    "halbctl": {"halbctl", "protocol", "msgpack", "msgspec", "tenacity", "typer", "yaml", "zmq"},
}  # fmt: skip
"""Beside the standard library."""

IMPURE = {
    "asyncio", "datetime", "fcntl", "io", "logging", "multiprocessing", "os", "pathlib",
    "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess",
    "tempfile", "threading", "time", "uuid",
}  # fmt: skip
"""Of the standard library, what ``protocol`` never imports: clocks, I/O, threads, chance."""

ROOMS = {
    "aiozmq": ("agent/sockets.py",),
    "zmq": (
        "agent/sockets.py", "agent/monitors.py", "halbctl/client.py", "halbctl/remote.py",
    ),
    "nftables": ("agent/nft.py",),
    "subprocess": ("halbctl/editing.py", "halbctl/lab/"),
}  # fmt: skip
"""Modules that only these files, or files in these folders, import."""

NETLINK_ROOM = "agent/netlink.py"
"""The only file that opens netlink sockets."""


@dataclass(frozen=True)
class Import:
    """One imported module, such as ``os.path`` of ``import os.path``."""

    line: int
    module: str
    name: str = ""
    """What ``from module import name`` takes from it."""

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]


def imports_of(tree: ast.AST) -> Iterator[Import]:
    """All imports, wherever they stand: at the top, in functions, for types only."""
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield Import(statement.lineno, alias.name)
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                yield Import(statement.lineno, statement.module or "", alias.name)


def outside_layer(path: str, tree: ast.AST) -> Iterator[str]:
    """Imports that the file's package may not make."""
    package = path.partition("/")[0]
    for found in imports_of(tree):
        if found.root not in sys.stdlib_module_names and found.root not in MAY_IMPORT[package]:
            yield f"{path}:{found.line}: {package} may not import {found.root}"


def outside_room(path: str, tree: ast.AST) -> Iterator[str]:
    """Imports that only certain files may make."""
    for found in imports_of(tree):
        rooms = ROOMS.get(found.root)
        if rooms and not path.startswith(rooms):
            yield f"{path}:{found.line}: only {', '.join(rooms)} may import {found.root}"


def netlink_elsewhere(path: str, tree: ast.AST) -> Iterator[str]:
    """Netlink sockets outside their room."""
    for found in ast.walk(tree):
        if isinstance(found, ast.Attribute) and found.attr == "AF_NETLINK" and path != NETLINK_ROOM:
            yield f"{path}:{found.lineno}: only {NETLINK_ROOM} may use AF_NETLINK"


def impure(path: str, tree: ast.AST) -> Iterator[str]:
    """Whatever would make the protocol depend on more than its arguments."""
    for found in imports_of(tree):
        if found.root in IMPURE:
            yield f"{path}:{found.line}: protocol is pure and may not import {found.root}"
        if found.root == "random" and found.name != "Random":
            yield f"{path}:{found.line}: chance is handed in; use `from random import Random` only"
    for expression in ast.walk(tree):
        match expression:
            case ast.Call(func=ast.Name(id="open" | "print" | "input" as name)):
                yield f"{path}:{expression.lineno}: protocol is pure and may not call {name}()"


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring; empty if there is none."""
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for imported in sorted(graph.get(module, ())):
            ring = visit(imported, [*trail, module])
            if ring:
                return ring
        done.add(module)
        return []

    return next((ring for module in sorted(graph) if (ring := visit(module, []))), [])


def import_graph(files: Iterable[Path]) -> dict[str, set[str]]:
    """For each module of the house the modules of the house that are loaded with it.

    Those are its imports at the top level; imports in functions and for types are not.
    """
    trees = {_module_name(path): _parse(path) for path in files}
    return {
        module: {name for name in _loaded(tree) if name in trees and name != module}
        for module, tree in trees.items()
    }


def _loaded(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for found in imports_of(statement):
                yield from (found.module, f"{found.module}.{found.name}")


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _complaints(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    tree = _parse(path)
    found = [*outside_layer(name, tree), *outside_room(name, tree), *netlink_elsewhere(name, tree)]
    if name.startswith("protocol/"):
        found += impure(name, tree)
    return found


def test_every_import_is_within_its_layer_and_room() -> None:
    complaints = [complaint for path in FILES for complaint in _complaints(path)]
    assert not complaints, "\n" + "\n".join(complaints)


def test_no_modules_import_each_other_in_a_ring() -> None:
    ring = cycle(import_graph(FILES))
    assert not ring, " -> ".join(ring)


@pytest.mark.parametrize("module", sorted(ROOMS))
def test_every_room_is_in_use(module: str) -> None:
    """A permission that nobody needs any more is taken back."""
    users = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if any(found.root == module for found in imports_of(_parse(path)))
    }
    unused = [room for room in ROOMS[module] if not any(user.startswith(room) for user in users)]
    assert not unused, f"{', '.join(unused)} does not import {module}"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("protocol/x.py", "import agent.loop"),
        ("protocol/x.py", "from zmq import Context"),
        ("agent/x.py", "def f():\n    import halbctl"),
        ("agent/x.py", "from halbctl.client import Client"),
        ("halbctl/x.py", "from agent import settings"),
        ("halbctl/x.py", "import aiozmq"),
        ("agent/x.py", "import tests.userns"),
    ],
)
def test_an_import_across_the_layers_is_found(path: str, source: str) -> None:
    assert list(outside_layer(path, ast.parse(source)))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("agent/checks.py", "import zmq.asyncio"),
        ("agent/dataplane.py", "import nftables"),
        ("agent/keys.py", "from zmq.auth import Authenticator"),
        ("halbctl/commands/status.py", "import zmq"),
        ("agent/loop.py", "from subprocess import run"),
    ],
)
def test_an_import_outside_its_room_is_found_with_its_line(path: str, source: str) -> None:
    (complaint,) = outside_room(path, ast.parse(f"\n\n{source}"))
    assert complaint.startswith(f"{path}:3: ")


def test_netlink_outside_its_room_is_found() -> None:
    tree = ast.parse("import socket\nsocket.socket(socket.AF_NETLINK)")
    assert list(netlink_elsewhere("agent/arp.py", tree))
    assert not list(netlink_elsewhere(NETLINK_ROOM, tree))


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from os import path",
        "def f():\n    import asyncio",
        "from random import shuffle",
        "import random",
        "open('/etc/passwd')",
        "print('seen')",
    ],
)
def test_impurity_in_the_protocol_is_found(source: str) -> None:
    assert list(impure("protocol/x.py", ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "from random import Random\ndef f(random: Random) -> float:\n    return random.random()",
        "import msgspec\nimport hashlib",
    ],
)
def test_what_is_pure_passes(source: str) -> None:
    assert not list(impure("protocol/x.py", ast.parse(source)))


def test_a_ring_of_imports_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "a"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
