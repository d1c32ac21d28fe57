"""The compiled part, which is optional; everything else is said in pyproject.toml.

Without a compiler, or without Python's headers, the installation goes on without it, and
`memquota.accounting.allocations.why_not()` says so.
"""

import os

from setuptools import Extension, setup

ROOM = "src/memquota/accounting"

ALLOCATIONS = Extension(
    "memquota.accounting._allocations",
    sources=[f"{ROOM}/_allocations.c"],
    depends=[f"{ROOM}/_block_table.h", f"{ROOM}/_group_books.h"],
    extra_compile_args=["-std=gnu11", "-Wall", "-Wextra"],
    libraries=["pthread"],
    optional=True,
)

# Its threads and its memory are POSIX.
setup(ext_modules=[ALLOCATIONS] if os.name == "posix" else [])
