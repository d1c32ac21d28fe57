"""The package is built from its source distribution, and works, with a compiler and without one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.watchdog import ROOT

#: Tests that run differently where there is no compiled part.
WHERE_IT_MATTERS = [
    "tests/accounting/test_allocations.py",
    "tests/accounting/test_groups_allocations.py",
    "tests/accounting/test_report.py",
    "tests/accounting/test_sampling.py",
    "tests/examples/test_ingest.py",
    "docs/howto/count-allocations.md",
    "docs/howto/read-the-report.md",
]

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


def run(build: str, *arguments: object, source: Path, compiler: str | None = None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from setuptools import build_meta; build_meta.{build}(*sys.argv[1:])"]
        + [str(argument) for argument in arguments],
        cwd=source,
        env=os.environ | ({} if compiler is None else {"CC": compiler}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def built(where: Path, compiler: str | None) -> Path:
    """A wheel of what is in a source distribution of a copy of the sources, unpacked."""
    copy = where / "copy"
    copy.mkdir()
    for name in NEEDED:
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "examples", copy / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    run("build_sdist", where, source=copy)
    (archive,) = where.glob("*.tar.gz")
    shutil.unpack_archive(archive, where / "source", filter="data")
    (source,) = (where / "source").iterdir()
    run("build_wheel", where, source=source, compiler=compiler)
    (wheel,) = where.glob("*.whl")
    site = where / "site"
    shutil.unpack_archive(wheel, site, format="zip")
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


def files(site: Path) -> set[str]:
    return {path.relative_to(site).as_posix() for path in site.glob("memquota/**/*") if path.is_file()}


#: What type checkers read, and what is Python.
TOLD = {"memquota/py.typed", "memquota/accounting/_allocations.pyi", "memquota/accounting/allocations.py"}


def test_without_a_compiler_it_installs_and_says_what_is_missing(tmp_path: Path) -> None:
    site = built(tmp_path, "/bin/false")

    assert files(site) >= TOLD
    assert list(site.glob("memquota/accounting/_allocations*.so")) == []
    said = asked(site)
    assert said.startswith("False the compiled part was not built when memquota was installed: that takes a C compiler")
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *WHERE_IT_MATTERS],
        env=os.environ | {"PYTHONPATH": str(site)},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout
    assert "NO EXACT SOURCE: the compiled part was not built" in tests.stdout


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="NO COMPILER: nothing can be built here")
def test_with_a_compiler_the_compiled_part_is_built(tmp_path: Path) -> None:
    site = built(tmp_path, None)

    assert asked(site) == "True None\n"
    assert files(site) >= TOLD
    assert list(site.glob("memquota/accounting/*.[ch]")) == []
