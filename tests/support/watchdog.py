"""Runs what could hang in a process of its own, where a hang is a failure and not a stuck run."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What a hanging child gets, after its stacks were written, before it is killed; in seconds.
_GRACE = 2.0


def run_isolated(
    what: str | Callable[[], object],
    *,
    timeout: float = 30.0,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    interpreter_args: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Runs source code, or a function of a module's top level, in a fresh interpreter.

    Args:
        what: The source (its common indentation does not matter), or the function, called without
            arguments in the child.
        timeout: Seconds until the child counts as hanging; its start is included.
        check: Whether an exit code other than 0 is a failure.
        env: Environment variables besides the inherited ones.
        interpreter_args: Options of the interpreter, such as `-X dev`.

    Returns:
        Exit code and both outputs as text.

    Raises:
        AssertionError: The child hung (the message has the stacks of all its threads), or failed.
    """
    source = textwrap.dedent(what) if isinstance(what, str) else _call_of(what)
    told = os.environ.get("PYTHONPATH")
    child = subprocess.Popen(
        [sys.executable, *interpreter_args, "-c", _ALARM.format(timeout=timeout) + source],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # Behind the tests' root what this process was told, so that both import the same memquota.
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [told])]), **(env or {})},
        start_new_session=True,  # so that its own children can be ended with it
    )
    try:
        out, err = child.communicate(timeout=timeout + _GRACE)
    except subprocess.TimeoutExpired:
        _kill_session(child)
        out, err = child.communicate()
        raise AssertionError(f"hung for {timeout:g} s\n{out}\n{err}") from None
    finally:
        _kill_session(child)
    if check and child.returncode != 0:
        raise AssertionError(f"exit code {child.returncode}\n{out}\n{err}")
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


# The first lines of every child: all stacks to stderr when the time is up, whoever has the GIL; Ctrl-C as usual,
# although a shell starts what runs in its background without it. On Linux it dies with who watches it. Where asyncio
# looks more closely, by `-X dev`, it also says of each step that it took 0.1 s: that is up to the machine.
_ALARM = """\
import ctypes, faulthandler, signal, sys; faulthandler.dump_traceback_later({timeout})
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform == "linux": ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if sys.flags.dev_mode:
    import logging
    logging.getLogger("asyncio").addFilter(lambda said: not str(said.msg).startswith("Executing "))
"""


def _call_of(function: Callable[[], object]) -> str:
    module, name = function.__module__, function.__qualname__
    if "." in name:
        raise ValueError(f"{name} is not a function of its module's top level")
    return f"from {module} import {name}\n{name}()\n"


def _kill_session(child: subprocess.Popen[str]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nobody of it is left
