"""Trees of files to read."""

import json
import re
from pathlib import Path
from typing import Any

TREES = Path(__file__).with_name("trees")

ROOT_MOUNT = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
V2_MOUNT = "30 27 0:30 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
MEMINFO = "MemTotal: 1048576 kB\nMemFree: 524288 kB\nMemAvailable: 786432 kB\n"

MIB = 1024**2
GIB = 1024**3


def expected_of(tree: Path) -> dict[str, Any]:
    """What the README of a recorded tree says must be read from it."""
    block = re.search(r"```json\n(.*?)```", (tree / "README.md").read_text(), re.DOTALL)
    assert block is not None
    found = json.loads(block[1])
    assert isinstance(found, dict)
    return found


def write_tree(root: Path, files: dict[str, str | bytes]) -> str:
    """Write the files and give the root back as the text that the room wants."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(root)


def group_files(path: str, limit: str, usage: int, inactive: int = 0) -> dict[str, str | bytes]:
    """The memory files of a version 2 group."""
    group = f"sys/fs/cgroup{path}"
    return {
        f"{group}/memory.max": f"{limit}\n",
        f"{group}/memory.current": f"{usage}\n",
        f"{group}/memory.stat": f"anon 0\ninactive_file {inactive}\nactive_file 0\n",
    }


def v2_tree(root: Path, *, group: str = "/app", limit: str = "104857600", usage: int = MIB) -> str:
    """A machine of 1 GiB, 768 MiB of it available, with one version 2 group that is ours."""
    return write_tree(
        root,
        {
            "proc/self/cgroup": f"0::{group}\n",
            "proc/self/mountinfo": ROOT_MOUNT + V2_MOUNT,
            "proc/meminfo": MEMINFO,
            **group_files(group, limit, usage),
        },
    )
