"""Mutation testing of `memquota/_core` with the tests in tests/core.

Changes the books' source in one place at a time and runs the tests on it: a mutant that they let
pass survives. Every survivor has to stand in tests/core/mutants-equivalent.md with the reason why
it does what the original does; one that does not, or an entry that no survivor matches, makes the
run fail.

The known tools were looked at first. They leave out properties and what stands outside functions,
which is where the books keep their limits and constants, and they number mutants, so that a list of
them is stale after the next edit. Here a mutant is named by its function and its line before and
after.
"""

import argparse
import ast
import importlib.abc
import importlib.machinery
import itertools
import json
import math
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "memquota" / "_core"
TESTS = ROOT / "tests" / "core"
LISTED = TESTS / "mutants-equivalent.md"

# A mutant may take this many times what the tests take on the original before it counts as killed:
# of the processor's time, so that a busy machine kills nobody. One that only waits is killed too.
PATIENCE = 3
LEAST_PATIENCE = 20  # seconds
LONGEST_WAIT = 20  # times that
MEMORY = 4 << 30  # bytes of address space, for a mutant that only ever appends

ENTRY = re.compile(r"^- `(?P<file>[^`]+)` `(?P<where>[^`]+)` `(?P<old>[^`]*)` → `(?P<new>[^`]*)`")

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}
CALLED_ON = {"pop": "popleft", "popleft": "pop", "append": "appendleft", "appendleft": "append"}


class Mutant(NamedTuple):
    """One change of one file; `number` finds it again in another process."""

    path: Path
    number: int
    where: str
    old: str
    new: str

    @property
    def name(self) -> tuple[str, str, str, str]:
        return self.path.name, self.where, self.old, self.new

    def __str__(self) -> str:
        return f"- `{self.path.name}` `{self.where}` `{self.old}` → `{self.new}`"


class Change(NamedTuple):
    """One node for another, in a tree that is not changed yet."""

    where: str
    trail: tuple["Step", ...]
    original: ast.AST
    replacement: ast.AST

    def apply(self) -> None:
        self._put(self.replacement)

    def lines(self) -> tuple[str, str]:
        """The statement that it is in, before and after, each in one line."""
        statement = self.original
        for owner, _, _ in reversed(self.trail):
            if isinstance(statement, ast.stmt):
                break
            statement = owner
        old = header(statement)
        self._put(self.replacement)
        new = header(self.replacement if statement is self.original else statement)
        self._put(self.original)
        return old, new

    def _put(self, node: ast.AST) -> None:
        owner, field, index = self.trail[-1]
        if index is None:
            setattr(owner, field, node)
        else:
            getattr(owner, field)[index] = node


# --- Making them ----------------------------------------------------------------------------------


def mutants_of(path: Path) -> Iterator[Mutant]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for number, change in enumerate(changes(tree)):
        yield Mutant(path, number, change.where, *change.lines())


def changed_tree(mutant: Mutant) -> ast.Module:
    tree = ast.parse(mutant.path.read_text(encoding="utf-8"))
    next(itertools.islice(changes(tree), mutant.number, None)).apply()
    return ast.fix_missing_locations(tree)


Step = tuple[ast.AST, str, int | None]


def changes(tree: ast.Module) -> Iterator[Change]:
    """Every change of a tree, in the order of its source."""

    def visit(node: ast.AST, where: tuple[str, ...], trail: tuple[Step, ...]) -> Iterator[Change]:
        for field, value in ast.iter_fields(node):
            if not_behaviour(node, field):
                continue
            for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(child, ast.AST) or is_left_alone(child):
                    continue
                steps = (*trail, (node, field, index))
                for replacement in replacements(child):
                    ast.copy_location(replacement, child)
                    yield Change(".".join(where) or "module", steps, child, replacement)
                inner = where
                if isinstance(child, ast.FunctionDef | ast.ClassDef):
                    inner = (*where, child.name)
                yield from visit(child, inner, steps)

    yield from visit(tree, (), ())


def not_behaviour(node: ast.AST, field: str) -> bool:
    return (
        field in ("annotation", "returns", "decorator_list", "bases", "ctx", "format_spec")
        or (isinstance(node, ast.Assert) and field == "msg")
        or (isinstance(node, ast.ClassDef) and field == "keywords")
    )


def is_left_alone(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.If(test=ast.Name("TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name("__all__" | "__slots__")]):
            return True
        case ast.AnnAssign(annotation=ast.Name("TypeAlias")):
            return True
        case ast.Assign(value=ast.Call(ast.Name("TypeVar"))):
            return True
        case ast.Expr(ast.Constant(str() | types.EllipsisType())):  # a docstring, an empty body
            return True
        case ast.Assert(test=ast.Compare(ops=[ast.IsNot()], comparators=[ast.Constant(None)])):
            return True  # says something to the type checker
    return False


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left, [op], right):
            for other in COMPARED[type(op)]:
                yield ast.Compare(left, [other()], right)
        case ast.Compare(left, ops, right):  # a < b < c
            for place, op in enumerate(ops):
                for other in COMPARED[type(op)]:
                    yield ast.Compare(left, [*ops[:place], other(), *ops[place + 1 :]], right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.BinOp(left, op, right) if type(op) in COMPUTED:
            yield ast.BinOp(left, COMPUTED[type(op)](), right)
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(str() as value):
            yield ast.Constant(f"XX{value}XX")
        case ast.Call(ast.Name(name), args, keywords) if name in CALLED:
            yield ast.Call(ast.Name(CALLED[name], ast.Load()), args, keywords)
        case ast.Call(ast.Attribute(value, name), args, keywords) if name in CALLED_ON:
            yield ast.Call(ast.Attribute(value, CALLED_ON[name], ast.Load()), args, keywords)
        case ast.Lambda(args, body) if not is_none(body):
            yield ast.Lambda(args, ast.Constant(None))
        case ast.IfExp(test, body, orelse) if not is_operation(test):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.comprehension(target, source, [_, *_], is_async):
            yield ast.comprehension(target, source, [], is_async)
        case ast.If(test, body, orelse) | ast.While(test, body, orelse) if not is_operation(test):
            yield type(node)(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.For(target, _, body, orelse):
            yield ast.For(target, ast.Tuple([], ast.Load()), body, orelse, None)
        case ast.Return(value) if value is not None and not is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.AugAssign(target, op, value):
            if type(op) in COMPUTED:
                yield ast.AugAssign(target, COMPUTED[type(op)](), value)
            yield ast.Pass()
        case ast.AnnAssign(ast.Attribute(), value=ast.expr()):
            yield ast.Pass()
        case ast.Assign() | ast.Expr() | ast.Raise() | ast.Delete() | ast.Assert():
            yield ast.Pass()
        case ast.Break() | ast.Continue():
            yield ast.Pass()


def is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def is_operation(node: ast.AST) -> bool:
    """Whether negating it is among the changes of its own operator."""
    return isinstance(node, ast.UnaryOp | ast.Compare | ast.Constant)


def header(statement: ast.AST) -> str:
    """A statement in one line, without the body it may have."""
    lines = [line.strip() for line in ast.unparse(statement).splitlines()]
    body = isinstance(statement, ast.If | ast.For | ast.While | ast.With | ast.FunctionDef)
    return (lines[0] if body else " ".join(lines)).replace("`", "'")


# --- Running the tests on one, in a process of its own --------------------------------------------


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from a changed tree."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self.tree = tree

    def get_code(self, fullname: str) -> types.CodeType | None:
        code = compile(self.tree, self.path, "exec", dont_inherit=True)
        assert isinstance(code, types.CodeType)
        return code


class Finder(importlib.abc.MetaPathFinder):
    """Stands before the real finders for the one module that is changed."""

    def __init__(self, mutant: Mutant) -> None:
        parts = mutant.path.relative_to(SOURCES.parents[1]).with_suffix("").parts
        self.module = ".".join(parts).removesuffix(".__init__")
        self.tree = changed_tree(mutant)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = Loader(fullname, spec.origin, self.tree)
        return spec


class Order:
    """A pytest plugin: runs those tests first that killed most mutants of a file, then the fastest.

    How long each takes is written down when the original runs.
    """

    def __init__(self, directory: Path, mutant: Mutant | None) -> None:
        self.durations = directory / "durations.json"
        self.killers = directory / f"killers of {mutant.path.name if mutant else 'nothing'}"
        self.writing = mutant is None
        self.seconds: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        if not self.writing:
            self.seconds.update(json.loads(self.durations.read_text()))
        if self.killers.exists():
            self.kills.update(self.killers.read_text().splitlines())

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: (-self.kills[item.nodeid], self.seconds[item.nodeid]))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            with self.killers.open("a") as file:
                file.write(report.nodeid + "\n")

    def pytest_sessionfinish(self) -> None:
        if self.writing:
            self.durations.write_text(json.dumps(self.seconds))


def run_tests(mutant: Mutant | None, directory: Path, patience: int) -> None:
    """Ends the process with pytest's exit code."""
    import pytest

    # What is not changed is compiled once, the tests with their asserts above all.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(directory)
    os.environ["MEMQUOTA_TESTS"] = "mutants"
    os.chdir(ROOT)
    if mutant is not None:
        sys.meta_path.insert(0, Finder(mutant))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (patience, patience + 5))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
    options = ["-q", "-x", "-p", "no:cacheprovider"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # imported before the fork
    code = pytest.main(
        [*options, str(TESTS.relative_to(ROOT))],
        plugins=[Order(directory, mutant)],
    )
    if mutant is None:
        taken_by(directory).write_text(str(time.process_time()))
    os._exit(int(code))


def taken_by(directory: Path) -> Path:
    """Where it stands what the tests took on the original, in seconds of the processor."""
    return directory / "taken"


def exit_code_of(mutant: Mutant | None, directory: Path, patience: int = 0) -> int | None:
    """What the tests said; None if they did not end in time."""
    process = processes.Process(target=run_tests, args=(mutant, directory, patience))
    process.start()
    process.join(LONGEST_WAIT * patience if mutant is not None else None)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return None if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL) else process.exitcode


processes = multiprocessing.get_context("forkserver")


# --- The whole run --------------------------------------------------------------------------------


def listed() -> dict[tuple[str, str, str, str], str]:
    """The entries of the list and what stands behind each: the reason."""
    found = {}
    lines = LISTED.read_text(encoding="utf-8").splitlines() if LISTED.exists() else []
    for line in lines:
        if match := ENTRY.match(line):
            found[match["file"], match["where"], match["old"], match["new"]] = line[match.end() :]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", help="files of _core, such as ledger.py; default all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()

    paths = sorted(SOURCES.glob("*.py"))
    chosen = [path for path in paths if not options.files or path.name in options.files]
    mutants = [mutant for path in chosen for mutant in mutants_of(path)]

    processes.set_forkserver_preload(["anyio", "attrs", "hypothesis.stateful", "pytest", "trio"])
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        if exit_code_of(None, directory) != 0:
            print("the tests fail on the original")
            return 1
        taken = float(taken_by(directory).read_text())
        patience = max(LEAST_PATIENCE, math.ceil(PATIENCE * taken))

        with ThreadPoolExecutor(options.jobs) as pool:
            codes = list(pool.map(lambda one: exit_code_of(one, directory, patience), mutants))

    survivors = [mutant for mutant, code in zip(mutants, codes, strict=True) if code == 0]
    reasons = listed()
    unexplained = [one for one in survivors if len(reasons.get(one.name, "").strip(" -—:.")) < 10]
    surviving = {mutant.name for mutant in survivors}
    stale = [entry for entry in reasons if entry not in surviving] if not options.files else []

    print(f"{len(mutants)} mutants: {len(mutants) - len(survivors)} killed, ", end="")
    print(f"{codes.count(None)} of them by time; {len(survivors)} survived, ", end="")
    print(f"{len(survivors) - len(unexplained)} of them listed with a reason")
    for mutant in dict.fromkeys(str(mutant) for mutant in unexplained):
        print(mutant)
    for file, where, old, new in stale:
        print(f"listed, but no survivor: `{file}` `{where}` `{old}` → `{new}`")
    return 1 if unexplained or stale else 0


if __name__ == "__main__":
    sys.exit(main())
