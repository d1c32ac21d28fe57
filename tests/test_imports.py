"""The rooms of the package and who may import whom, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.watchdog import run_isolated

SOURCES = Path(__file__).resolve().parents[1] / "src"

# From the bottom upwards; a room may have several modules. It imports its own and those of layers
# below, never its neighbours. "." is memquota/__init__.py. What is inside a package belongs to its
# room, unless it is named.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("sizes",),
    ("_core",),
    ("clock", "participant", "policies"),
    ("host",),
    ("observe.hooks observe.log observe.statistics",),
    ("_latch", "_loops", "_telling"),
    ("_ticker",),
    ("_handles",),
    ("_books",),
    ("_ranking",),
    ("_rounds",),
    ("_dry_run", "_quota"),
    ("participation",),
    ("account",),
    ("_host_side",),
    ("tracker",),
    ("accounting", "gates", "queues", "reclaimers"),
    ("observe",),
    ("testing",),
    (".",),
    ("demo",),
    ("cli cli_check __main__",),
)

# Rooms that know nothing of each other although one is below: a gate is given a provider.
STRANGERS = frozenset({("gates", "host"), ("queues", "host"), ("reclaimers", "host"), ("accounting", "host")})

# The books know no clock, lock, input or output, and run nobody's code.
NOT_IN_CORE = frozenset(
    {"anyio", "asyncio", "concurrent", "contextvars", "multiprocessing", "threading", "trio"}
    | {"datetime", "sched", "time"}
    | {"io", "logging", "os", "pathlib", "select", "socket", "subprocess", "sys", "warnings"}
    | {"ctypes", "gc", "queue", "random", "signal", "weakref"}
)

# Only one room reads the time. The demo's clock is the wall's: it times other processes.
TIME = frozenset({"datetime", "time"})
READS_TIME = frozenset({"clock", "demo"})

# What only an extra brings, and the modules that are imported only once it is known to be there.
EXTRAS = ("hypothesis", "matplotlib", "numpy", "psutil", "pytest", "rich", "trio")
NEEDS_EXTRAS = ("memquota.demo", "memquota.host.with_psutil")


class Import(NamedTuple):
    line: int
    target: str


def imports_of(module: str, source: str, known: frozenset[str]) -> Iterator[Import]:
    """Every import of a module's source, except those that only a type checker sees."""
    package = module if f"{module}.__init__" in known else module.rpartition(".")[0]

    def visit(node: ast.AST) -> Iterator[Import]:
        match node:
            case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for statement in node.orelse:
                    yield from visit(statement)
            case ast.Import():
                for name in node.names:
                    yield Import(node.lineno, name.name)
            case ast.ImportFrom():
                parts = package.split(".")
                start = parts[: len(parts) - node.level + 1] if node.level else []
                base = ".".join([*start, *([node.module] if node.module else [])])
                for name in node.names:
                    inner = f"{base}.{name.name}"
                    yield Import(node.lineno, inner if inner in known else base)
            case _:
                for child in ast.iter_child_nodes(node):
                    yield from visit(child)

    yield from visit(ast.parse(source))


def room_of(module: str) -> tuple[int, str] | None:
    """Layer and name of a module's room; of several names that fit, the longest decides."""
    inside = module.removeprefix("memquota").removeprefix(".") or "."
    fitting = [
        (len(name), layer, room)
        for layer, rooms in enumerate(LAYERS)
        for room in rooms
        for name in room.split()
        if inside == name or inside.startswith(f"{name}.")
    ]
    return max(fitting)[1:] if fitting else None


def offences(module: str, source: str, known: frozenset[str] = frozenset()) -> list[str]:
    """What a module's imports do against the rules, one sentence each."""
    room = room_of(module)
    if room is None:
        return [f"{module} is in no room: give it a layer"]
    found = []
    for line, target in imports_of(module, source, known):
        root = target.partition(".")[0]
        said = f"{module}:{line} imports {target}"
        if root == "memquota":
            other = room_of(target)
            if other is None or (other != room and other[0] >= room[0]) or (room[1], other[1]) in STRANGERS:
                found.append(f"{said}, which is not below it")
            continue
        if room[1] == "_core" and root in NOT_IN_CORE:
            found.append(f"{said}, which the books must not know")
        if root in TIME and room[1] not in READS_TIME:
            found.append(f"{said}, but only the clock reads the time")
    return found


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCES.glob("memquota/**/*.py")):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
KNOWN = frozenset(MODULES) | {f"{module}.__init__" for module, path in MODULES.items() if path.stem == "__init__"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards_only(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")

    assert offences(module, source, KNOWN) == []


def test_a_plain_installation_imports_every_module() -> None:
    plain = [module for module in MODULES if not module.startswith(NEEDS_EXTRAS)]

    run_isolated(f"""
        import importlib, sys
        sys.modules.update(dict.fromkeys({EXTRAS}))
        for module in {plain}:
            importlib.import_module(module)
    """)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("memquota.errors", "import memquota.sizes", "imports memquota.sizes, which is not below"),
        ("memquota.tracker", "from .reclaimers import x", "imports memquota.reclaimers, which is"),
        ("memquota.tracker", "def f():\n from memquota import reclaimers", "reclaimers, which is"),
        ("memquota.gates.permits", "from ..host import x", "imports memquota.host, which is not"),
        ("memquota.queues", "from . import threads\nfrom .. import gates", "memquota.gates, which"),
        ("memquota.tracker", "import memquota", "imports memquota, which is not below it"),
        ("memquota._core.ledger", "import threading", "threading, which the books must not know"),
        ("memquota._core", "def f():\n import os.path", "os.path, which the books must not know"),
        ("memquota._core.ledger", "from memquota.clock import x", "memquota.clock, which is not"),
        ("memquota.tracker", "from time import monotonic", "but only the clock reads the time"),
        ("memquota.kitchen", "", "memquota.kitchen is in no room: give it a layer"),
    ],
)
def test_each_rule_sees_what_breaks_it(module: str, source: str, complaint: str) -> None:
    known = frozenset(f"memquota.{name}" for name in ("reclaimers", "gates", "host", "queues", "queues.threads")) | {
        "memquota.queues.__init__"
    }

    (found,) = offences(module, source, known)
    assert complaint in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("memquota.clock", "import time"),
        ("memquota.tracker", "import threading, anyio\nfrom memquota._core import ledger"),
        ("memquota.gates.awaiting", "from memquota.gates import permits\nimport memquota.tracker"),
        ("memquota.errors", "if TYPE_CHECKING:\n from memquota._core.events import CloseReason"),
        ("memquota.observe", "from memquota.tracker import Tracker"),
        ("memquota.tracker", "from memquota.observe.log import logger"),
    ],
)
def test_what_the_rules_allow_passes(module: str, source: str) -> None:
    assert offences(module, source) == []
