"""The files of the memory controller of cgroup version 2.

Source: the kernel's admin-guide/cgroup-v2.rst, "Memory Interface Files". A group where the
controller is not enabled, and the root of all, have none of them.
"""

from typing import Final

from memquota.host.layout import Layout

V2: Final = Layout(
    source="cgroup v2",
    limit="memory.max",
    usage="memory.current",
    soft="memory.high",
    inactive_file=b"inactive_file",
)
