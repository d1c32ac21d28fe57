"""Every limit in one place, and the sentences that say which one ends first."""

import importlib
import json
import shutil
from pathlib import Path

import pytest

from memquota import host
from memquota.host.files import read_once
from memquota.host.limits import Limit, Limits
from tests.host.support import MIB, TREES, v2_tree

limits_module = importlib.import_module("memquota.host.limits")  # the function has the same name


def test_the_explanation_says_what_is_hit_first_and_what_happens_then() -> None:
    found = host.limits(str(TREES / "old-kernel"))

    text = Limits(found.rows, found.why, None).explain()

    assert text == (
        "Control groups: the memory controller is in a version 1 hierarchy; /jobs/one is seen at "
        "/cgroup old/jobs/one.\n"
        "Hit first: RLIMIT_AS of the process: 128.0 MiB of 192.0 MiB used by addresses, used or "
        "not, 64.0 MiB away; then allocations fail: MemoryError, or a library that gives up.\n"
        "Next: memory.limit_in_bytes of /jobs/one: 180.0 MiB of 512.0 MiB used by the group's "
        "working set (usage less inactive file pages), 332.0 MiB away.\n"
        "The effective limit is 512.0 MiB, the least of any level; memory counts at every level "
        "at once, so the least room binds, not the least limit.\n"
        "Note: RLIMIT_RSS of the process is 512.0 MiB: Linux ignores it.\n"
        "Note: SwapTotal of the machine is 0 B: no more than that can leave memory."
    )


def test_the_limits_of_the_process_are_listed_with_what_counts_against_each() -> None:
    rows = [row for row in host.limits(str(TREES / "old-kernel")).rows if row.level == "process"]

    assert [(row.name, row.kind, row.limit, row.used) for row in rows] == [
        ("RLIMIT_AS", "addresses", 192 * MIB, 128 * MIB),
        ("RLIMIT_DATA", "addresses", 1024 * MIB, 48 * MIB),
        ("RLIMIT_RSS", "note", 512 * MIB, 64 * MIB),
    ]


def test_soft_limits_and_what_the_allocator_has_are_said() -> None:
    found = host.limits(str(TREES / "pod"))
    books = host.AllocatorReading("glibc", 10 * MIB, 7 * MIB, 3 * MIB)

    own = host.AllocatorReading("CPython", 10 * MIB, 8 * MIB, 2 * MIB)

    lines = Limits(found.rows, found.why, books, own).explain().splitlines()

    group = "/kubepods.slice/kubepods-burstable.slice/pod7/0f3a9c1d"
    assert lines[2] == "Before more is needed, glibc can hand out 3.0 MiB again that was freed."
    assert lines[3] == "Before more is needed, CPython can hand out 2.0 MiB again that was freed."
    assert (
        f"Soft: memory.high of {group}: 1.1 GiB of 1.6 GiB used by the group's working set (usage "
        "less inactive file pages), 500.0 MiB away; then the kernel slows the group's processes "
        "down and takes pages from them."
    ) in lines


def test_what_cannot_be_read_is_said_with_its_reason() -> None:
    lines = host.limits(str(TREES / "empty")).explain().splitlines()

    assert "Unknown: memory.max of /app: not a number: b''." in lines


def test_where_nothing_can_be_read_it_says_so(tmp_path: Path) -> None:
    found = host.limits(str(tmp_path))

    assert (found.effective, found.first) == (None, None)
    lines = found.explain().splitlines()
    assert lines[0].startswith("Control groups: unknown: [Errno 2] No such file or directory")
    assert lines[1] == "No limit is known."
    assert [row.title for row in found.rows if row.problem] == ["MemTotal of the machine"]


def test_a_limit_whose_usage_cannot_be_read_keeps_its_size(tmp_path: Path) -> None:
    root = v2_tree(tmp_path)
    shutil.rmtree(tmp_path / "proc/self/limits", ignore_errors=True)
    (tmp_path / "sys/fs/cgroup/app/memory.current").unlink()

    row = host.limits(root).rows[0]

    assert (row.title, row.limit, row.used, row.distance) == (
        "memory.max of /app",
        100 * MIB,
        None,
        None,
    )
    assert "No such file" in row.problem


def test_the_dictionary_is_ready_for_json() -> None:
    found = host.limits(str(TREES / "v2"))

    read_back = json.loads(json.dumps(found.as_dict()))

    assert set(read_back) == {"effective", "first", "rows", "allocator", "arenas", "why"}
    assert read_back["effective"] == 1024 * MIB
    assert read_back["first"] == {
        "name": "memory.max",
        "level": "/system.slice/app.service",
        "kind": "hard",
        "counts": "the group's working set (usage less inactive file pages)",
        "then": "the kernel kills a process of the group, most likely the largest",
        "limit": 1024 * MIB,
        "used": 400 * MIB,
        "problem": "",
        "distance": 624 * MIB,
    }
    assert read_back["first"] in read_back["rows"]


def test_no_limits_at_all_are_a_dictionary_too(tmp_path: Path) -> None:
    found = Limits((), "nowhere", None)

    assert found.as_dict() == {
        "effective": None,
        "first": None,
        "rows": [],
        "allocator": None,
        "arenas": None,
        "why": "nowhere",
    }


def test_only_what_ends_memory_is_hit_first() -> None:
    def limit(name: str, kind: str, size: int | None, used: int | None) -> Limit:
        return Limit(name, "/a", kind, "", "", size, used)  # type: ignore[arg-type]

    rows = (
        limit("soft", "soft", 10, 9),
        limit("note", "note", 10, 10),
        limit("none", "hard", None, 5),
        limit("unknown", "hard", 10, None),
        limit("far", "hard", 1000, 10),
        limit("near", "hard", 2000, 1900),
        limit("over", "addresses", 50, 60),
    )

    found = Limits(rows, "", None)

    assert found.first is rows[-1]
    assert found.first.distance == 0
    assert found.effective == 10
    assert Limits(rows[:-1], "", None).first is rows[-2]


def test_a_limit_above_the_machines_memory_is_never_hit(tmp_path: Path) -> None:
    """`max`, the sentinel, and more than there is are none; the reading says the same."""
    root = v2_tree(tmp_path, limit=str(1100 * MIB), usage=600 * MIB)  # a GiB, 768 MiB of it available

    found = host.limits(root)

    assert found.rows[0].distance == 500 * MIB  # not freed file pages count as used there, not for the machine
    assert found.first is not None
    assert (found.first.title, found.effective) == ("MemTotal of the machine", 1024 * MIB)
    reading = host.CgroupProvider(root).read()
    assert (reading.level, reading.limit, reading.available) == ("machine", 1024 * MIB, found.first.distance)


def test_where_there_is_no_proc_psutil_tells_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(limits_module, "read_once", missing)
    monkeypatch.setattr("memquota.host.cgroup.read_once", missing)

    found = host.limits()

    assert found.first is not None
    assert found.first.title == "MemTotal of the machine"
    assert (found.effective, [row.problem for row in found.rows]) == (found.first.limit, [""])

    monkeypatch.setattr("psutil.virtual_memory", lambda: missing("psutil"))
    assert "psutil: " in host.limits().rows[0].problem
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "No such file" in host.limits().rows[0].problem


def test_what_a_group_says_is_read_once_for_all_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def count(path: str) -> bytes:
        seen.append(path)
        return read_once(path)

    monkeypatch.setattr(limits_module, "read_once", count)

    host.limits(str(TREES / "nested"))

    stats = [path for path in seen if path.endswith("memory.stat")]
    assert len(stats) == len(set(stats)) > 1


def test_swap_limits_of_both_versions_are_listed() -> None:
    rows = {row.title: row for row in host.limits(str(TREES / "v1")).rows}
    memsw = rows["memory.memsw.limit_in_bytes of /system.slice/app.service"]
    assert (memsw.kind, memsw.limit, memsw.used) == ("hard", 768 * MIB, 210 * MIB)

    rows = {row.title: row for row in host.limits(str(TREES / "v2")).rows}
    swap = rows["memory.swap.max of /system.slice/app.service"]
    assert (swap.kind, swap.limit, swap.used) == ("note", 0, 0)

    rows = {row.title: row for row in host.limits(str(TREES / "sentinel")).rows}
    swap = rows["SwapTotal of the machine"]
    assert (swap.limit, swap.used) == (2048 * MIB, 512 * MIB)
