"""Every limit on this process's memory, how they interact, and which one it hits first."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Final, Literal

from memquota.host import cgroup_v1, parse
from memquota.host.allocator import AllocatorReading, allocator
from memquota.host.arenas import arenas
from memquota.host.cgroup import Lineage, hidden_path, lineage, working_set
from memquota.host.cgroup_v1 import V1
from memquota.host.cgroup_v2 import V2
from memquota.host.files import OWN, Root, beneath, checked_root, read_once
from memquota.host.layout import Layout
from memquota.host.meminfo import MACHINE
from memquota.host.place import Level
from memquota.host.readings import ReadingUnavailable
from memquota.sizes import format_size

Kind = Literal["hard", "addresses", "soft", "note"]

PROCESS: Final = "process"
"""The level of the process's own limits."""

_WORKING_SET: Final = "the group's working set (usage less inactive file pages)"

_KILLED: Final = "the kernel kills a process of the group, most likely the largest"
_SLOWED: Final = "the kernel slows the group's processes down and takes pages from them"
_PUSHED: Final = "the kernel pushes the group back to it when the machine runs short"
_REFUSED: Final = "allocations fail: MemoryError, or a library that gives up"
_STAYS: Final = "no more than that can leave memory"
_SWAPPED: Final = "what is swapped out"

# What limits a group: name, what counts against it, kind, that in words, what happens.
_V1_ROWS: Final[tuple[tuple[str, str, Kind, str, str], ...]] = (
    (V1.limit, V1.usage, "hard", _WORKING_SET, _KILLED),
    (V1.soft, V1.usage, "soft", _WORKING_SET, _PUSHED),
    (
        "memory.memsw.limit_in_bytes",
        "memory.memsw.usage_in_bytes",
        "hard",
        f"{_WORKING_SET} and what of it is swapped out",
        _KILLED,
    ),
)
_V2_ROWS: Final[tuple[tuple[str, str, Kind, str, str], ...]] = (
    (V2.limit, V2.usage, "hard", _WORKING_SET, _KILLED),
    (V2.soft, V2.usage, "soft", _WORKING_SET, _SLOWED),
    ("memory.swap.max", "memory.swap.current", "note", _SWAPPED, _STAYS),
)

# What limits a process: name, name in /proc/self/limits, what counts in /proc/self/status, ...
_PROCESS_ROWS: Final[tuple[tuple[str, str, bytes, Kind, str, str], ...]] = (
    ("RLIMIT_AS", "Max address space", b"VmSize", "addresses", "addresses, used or not", _REFUSED),
    ("RLIMIT_DATA", "Max data size", b"VmData", "addresses", "private writable ones", _REFUSED),
    ("RLIMIT_RSS", "Max resident set", b"VmRSS", "note", "resident pages", "Linux ignores it"),
)


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit, what counts against it now, and what happens when it is reached."""

    name: str
    """What the kernel calls it: `"memory.max"`, `"RLIMIT_AS"`, `"MemTotal"`, ..."""
    level: str
    """The path of its control group, `"process"` or `"machine"`."""
    kind: Kind
    """Hard: memory in use ends there. Addresses: memory asked for does, used or not. Soft: it can
    be passed. Note: it ends nothing by itself."""
    counts: str
    """What counts against it, in words."""
    then: str
    """What happens when it is reached, in words."""
    limit: int | None = None
    """In bytes; None: none is set, or it is unknown."""
    used: int | None = None
    """What counts against it now, in bytes; None: unknown."""
    problem: str = ""
    """Why it is unknown, where it could not be read."""

    @property
    def distance(self) -> int | None:
        """Bytes from here to the limit; None: there is none, or something is unknown."""
        if self.limit is None or self.used is None:
            return None
        return max(0, self.limit - self.used)

    def above(self, memory: int | None) -> bool:
        """Whether it is larger than this much memory; not where either is unknown."""
        return memory is not None and self.limit is not None and self.limit > memory

    @property
    def title(self) -> str:
        """Its name and level, for people."""
        return f"{self.name} of {'the ' if self.level in (PROCESS, MACHINE) else ''}{self.level}"


_MACHINE_ROW: Final = Limit(
    "MemTotal", MACHINE, "hard", "all there is", "the kernel kills a process, likely the largest"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit on this process's memory, at one moment."""

    rows: tuple[Limit, ...]
    """The control groups' from the own one upwards, the process's own, the machine's."""
    why: str
    """How the control groups were found, in a sentence."""
    allocator: AllocatorReading | None
    """What the C allocator has at hand; None: it does not tell."""
    arenas: AllocatorReading | None = None
    """What CPython's own allocator has at hand; None: it does not tell."""

    @property
    def effective(self) -> int | None:
        """The least limit on memory in use, of any level, in bytes; None: none is known."""
        hard = (row.limit for row in self.rows if row.kind == "hard")
        return min((limit for limit in hard if limit is not None), default=None)

    @property
    def first(self) -> Limit | None:
        """The limit that is hit first when the process takes fresh memory and uses it.

        Such memory counts against every limit alike (addresses, data segment, each level), so
        the nearest is hit first, which need not be the least. A limit above the machine's memory is
        never hit. None: none is known.
        """
        return next(iter(self._by_distance()), None)

    def as_dict(self) -> dict[str, object]:
        """The same in plain types, ready for JSON."""
        first = self.first
        return {
            "effective": self.effective,
            "first": None if first is None else _row_as_dict(first),
            "rows": [_row_as_dict(row) for row in self.rows],
            "allocator": None if self.allocator is None else asdict(self.allocator),
            "arenas": None if self.arenas is None else asdict(self.arenas),
            "why": self.why,
        }

    def explain(self) -> str:
        """What holds, how it interacts and what ends first, in sentences, one a line."""
        return "\n".join(self._sentences())

    def _by_distance(self) -> list[Limit]:
        machine = next((row.limit for row in self.rows if row.name == _MACHINE_ROW.name), None)
        ends = [row for row in self.rows if row.kind in ("hard", "addresses")]
        known = [
            (row.distance, row)
            for row in ends
            if row.distance is not None and not (row.kind == "hard" and row.above(machine))
        ]
        return [row for _, row in sorted(known, key=lambda pair: pair[0])]

    def _sentences(self) -> Iterator[str]:
        yield f"Control groups: {self.why}."
        nearest = self._by_distance()
        if nearest:
            yield f"Hit first: {_standing(nearest[0])}; then {nearest[0].then}."
            for books in (self.allocator, self.arenas):
                if books is not None:
                    yield (
                        f"Before more is needed, {books.source} can hand out "
                        f"{format_size(books.available)} again that was freed."
                    )
            if nearest[1:]:
                yield f"Next: {_standing(nearest[1])}."
        else:
            yield "No limit is known."
        if self.effective is not None:
            yield (
                f"The effective limit is {format_size(self.effective)}, the least of any level; "
                "memory counts at every level at once, so the least room binds, "
                "not the least limit."
            )
        for row in self.rows:
            if row.problem:
                yield f"Unknown: {row.title}: {row.problem}."
            elif row.kind == "soft" and row.limit is not None:
                yield f"Soft: {_standing(row)}; then {row.then}."
            elif row.kind == "note" and row.limit is not None:
                yield f"Note: {row.title} is {format_size(row.limit)}: {row.then}."


def limits(root: Root = OWN) -> Limits:
    """Every limit that applies to this process, with what counts against each now.

    What cannot be read is a row that says why.

    Args:
        root: The root of the file system; another one than `/` reads a recorded tree.

    Raises:
        UsageError: `root` is no path.

    Cost: below 1 ms; nothing is kept open.

    Source: the kernel's admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/memory.rst;
        getrlimit(2); proc_meminfo(5); the kernel's mm/overcommit-accounting.rst.

    Example:
        >>> found = limits()
        >>> found.first is not None and found.effective is not None
        True
    """
    root = checked_root(root)
    rows: list[Limit] = []
    try:
        where = lineage(root)
        why = where.why
        for level in where.levels:
            rows += _of_group(where.layout, level)
        rows += _of_hidden_group(where, rows)
    except (OSError, parse.Malformed) as error:
        why = f"unknown: {error}"
    rows += _of_process(root)
    rows += _of_machine(root)
    return Limits(tuple(rows), why, allocator(), arenas())


def _row(row: Limit, limit: Callable[[], int | None], used: Callable[[], int | None]) -> list[Limit]:
    try:
        bound = limit()
    except FileNotFoundError:
        return []  # the root of all groups has no limits, nor has one without the controller
    except (OSError, parse.Malformed) as error:
        return [replace(row, problem=str(error))]
    try:
        return [replace(row, limit=bound, used=used())]
    except (OSError, parse.Malformed) as error:
        return [replace(row, limit=bound, problem=str(error))]


def _of_group(layout: Layout, level: Level) -> list[Limit]:
    @cache  # the rows are of one moment, and memory.stat is dear
    def file(name: str) -> bytes:
        return read_once(f"{level.directory}/{name}")

    def limit(name: str) -> int | None:
        return parse.limit(file(name))

    def used(usage: str, counts: str) -> int:
        size = parse.number(file(usage))
        return size if counts is _SWAPPED else working_set(layout, size, file("memory.stat"))

    rows = []
    for name, usage, kind, counts, then in _V1_ROWS if layout is V1 else _V2_ROWS:
        row = Limit(name, level.path, kind, counts, then)
        rows += _row(row, partial(limit, name), partial(used, usage, counts))
    return rows


def _of_hidden_group(where: Lineage, rows: list[Limit]) -> list[Limit]:
    own = [row for row in rows if row.name == V1.limit]
    if where.layout is not V1 or not own:
        return []
    top = own[-1]  # it is at least as full above it
    row = replace(top, name="hierarchical_memory_limit", level=hidden_path(top.level))
    stat = read_once(f"{where.levels[-1].directory}/memory.stat")
    hidden = cgroup_v1.hidden_limit(stat, top.limit)
    return [] if hidden is None else [replace(row, limit=hidden)]


def _of_process(root: str) -> list[Limit]:
    def used(key: bytes) -> int | None:
        return parse.kilobytes(read_once(beneath(root, "/proc/self/status")), key)

    try:
        bounds = parse.resource_limits(read_once(beneath(root, "/proc/self/limits")))
    except (OSError, parse.Malformed):
        return []  # no such file on this system
    rows = []
    for name, title, key, kind, counts, then in _PROCESS_ROWS:
        if title in bounds:
            row = Limit(name, PROCESS, kind, counts, then)
            rows += _row(row, partial(bounds.get, title), partial(used, key))
    return rows


def _of_machine(root: str) -> list[Limit]:
    try:
        data = read_once(beneath(root, "/proc/meminfo"))
        total, available = parse.meminfo(data)
    except FileNotFoundError as error:
        return [_of_machine_by_psutil(root) or replace(_MACHINE_ROW, problem=str(error))]
    except (OSError, parse.Malformed) as error:
        return [replace(_MACHINE_ROW, problem=str(error))]
    rows = [replace(_MACHINE_ROW, limit=total, used=total - available)]
    swap, free = parse.kilobytes(data, b"SwapTotal"), parse.kilobytes(data, b"SwapFree")
    if swap is not None and free is not None:
        row = Limit("SwapTotal", MACHINE, "note", _SWAPPED, _STAYS)
        rows.append(replace(row, limit=swap, used=swap - free))
    return rows + _of_overcommit(root, data)


def _of_machine_by_psutil(root: str) -> Limit | None:
    """What other systems than Linux have, where psutil is installed."""
    if root != OWN or importlib.util.find_spec("psutil") is None:
        return None
    from memquota.host.with_psutil import PsutilProvider

    try:
        reading = PsutilProvider().read()
    except ReadingUnavailable as error:
        return replace(_MACHINE_ROW, problem=str(error))
    return replace(_MACHINE_ROW, limit=reading.limit, used=reading.used)


def _of_overcommit(root: str, meminfo: bytes) -> list[Limit]:
    try:
        if parse.number(read_once(beneath(root, "/proc/sys/vm/overcommit_memory"))) != 2:
            return []  # only mode 2 keeps to the limit
    except (OSError, parse.Malformed):
        return []
    row = Limit("CommitLimit", MACHINE, "addresses", "what any process was promised", _REFUSED)
    limit, used = (parse.kilobytes(meminfo, key) for key in (b"CommitLimit", b"Committed_AS"))
    return [replace(row, limit=limit, used=used)]


def _standing(row: Limit) -> str:
    """Where it stands, as a part of a sentence."""
    used, size, away = (
        "unknown" if value is None else format_size(value) for value in (row.used, row.limit, row.distance)
    )
    return f"{row.title}: {used} of {size} used by {row.counts}, {away} away"


def _row_as_dict(row: Limit) -> dict[str, object]:
    return {**asdict(row), "distance": row.distance}
