"""Where in the control group hierarchies this process is, from two files; no I/O.

Source: cgroups(7) and cgroup_namespaces(7); the kernel's admin-guide/cgroup-v1/cgroups.rst and
admin-guide/cgroup-v2.rst; `/proc/PID/mountinfo` in proc(5).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from memquota.host.parse import Groups, Malformed, Mount


@dataclass(frozen=True, slots=True)
class Level:
    """A control group that this process is in, at a place where its files can be seen."""

    path: str
    """Its path in the hierarchy, as `/proc/self/cgroup` writes it."""
    directory: str
    """Where its files are."""


@dataclass(frozen=True, slots=True)
class Place:
    """The own control group and every visible one above it, the own one first."""

    version: int
    levels: tuple[Level, ...]
    why: str
    """How it was found, in a sentence."""


def memory_places(groups: Groups, mounts: list[Mount]) -> tuple[list[Place], str]:
    """Where the memory of this process is limited: the best view first, and why if there is none.

    The memory controller belongs to one hierarchy only. Where `/proc/self/cgroup` names it in one
    of version 1, that one decides, also when a version 2 hierarchy is there for other things.
    """
    if groups.memory is not None:
        version, own = 1, groups.memory
        reason = "the memory controller is in a version 1 hierarchy"
    elif groups.unified is not None:
        version, own = 2, groups.unified
        reason = "no version 1 hierarchy has the memory controller"
    else:
        return [], "this process is in no control group that could limit memory"
    return _places(version, own, reason, mounts)


def unified_places(groups: Groups, mounts: list[Mount]) -> list[Place]:
    """Where this process is in the version 2 hierarchy, which alone tells pressure by group."""
    if groups.unified is None:
        return []
    return _places(2, groups.unified, "version 2 hierarchies tell pressure", mounts)[0]


def _places(version: int, own: str, reason: str, mounts: list[Mount]) -> tuple[list[Place], str]:
    of_this_kind = [mount for mount in mounts if mount.memory and mount.version == version]
    places = []
    for mount in reversed(of_this_kind):  # a later mount hides an earlier one
        levels = tuple(_visible(own, mount))
        if levels:
            why = f"{reason}; {own} is seen at {levels[0].directory}"
            if levels[0].path != own:
                why = f"{reason}; {levels[0].path}, above {own}, is seen at {levels[0].directory}, no group between"
            places.append(Place(version, levels, why))
    # The own group and as many above it as can be seen; a view that shows only some group above it comes last.
    places.sort(key=lambda place: (place.levels[0].path == own, len(place.levels)), reverse=True)
    if places:
        return places, places[0].why
    seen = ", ".join(mount.point for mount in of_this_kind) or "nowhere"
    return [], f"{reason}, but the group {own} cannot be seen there (mounted: {seen})"


def _visible(own: str, mount: Mount) -> Iterable[Level]:
    """The levels from the own group up to the mount's root, which may be the own group itself.

    Both paths are relative to the root of the reader's namespace, and start with `/..` where they
    lie above it.
    """
    up, names = _split(own)
    root_up, root_names = _split(mount.root)
    if root_up > up and not root_names:
        # The mount reaches above our namespace: its root is above us, the names between are hidden.
        below: list[str] = []
        own = mount.root
    elif root_up == up and names[: len(root_names)] == root_names:
        below = names[len(root_names) :]
    else:
        return  # some other group: its limits are not ours
    base = own.rstrip("/").removesuffix("/" + "/".join(below)) if below else own
    for depth in range(len(below), -1, -1):
        tail = "".join(f"/{name}" for name in below[:depth])
        path = base.rstrip("/") + tail or "/"
        yield Level(path, (mount.point.rstrip("/") + tail) or "/")


def _split(path: str) -> tuple[int, list[str]]:
    names = [name for name in path.split("/") if name]
    up = 0
    while up < len(names) and names[up] == "..":
        up += 1
    names = names[up:]
    if ".." in names or not path.startswith("/"):
        raise Malformed(f"not the path of a control group: {path!r}")
    return up, names
