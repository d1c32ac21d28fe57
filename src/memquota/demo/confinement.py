"""A real memory limit for a child process: a control group where one may be made, else a limit of its address space."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol, final

__all__ = ["AddressSpace", "Confinement", "ControlGroup", "choose_confinement"]


class Confinement(Protocol):
    """A memory limit that a process can be started in."""

    #: What it is, in words.
    kind: str

    def command(self, arguments: list[str]) -> list[str]:
        """The command that starts another one inside; its process id stays that of the command."""
        ...

    def usage(self, process: int) -> int:
        """What is used now, in bytes; 0 when the process is gone."""
        ...

    def peak(self) -> int:
        """The most that was used, as far as it was seen or the kernel knows, in bytes."""
        ...

    def remove(self) -> None:
        """Undo it; the process has ended."""
        ...


@final
class ControlGroup:
    """A control group of its own, version 1 or 2, beside the present one."""

    def __init__(self, root: Path, version: int, limit: int) -> None:
        self.kind = f"a control group (v{version}) of {limit // 2**20} MiB"
        self._folder = root / f"memquota-demo-{os.getpid()}-{secrets.token_hex(3)}"
        self._files = _V1 if version == 1 else _V2
        self._folder.mkdir()
        try:
            (self._folder / self._files["limit"]).write_text(str(limit))
            with suppress(OSError):  # no swap, where that is counted
                (self._folder / self._files["swap"]).write_text(str(limit if version == 1 else 0))
        except OSError:
            self._folder.rmdir()
            raise

    def command(self, arguments: list[str]) -> list[str]:
        """Moves in first and starts the program then, so that all of it is counted."""
        procs = shlex.quote(str(self._folder / "cgroup.procs"))
        return ["/bin/sh", "-c", f'echo $$ > {procs} && exec "$@"', "sh", *arguments]

    def usage(self, process: int) -> int:
        """What the group uses."""
        return self._read("usage")

    def peak(self) -> int:
        """The most that the group ever used, as the kernel says."""
        return self._read("peak")

    def remove(self) -> None:
        """Remove the group; its process has ended, but may take a moment to leave."""
        for _ in range(50):
            try:
                self._folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)
        print(f"could not remove {self._folder}", file=sys.stderr)

    def _read(self, what: str) -> int:
        try:
            return int((self._folder / self._files[what]).read_text())
        except (OSError, ValueError):
            return 0


_V1 = {
    "limit": "memory.limit_in_bytes",
    "swap": "memory.memsw.limit_in_bytes",
    "usage": "memory.usage_in_bytes",
    "peak": "memory.max_usage_in_bytes",
}
_V2 = {"limit": "memory.max", "swap": "memory.swap.max", "usage": "memory.current", "peak": "memory.peak"}


@final
class AddressSpace:
    """A limit of the address space (RLIMIT_AS): needs no rights. Counts what is reserved, too."""

    def __init__(self, limit: int) -> None:
        self.kind = f"an address space (RLIMIT_AS) of {limit // 2**20} MiB"
        self._limit = limit
        self._peak = 0

    def command(self, arguments: list[str]) -> list[str]:
        """Limits itself first."""
        return ["/bin/sh", "-c", f'ulimit -v {self._limit // 1024} && exec "$@"', "sh", *arguments]

    def usage(self, process: int) -> int:
        """What of it is resident."""
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        used = pages * os.sysconf("SC_PAGE_SIZE")
        self._peak = max(self._peak, used)
        return used

    def peak(self) -> int:
        """The most that was seen."""
        return self._peak

    def remove(self) -> None:
        """Nothing to undo."""


def choose_confinement(limit: int) -> Confinement:
    """A control group if one can be made, else an address space."""
    for root, version in _memory_roots():
        try:
            return ControlGroup(root, version, limit)
        except OSError:
            continue
    return AddressSpace(limit)


def _memory_roots() -> list[tuple[Path, int]]:
    """Where groups with a memory controller could be made: the roots of the hierarchies."""
    roots: list[tuple[Path, int]] = []
    try:
        text = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return roots
    for line in text.splitlines():
        fields = line.split()
        separator = fields.index("-")
        kind, options, point = fields[separator + 1], fields[-1], Path(fields[4])
        if kind == "cgroup" and "memory" in options.split(","):
            roots.append((point, 1))
        elif kind == "cgroup2":
            with suppress(OSError):
                if "memory" in (point / "cgroup.subtree_control").read_text().split():
                    roots.append((point, 2))
    return roots
