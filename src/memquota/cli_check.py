"""The command `memquota check`: whether what a program declares fits into its memory."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Final

from memquota.errors import BoundsError, UsageError

if TYPE_CHECKING:
    from memquota.accounting import ComponentBounds, ComponentRegistry, Grant

__all__ = ["add_arguments", "check"]

#: Exit codes; argparse, too, says 2 for what it does not understand.
_FITS, _DOES_NOT_FIT, _USAGE = 0, 1, 2

_HEADER: Final = ("component", "minimum", "firm limit")


class _CannotCheck(Exception):
    """Nothing was checked; says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `memquota check`."""
    parser.description = (
        "Check that the bounds that the components of a program declare fit into its memory, before it starts."
    )
    parser.epilog = (
        f"Exit code: {_FITS} when they fit, {_DOES_NOT_FIT} when not, {_USAGE} when nothing could be checked."
    )
    parser.add_argument(
        "registry",
        metavar="MODULE:REGISTRY",
        help="where the ComponentRegistry is, or a function that returns it; modules are looked for here first",
    )
    parser.add_argument(
        "--limit",
        default="auto",
        metavar="SIZE",
        help="the memory: 512MiB, 80%% of what this process may use, or auto: all of that (default: auto)",
    )
    parser.add_argument(
        "--slop", type=float, default=0.25, metavar="PART", help="how much of it is left alone (default: 0.25)"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def check(options: argparse.Namespace, *, has_rich: bool) -> int:
    """Run the command; returns the exit code."""
    from memquota.accounting import Grant

    try:
        grant = Grant(options.limit, options.slop)
        registry = _load(options.registry)
        declared = registry.declared()
        if all(component.bounds is None for component in declared.walk()):
            raise _CannotCheck(f"{options.registry} declares nothing")
    except (UsageError, _CannotCheck) as error:
        print(f"memquota check: {error}", file=sys.stderr)
        return _USAGE
    try:
        registry.verify(grant)
        failure = None
    except BoundsError as error:
        failure = error
    try:
        if isinstance(sys.stdout, TextIOWrapper):  # a name that it cannot encode is no reason to fail
            sys.stdout.reconfigure(errors="backslashreplace")
        if options.json:
            print(json.dumps(_as_dict(grant, declared, failure)))
        else:
            _show(grant, declared, failure, has_rich=has_rich)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # otherwise whoever read has seen enough
            print(f"memquota check: the answer cannot be written: {error}", file=sys.stderr)
            return _USAGE
    return _FITS if failure is None else _DOES_NOT_FIT


def _load(where: str) -> ComponentRegistry:
    """The registry that "module:name" stands for."""
    from memquota.accounting import ComponentRegistry

    module, colon, name = where.partition(":")
    if not (module and colon and name):
        raise _CannotCheck(f"{where!r} is not of the form module:registry")
    sys.path.insert(0, os.getcwd())
    found: Any = _run(where, lambda: importlib.import_module(module))
    missing = object()
    for part in name.split("."):
        inner = _run(where, partial(getattr, found, part, missing))
        if inner is missing:
            raise _CannotCheck(f"there is no {part!r} in {found!r}")
        found = inner
    if not isinstance(found, ComponentRegistry) and callable(found):
        found = _run(where, found)
    if not isinstance(found, ComponentRegistry):
        raise _CannotCheck(f"{where} is no ComponentRegistry but {found!r}")
    return found


def _run(where: str, code: Callable[[], object]) -> object:
    """Run the program's code. However it fails, nothing was checked, and no exit code of its own may say otherwise."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no part of the answer
            return code()
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        raise _CannotCheck(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error


def _as_dict(grant: Grant, declared: ComponentBounds, failure: BoundsError | None) -> dict[str, Any]:
    return {
        "schema": "memquota.check",
        "version": 1,
        "fits": failure is None,
        "grant": grant.as_dict(),
        "problems": [] if failure is None else [problem.as_dict() for problem in failure.problems],
        "declared": declared.as_dict(),
    }


def _show(grant: Grant, declared: ComponentBounds, failure: BoundsError | None, *, has_rich: bool) -> None:
    from memquota.accounting.tables import Rows, indented, size_cell

    rows = Rows(
        _HEADER,
        [
            (indented(one.name), size_cell(one.minimum), size_cell(one.firm) if one.bounded else "not declared")
            for one in declared.walk()
        ],
    )
    if has_rich:
        from rich.console import Console

        Console().print(rows.as_table("Declared bounds"))
    else:
        print(rows.as_text())
    if failure is None:
        print(f"fits into {grant}")
    else:
        sys.stdout.flush()
        print(failure, file=sys.stderr)
