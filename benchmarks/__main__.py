"""All benchmarks in one table: `python -m benchmarks`, or `make bench`.

The fast path runs on this interpreter, and on those of the environments beside it (`.venv-3.12` and so on).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import asdict

from benchmarks import accounts, allocations, gates, groups, host, queues, reclamation
from benchmarks.harness import Row, machine, print_table

ROOT = Path(__file__).resolve().parents[1]


def fast_path_everywhere(full: bool) -> Iterator[Row]:
    """The fast path on each interpreter, in a process of its own."""
    seen = set()
    for python in (sys.executable, *map(str, sorted(ROOT.glob(".venv*/bin/python")))):
        ask = "import sys, memquota; print(sys.version_info[:2])"
        asked = subprocess.run([python, "-c", ask], check=False, capture_output=True, text=True, cwd=ROOT)
        if asked.returncode == 0 and asked.stdout not in seen:
            seen.add(asked.stdout)
            found = subprocess.run(
                [python, "-m", "benchmarks.fast_path", "--json"], stdout=subprocess.PIPE, check=True, cwd=ROOT
            )
            yield from (Row(**row) for row in json.loads(found.stdout))


PARTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "fast_path": fast_path_everywhere,
    "reclamation": reclamation.rows,
    "accounts": accounts.rows,
    "gates": gates.rows,
    "queues": queues.rows,
    "host": host.rows,
    "allocations": allocations.rows,
    "groups": groups.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--full", action="store_true", help="also with a million participants: a few minutes, 3 GiB")
    parser.add_argument("--json", action="store_true", help="machine and rows as JSON")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}")
    rows = (row for part in options.parts or PARTS for row in PARTS[part](options.full))
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        print(machine())
        print_table(rows)


if __name__ == "__main__":
    main()
