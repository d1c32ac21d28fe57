"""Three components under bounds and groups: one reads source files, one parses them, one writes down what is in them.

Each declares what it needs and what it will not exceed; that is checked before the first file is opened. Each claims in
an account of its own and computes in a group of its own, so the report says who uses what while it runs.

    python examples/ingest.py DIRECTORY index.jsonl --limit 256MiB
    cd examples && memquota check ingest:registry --limit 256MiB      only checks, for a container's start script
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import memquota
from memquota.accounting import (
    BoundsBuilder,
    Component,
    ComponentRegistry,
    Constant,
    Grant,
    Maximum,
    Setting,
    allocations,
)

MAX_FILE = memquota.parse_size(os.environ.get("INGEST_MAX_FILE", "1MiB"), what="INGEST_MAX_FILE")
QUEUE = memquota.parse_size(os.environ.get("INGEST_QUEUE", "4MiB"), what="INGEST_QUEUE")

#: What `ast.parse` takes for each byte of a source file at its peak; measured on the standard library: 70, at most 121.
TREE = 128
#: How many bytes are written at once; no line is longer.
BATCH = 64 * 1024
LONGEST = 200

#: How much may wait to be parsed: what was configured, and one file in any case.
WAITING = Maximum(Setting("INGEST_QUEUE", QUEUE), Setting("INGEST_MAX_FILE", MAX_FILE) + "4KiB", name="waiting")

Texts = memquota.Queue[tuple[Path, bytes]]
Lines = memquota.Queue[bytes]


class Reader:
    """Reads files, one after another, as fast as they are parsed."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.skipped: list[Path] = []

    def specify_bounds(self, builder: BoundsBuilder) -> None:
        builder.minimum.setting("INGEST_MAX_FILE", MAX_FILE)
        builder.firm.above_minimum(WAITING)

    def run(self, files: Iterable[Path], texts: Texts) -> None:
        try:
            for path in files:
                if path.stat().st_size > MAX_FILE:
                    self.skipped.append(path)
                else:
                    texts.put((path, path.read_bytes()))
        finally:
            texts.shutdown()


class Parser:
    """Finds the functions and classes of each file."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.parsed = 0
        self.failed: list[Path] = []

    def specify_bounds(self, builder: BoundsBuilder) -> None:
        builder.minimum.add(Setting("INGEST_MAX_FILE", MAX_FILE) * Constant(TREE, "tree for a byte"))
        builder.firm.above_minimum(Setting("INGEST_QUEUE", QUEUE))

    def run(self, texts: Texts, lines: Lines) -> None:
        try:
            for path, text in items(texts):
                with self.component.account.claimed(TREE * len(text)):
                    try:
                        for line in index(path, ast.parse(text)):
                            lines.put(line)
                        self.parsed += 1
                    except (SyntaxError, ValueError):  # no Python, or not of this version
                        self.failed.append(path)
        finally:
            texts.shutdown(immediate=True)  # should it fail, nobody waits for it
            lines.shutdown()


class Writer:
    """Writes lines into a file, many at once."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.written = 0

    def specify_bounds(self, builder: BoundsBuilder) -> None:
        builder.minimum.constant("batch", BATCH)
        builder.firm.above_minimum(Constant("64KiB", "the file's buffers"))

    def run(self, lines: Lines, output: Path) -> None:
        try:
            with self.component.account.claimed(BATCH), output.open("wb") as file:
                batch = bytearray()
                for line in items(lines):
                    if len(batch) + len(line) > BATCH:
                        file.write(batch)
                        batch.clear()
                    batch += line
                    self.written += 1
                file.write(batch)
        finally:
            lines.shutdown(immediate=True)


def items(queue: memquota.Queue[Any]) -> Iterator[Any]:
    """What comes out of a queue until it is shut down."""
    try:
        while True:
            yield queue.get()
    except memquota.ShutDown:
        pass


def index(path: Path, tree: ast.Module) -> Iterator[bytes]:
    """A line of JSON for each function and class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            doc = (ast.get_docstring(node) or "").partition("\n")[0][:LONGEST]
            entry = {"file": path.name, "line": node.lineno, "name": node.name[:LONGEST], "doc": doc}
            yield json.dumps(entry).encode() + b"\n"


registry = ComponentRegistry()
reader = Reader(registry.component("ingest.reader"))
parser = Parser(registry.component("ingest.parser"))
writer = Writer(registry.component("ingest.writer"))
for one in (reader, parser, writer):
    one.component.declare(one)


def ingest(files: Iterable[Path], output: Path, *, every: float) -> None:
    """Run the three in threads, each in its group; shows a report every so many seconds."""
    texts: Texts = memquota.Queue(reader.component.account, max_bytes=WAITING.value)
    lines: Lines = memquota.Queue(parser.component.account, max_bytes=QUEUE)
    with ThreadPoolExecutor(3) as threads:
        jobs: list[Future[None]] = [
            reader.component.group.bind(threads).submit(reader.run, files, texts),
            parser.component.group.bind(threads).submit(parser.run, texts, lines),
            writer.component.group.bind(threads).submit(writer.run, lines, output),
        ]
        while wait(jobs, timeout=every, return_when=FIRST_EXCEPTION).not_done:
            if any(job.done() and job.exception() for job in jobs):
                break  # it has shut its queues down, so the others end, too
            print(registry.report(), end="\n\n")
    for failure in (job.exception() for job in jobs):
        if failure is not None and not isinstance(failure, memquota.ShutDown):
            raise failure


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("directory", type=Path)
    arguments.add_argument("output", type=Path)
    arguments.add_argument("--limit", default="auto", help="such as 256MiB or 80%% (default: auto)")
    arguments.add_argument("--every", type=float, default=1.0, help="seconds between two reports (default: 1)")
    options = arguments.parse_args()
    if not options.directory.is_dir():
        arguments.error(f"there is no directory {options.directory}")
    try:
        verified = registry.verify(Grant(options.limit))
    except memquota.UsageError as error:
        arguments.error(str(error))
    except memquota.BoundsError as error:
        print(error, file=sys.stderr)
        return 1
    counting = allocations.tracking() if allocations.available() else nullcontext()
    with memquota.Tracker(verified.grant.available, name="ingest") as tracker, counting:
        registry.open_accounts(tracker)
        ingest(options.directory.rglob("*.py"), options.output, every=options.every)
        print(registry.report())
    print(f"{parser.parsed} files, {writer.written} lines")
    print(f"{len(reader.skipped)} files too large, {len(parser.failed)} no Python")
    return 0


if __name__ == "__main__":
    sys.exit(main())
