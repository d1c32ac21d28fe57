"""The demonstration's own parts: its limit is real, its clients notice what goes wrong, its bars are what they say."""

import subprocess
import sys
from typing import Any

import pytest
from attrs import evolve

from memquota.demo.clients import Corpus
from memquota.demo.confinement import AddressSpace, choose_confinement
from memquota.demo.scenario import Measured, Scenario, bars

MIB = 2**20
HOARDER = "import time\nheld = []\nfor _ in range(400):\n    held.append(b'x' * 2**20)\n"


@pytest.mark.parametrize("kind", ["chosen", "address space"])
def test_a_process_that_takes_more_than_its_limit_dies(kind: str) -> None:
    confinement = choose_confinement(128 * MIB) if kind == "chosen" else AddressSpace(128 * MIB)
    try:
        ended = subprocess.run(
            confinement.command([sys.executable, "-c", HOARDER]), stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        confinement.remove()

    assert ended.returncode == -9 or b"MemoryError" in ended.stderr


def test_a_process_below_its_limit_lives() -> None:
    confinement = choose_confinement(128 * MIB)
    try:
        subprocess.run(confinement.command([sys.executable, "-c", "pass"]), timeout=60, check=True)
        peak = confinement.peak()
    finally:
        confinement.remove()

    assert peak <= 128 * MIB


def test_a_damaged_frame_is_noticed() -> None:
    corpus = Corpus(4096, 8)
    frame = corpus.frame(11)

    assert len(frame) == 4096
    assert corpus.number_of(frame) == 11
    assert corpus.number_of(frame[:-1] + bytes([frame[-1] ^ 1])) is None
    assert corpus.number_of(corpus.frame(12)) == 12


def good(**changes: Any) -> Measured:
    run = Measured(
        protected=True,
        peak_group=60 * MIB,
        scheduled=1000,
        delivered=990,
        victims=100,
        longest_round=0.004,
        echo_baseline=[0.001] * 100,
        echo_attack=[0.0011] * 100,
    )
    return evolve(run, **changes)


def missed(
    protected: Measured,
    died_after: float | None = 5.0,
    scenario: Scenario = Scenario(),  # noqa: B008  # frozen
) -> list[str]:
    control = Measured(protected=False, died_after=died_after)
    return [bar.what for bar in bars(scenario, control, protected) if not bar.held]


def test_a_good_run_holds_every_bar() -> None:
    assert missed(good()) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"died_after": 3.0}, "the relay with a quota lives"),
        ({"peak_group": 65 * MIB}, "peak of its process or group"),
        ({"victims": 0}, "connections cut off"),
        ({"honest_cut": 1}, "honest clients cut off"),
        ({"wrong": 1}, "frames wrong or out of order"),
        ({"delivered": 960}, "delivered on schedule"),
        ({"echo_attack": [0.0013] * 100}, "echoes at the median, of the baseline's rate"),
        ({"echo_attack": [0.001] * 95 + [0.0021] * 5}, "echoes at p99, of the baseline's time"),
        ({"longest_round": 0.0051}, "longest round"),
    ],
)
def test_each_bar_can_be_missed(changes: dict[str, object], what: str) -> None:
    assert missed(good(**changes)) == [what]


def test_a_flood_is_not_held_to_the_echoes() -> None:
    run = good(echo_attack=[1.0])

    assert missed(run, scenario=Scenario(name="flood")) == []
    assert len(missed(run)) == 2


@pytest.mark.parametrize("died_after", [None, 12.0])
def test_a_control_that_does_not_die_in_time_misses_its_bar(died_after: float | None) -> None:
    assert missed(good(), died_after) == ["the relay without a quota dies"]
