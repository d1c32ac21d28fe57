"""What the public functions of the room make of arguments."""

from collections.abc import Callable
from pathlib import Path

import pytest

from memquota import UsageError, UsageTypeError, UsageValueError, host
from tests.host.support import MIB, TREES, v2_tree

ROOTS: dict[str, Callable[..., object]] = {
    "detect": lambda root: host.detect(root).read().limit,
    "limits": lambda root: host.limits(root).effective,
    "pressure": host.pressure,
    "resident_size": host.resident_size,
    "CgroupProvider": lambda root: host.CgroupProvider(root).read().limit,
    "MeminfoProvider": lambda root: host.MeminfoProvider(root).read().limit,
    "PressureProvider": lambda root: host.PressureProvider(root=root).read(),
    "PressureWatch": lambda root: host.PressureWatch(print, root=root).close(),
}


@pytest.fixture(params=ROOTS)
def read(request: pytest.FixtureRequest) -> Callable[..., object]:
    return ROOTS[str(request.param)]


def test_a_root_may_be_a_path_and_may_end_with_a_slash(tmp_path: Path, read: Callable[..., object]) -> None:
    root = Path(v2_tree(tmp_path, limit=str(100 * MIB)))
    (root / "proc/self/statm").write_text("9000 300 200 1 0 500 0\n")
    (root / "proc/pressure").mkdir()
    line = "avg10=1.50 avg60=0.75 avg300=0.25 total=7"
    (root / "proc/pressure/memory").write_text(f"some {line}\nfull {line}\n")

    expected = read(str(root))

    assert read(root) == read(f"{root}//") == expected


@pytest.mark.parametrize("root", [None, 5, b"/", object()])
def test_a_root_that_is_no_path_is_refused(read: Callable[..., object], root: object) -> None:
    with pytest.raises(UsageTypeError, match="root must be the path of a directory"):
        read(root)


@pytest.mark.parametrize("root", ["", "/a\0b"])
def test_a_root_that_can_be_no_path_is_refused(read: Callable[..., object], root: str) -> None:
    with pytest.raises(UsageValueError, match="root must be the path of a directory"):
        read(root)


@pytest.mark.parametrize(
    "make",
    [
        lambda clock: host.detect(clock=clock),
        lambda clock: host.CgroupProvider(clock=clock),
        lambda clock: host.MeminfoProvider(clock=clock),
        lambda clock: host.PressureProvider(clock=clock),
        lambda clock: host.PressureWatch(print, root=str(TREES / "v2"), clock=clock),
        lambda clock: host.FixedProvider(1, clock=clock),
        lambda clock: host.CachedProvider(host.FixedProvider(1), clock=clock),
    ],
)
def test_a_clock_that_is_none_is_refused(make: Callable[[object], object]) -> None:
    with pytest.raises(UsageTypeError, match="a clock must be callable, not 5"):
        make(5)


@pytest.mark.parametrize("name", ["every", "held_for"])
@pytest.mark.parametrize("seconds", [-0.1, float("nan"), True, "1", None])
def test_times_of_a_cache_are_seconds(name: str, seconds: object) -> None:
    with pytest.raises(UsageError, match=f"{name} must"):
        host.CachedProvider(host.FixedProvider(1), **{name: seconds})  # type: ignore[arg-type]


def test_a_cache_of_no_time_at_all_asks_each_time() -> None:
    fixed = host.FixedProvider(1)
    provider = host.CachedProvider(fixed, every=0, held_for=0)
    assert provider.read().limit == 1

    fixed.set(limit=2)

    assert provider.read().limit == 2


def test_what_is_no_provider_cannot_be_cached() -> None:
    with pytest.raises(UsageTypeError, match="a provider must have a method read"):
        host.CachedProvider(object())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [{"callback": None}, {"stall": "1"}, {"stall": True}, {"window": None}, {"window": "2"}],
)
def test_a_watch_of_wrong_arguments_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageTypeError, match=next(iter(arguments))):
        host.PressureWatch(**{"callback": print, "root": str(TREES / "v2"), **arguments})  # type: ignore[arg-type]
