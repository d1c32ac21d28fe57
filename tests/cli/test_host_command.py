"""The command `memquota host`, on recorded trees, on this host and in a real group."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memquota import host
from memquota.cli import main
from tests.host.support import GIB, MIB, v2_tree
from tests.host.test_live_group import LiveGroup, new_group  # noqa: F401  # a fixture

#: Seconds that nothing here takes.
WATCHDOG = 60.0


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own, which ends by itself, should the test hang."""
    source = f"import faulthandler, sys; faulthandler.dump_traceback_later({WATCHDOG}, exit=True)\n"
    # A shell starts what runs in its background without Ctrl-C.
    source += "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    source += "from memquota.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", source, "host", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_json_says_what_the_room_host_says_and_what_auto_would_get(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = v2_tree(tmp_path, limit=str(100 * MIB), usage=10 * MIB)

    code = main(["host", "--json", "--root", root])

    found = as_json(capsys)
    assert code == 0
    assert found["effective"] == 100 * MIB
    assert found["auto"] == 75 * MIB
    assert (found["first"]["name"], found["first"]["level"]) == ("memory.max", "/app")
    assert found["first"]["distance"] == 90 * MIB
    assert [row["name"] for row in found["rows"]] == [row.name for row in host.limits(root).rows]
    assert found["pressure"] is None


@pytest.mark.parametrize(
    ("used", "arguments", "code"),
    [
        (89 * MIB, [], 0),
        (90 * MIB, [], 1),
        (100 * MIB, [], 1),
        (50 * MIB, ["--high", "0.5"], 1),
        (90 * MIB, ["--high", "1"], 0),
    ],
)
def test_the_exit_code_says_whether_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], used: int, arguments: list[str], code: int
) -> None:
    root = v2_tree(tmp_path, limit=str(100 * MIB), usage=used)

    assert main(["host", "--json", "--root", root, *arguments]) == code
    assert main(["host", "--root", root, *arguments]) == code


def test_where_nothing_is_known_the_exit_code_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "--json", "--root", str(tmp_path)]) == 2
    assert as_json(capsys)["auto"] is None
    assert main(["host", "--root", str(tmp_path)]) == 2
    assert "No limit is known." in capsys.readouterr().out


def test_the_table_has_every_limit_and_marks_the_one_that_is_hit_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    root = v2_tree(tmp_path, group="/web[bold]", limit=str(100 * MIB), usage=10 * MIB)

    main(["host", "--root", root])

    printed = capsys.readouterr().out
    lines = printed.splitlines()
    first = next(line for line in lines if line.startswith("→"))
    assert first.split() == ["→", "memory.max", "hard", "100.0", "MiB", "10.0", "MiB", "90.0", "MiB", "(1)"]
    assert lines[lines.index(first) - 1].strip() == "/web[bold]"  # no markup
    assert next(line for line in lines if "(1)" in line and line != first).startswith("(1) the kernel kills")
    assert next(line for line in lines if "MemTotal" in line).split()[2:4] == ["1.0", "GiB"]
    assert max(map(len, lines)) <= 80
    assert 'Tracker("auto") gets 75.0 MiB here.' in printed
    assert "Hit first: memory.max of /web[bold]" in printed


def test_without_rich_it_says_the_same_in_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = v2_tree(tmp_path, limit=str(100 * MIB), usage=10 * MIB)
    monkeypatch.setattr("memquota.cli._missing", lambda *names: ["rich"])

    code = main(["host", "--root", root])

    printed = capsys.readouterr()
    assert code == 0
    assert "Hit first: memory.max of /app" in printed.out
    assert "│" not in printed.out
    assert printed.err == "for a table: pip install 'memquota[cli]'\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--watch", "0"],
        ["--watch", "nan"],
        ["--watch", "x"],
        ["--high", "0"],
        ["--high", "1.1"],
        ["--high", "nan"],
        ["--nonsense"],
        ["more"],
    ],
)
def test_what_is_not_understood_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["host", *arguments])

    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert "error" in said
    assert "_" not in said  # no name of a function


@pytest.mark.parametrize("limit", [0, 1])
def test_where_nothing_can_be_shared_out_auto_gets_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    """F46: a limit of 0 is a limit, and full."""
    root = v2_tree(tmp_path, limit=str(limit), usage=MIB)

    assert main(["host", "--json", "--root", root]) == 1
    found = as_json(capsys)
    assert (found["effective"], found["auto"]) == (limit, None)
    assert main(["host", "--root", root]) == 1
    assert "Tracker" not in capsys.readouterr().out


def test_watching_sees_a_limit_that_changes_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, limit=str(100 * MIB), usage=10 * MIB)
    watching = start("--json", "--watch", "0.01", "--root", root)
    assert watching.stdout is not None
    try:
        first = json.loads(watching.stdout.readline())
        v2_tree(tmp_path, limit=str(GIB // 2), usage=GIB // 2 - MIB)
        while json.loads(watching.stdout.readline())["effective"] != GIB // 2:
            pass
        watching.send_signal(signal.SIGINT)
        _, complaints = watching.communicate(timeout=WATCHDOG)
    finally:
        watching.kill()

    assert first["effective"] == 100 * MIB
    assert watching.returncode == 1  # as it was in the end
    assert complaints == ""


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, limit=str(100 * MIB), usage=10 * MIB)
    watching = start("--json", "--watch", "0.001", "--root", root)
    assert watching.stdout is not None
    assert watching.stderr is not None
    try:
        watching.stdout.readline()
        watching.stdout.close()
        assert watching.wait(timeout=WATCHDOG) == 0
        assert watching.stderr.read() == ""
    finally:
        watching.kill()
        watching.stderr.close()


def test_watching_a_table_ends_with_ctrl_c() -> None:
    watching = start("--watch", "0.01")
    assert watching.stdout is not None
    try:
        printed = ""
        while 'Tracker("auto") gets' not in printed:
            printed += watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, complaints = watching.communicate(timeout=WATCHDOG)
    finally:
        watching.kill()

    assert watching.returncode in (0, 1)
    assert "Hit first: " in printed
    assert complaints == ""


def test_in_a_real_group_its_limit_is_hit_first(new_group: Callable[[int], LiveGroup]) -> None:  # noqa: F811
    group = new_group(96 * MIB)

    _, printed = group.run("""
from memquota.cli import main
block = take(40 * 1024**2)
raise SystemExit(main(["host", "--json", "--high", "0.99"]))
""")

    found = json.loads(printed)
    assert found["first"]["limit"] == 96 * MIB
    assert found["first"]["level"] == group.path
    assert 40 * MIB < found["first"]["used"] < 96 * MIB


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("memquota")
    if not command.exists():
        pytest.skip("the package is not installed here with its commands")

    done = subprocess.run([command, "host", "--json"], capture_output=True, text=True, timeout=WATCHDOG, check=False)

    assert done.returncode in (0, 1)
    assert json.loads(done.stdout)["effective"] == host.limits().effective
    assert os.access(command, os.X_OK)
