"""Readings, the fixed provider, the choice of a source, and the quota that fits."""

import copy
import dataclasses
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota import host
from memquota.errors import UsageTypeError, UsageValueError
from memquota.testing import FakeClock
from tests.host.support import GIB, MEMINFO, MIB, TREES, write_tree


@pytest.mark.parametrize(
    ("limit", "available", "fraction"),
    [(100, 100, 0.0), (100, 25, 0.75), (100, 0, 1.0), (100, 400, 0.0), (0, 0, 1.0)],
)
def test_the_fraction_is_what_is_not_available(limit: int, available: int, fraction: float) -> None:
    reading = host.MemoryReading(limit, 7, available, "fixed", "fixed", 0.0)

    assert reading.fraction == fraction


@pytest.mark.parametrize(
    "value",
    [
        host.MemoryReading(1, 1, 1, "fixed", "fixed", 0.0),
        host.Stall(0.0, 0.0, 0.0, 0.0),
        host.PressureReading(host.Stall(0.0, 0.0, 0.0, 0.0), host.Stall(0.0, 0.0, 0.0, 0.0), "machine"),
        host.AllocatorReading("glibc", 1, 1, 0),
        host.Limit("memory.max", "/a", "hard", "", ""),
        host.Limits((), "", None),
    ],
)
def test_what_was_read_cannot_be_changed(value: object) -> None:
    (name, *_) = (field.name for field in dataclasses.fields(value))  # type: ignore[arg-type]

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, getattr(value, name))
    assert hash(value) == hash(copy.copy(value))


def test_anyones_own_source_is_a_provider(tmp_path: Path) -> None:
    class Mine:
        def read(self) -> host.MemoryReading:
            return host.MemoryReading(1000, 950, 50, "mine", "here", 0.0)

    assert isinstance(Mine(), host.Provider)
    assert not isinstance(object(), host.Provider)
    with host.CachedProvider(Mine()) as provider:
        assert provider.read().source == "mine"


def test_a_fixed_provider_says_what_it_is_told() -> None:
    clock = FakeClock(1000.0)
    provider = host.FixedProvider("1KiB", 24, clock=clock)

    assert provider.read() == host.MemoryReading(1024, 24, 1000, "fixed", "fixed", 1000.0)
    provider.set(used=2000)
    assert provider.read().available == 0
    provider.set(limit=3000)
    assert provider.read().available == 1000
    clock.set(1001.0)
    assert provider.read().time == 1001.0


def test_a_fixed_provider_fails_when_told_and_until_told_otherwise() -> None:
    provider = host.FixedProvider(100)
    provider.fail("out of order")

    for _ in range(2):
        with pytest.raises(host.ReadingUnavailable, match=r"^out of order$"):
            provider.read()
    provider.set(used=1)
    assert provider.read().used == 1


def test_a_refused_size_changes_nothing() -> None:
    provider = host.FixedProvider(100, 10)
    before = provider.read()

    with pytest.raises(UsageValueError, match="used must not be negative"):
        provider.set(limit=50, used=-1)
    with pytest.raises(UsageTypeError, match="limit must be a whole number of bytes"):
        host.FixedProvider(1.5)  # type: ignore[arg-type]

    assert (provider.read().limit, provider.read().used) == (before.limit, before.used)


def test_an_unavailable_reading_is_an_oserror() -> None:
    assert issubclass(host.ReadingUnavailable, OSError)


def test_every_source_is_a_provider(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"proc/meminfo": MEMINFO})

    for provider in (
        host.FixedProvider(1),
        host.MeminfoProvider(root),
        host.CgroupProvider(root),
        host.CachedProvider(host.FixedProvider(1)),
        host.CountingAllocator(host.FixedProvider(1)),
    ):
        assert isinstance(provider, host.Provider)


def test_meminfo_is_read_anew_each_time_and_recovers(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"proc/meminfo": MEMINFO})
    provider = host.MeminfoProvider(root, clock=FakeClock(1000.0))

    assert provider.read() == host.MemoryReading(GIB, 256 * MIB, 768 * MIB, "meminfo", "machine", 1000.0)
    write_tree(tmp_path, {"proc/meminfo": "MemTotal: 1048576 kB\nMemAvailable: 1024 kB\n"})
    assert provider.read().available == MIB
    write_tree(tmp_path, {"proc/meminfo": ""})
    with pytest.raises(host.ReadingUnavailable, match=r"/proc/meminfo: "):
        provider.read()
    (tmp_path / "proc/meminfo").unlink()  # what comes now is another file
    write_tree(tmp_path, {"proc/meminfo": MEMINFO})
    assert provider.read().available == 768 * MIB
    provider.close()
    provider.close()
    with pytest.raises(host.ReadingUnavailable, match="the provider is closed"):
        provider.read()


def test_psutil_reads_the_machine() -> None:
    from memquota.host.with_psutil import PsutilProvider

    reading = PsutilProvider(clock=FakeClock(1000.0)).read()

    assert (reading.source, reading.level, reading.time) == ("psutil", "machine", 1000.0)
    assert reading.used + reading.available == reading.limit > 0


def test_a_failing_psutil_is_an_unavailable_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    from memquota.host.with_psutil import PsutilProvider

    def fail() -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "virtual_memory", fail)

    with pytest.raises(host.ReadingUnavailable, match=r"^psutil: "):
        PsutilProvider().read()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_this_machine_is_read() -> None:
    with host.detect() as provider:
        reading = provider.read()

    assert 0 <= reading.available <= reading.limit
    assert reading.limit <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_detect_takes_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(host.detect(str(TREES / "v1")).provider, host.CgroupProvider)
    only_meminfo = write_tree(tmp_path, {"proc/meminfo": MEMINFO})
    assert isinstance(host.detect(only_meminfo).provider, host.MeminfoProvider)

    with pytest.raises(host.ReadingUnavailable, match="no source of memory readings"):
        host.detect(str(tmp_path / "nowhere"))


def test_detect_falls_back_to_psutil_where_there_is_no_proc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from memquota.host.with_psutil import PsutilProvider

    monkeypatch.setattr("os.path.exists", lambda path: False)

    assert isinstance(host.detect().provider, PsutilProvider)
    assert isinstance(host.detect("//").provider, PsutilProvider)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(host.ReadingUnavailable, match="psutil is not installed"):
        host.detect()


@pytest.mark.parametrize(
    ("limit", "quota"),
    [
        ("1", 256 * MIB),
        ("128MiB", 256 * MIB),
        ("512MiB", 384 * MIB),
        ("4GiB", 3 * GIB),
        (8 * GIB - 4, 6 * GIB - 3),
        ("8GiB", 8 * GIB * 2 // 5),
        ("16GiB", 16 * GIB * 2 // 5),
        ("20GiB", 8 * GIB),
        ("1TiB", 8 * GIB),
    ],
)
def test_the_default_quota_follows_the_rule(limit: int | str, quota: int) -> None:
    assert host.default_quota(limit) == quota


def test_the_default_quota_of_nothing_is_refused() -> None:
    """F46: a limit of 0 is a reading, but nothing to set up a quota from."""
    with pytest.raises(UsageValueError, match="limit must not be 0"):
        host.default_quota(0)
    with pytest.raises(UsageTypeError, match="limit must be a whole number of bytes"):
        host.default_quota(None)  # type: ignore[arg-type]


@given(st.integers(1, 2**62))
def test_the_default_quota_stays_within_its_bounds(limit: int) -> None:
    quota = host.default_quota(limit)

    assert 256 * MIB <= quota <= 8 * GIB
    assert quota == 256 * MIB or quota <= limit * 3 // 4
