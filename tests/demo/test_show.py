"""What the demonstration tells and leaves behind, of runs that are given to it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from memquota import cli
from memquota.demo import show
from memquota.demo.scenario import Measured, RunFailed, Sample, Scenario

MIB = 2**20


def a_run(*, protected: bool, died_after: float | None = None, **changes: Any) -> Measured:
    """A run that holds every bar."""
    samples = [Sample(second / 2, (30 + second) * MIB, second * MIB, second) for second in range(20)]
    values: dict[str, Any] = {
        "confinement": "a control group (v1) of 128 MiB",
        "died_after": died_after,
        "exit_code": None if died_after is None else -9,
        "attack_began": 3.0,
        "peak_group": 60 * MIB,
        "peak_tracked": 47 * MIB,
        "victims": 123,
        "rounds": 45,
        "longest_round": 0.002,
        "scheduled": 1000,
        "delivered": 999,
        "echo_baseline": [0.001] * 100,
        "echo_attack": [0.0011] * 100,
        "samples": samples,
    }
    return Measured(protected=protected, **{**values, **changes})


class Stage:
    """Runs that are not run."""

    def __init__(self) -> None:
        self.control = a_run(protected=False, died_after=5.0, peak_group=128 * MIB)
        self.protected = a_run(protected=True)
        self.scenarios: list[Scenario] = []

    async def run_once(self, scenario: Scenario, *, protected: bool, progress: Callable[..., None]) -> Measured:
        self.scenarios.append(scenario)
        measured = self.protected if protected else self.control
        progress("starting", None, measured, 0)
        for sample in measured.samples:
            progress("under attack", sample, measured, 7)
        return measured


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    stage = Stage()
    monkeypatch.setattr(show, "run_once", stage.run_once)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return stage


def test_a_good_run_is_told_and_left_behind(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo"]) == 0

    told = capsys.readouterr().out
    for words in (
        "without a quota: killed after 5.0 s of attack, peak 128.0 MiB",
        "with a quota: alive, peak 60.0 MiB",
        "in a control group (v1) of 128 MiB",
        "connections cut off",
        "123",
        "99.9%",
        "1.1 ms",
        "2.00 ms",
    ):
        assert words in told, words
    assert "missed" not in told
    assert "void" not in told
    figures = json.loads(Path("demo-results/slow-readers.json").read_text())
    assert figures["scenario"]["quota"] == 48 * MIB
    assert all(bar["held"] for bar in figures["bars"])
    assert figures["without_quota"]["died_after"] == 5.0
    assert figures["with_quota"]["victims"] == 123
    assert figures["with_quota"]["echo_attack"] == {"count": 100, "median": 0.0011, "p99": 0.0011}
    assert len(figures["with_quota"]["samples"]) == 20
    assert Path("demo-results/slow-readers.png").read_bytes().startswith(b"\x89PNG")


def test_a_bar_that_is_missed_shows_in_the_exit_code(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.protected = a_run(protected=True, honest_cut=1)

    assert cli.main(["demo"]) == 1

    assert "missed" in capsys.readouterr().out


def test_a_control_that_lives_makes_the_comparison_void(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.control = a_run(protected=False)

    assert cli.main(["demo"]) == 1

    assert "the comparison is void" in capsys.readouterr().out


def test_a_run_that_saw_nothing_is_told_all_the_same(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.control = Measured(protected=False, died_after=0.1)
    stage.protected = Measured(protected=True, died_after=0.1)

    assert cli.main(["demo"]) == 1

    assert "died after 0.1 s" in capsys.readouterr().out
    assert Path("demo-results/slow-readers.png").exists()


def test_the_options_reach_the_runs(stage: Stage) -> None:
    options = ["--attackers", "7", "--quota", "24MiB", "--seconds", "5", "--policy", "largest", "--backend", "trio"]

    cli.main(["demo", *options])

    control, protected = stage.scenarios
    assert control == protected
    assert (control.attackers, control.quota, control.seconds) == (7, 24 * MIB, 5.0)
    assert (control.policy, control.backend, control.peer_limit) == ("largest", "trio", None)


def test_in_a_flood_hosts_have_a_limit(stage: Stage) -> None:
    cli.main(["demo", "--scenario", "flood"])

    scenario = stage.scenarios[0]
    assert (scenario.name, scenario.attackers) == ("flood", 24)
    assert scenario.peer_limit is not None
    assert scenario.peer_limit * 12 <= scenario.quota * 3 / 4, "all attacking hosts together stay below low water"
    assert Path("demo-results/flood.json").exists()


def test_a_run_that_failed_is_told_and_nothing_is_claimed(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> Measured:
        raise RunFailed("the relay ended by itself (code 1): [OSError] out of luck")

    monkeypatch.setattr(show, "run_once", fail)

    assert cli.main(["demo"]) == 1

    told = capsys.readouterr().out
    assert "Nothing can be said: the relay ended by itself (code 1): [OSError] out of luck" in told
    assert "held" not in told
    assert list(Path("demo-results").iterdir()) == []


def test_where_no_results_can_be_written_nothing_is_run(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    Path("demo-results").write_text("somebody's")

    assert cli.main(["demo"]) == 2

    assert "No results can be written here" in capsys.readouterr().out
    assert stage.scenarios == []


def test_a_narrow_terminal_shows_everything(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    assert cli.main(["demo"]) == 0

    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 40
    assert told.count("held") == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--attackers", "0"], "one at least"),
        (["--attackers", "many"], "invalid"),
        (["--quota", "lots"], "is not a size"),
        (["--quota", "1000"], "1.0 MiB at least"),
        (["--seconds", "0"], "from 1 to 3600"),
        (["--seconds", "nan"], "from 1 to 3600"),
        (["--policy", "none"], "invalid choice"),
        (["--backend", "curio"], "invalid choice"),
        (["--scenario", "peace"], "invalid choice"),
    ],
)
def test_a_wrong_option_is_refused_in_words(
    stage: Stage, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["demo", *options])

    assert words in capsys.readouterr().err
    assert stage.scenarios == []


def test_what_the_options_offer_is_installed_with_the_demonstration() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    assert any(needed.startswith("trio") for needed in project["optional-dependencies"]["demo"])


def test_help_names_every_option(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["demo", "--help"])

    told = capsys.readouterr().out
    for option in ("--attackers", "--quota", "--seconds", "--policy", "--backend", "--scenario"):
        assert option in told
