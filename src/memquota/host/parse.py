"""What the kernel's memory files say: bytes in, values out, no I/O.

Whatever is not exactly what the kernel writes is `Malformed`: half a file or a file of something
else must become "unknown" and never a number.
"""

import os
import re
from dataclasses import dataclass
from typing import Final

from memquota.sizes import LARGEST_SIZE

# cgroup v1 writes "no limit" as the largest signed 64-bit number, rounded down to whole pages; the
# largest page of any platform is 64 KiB.
_UNLIMITED_FROM: Final = 2**63 - 2**16
_UNLIMITED_TO: Final = 2**63 - 1

# No count of bytes is longer; Python refuses to read integers of thousands of digits.
_LONGEST_NUMBER: Final = 30

_STALL: Final = re.compile(rb"avg10=(\d{1,3}\.\d\d) avg60=(\d{1,3}\.\d\d) avg300=(\d{1,3}\.\d\d) total=(\d{1,20})")
# How every kernel since 3.14 begins the file; matched whole, it saves a third of a reading's own cost.
_MEMINFO: Final = re.compile(rb"MemTotal: +(\d{1,16}) kB\nMemFree: +\d{1,16} kB\nMemAvailable: +(\d{1,16}) kB\n")
_OCTAL: Final = re.compile(r"\\([0-3][0-7]{2})")


class Malformed(ValueError):
    """A file does not read as the kernel writes it: its value is unknown, not 0."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The control groups of a process, from `/proc/self/cgroup`; None: in no such hierarchy."""

    memory: str | None
    """Its path in the version 1 hierarchy that has the memory controller."""
    unified: str | None
    """Its path in the version 2 hierarchy."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted control group hierarchy, from `/proc/self/mountinfo`."""

    version: int
    root: str
    """The group that is seen at the mount point; relative to the reader's namespace."""
    point: str
    memory: bool
    """Version 1: it has the memory controller. Version 2: whatever it has."""


def number(data: bytes) -> int:
    """The one whole number of a file."""
    digits = data[:-1] if data.endswith(b"\n") else data
    if len(digits) > _LONGEST_NUMBER or not digits.isdigit():
        raise Malformed(f"not a number: {_excerpt(data)}")
    return int(digits)


def limit(data: bytes) -> int | None:
    """The limit in bytes that a file sets; None: none.

    `max` (version 2) and the huge sentinel of version 1 are none. 0 is a limit. What is larger
    than any size that is believed is cut down to the largest one that is (2**62).
    """
    if data == b"max\n" or data == b"max":  # a tuple takes twice as long
        return None
    value = number(data)
    if value <= LARGEST_SIZE:
        return value
    return None if _UNLIMITED_FROM <= value <= _UNLIMITED_TO else LARGEST_SIZE


def field(data: bytes, key: bytes) -> int | None:
    """The value of the line `key value` of a flat-keyed file; None: no such line."""
    value = _rest_of_line(data, key + b" ")
    return None if value is None else number(value)


def kilobytes(data: bytes, key: bytes) -> int | None:
    """The value in bytes of the line `key:  value kB`; None: no such line."""
    value = _rest_of_line(data, key + b":")
    if value is None:
        return None
    if not value.endswith(b" kB"):
        raise Malformed(f"not in kB: {_excerpt(value)}")
    return number(value[:-3].strip()) * 1024


def meminfo(data: bytes) -> tuple[int, int]:
    """The memory of the machine and what of it is available, in bytes, from `/proc/meminfo`.

    Kernels before 3.14 do not estimate what is available: free pages and inactive file pages
    stand in, which are also what the control groups' arithmetic takes for free.
    """
    usual = _MEMINFO.match(data)
    if usual is not None:
        total, available = int(usual[1]) * 1024, int(usual[2]) * 1024
    else:
        total, available = _unusual_meminfo(data)
    if not total:
        raise Malformed("no MemTotal")
    return total, min(available, total)


def _unusual_meminfo(data: bytes) -> tuple[int, int]:
    total = kilobytes(data, b"MemTotal")
    available = kilobytes(data, b"MemAvailable")
    if available is None:
        free = kilobytes(data, b"MemFree")
        if free is None:
            raise Malformed("neither MemAvailable nor MemFree")
        available = free + (kilobytes(data, b"Inactive(file)") or 0)
    return total or 0, available


def resource_limits(data: bytes) -> dict[str, int | None]:
    """The soft limits of `/proc/self/limits` that are in bytes, by name; None: unlimited."""
    limits: dict[str, int | None] = {}
    for line in data.splitlines():
        words = line.rsplit(None, 3)
        if len(words) == 4 and words[3] == b"bytes" and words[0].startswith(b"Max "):
            value = None if words[1] == b"unlimited" else number(words[1])
            limits[words[0].decode("ascii", "replace")] = value
    if not limits:
        raise Malformed(f"no limits: {_excerpt(data)}")
    return limits


def pressure(data: bytes) -> tuple[tuple[float, float, float, float], ...]:
    """The `some` and the `full` line of a pressure file: averages in percent, total in seconds."""
    lines = data.splitlines()
    stalls = []
    for line, kind in zip(lines, (b"some ", b"full "), strict=False):
        match = _STALL.fullmatch(line, len(kind)) if line.startswith(kind) else None
        if match is None:
            raise Malformed(f"not a pressure line: {_excerpt(line)}")
        averages = (float(match[1]), float(match[2]), float(match[3]))
        stalls.append((*averages, int(match[4]) / 1_000_000))
    if len(stalls) != 2:
        raise Malformed(f"not a pressure file: {_excerpt(data)}")
    return tuple(stalls)


def own_groups(data: bytes) -> Groups:
    """The groups of `/proc/self/cgroup`, whose lines are `number:controllers:path`."""
    if not data.endswith(b"\n"):
        raise Malformed(f"cut off: {_excerpt(data)}")  # half a path is another group's path
    memory = unified = None
    for line in data[:-1].split(b"\n"):  # names may have other line breaks in them
        parts = line.split(b":", 2)
        if len(parts) != 3 or not parts[0].isdigit() or not parts[2].startswith(b"/"):
            raise Malformed(f"not a control group: {_excerpt(line)}")
        path = os.fsdecode(parts[2]).removesuffix(" (deleted)")
        if parts[0] == b"0" and not parts[1]:
            unified = path
        elif b"memory" in parts[1].split(b","):
            memory = path
    return Groups(memory, unified)


def mounts(data: bytes) -> list[Mount]:
    """The control group hierarchies of `/proc/self/mountinfo`, in the order they were mounted."""
    if b" - " not in data:
        raise Malformed(f"no mounts: {_excerpt(data)}")
    found = []
    for line in data.split(b"\n"):  # names may have other line breaks in them
        if b" - cgroup" not in line:
            continue  # other file systems may write what they like
        # 36 35 98:0 /root /point options [optional fields] - type source super-options
        before, _, after = line.partition(b" - ")
        front, back = before.split(b" "), after.split(b" ")
        version = {b"cgroup": 1, b"cgroup2": 2}.get(back[0])
        if len(front) < 6 or len(back) < 3:
            raise Malformed(f"not a mount: {_excerpt(line)}")
        if version is not None:
            memory = version == 2 or b"memory" in back[-1].split(b",")
            found.append(Mount(version, _unescape(front[3]), _unescape(front[4]), memory))
    return found


def _rest_of_line(data: bytes, start: bytes) -> bytes | None:
    """What follows `start`, which begins a line; None: no such line."""
    at = data.find(b"\n" + start) + 1
    if not at and not data.startswith(start):
        return None
    end = data.find(b"\n", at)
    if end < 0:
        raise Malformed("cut off in the middle of a line")  # the value may lack digits
    return data[at + len(start) : end]


def _unescape(name: bytes) -> str:
    """The kernel writes blanks and backslashes in names as octal numbers."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), os.fsdecode(name))


def _excerpt(data: bytes) -> str:
    return repr(data if len(data) <= 40 else data[:40] + b"...")
