"""Hooks around CPython's allocators; see `memquota.accounting.allocations`, which everybody uses instead."""

def register() -> int:
    """A number for a group. OverflowError: all 65,534 are in use."""

def release(group: int, /) -> None:
    """The group is not entered any more; its number is given to another one when none of its blocks lives."""

def enter(group: int, /) -> int:
    """Allocations of this thread are the group's from now on, 0: nobody's. Whose they were."""

def read(group: int, /) -> tuple[int, int, int, int]:
    """Allocated bytes and objects, freed bytes and objects."""

def start() -> None:
    """Count, from zero; nothing happens where it counts already."""

def stop() -> None:
    """Do not count any more."""

def status() -> tuple[bool, bool, int, int]:
    """Whether it counts, whether all three hooks are reached, blocks for which the table had no room, and its bytes."""
