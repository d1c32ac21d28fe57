"""Which file says what; the two versions of control groups differ in little else."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """The memory files of a control group; `memory.stat` is called so in both versions."""

    source: str
    limit: str
    usage: str
    soft: str
    inactive_file: bytes
    """The field of `memory.stat` that counts inactive file pages, with the groups below."""
