"""Control groups whose files vanish, rot, move or change while they are read."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from memquota import host
from memquota.host import cgroup
from memquota.testing import FakeClock
from tests.host.support import GIB, MEMINFO, MIB, ROOT_MOUNT, group_files, v2_tree, write_tree
from tests.support.watchdog import run_isolated

GROUP = "sys/fs/cgroup/app"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


def spoil(path: Path, how: str) -> None:
    """Let a file go wrong in a way that files go wrong."""
    path.unlink()
    if how == "empty":
        path.touch()
    elif how == "cut off":
        path.write_text("inactive_fi")
    elif how == "a directory":
        path.mkdir()
    elif how == "10 MB":
        path.write_bytes(b"1" * 10_000_000)
    elif how == "EIO":
        path.symlink_to("/proc/self/mem")  # the kernel answers EIO for its first page
    else:
        assert how == "gone"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (f"{GROUP}/{name}", how)
        for name in ("memory.max", "memory.current", "memory.stat")
        for how in ("gone", "empty", "cut off", "a directory", "10 MB", "EIO")
        if (name, how) != ("memory.max", "gone")  # then the group has no memory controller
    ],
)
def test_a_file_that_goes_wrong_makes_the_memory_unknown(tmp_path: Path, clock: FakeClock, name: str, how: str) -> None:
    """F45: vanished, truncated or unreadable: the last value for 5 s, then unknown; never 0."""
    root = v2_tree(tmp_path, limit="104857600", usage=100 * MIB)
    with host.detect(root, clock=clock) as provider:
        good = provider.read()
        assert (good.limit, good.available) == (100 * MIB, 0)

        spoil(tmp_path / name, how)
        # An open file outlives its name: only a look at everything finds a vanished one.
        shutil.copytree(tmp_path / GROUP, tmp_path / "copy", symlinks=True)
        shutil.rmtree(tmp_path / GROUP)
        write_tree(tmp_path, {"proc/self/cgroup": "0::/moved\n"})
        (tmp_path / "copy").rename(tmp_path / "sys/fs/cgroup/moved")
        clock.advance(5.0)
        assert provider.read() is good
        clock.advance(0.2)
        with pytest.raises(host.ReadingUnavailable, match="memory of the control groups"):
            provider.read()


def test_files_that_rot_while_they_are_open_are_noticed_at_once(tmp_path: Path, clock: FakeClock) -> None:
    """F45: the open file itself is truncated."""
    root = v2_tree(tmp_path)
    provider = host.CgroupProvider(root, clock=clock)
    provider.read()

    (tmp_path / GROUP / "memory.max").write_text("")

    with pytest.raises(host.ReadingUnavailable, match="not a number: b''"):
        provider.read()


def test_readings_return_when_the_files_do(tmp_path: Path, clock: FakeClock) -> None:
    root = v2_tree(tmp_path, usage=60 * MIB)
    provider = host.CgroupProvider(root, clock=clock)
    shutil.rmtree(tmp_path / GROUP)
    with pytest.raises(host.ReadingUnavailable, match="there is no such directory"):
        provider.read()
    assert provider.why == "no reading has succeeded yet"

    v2_tree(tmp_path, usage=60 * MIB)

    assert provider.read().available == 40 * MIB
    assert provider.why.startswith("no version 1 hierarchy has the memory controller; /app is seen")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users")
def test_a_file_that_may_not_be_read_makes_the_memory_unknown(tmp_path: Path) -> None:
    """F45: EACCES is unknown, and neither 0 nor the machine's memory."""
    source = f"""
        import os, shutil, tempfile
        from memquota import host
        from tests.host.support import v2_tree
        from pathlib import Path

        root = Path(tempfile.mkdtemp())
        try:
            v2_tree(root)
            root.chmod(0o755)
            (root / "{GROUP}/memory.current").chmod(0)
            if os.geteuid() == 0:
                os.seteuid(65534)  # root may read everything
            try:
                print(host.CgroupProvider(str(root)).read())
            except host.ReadingUnavailable as error:
                print(type(error.__cause__).__name__)
            if os.getuid() == 0:
                os.seteuid(0)
        finally:
            shutil.rmtree(root)
    """

    assert run_isolated(source).stdout == "PermissionError\n"


def test_a_moved_process_is_noticed_within_3_s(tmp_path: Path, clock: FakeClock) -> None:
    """F47: the path is looked up again, and the new group's files are read."""
    root = v2_tree(tmp_path, usage=60 * MIB)
    write_tree(tmp_path, group_files("/other", "209715200", 10 * MIB))
    with host.detect(root, clock=clock) as provider:
        assert (provider.read().level, provider.read().limit) == ("/app", 100 * MIB)

        write_tree(tmp_path, {"proc/self/cgroup": "0::/other\n"})
        clock.advance(3.0)

        assert (provider.read().level, provider.read().limit) == ("/other", 200 * MIB)


def test_a_move_whose_old_group_is_gone_is_noticed_at_once(tmp_path: Path, clock: FakeClock) -> None:
    """F47: the open files fail, and everything is looked up again without an error between."""
    root = v2_tree(tmp_path)
    provider = host.CgroupProvider(root, clock=clock)
    provider.read()
    write_tree(tmp_path, group_files("/other", "209715200", 10 * MIB))

    write_tree(tmp_path, {"proc/self/cgroup": "0::/other\n"})
    for name in ("memory.max", "memory.current", "memory.stat"):
        (tmp_path / GROUP / name).write_text("")  # ENODEV, as far as files on a disk can show it

    assert provider.read().level == "/other"


def test_a_limit_lowered_below_use_shows_at_the_next_reading(tmp_path: Path, clock: FakeClock) -> None:
    """F47: the limit is read each time; below what is in use there is no room at all."""
    root = v2_tree(tmp_path, usage=60 * MIB)
    with host.detect(root, clock=clock) as provider:
        assert provider.read().available == 40 * MIB

        write_tree(tmp_path, group_files("/app", str(50 * MIB), 60 * MIB))
        clock.advance(0.1)

        reading = provider.read()
        assert (reading.limit, reading.available, reading.fraction) == (50 * MIB, 0, 1.0)


def test_a_controller_that_is_enabled_later_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    root = v2_tree(tmp_path)
    (tmp_path / GROUP / "memory.max").unlink()
    provider = host.CgroupProvider(root, clock=clock)
    assert provider.read().level == "machine"

    v2_tree(tmp_path, usage=60 * MIB)
    clock.advance(3.0)

    assert provider.read().level == "/app"


def test_a_hidden_limit_that_changes_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    tree = Path(__file__).with_name("trees") / "container-hidden"
    root = tmp_path / "root"
    shutil.copytree(tree, root)
    stat = root / "sys/fs/cgroup/memory/memory.stat"
    provider = host.CgroupProvider(str(root), clock=clock)
    assert provider.read().limit == 768 * MIB

    stat.write_text(stat.read_text().replace(str(768 * MIB), str(400 * MIB)))
    clock.advance(3.0)

    assert provider.read().limit == 400 * MIB


def test_inactive_file_pages_count_as_room(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, usage=90 * MIB)
    write_tree(tmp_path, group_files("/app", str(100 * MIB), 90 * MIB, inactive=70 * MIB))

    reading = host.CgroupProvider(root).read()

    assert (reading.used, reading.available) == (20 * MIB, 80 * MIB)


def test_more_inactive_pages_than_usage_are_not_a_negative_use(tmp_path: Path) -> None:
    """The files are not read at one moment."""
    root = v2_tree(tmp_path)
    write_tree(tmp_path, group_files("/app", str(100 * MIB), 10 * MIB, inactive=11 * MIB))

    limits = host.limits(root)
    write_tree(tmp_path, {"proc/meminfo": MEMINFO.replace("786432", str(95 * 1024))})
    reading = host.CgroupProvider(root).read()

    assert limits.rows[0].used == 0
    assert (reading.level, reading.available) == ("machine", 95 * MIB)


def test_the_machine_caps_the_room(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, limit=str(900 * MIB))

    reading = host.CgroupProvider(root).read()

    assert (reading.limit, reading.available, reading.level) == (900 * MIB, 768 * MIB, "machine")
    assert (reading.used, reading.source) == (GIB - 768 * MIB, "meminfo")


@pytest.mark.parametrize(
    ("used", "level", "available"),
    [
        (132 * MIB - 1, "machine", 768 * MIB),
        (132 * MIB, "machine", 768 * MIB),
        (132 * MIB + 1, "/app", 768 * MIB - 1),
    ],
)
@pytest.mark.parametrize("inactive", [0, MIB])
def test_a_byte_decides_which_level_binds(tmp_path: Path, used: int, level: str, available: int, inactive: int) -> None:
    root = v2_tree(tmp_path)
    write_tree(tmp_path, group_files("/app", str(900 * MIB), used + inactive, inactive))

    reading = host.CgroupProvider(root).read()

    assert (reading.level, reading.available) == (level, available)


def test_a_file_longer_than_64_kib_is_none_of_the_kernels(tmp_path: Path) -> None:
    """F46: reading is bounded, also where what is looked for stands at the beginning."""
    root = v2_tree(tmp_path, usage=60 * MIB)
    stat = tmp_path / GROUP / "memory.stat"
    stat.write_text("inactive_file 1048576\n".ljust(64 * 1024, "#"))
    assert host.CgroupProvider(root).read().available == 41 * MIB

    stat.write_text("inactive_file 1048576\n".ljust(64 * 1024 + 1, "#"))
    with pytest.raises(host.ReadingUnavailable, match=r"memory\.stat is longer than 65536 bytes"):
        host.CgroupProvider(root).read()


def test_without_any_limit_and_without_meminfo_memory_is_unknown(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, limit="max")
    (tmp_path / "proc/meminfo").unlink()

    with pytest.raises(host.ReadingUnavailable, match="no control group has a limit, and there"):
        host.CgroupProvider(root).read()


def test_where_no_hierarchy_is_mounted_the_machine_is_the_limit(tmp_path: Path) -> None:
    """The kernel's list of groups is empty then, which is no cut off file."""
    root = v2_tree(tmp_path)
    write_tree(tmp_path, {"proc/self/cgroup": "", "proc/self/mountinfo": ROOT_MOUNT})

    provider = host.CgroupProvider(root)

    assert provider.read().level == "machine"
    assert provider.why == "this process is in no control group that could limit memory"


def test_an_empty_list_of_groups_where_hierarchies_are_mounted_is_unknown(tmp_path: Path) -> None:
    """F45: half a file must not lift a limit."""
    root = v2_tree(tmp_path)
    write_tree(tmp_path, {"proc/self/cgroup": ""})

    with pytest.raises(host.ReadingUnavailable, match="cut off"):
        host.CgroupProvider(root).read()


def test_a_hierarchy_hidden_by_a_later_mount_is_passed_over(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, usage=60 * MIB)
    mounts = (tmp_path / "proc/self/mountinfo").read_text()
    later = "31 27 0:31 / /mnt/elsewhere rw - cgroup2 cgroup2 rw\n"
    write_tree(tmp_path, {"proc/self/mountinfo": mounts + later})

    assert host.CgroupProvider(root).read().level == "/app"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd")
def test_files_stay_open_between_readings_and_not_after_closing(tmp_path: Path) -> None:
    def opened() -> list[str]:
        descriptors = Path("/proc/self/fd").iterdir()
        links = [os.readlink(path) for path in descriptors if path.is_symlink()]
        return sorted(Path(link).name for link in links if link.startswith(str(tmp_path)))

    root = v2_tree(tmp_path)
    provider = host.CgroupProvider(root)
    assert opened() == []

    for _ in range(3):
        provider.read()
        assert opened() == ["meminfo", "memory.current", "memory.max", "memory.stat"]
    provider.close()
    provider.close()

    assert opened() == []
    with pytest.raises(host.ReadingUnavailable, match=r"^the provider is closed$"):
        provider.read()


def test_the_dear_file_is_read_only_where_it_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = v2_tree(tmp_path, limit=str(900 * MIB), usage=MIB)
    read: list[bytes] = []

    def working_set(layout: object, usage: int, stat: bytes) -> int:
        read.append(stat)
        return usage

    monkeypatch.setattr(cgroup, "working_set", working_set)
    provider = host.CgroupProvider(root)

    provider.read()
    assert read == []  # 899 MiB are left at least, and the machine has 768
    write_tree(tmp_path, group_files("/app", str(900 * MIB), 800 * MIB))
    provider.read()
    assert len(read) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on_reading(tmp_path: Path) -> None:
    """F41: what is open in the parent serves the child as well."""
    root = v2_tree(tmp_path, usage=60 * MIB)
    run_isolated(f"""
        import os
        from memquota import host

        provider = host.detect({root!r})
        provider.read()
        child = os.fork()
        if not child:
            os._exit(provider.provider.read().available // 1024**2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 40
    """)
