"""Which policy protects whom, measured: `python -m benchmarks.policies`.

Honest connections share a tracker with attackers; how many of them are given up, under which policy? Rates are given
as multiples of low_water / T, where T is how old the oldest data of an honest connection gets. See `attacks.py` for
what is real about it (all but time and sockets). The same seed gives the same figures on any machine.

What must come out, where H is what all honest connections hold and S the byte-seconds of one of them:

- `oldest_data` protects against a flood of R bytes/s while R * T <= low_water - H. After a round the data left
  are the honest ones and the newest of the flood: low_water - H of them, the oldest (low_water - H) / R old. Flooders
  who go on with the same account are each as old as the whole flood, so that the limit counts, not the low water.
- `byte_seconds` protects while the flood's account that is the last to go has at least S byte-seconds: b * age for a
  burst of b bytes, half of that for one that grows steadily.
- `bytes * age ** 2` lies between: the root of what size changes in `byte_seconds`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from math import inf, sqrt
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeAlias

from attrs import asdict, frozen

from benchmarks.attacks import (
    ITEMS,
    LIMIT,
    LOW_WATER,
    PIECE,
    Attack,
    Scenario,
    T,
    bursts,
    floods,
    simulate,
    tricklers,
)
from memquota.policies import Candidate, Policy


def bytes_age2(candidate: Candidate) -> float:
    """One's own policy, between byte_seconds and oldest_data: age counts for more than size."""
    return candidate.bytes * candidate.age**2


POLICIES: Final[dict[str, str | Policy]] = {
    "oldest_data": "oldest_data",
    "largest": "largest",
    "byte_seconds": "byte_seconds",
    "bytes * age**2": bytes_age2,
}
#: One rate: low_water / T, in bytes/s.
UNIT: Final = LOW_WATER / T
RATES: Final = tuple(round(10 ** (step / 4 - 1), 3) for step in range(9))
#: What attackers hold over what an honest one holds.
RATIOS: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
#: The threshold is sought between the prediction divided by this and multiplied by it ...
REACH: Final = 1.2
#: ... in so many halvings: found to 2.3 %. Besides, credit in the handles counts as used: up to 4 % of the low water.
HALVINGS: Final = 4
TOLERANCE: Final = 0.06

Makes: TypeAlias = Callable[[float], Scenario]


# --- the floods -------------------------------------------------------------------------------------------------------


def flooded(
    attack: Callable[[float], Attack], volume: float, rate: float, *, honest: int = 50, honest_bytes: int = 4 * PIECE
) -> Scenario:
    """A flood of `rate`, until it has sent `volume` times the limit."""
    rate *= UNIT
    return Scenario(attack=attack(rate), duration=volume * LIMIT / rate, honest=honest, honest_bytes=honest_bytes)


@frozen
class Flood:
    """A kind of flood. Either `flooders` accounts grow all the time, or each account gets one burst."""

    makes: Makes
    flooders: int = 0
    burst: int = PIECE


FLOODS: Final[dict[str, Flood]] = {
    "one flooder": Flood(partial(flooded, partial(floods, flooders=1), 3.0), flooders=1),
    "100 flooders": Flood(partial(flooded, partial(floods, flooders=100), 3.0), flooders=100),
    "3,000 small attackers": Flood(partial(flooded, bursts, 1.25)),
}


def of_ratio(ratio: float) -> Flood:
    """Bursts of `ratio` times what an honest connection holds. Few of both, as there are many runs."""
    burst = LIMIT // 250
    makes = partial(flooded, partial(bursts, size=burst), 1.75, honest=5, honest_bytes=int(burst / ratio))
    return Flood(makes, burst=burst)


def room_of(flood: Flood) -> int:
    """What is there for the flood's data, in bytes, where a victim is chosen last.

    A round leaves `low_water`. Flooders who go on were all there when the limit was passed, and are as old as that.
    """
    scenario = flood.makes(1.0)
    return (LIMIT if flood.flooders else LOW_WATER) - scenario.honest * scenario.honest_bytes


def predicted(policy: str, flood: Flood) -> float:
    """Up to which rate a policy protects, in units of low_water / T."""
    room, honest_bytes = room_of(flood), flood.makes(1.0).honest_bytes
    ratio = (room / flood.flooders if flood.flooders else flood.burst) / honest_bytes
    match policy:
        case "oldest_data":
            factor = 1.0
        case "byte_seconds":
            # The mean age over the oldest: of an honest queue at its highest, just before its oldest item is read; of
            # an attacker's.
            honest, attacker = (ITEMS + 1) / (2 * ITEMS), 0.5 if flood.flooders else 1.0
            factor = ratio * attacker / honest
        case "bytes * age**2":
            factor = sqrt(ratio)
        case _:
            factor = inf if ratio > 1.0 else 0.0
    return factor * room / LOW_WATER


@frozen
class Threshold:
    """Up to which rate nobody honest was lost, and from where somebody was; in units of low_water / T."""

    predicted: float
    safe: float
    lost: float

    @property
    def measured(self) -> float:
        """The middle."""
        return sqrt(self.safe * self.lost)

    @property
    def as_predicted(self) -> bool:
        """Whether theory and measurement agree."""
        return abs(self.measured / self.predicted - 1) <= TOLERANCE


def threshold(policy: str, flood: Flood, seed: int) -> Threshold:
    """Find the rate at which the first honest connection is lost, by halving around the prediction."""

    def safe(rate: float) -> bool:
        return not simulate(flood.makes(rate), POLICIES[policy], seed).killed

    prediction = predicted(policy, flood)
    low, high = prediction / REACH, prediction * REACH
    if not safe(low):
        return Threshold(prediction, 0.0, low)
    if safe(high):
        return Threshold(prediction, high, inf)
    for _ in range(HALVINGS):
        middle = sqrt(low * high)
        low, high = (middle, high) if safe(middle) else (low, middle)
    return Threshold(prediction, low, high)


# --- other attacks ----------------------------------------------------------------------------------------------------

ADDRESS_LIMIT: Final = LIMIT // 50
OTHERS: Final[dict[str, Scenario]] = {
    "200 never-readers with honest traffic": flooded(partial(floods, flooders=200), 3.0, 200 * 4 * PIECE / T / UNIT),
    "20 tricklers, heads T/2 old": Scenario(attack=tricklers(20, int(1.2 * LIMIT / 20), T / 2), duration=3 * T),
    "3,000 small, honest queues large, T/10 old": Scenario(
        attack=bursts(0.5 * UNIT), duration=1.25 * LIMIT / (0.5 * UNIT), honest_bytes=LIMIT // 200, honest_age=T / 10
    ),
    "10-fold flood, one flooder, limit": flooded(partial(floods, flooders=1, limit=ADDRESS_LIMIT), 3.0, 10.0),
    "10-fold flood, 3,000 small, 10 addresses, limit each": flooded(
        partial(bursts, sources=10, limit=ADDRESS_LIMIT), 1.25, 10.0
    ),
    "10-fold flood, 3,000 small, an address and limit each": flooded(partial(bursts, limit=ADDRESS_LIMIT), 1.25, 10.0),
}


# --- all of it --------------------------------------------------------------------------------------------------------

Row: TypeAlias = "dict[str, Any]"


def swept(flood: str, policy: str, rate: float, seed: int) -> Row:
    outcome = simulate(FLOODS[flood].makes(rate), POLICIES[policy], seed)
    return {"flood": flood, "policy": policy, "rate": rate, **asdict(outcome)}


def found(flood: str, policy: str, seed: int) -> Row:
    result = threshold(policy, FLOODS[flood], seed)
    return {"flood": flood, "policy": policy, **_row_of(result)}


def sized(policy: str, ratio: float, seed: int) -> Row:
    flood = of_ratio(ratio)
    return {
        "policy": policy,
        "ratio": ratio,
        "room": room_of(flood) / LOW_WATER,
        **_row_of(threshold(policy, flood, seed)),
    }


def attacked(attack: str, policy: str, seed: int) -> Row:
    return {"attack": attack, "policy": policy, **asdict(simulate(OTHERS[attack], POLICIES[policy], seed))}


def _row_of(result: Threshold) -> Row:
    return {**asdict(result), "measured": result.measured, "as_predicted": result.as_predicted}


def _quiet() -> None:
    """A busy machine makes participants look slow, which is logged. What matters is checked in every run."""
    logging.getLogger("memquota").setLevel(logging.ERROR)


def measure(seed: int) -> dict[str, list[Row]]:
    """Everything, on all processors; each run is for itself."""
    aged = [policy for policy in POLICIES if policy != "largest"]  # it has no threshold: all or nobody
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=_quiet) as pool:
        jobs: dict[str, list[Future[Row]]] = {
            "thresholds": [pool.submit(found, flood, policy, seed) for flood in FLOODS for policy in aged],
            "floods": [
                pool.submit(swept, flood, policy, rate, seed)
                for flood in FLOODS
                for policy in POLICIES
                for rate in RATES
            ],
            "sizes": [pool.submit(sized, policy, ratio, seed) for policy in aged for ratio in RATIOS],
            "attacks": [pool.submit(attacked, attack, policy, seed) for attack in OTHERS for policy in POLICIES],
        }
        return {part: [job.result() for job in found] for part, found in jobs.items()}


# --- for people -------------------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, readable as it is."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(figures: Mapping[str, list[Row]]) -> dict[str, str]:
    """The figures as tables by the name of their part."""
    names = list(POLICIES)
    return {
        "floods": table(
            ["flood", "rate", *names],
            [
                [
                    flood,
                    f"{rate:.2g}",
                    *(_outcome(row) for row in figures["floods"] if (row["flood"], row["rate"]) == (flood, rate)),
                ]
                for flood in FLOODS
                for rate in RATES
            ],
        ),
        "thresholds": table(
            ["flood", "policy", "predicted", "nobody lost at", "somebody lost at"],
            [
                [row["flood"], row["policy"], *(f"{row[name]:.3g}" for name in ("predicted", "safe", "lost"))]
                for row in figures["thresholds"]
            ],
        ),
        "sizes": table(
            ["attacker / honest", *(name for name in names if name != "largest")],
            [
                [
                    f"{ratio:g}",
                    *(f"{row['measured'] / row['room']:.2f}" for row in figures["sizes"] if row["ratio"] == ratio),
                ]
                for ratio in RATIOS
            ],
        ),
        "attacks": table(
            ["attack", *names],
            [[attack, *(_outcome(row) for row in figures["attacks"] if row["attack"] == attack)] for attack in OTHERS],
        ),
    }


def _outcome(row: Row) -> str:
    return f"{row['killed']} / {row['peak']:.0%} / {row['rounds']}"


TITLES: Final = {
    "floods": "Rates in low_water / T. Honest connections lost, of 50 / largest usage, of the limit / rounds",
    "thresholds": "Thresholds, in low_water / T",
    "sizes": "Thresholds by the size of an attacker's burst over that of an honest queue, in (low_water - H) / T",
    "attacks": "Other attacks. Honest connections lost, of 50 / largest usage, of the limit / rounds",
}


def write_into(page: str, found: Mapping[str, str]) -> str:
    """Replace the tables of a page that stand between `<!-- figures: name -->` and `<!-- end -->`."""
    for part, text in found.items():
        before, mark, after = page.partition(f"<!-- figures: {part} -->\n")
        if mark:
            page = f"{before}{mark}\n{text}\n\n{after[after.index('<!-- end -->') :]}"
    return page


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Which policy protects whom, measured.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="only the figures, as JSON")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw policies-*.png there; takes matplotlib")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the tables into this page of the documentation"
    )
    options = parser.parse_args(arguments)
    started = perf_counter()
    figures = measure(options.seed)
    if options.plot is not None:
        from benchmarks.policies_plot import plot

        plot(figures, options.plot)
    if options.page is not None:
        options.page.write_text(write_into(options.page.read_text("utf-8"), tables(figures)), "utf-8")
    if options.json:
        print(json.dumps({"seed": options.seed, **figures}, indent=1))
    else:
        for part, text in tables(figures).items():
            print(f"\n{TITLES[part]}\n\n{text}")
        print(f"\nseed {options.seed}, {perf_counter() - started:.0f} s")
    wrong = [row for part in ("thresholds", "sizes") for row in figures[part] if not row["as_predicted"]]
    for row in wrong:
        print(f"NOT AS PREDICTED: {row}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
