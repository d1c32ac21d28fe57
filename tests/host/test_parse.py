"""What the kernel's files say, and that nothing else is believed."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota.host import parse

# Names of groups: whatever the kernel allows, and it escapes some of it in mountinfo.
NAMES = st.text(st.characters(exclude_characters="/\n\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..") and not name.endswith(" (deleted)")
)
PATHS = st.lists(NAMES, max_size=4).map(lambda names: "/" + "/".join(names))

PARSERS: list[Callable[[bytes], object]] = [
    parse.number,
    parse.limit,
    parse.meminfo,
    parse.resource_limits,
    parse.pressure,
    parse.own_groups,
    parse.mounts,
    lambda data: parse.field(data, b"inactive_file"),
    lambda data: parse.kilobytes(data, b"MemTotal"),
]


def escaped(path: str) -> str:
    """As the kernel writes a path in mountinfo."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in path)


@pytest.mark.parametrize("content", [b"max", b"max\n", b"9223372036854771712\n", b"9223372036854710272\n"])
def test_no_limit_is_read_as_none(content: bytes) -> None:
    """F46: `max` and the huge sentinel of version 1 are unlimited."""
    assert parse.limit(content) is None


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (b"0", 0),
        (b"0\n", 0),
        (b"4096\n", 4096),
        (b"%d\n" % 2**61, 2**61),
        (b"%d\n" % 2**70, 2**62),
        (b"%d\n" % 2**63, 2**62),
    ],
)
def test_a_limit_is_a_number_and_an_absurd_one_is_cut_down(content: bytes, limit: int) -> None:
    """F46: 0 is a limit, and 2**70 is cut down to the largest size that is believed."""
    assert parse.limit(content) == limit


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"-1",
        b"-1\n",
        b"+1\n",
        b" 1\n",
        b"1 \n",
        b"1_000\n",
        b"1.0\n",
        b"1e9\n",
        b"MAX\n",
        b"max max\n",
        b"1\n2\n",
        b"12\x0034\n",
        b"\0",
        b"garbage\n",
        b"\xff\xfe\xfd",
        "\N{ARABIC-INDIC DIGIT FIVE}\n".encode(),
        b"9" * 10_000,
        b"0" * 10_000_000,
    ],
)
def test_what_is_no_number_is_unknown(content: bytes) -> None:
    """F46: empty, negative, garbage, NUL, not UTF-8 and a file of 10 MB are unknown, never 0."""
    with pytest.raises(parse.Malformed):
        parse.limit(content)
    with pytest.raises(parse.Malformed):
        parse.number(content)


@given(st.integers(0, 2**80))
def test_every_number_is_read_back(value: int) -> None:
    content = b"%d\n" % value

    assert parse.number(content) == value
    unlimited = 2**63 - 2**16 <= value < 2**63
    assert parse.limit(content) == (None if unlimited else min(value, 2**62))


@pytest.mark.parametrize("parser", PARSERS)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_value_or_malformed(parser: Callable[[bytes], object], data: bytes) -> None:
    """F46: nothing else is raised, whatever a file has in it."""
    try:
        parser(data)
        said = ""
    except parse.Malformed as error:
        said = str(error)

    assert len(said) < 400  # it goes into logs


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), st.integers(0, 2**64)),
    st.data(),
)
def test_a_cut_off_stat_file_never_gives_a_wrong_value(fields: dict[str, int], data: st.DataObject) -> None:
    """F45: a truncated file gives the right value or none."""
    whole = "".join(f"{key} {value}\n" for key, value in fields.items()).encode()
    cut = whole[: data.draw(st.integers(0, len(whole)))]

    for key, value in fields.items():
        assert parse.field(whole, key.encode()) == value
        try:
            assert parse.field(cut, key.encode()) in (value, None)
        except parse.Malformed:
            pass


def test_a_field_is_found_by_its_whole_name_only() -> None:
    data = b"total_inactive_file 1\ninactive_file_x 2\nxinactive_file 3\ninactive_file 4\n"

    assert parse.field(data, b"inactive_file") == 4
    assert parse.field(data, b"file") is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"MemTotal: 100 kB\nMemAvailable: 40 kB\n", (102400, 40960)),
        (b"MemTotal: 100 kB\nMemAvailable: 400 kB\n", (102400, 102400)),
        (b"MemTotal: 100 kB\nMemFree: 10 kB\nInactive(file): 5 kB\n", (102400, 15360)),
        (b"MemTotal: 100 kB\nMemFree: 10 kB\n", (102400, 10240)),
    ],
)
def test_meminfo_tells_the_total_and_what_is_available(data: bytes, expected: tuple[int, int]) -> None:
    assert parse.meminfo(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"MemTotal: 100 kB\n",
        b"MemAvailable: 100 kB\n",
        b"MemTotal: 0 kB\nMemAvailable: 0 kB\n",
        b"MemTotal: 100 MB\nMemAvailable: 1 kB\n",
        b"MemTotal: 100 kB\nMemAvailable: 1",
    ],
)
def test_meminfo_without_what_is_needed_is_malformed(data: bytes) -> None:
    with pytest.raises(parse.Malformed):
        parse.meminfo(data)


def test_resource_limits_are_those_in_bytes() -> None:
    data = (
        b"Limit                     Soft Limit           Hard Limit           Units     \n"
        b"Max cpu time              unlimited            unlimited            seconds   \n"
        b"Max data size             1048576              unlimited            bytes     \n"
        b"Max address space         unlimited            unlimited            bytes     \n"
    )

    assert parse.resource_limits(data) == {"Max data size": 1048576, "Max address space": None}


@given(
    some=st.tuples(*[st.integers(0, 10000)] * 3, st.integers(0, 2**50)),
    full=st.tuples(*[st.integers(0, 10000)] * 3, st.integers(0, 2**50)),
)
def test_pressure_is_read_back(some: tuple[int, int, int, int], full: tuple[int, int, int, int]) -> None:
    def line(kind: str, stall: tuple[int, int, int, int]) -> str:
        averages = [f"{part // 100}.{part % 100:02}" for part in stall[:3]]
        return "{} avg10={} avg60={} avg300={} total={}\n".format(kind, *averages, stall[3])

    found = parse.pressure((line("some", some) + line("full", full)).encode())

    assert found == tuple((*(part / 100 for part in stall[:3]), stall[3] / 1e6) for stall in (some, full))


@given(memory=st.none() | PATHS, unified=st.none() | PATHS)
def test_own_groups_are_read_back(memory: str | None, unified: str | None) -> None:
    lines = ["3:cpu,cpuacct:/elsewhere", "2:name=memory:/no/controller"]
    if memory is not None:
        lines.append(f"7:hugetlb,memory:{memory}")
    if unified is not None:
        lines.append(f"0::{unified}")
    data = "".join(f"{line}\n" for line in lines).encode()

    assert parse.own_groups(data) == parse.Groups(memory, unified)


@pytest.mark.parametrize("data", [b"", b"0::/a/b", b"0:/a\n", b"x::/a\n", b"0::a\n", b"\0\n"])
def test_a_cut_off_list_of_groups_is_malformed(data: bytes) -> None:
    """F45: half a path is another group's path."""
    with pytest.raises(parse.Malformed):
        parse.own_groups(data)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), PATHS, PATHS, st.booleans()), max_size=5))
def test_mounts_are_read_back(mounts: list[tuple[int, str, str, bool]]) -> None:
    lines = ["27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"]
    for version, root, point, memory in mounts:
        kind = "cgroup2" if version == 2 else "cgroup"
        options = "rw,cpu,memory" if memory else "rw,cpu,name=memory"
        paths = f"{escaped(root)} {escaped(point)}"
        lines.append(f"31 27 0:28 {paths} rw shared:4 master:1 - {kind} {kind} {options}")

    found = parse.mounts("".join(f"{line}\n" for line in lines).encode())

    assert found == [
        parse.Mount(version, root, point, memory or version == 2) for version, root, point, memory in mounts
    ]


@pytest.mark.parametrize("data", [b"", b"\n", b"rubbish", b"1 2 3 / - cgroup2 x\n"])
def test_a_list_without_mounts_is_malformed(data: bytes) -> None:
    with pytest.raises(parse.Malformed):
        parse.mounts(data)
