"""`examples/ingest.py`: three components under bounds and groups, over real files."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memquota.accounting import allocations

WATCHDOG = 120.0
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROGRAM = EXAMPLES / "ingest.py"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real files: a package of the standard library."""
    package = Path(ast.__file__).parent / "asyncio"
    return Path(shutil.copytree(package, tmp_path_factory.mktemp("sources") / "asyncio"))


def rows(report: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in report.splitlines() if line}


def test_everything_in_the_files_is_written_down_and_the_report_says_who_used_what(
    sources: Path, tmp_path: Path
) -> None:
    done = run(sources, tmp_path / "index.jsonl", "--limit", "256MiB")

    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    expected = [
        (path.name, node.lineno, node.name)
        for path in sources.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    assert sorted((entry["file"], entry["line"], entry["name"]) for entry in found) == sorted(expected)
    assert done.stdout.endswith(
        f"{len(list(sources.rglob('*.py')))} files, {len(expected)} lines\n0 files too large, 0 no Python\n"
    )
    last = rows(done.stdout)
    assert last["all"][:6] == ["129.1", "MiB", "137.1", "MiB", "0", "B"]
    assert last["parser"][:6] == ["128.0", "MiB", "132.0", "MiB", "0", "B"]
    seconds = {name: float(last[name][-2]) for name in ("all", "reader", "parser", "writer")}
    assert seconds["parser"] > seconds["reader"] + seconds["writer"]
    assert seconds["all"] == pytest.approx(sum(seconds.values()) - seconds["all"], abs=0.02)


def test_reports_come_while_it_runs_and_nobody_exceeds_what_it_declared(sources: Path, tmp_path: Path) -> None:
    done = run(sources, tmp_path / "index.jsonl", "--limit", "256MiB", "--every", "0.001")

    reports = [rows(report) for report in done.stdout.split("\n\n")]
    assert done.returncode == 0
    assert len(reports) > 1  # how many depends on how often they get a turn
    for report in reports:
        for name in ("reader", "parser", "writer"):
            # What is left of the firm limit, by claims or by live bytes.
            assert not report[name][-4].startswith("-")
    if allocations.available():
        assert any(re.match(r"\d.* [KM]iB", " ".join(report["parser"][6:8])) for report in reports)


def test_what_does_not_fit_does_not_start(sources: Path, tmp_path: Path) -> None:
    done = run(sources, tmp_path / "index.jsonl", "--limit", "64MiB")

    assert (done.returncode, done.stdout) == (1, "")
    assert "  ingest.parser 128.0 MiB = INGEST_MAX_FILE=1_048_576 * tree for a byte=128" in done.stderr
    assert not (tmp_path / "index.jsonl").exists()


@pytest.mark.parametrize(
    ("directory", "limit", "complaint"),
    [("nowhere", "256MiB", "there is no directory"), (".", "256M", "limit '256M' is ambiguous")],
)
def test_what_it_cannot_run_with_is_told_in_a_line(tmp_path: Path, directory: str, limit: str, complaint: str) -> None:
    done = run(tmp_path / directory, tmp_path / "index.jsonl", "--limit", limit)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"ingest.py: error: {complaint}" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "index.jsonl").exists()


def test_a_file_above_the_configured_size_is_left_out_and_one_that_is_no_python_hurts_nobody(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text("x = 1\n" * 10_000)
    (tmp_path / "no_python.py").write_text("def")
    (tmp_path / "null.py").write_bytes(b"\0")
    (tmp_path / "small.py").write_text("def small():\n    'What it does.\\n\\nMore.'\n")

    done = run(tmp_path, tmp_path / "index.jsonl", "--limit", "64MiB", INGEST_MAX_FILE="16KiB")

    assert done.returncode == 0
    assert done.stdout.endswith("1 files, 1 lines\n1 files too large, 2 no Python\n")
    assert json.loads((tmp_path / "index.jsonl").read_text()) == {
        "file": "small.py",
        "line": 1,
        "name": "small",
        "doc": "What it does.",
    }


@pytest.mark.parametrize("failing", ["reader", "writer"])
def test_when_one_component_fails_the_others_end_and_its_error_is_told(
    sources: Path, tmp_path: Path, failing: str
) -> None:
    directory = tmp_path / "files"
    shutil.copytree(sources, directory)
    output = tmp_path / "index.jsonl"
    if failing == "reader":
        (directory / "zz.py").symlink_to(tmp_path / "nowhere")
    else:
        output = tmp_path / "no_such_directory" / "index.jsonl"

    done = run(directory, output, "--limit", "256MiB", INGEST_QUEUE="64KiB", INGEST_MAX_FILE="128KiB")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("FileNotFoundError")


def test_its_registry_can_be_checked_before_it_starts() -> None:
    def check(limit: str, **environment: str) -> int:
        source = "import sys; from memquota.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-P", "-c", source, "check", "ingest:registry", "--limit", limit],
            cwd=EXAMPLES,
            capture_output=True,
            timeout=WATCHDOG,
            check=False,
            env={**os.environ, **environment},
        ).returncode

    assert check("256MiB") == 0
    assert check("64MiB") == 1
    assert check("64MiB", INGEST_MAX_FILE="256KiB") == 0
    assert check("64MiB", INGEST_MAX_FILE="256K") == 2
