"""The command `memquota`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from itertools import groupby
from threading import Event
from typing import TYPE_CHECKING, Final

from memquota import cli_check, host
from memquota._quota import share_of
from memquota.errors import UsageError
from memquota.host import Limits
from memquota.sizes import format_size

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["main"]

#: Exit codes of `memquota host`; argparse, too, says 2 for what it does not understand.
_ROOM, _NEARLY_FULL, _UNKNOWN = 0, 1, 2

_WIDEST_NAME: Final = len("memory.memsw.limit_in_bytes")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="memquota", description="A memory budget for Python programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="run a real relay under a real attack, without and with a quota")
    _add_host(commands.add_parser("host", help="show every memory limit of this process, and which is hit first"))
    cli_check.add_arguments(
        commands.add_parser("check", help="check that what a program declares fits into its memory")
    )
    missing = _missing("rich", "matplotlib")
    if not missing:
        from memquota.demo.show import add_arguments

        add_arguments(demo)
    options, unknown = parser.parse_known_args(arguments)
    if missing and options.command == "demo":  # its options are not known then
        print(f"memquota demo needs {' and '.join(missing)}: pip install 'memquota[demo]'", file=sys.stderr)
        return 2
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.command == "host":
        return _host(options)
    if options.command == "check":
        return cli_check.check(options, has_rich=not _missing("rich"))
    from memquota.demo.show import main as run_demo

    return run_demo(options)


def _missing(*names: str) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


# --- memquota host ----------------------------------------------------------------------------------------------------


def _add_host(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show every memory limit that holds for this process, and which one it hits first."
    parser.epilog = (
        f"Exit code: {_ROOM} with room left, {_NEARLY_FULL} when the limit that is hit first is nearly reached, "
        f"{_UNKNOWN} when no limit is known."
    )
    parser.add_argument("--json", action="store_true", help="for programs; with --watch one object a line")
    parser.add_argument(
        "--watch", type=_seconds, nargs="?", const=2.0, metavar="SECONDS", help="look again every 2 s until Ctrl-C"
    )
    parser.add_argument(
        "--high", type=_part, default=0.9, metavar="PART", help="how much of it is nearly reached (default: 0.9)"
    )
    parser.add_argument("--root", default="/", metavar="DIRECTORY", help="read a recorded tree of files instead")


def _seconds(text: str) -> float:
    return _number(text, 3600)


def _part(text: str) -> float:
    return _number(text, 1)


def _number(text: str, at_most: float) -> float:
    with suppress(ValueError):
        if 0 < (number := float(text)) <= at_most:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and at most {at_most}")


def _host(options: argparse.Namespace) -> int:
    found = host.limits(options.root)
    try:
        if options.json:
            found = _follow(options, found, lambda limits: _print_json(limits, options.root))
        elif _missing("rich"):
            print("for a table: pip install 'memquota[cli]'", file=sys.stderr)
            found = _follow(options, found, lambda limits: print(_sentences(limits, options.root)))
        else:
            found = _show_table(options, found)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _exit_code(found, options.high)


def _follow(options: argparse.Namespace, found: Limits, show: Callable[[Limits], object]) -> Limits:
    """Show what was found, again and again if that is wanted; returns what was found last."""
    never = Event()
    try:
        show(found)
        while options.watch is not None and not never.wait(options.watch):
            found = host.limits(options.root)
            show(found)
    except KeyboardInterrupt:
        pass
    return found


def _exit_code(found: Limits, high: float) -> int:
    first = found.first
    if first is None or first.limit is None or first.distance is None:
        return _UNKNOWN
    return _NEARLY_FULL if first.limit - first.distance >= first.limit * high else _ROOM


def _auto(found: Limits) -> int | None:
    """What `Tracker("auto")` gets here."""
    share = share_of("auto")
    with suppress(UsageError):  # nothing to share out
        return share.of(found.effective) if share is not None and found.effective is not None else None
    return None


def _print_json(found: Limits, root: str) -> None:
    pressure = host.pressure(root)
    print(
        json.dumps(
            {
                **found.as_dict(),
                "auto": _auto(found),
                "pressure": None if pressure is None else asdict(pressure),
            }
        ),
        flush=True,
    )


def _sentences(found: Limits, root: str) -> str:
    """What is beside the table, or instead of it."""
    lines = [found.explain()]
    auto = _auto(found)
    if auto is not None:
        lines.append(f'Tracker("auto") gets {format_size(auto)} here.')
    pressure = host.pressure(root)
    if pressure is not None:
        lines.append(f"Pressure of {pressure.level}: {pressure.some.avg10:.1f} % of the last 10 s lost by some task.")
    return "\n".join(lines)


def _show_table(options: argparse.Namespace, found: Limits) -> Limits:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    def picture(limits: Limits) -> Group:
        return Group(_table(limits), Text(_sentences(limits, options.root)))

    console = Console()
    if options.watch is None or not console.is_terminal:
        return _follow(options, found, lambda limits: console.print(picture(limits)))
    with Live(console=console, auto_refresh=False) as live:
        return _follow(options, found, lambda limits: live.update(picture(limits), refresh=True))


def _table(found: Limits) -> Text:
    """The limits level by level; what happens at one stands below, once for all of which that is so."""
    from rich.text import Text

    notes = list(dict.fromkeys(row.problem or row.then for row in found.rows))
    lines = [Text("Memory limits of this process", style="bold")]
    lines.append(_line("", "limit", "kind", ("size", "used", "left"), "then", style="dim"))
    for level, rows in groupby(found.rows, key=lambda row: row.level):
        lines.append(Text(level, style="cyan"))  # as Text: a group's name may contain what would be markup
        for row in rows:
            first = row is found.first
            sizes = (
                _size(row.limit, "unknown" if row.problem else "none"),
                _size(row.used, "unknown"),
                _size(row.distance, ""),
            )
            note = f"({1 + notes.index(row.problem or row.then)})"
            mark, style = ("→", "bold") if first else ("", "")
            lines.append(_line(mark, row.name, row.kind, sizes, note, style=style))
    lines.append(Text())
    lines += [Text(f"({number}) {note}") for number, note in enumerate(notes, 1)]
    return Text("\n").join([*lines, Text()])


def _line(mark: str, name: str, kind: str, sizes: tuple[str, ...], then: str, *, style: str) -> Text:
    """One limit, in less than 80 columns."""
    from rich.text import Text

    numbers = "".join(f"{size:>11}" for size in sizes)
    return Text(f"{mark:<2}{name:<{_WIDEST_NAME}} {kind:<9}{numbers}  {then}", style=style)


def _size(value: int | None, otherwise: str) -> str:
    return otherwise if value is None else format_size(value)


if __name__ == "__main__":
    sys.exit(main())
