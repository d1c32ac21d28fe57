"""Which groups limit this process, and which of them can be seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota.host.parse import Groups, Malformed, Mount
from memquota.host.place import Level, memory_places, unified_places

NAMES = st.lists(st.sampled_from(["a", "b", "c d", "e"]), max_size=4)


def path_of(names: list[str]) -> str:
    return "/" + "/".join(names)


def levels(own: str, root: str, point: str = "/cg") -> list[tuple[str, str]]:
    places, _ = memory_places(Groups(None, own), [Mount(2, root, point, True)])
    return [(level.path, level.directory) for place in places for level in place.levels]


@pytest.mark.parametrize(
    ("own", "root", "expected"),
    [
        ("/", "/", [("/", "/cg")]),
        ("/a/b", "/", [("/a/b", "/cg/a/b"), ("/a", "/cg/a"), ("/", "/cg")]),
        ("/a/b", "/a", [("/a/b", "/cg/b"), ("/a", "/cg")]),
        ("/a/b", "/a/b", [("/a/b", "/cg")]),
        ("/a/a", "/a", [("/a/a", "/cg/a"), ("/a", "/cg")]),
        ("/ab", "/a", []),
        ("/a", "/a/b", []),
        ("/", "/a", []),
        # Above the namespace's root: beneath a mount that reaches higher, unknown names between.
        ("/", "/..", [("/..", "/cg")]),
        ("/a", "/../..", [("/../..", "/cg")]),
        ("/../x/y", "/..", [("/../x/y", "/cg/x/y"), ("/../x", "/cg/x"), ("/..", "/cg")]),
        ("/../x", "/", []),
        ("/", "/../x", []),
    ],
)
def test_levels_run_from_the_own_group_to_the_mounts_root(own: str, root: str, expected: list[tuple[str, str]]) -> None:
    """F47: every level from the own group up to the mount's root, and no other group's."""
    assert levels(own, root) == expected


@given(above=NAMES, below=NAMES, point=NAMES)
def test_whatever_the_paths_each_level_is_one_shorter_and_lies_in_the_mount(
    above: list[str], below: list[str], point: list[str]
) -> None:
    own, root, mount = path_of(above + below), path_of(above), path_of(point)

    found = levels(own, root, mount)

    assert len(found) == len(below) + 1
    for depth, (path, directory) in enumerate(reversed(found)):
        assert path == path_of(above + below[:depth])
        assert directory == path_of(point + below[:depth])


@given(own=NAMES, root=NAMES)
def test_a_group_that_is_not_above_is_never_a_level(own: list[str], root: list[str]) -> None:
    found = levels(path_of(own), path_of(root))

    assert bool(found) == (own[: len(root)] == root)


def test_the_hierarchy_with_the_memory_controller_is_chosen() -> None:
    """F47: with both versions mounted, the one that controls memory decides."""
    mounts = [
        Mount(2, "/", "/unified", True),
        Mount(1, "/", "/cpu", False),
        Mount(1, "/", "/memory", True),
    ]

    places, why = memory_places(Groups("/one", "/two"), mounts)

    assert [place.levels[0] for place in places] == [Level("/one", "/memory/one")]
    assert why == ("the memory controller is in a version 1 hierarchy; /one is seen at /memory/one")
    unified = unified_places(Groups("/one", "/two"), mounts)
    assert [place.levels[0] for place in unified] == [Level("/two", "/unified/two")]


def test_the_mount_that_shows_most_is_preferred_and_then_the_latest() -> None:
    mounts = [
        Mount(2, "/a", "/part", True),
        Mount(2, "/", "/first", True),
        Mount(2, "/", "/second", True),
    ]

    places, _ = memory_places(Groups(None, "/a/b"), mounts)

    assert [place.levels[0].directory for place in places] == ["/second/a/b", "/first/a/b", "/part/b"]


@pytest.mark.parametrize(
    ("groups", "mounts", "why", "but"),
    [
        (Groups(None, None), [], "this process is in no control group that could limit memory", ""),
        (
            Groups("/a", "/b"),
            [Mount(2, "/", "/cg", True)],
            "the memory controller is in a version 1 hierarchy",
            "the group /a cannot be seen there (mounted: nowhere)",
        ),
        (
            Groups(None, "/a"),
            [Mount(2, "/b", "/cg", True)],
            "no version 1 hierarchy has the memory controller",
            "the group /a cannot be seen there (mounted: /cg)",
        ),
    ],
)
def test_where_nothing_is_visible_it_says_why(groups: Groups, mounts: list[Mount], why: str, but: str) -> None:
    assert memory_places(groups, mounts) == ([], f"{why}, but {but}" if but else why)
    assert unified_places(Groups(None, None), mounts) == []


def test_where_the_own_group_is_hidden_it_says_what_is_seen() -> None:
    (place,), why = memory_places(Groups(None, "/a"), [Mount(2, "/..", "/cg", True)])

    assert why == ("no version 1 hierarchy has the memory controller; /.., above /a, is seen at /cg, no group between")
    assert place.why == why


@pytest.mark.parametrize("later", ["ours", "host's"])
def test_a_view_of_the_own_group_is_preferred_to_one_of_its_ancestors_only(later: str) -> None:
    """F47: a container into which the host's hierarchy is mounted besides its own, as monitoring agents have it."""
    mounts = [Mount(2, "/", "/sys/fs/cgroup", True), Mount(2, "/../..", "/host/sys/fs/cgroup", True)]
    if later == "ours":
        mounts.reverse()

    places, why = memory_places(Groups(None, "/"), mounts)

    assert places[0].levels == (Level("/", "/sys/fs/cgroup"),)
    assert why.endswith("; / is seen at /sys/fs/cgroup")


def test_a_path_that_climbs_in_the_middle_is_malformed() -> None:
    with pytest.raises(Malformed, match=r"not the path of a control group: '/a/\.\./b'"):
        levels("/a/../b", "/")
