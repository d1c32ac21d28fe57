"""The command `memquota check`, as a container's start script runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memquota import host
from memquota.accounting import Bounds, Expression
from memquota.cli import main

#: Seconds that nothing here takes.
WATCHDOG = 60.0

PROGRAM = """
from memquota.accounting import Bounds, ComponentRegistry, Setting

registry = ComponentRegistry()
registry.component("sources.http").declare(
    lambda builder: (
        builder.minimum.setting("buffer", "1MiB"),
        builder.firm.above_minimum(Setting("connections", 100) * Setting("frame", "64KiB")),
    )
)
registry.component("[bold]parser").declare(Bounds("2MiB", "4MiB"))
registry.component("undeclared")

class Application:
    components = registry

    @property
    def lazy(self):
        raise LookupError("not yet")

application = Application()

def make():
    print("reading the configuration")
    return registry

def fail():
    raise LookupError("no configuration")

def leave():
    raise SystemExit(0)

def nothing():
    return ComponentRegistry()

number = 5
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with programs, which is the current one."""
    programs = {
        "program_to_check": PROGRAM,
        "broken_program": "import nowhere_to_be_found",
        "leaving_program": "raise SystemExit(0)",
    }
    for name, source in programs.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    for name in programs:
        sys.modules.pop(name, None)


def in_a_process(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    source = f"import faulthandler, sys; faulthandler.dump_traceback_later({WATCHDOG}, exit=True)\n"
    source += "from memquota.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-P", "-c", source, "check", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
    )


def as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_start_script_goes_on_exactly_when_it_fits(program: Path) -> None:
    # 1 MiB + 100 * 64 KiB + 4 MiB is 11.25 MiB, three quarters of 15 MiB.
    fits = in_a_process("program_to_check:registry", "--limit", str(15 * 1024**2), directory=program)
    does_not = in_a_process("program_to_check:registry", "--limit", str(15 * 1024**2 - 4), directory=program)
    nothing = in_a_process("missing_program:registry", "--limit", "15MiB", directory=program)

    assert (fits.returncode, fits.stderr) == (0, "")
    assert "fits into 11.3 MiB (15.0 MiB less 25 %)" in fits.stdout
    assert does_not.returncode == 1
    assert "firm limit: 11.3 MiB in all, 3 B more than there is" in does_not.stderr
    assert "  sources.http 7.3 MiB = buffer=1_048_576 + connections=100 * frame=65_536" in does_not.stderr
    assert "fits into" not in does_not.stdout
    assert nothing.returncode == 2
    assert nothing.stderr.endswith("ModuleNotFoundError: No module named 'missing_program'\n")


def test_the_command_is_installed(program: Path) -> None:
    command = Path(sys.executable).with_name("memquota")
    if not command.exists():
        pytest.skip("the package is not installed here with its commands")

    done = subprocess.run(
        f"'{command}' check program_to_check:registry --limit 1MiB || echo stopped here",
        shell=True,
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
    )

    assert done.stdout.endswith("stopped here\n")
    assert "minimum: 3.0 MiB in all" in done.stderr


@pytest.mark.parametrize("where", ["registry", "make", "Application.components"])
def test_a_registry_may_be_named_called_or_an_attribute(
    program: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    assert main(["check", f"program_to_check:{where}", "--limit", "20MiB", "--json"]) == 0
    assert as_json(capsys)["fits"] is True


def test_what_the_program_prints_is_no_part_of_the_answer(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "program_to_check:make", "--limit", "20MiB", "--json"])

    printed = capsys.readouterr()
    assert json.loads(printed.out)["fits"] is True
    assert printed.err == "reading the configuration\n"


def test_json_has_what_was_declared_granted_and_wrong(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["check", "program_to_check:registry", "--limit", "6MiB", "--slop", "0.5", "--json"])

    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (code, captured.err) == (1, "")
    assert list(found) == ["schema", "version", "fits", "grant", "problems", "declared"]
    assert (found["schema"], found["version"], found["fits"]) == ("memquota.check", 1, False)
    assert found["grant"] == {"given": "6MiB", "limit": 6 * 1024**2, "slop": 0.5, "available": 3 * 1024**2}
    (problem,) = found["problems"]
    assert (problem["what"], problem["needed"]) == ("firm limit", 11_796_480)
    assert [component["name"] for component in found["declared"]["components"]] == [
        "sources",
        "[bold]parser",
        "undeclared",
    ]
    firm = Expression.from_dict(found["declared"]["components"][0]["components"][0]["bounds"]["firm"])
    assert firm.value == 7 * 1024**2 + 256 * 1024
    assert found["declared"]["components"][1]["bounds"] == Bounds("2MiB", "4MiB").as_dict()


def test_without_a_limit_the_host_s_is_taken(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "program_to_check:registry", "--json"]) == 0
    assert as_json(capsys)["grant"]["limit"] == host.limits().effective

    assert main(["check", "program_to_check:registry", "--json", "--limit", "50%"]) == 0
    assert as_json(capsys)["grant"]["given"] == "50%"


@pytest.mark.parametrize("rich", [True, False])
def test_every_component_has_a_line(
    program: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rich: bool
) -> None:
    monkeypatch.setattr("memquota.cli._missing", lambda *names: [] if rich else ["rich"])

    code = main(["check", "program_to_check:registry", "--limit", "20MiB"])

    printed = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in printed.out.splitlines() if line.strip()}
    assert (code, printed.err) == (0, "")
    assert rows["all"] == ["3.0", "MiB", "not", "declared"]
    assert rows["sources"] == ["1.0", "MiB", "7.3", "MiB"]
    assert rows["http"] == rows["sources"]
    assert rows["[bold]parser"] == ["2.0", "MiB", "4.0", "MiB"]
    assert rows["undeclared"] == ["0", "B", "not", "declared"]
    assert ("─" in printed.out) == rich


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["program_to_check"], "'program_to_check' is not of the form module:registry"),
        (["program_to_check:"], "is not of the form module:registry"),
        ([":registry"], "is not of the form module:registry"),
        (["program_to_check:nowhere"], "there is no 'nowhere' in <module 'program_to_check'"),
        (["program_to_check:number"], "program_to_check:number is no ComponentRegistry but 5"),
        (["program_to_check:Application"], "is no ComponentRegistry but <program_to_check.Application object"),
        (["program_to_check:fail"], "program_to_check:fail cannot be loaded: LookupError: no configuration"),
        (["program_to_check:application.lazy"], "lazy cannot be loaded: LookupError: not yet"),
        (["program_to_check:leave"], "program_to_check:leave cannot be loaded: SystemExit: 0"),
        (["program_to_check:nothing"], "program_to_check:nothing declares nothing"),
        (["broken_program:registry"], "cannot be loaded: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (["leaving_program:registry"], "cannot be loaded: SystemExit: 0"),
        (["program_to_check:registry", "--limit", "512M"], "limit '512M' is ambiguous"),
        (["program_to_check:registry", "--limit", "0"], "a limit of 0 grants nothing"),
        (["program_to_check:registry", "--slop", "1"], "slop must be at least 0 and below 1"),
        (["program_to_check:registry", "--slop", "nan"], "slop must be at least 0 and below 1"),
    ],
)
def test_what_cannot_be_checked_is_never_taken_for_what_fits(
    program: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert main(["check", *arguments]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert complaint in printed.err.splitlines()[-1]


@pytest.mark.parametrize("arguments", [[], ["a:b", "--slop", "x"], ["a:b", "--nonsense"], ["a:b", "c:d"]])
def test_what_is_not_understood_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["check", *arguments])

    assert refused.value.code == 2
    assert "error" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_changes_no_exit_code(program: Path) -> None:
    source = (
        "import os, sys\n"
        "reading, writing = os.pipe(); os.dup2(writing, 1); os.close(reading); os.close(writing)\n"
        "from memquota.cli import main; sys.exit(main())"
    )
    for limit, code in (("20MiB", 0), ("1MiB", 1)):
        done = subprocess.run(
            [sys.executable, "-P", "-c", source, "check", "program_to_check:registry", "--limit", limit, "--json"],
            capture_output=True,  # standard output is a pipe from the beginning, as is the one that takes its place
            text=True,
            timeout=WATCHDOG,
            check=False,
        )

        assert (done.returncode, done.stderr) == (code, "")


def run_here(*arguments: str, stdout: int, **environment: str) -> subprocess.CompletedProcess[str]:
    source = "import sys; from memquota.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-P", "-c", source, "check", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=WATCHDOG,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="takes a device that is always full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_answer_that_cannot_be_written_is_none(program: Path, options: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run_here("program_to_check:registry", "--limit", "20MiB", *options, stdout=full.fileno())

    assert done.returncode == 2
    assert done.stderr == "memquota check: the answer cannot be written: [Errno 28] No space left on device\n"


def test_a_name_that_cannot_be_encoded_is_shown_all_the_same(program: Path) -> None:
    arguments = ("program_to_check:registry", "--limit", "20MiB")
    (program / "program_to_check.py").write_text(PROGRAM.replace("sources.http", "quellen.für"), encoding="utf-8")

    done = run_here(*arguments, stdout=subprocess.PIPE, PYTHONIOENCODING="ascii")

    assert (done.returncode, done.stderr) == (0, "")
    assert "f\\xfcr" in done.stdout
