"""`examples/fill_memory.py` in a process whose memory is really limited."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from memquota.demo.confinement import AddressSpace, choose_confinement

MIB = 1024**2
PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "fill_memory.py"


def test_it_takes_memory_until_the_reading_says_stop_and_gives_it_back() -> None:
    confinement = choose_confinement(128 * MIB)
    if isinstance(confinement, AddressSpace):
        pytest.skip("NOT CHECKED: no control group may be made here, and readings do not count addresses")
    try:
        done = subprocess.run(
            confinement.command([sys.executable, str(PROGRAM), "--reserve", "24MiB", "--step", "4MiB"]),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        peak = confinement.peak()
    finally:
        confinement.remove()

    assert (done.returncode, done.stderr) == (0, "")  # it stopped by itself; nobody killed it
    words = [line.split() for line in done.stdout.splitlines()]
    available = [int(line[1]) for line in words if line[0] == "available"]
    taken = next(int(line[2]) for line in words if line[0] == "stopped")
    returned = int(words[-1][1])
    falls = [before - after for before, after in itertools.pairwise(available)]
    assert len(falls) >= 10
    assert all(3 * MIB <= fall <= 6 * MIB for fall in falls)  # steadily, and by what is taken
    assert 24 * MIB <= available[-1] < 30 * MIB
    assert taken >= 40 * MIB
    assert returned >= available[0] - 4 * MIB
    assert taken <= peak <= 128 * MIB - 20 * MIB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--reserve", "32M"], "reserve '32M' is ambiguous"), (["--step", "0"], "a step must not be nothing")],
)
def test_what_it_does_not_understand_it_refuses(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, timeout=120, check=False
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
