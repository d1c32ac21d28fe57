"""The package is built and works with a compiler and without one."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.watchdog import ROOT

NEEDED = ["pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"]

ASK = """
from memquota.accounting import allocations
import memquota
assert memquota.__file__.startswith({site!r}), memquota.__file__
print(allocations.available(), allocations.why_not())
number = allocations.register("something")
if allocations.available():
    with allocations.tracking():
        allocations.enter(number)
        kept = bytes(1000)
        allocations.enter(0)
        assert allocations.statistics(number).live_bytes >= 1033
else:
    assert allocations.statistics(number) is None
"""


def built(where: Path, compiler: str | None) -> Path:
    """A wheel of a copy of the sources, unpacked."""
    source = where / "source"
    source.mkdir()
    for name in NEEDED:
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "examples", source / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | ({} if compiler is None else {"CC": compiler})
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(where)],
        cwd=source,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = where.glob("*.whl")
    site = where / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def asked(site: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(site=str(site))],
        env=os.environ | {"PYTHONPATH": str(site)},
        cwd=site,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_compiler_it_installs_and_says_what_is_missing(tmp_path: Path) -> None:
    site = built(tmp_path, "/bin/false")

    assert list(site.glob("memquota/accounting/_allocations*.so")) == []
    said = asked(site)
    assert said.startswith("False the compiled part was not built when memquota was installed: that takes a C compiler")


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="NO COMPILER: nothing can be built here")
def test_with_a_compiler_the_compiled_part_is_built(tmp_path: Path) -> None:
    site = built(tmp_path, None)

    assert asked(site) == "True None\n"
    assert list(site.glob("memquota/accounting/*.[ch]")) == []


def test_a_source_distribution_has_all_that_it_takes(tmp_path: Path) -> None:
    """Each header that the sources include is in it."""
    includes = {
        line.split('"')[1]
        for path in (ROOT / "src/memquota/accounting").glob("*.[ch]")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith('#include "')
    }

    assert (ROOT / "MANIFEST.in").read_text(encoding="utf-8") == "include src/memquota/accounting/*.h\n"
    assert all((ROOT / "src/memquota/accounting" / name).exists() for name in includes)
    assert includes >= {"_block_table.h", "_group_books.h"}
