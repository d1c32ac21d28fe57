"""The files of the memory controller of cgroup version 1.

Source: the kernel's admin-guide/cgroup-v1/memory.rst. `usage_in_bytes` is approximate (section
5.5); `total_` fields of `memory.stat` include the groups below (section 5.2).
"""

from typing import Final

from memquota.host import parse
from memquota.host.files import read_once
from memquota.host.layout import Layout

V1: Final = Layout(
    source="cgroup v1",
    limit="memory.limit_in_bytes",
    usage="memory.usage_in_bytes",
    soft="memory.soft_limit_in_bytes",
    inactive_file=b"total_inactive_file",
)


def counts_children(directory: str) -> bool:
    """Whether the group's usage and limit include the groups below it.

    Until Linux 5.11 that could be switched off; since then it is always so.
    """
    try:
        return parse.number(read_once(f"{directory}/memory.use_hierarchy")) != 0
    except FileNotFoundError:
        return True


def hidden_limit(stat: bytes, own: int | None) -> int | None:
    """The limit of a group above the topmost visible one, where it is less than that one's own.

    Args:
        stat: The `memory.stat` of the topmost visible group.
        own: That group's own limit.
    """
    least = parse.field(stat, b"hierarchical_memory_limit")
    effective = None if least is None else parse.limit(b"%d" % least)
    return effective if effective is not None and (own is None or effective < own) else None
