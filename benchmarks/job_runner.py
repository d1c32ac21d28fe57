"""A job runner under a real memory limit, with and without a gate: `python -m benchmarks.job_runner`.

300 jobs that really take 4 to 40 MiB each, larger ones for longer, 8 workers, 256 MiB for the whole process. Without a
gate it is killed. With a gate of `Tracker("80%")` every job is done. The rival is the best fixed number of workers,
which is found here by trying all; nobody who writes a job runner knows it in advance.

How soon the unguarded runner dies depends on how long jobs hold what they took: with 3 ms per MiB instead of 8 it lost
jobs in 3 of 5 runs only.

Waiting is counted from the beginning, when all jobs are there, to the moment in which the job begins.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from attrs import asdict, define, field

from memquota import Gate, Tracker
from memquota.demo.confinement import choose_confinement

MIB = 2**20
LIMIT = 256 * MIB
JOBS = 300
WORKERS = 8
QUOTA = "80%"
#: A job of 40 MiB works for 320 ms with what it holds, most of which is waiting, as for a disk or a network.
SECONDS_PER_MIB = 0.008
#: Different in each run, the same for all ways of running.
SEED = 20240601
RUNS = 5
FIXED_RUNS = 3
#: So much slower than the best, and no smaller number of workers is tried.
ENOUGH = 1.15

PEAK_BAR, MAKESPAN_BAR, WAIT_BAR = 0.95, 1.3, 3.0


@define
class Run:
    """What one run of all jobs came to. Sizes in bytes, times in seconds."""

    way: str
    finished: int = 0
    exit_code: int = 0
    peak: int = 0
    makespan: float = 0.0
    waits: list[float] = field(factory=list)
    samples: list[tuple[float, int]] = field(factory=list)

    @property
    def complete(self) -> bool:
        return self.finished == JOBS and self.exit_code == 0

    @property
    def longest_wait(self) -> float:
        """As a multiple of the median."""
        return max(self.waits) / median(self.waits) if self.waits else 0.0


# --- inside the limit -------------------------------------------------------------------------------------------------


def run_jobs(workers: int, seed: int, *, gated: bool) -> None:
    """Do all jobs; a line for each that is done."""
    sizes = random.Random(seed)
    jobs = [sizes.randint(4 * MIB, 40 * MIB) for _ in range(JOBS)]
    gate = Gate(Tracker(QUOTA)) if gated else None
    out = threading.Lock()
    began = time.perf_counter()

    def job(size: int) -> None:
        with gate.acquire(size) if gate is not None else contextlib.nullcontext():
            waited = time.perf_counter() - began
            with mmap.mmap(-1, size) as block:
                for start in range(0, size, mmap.PAGESIZE):
                    block[start] = 1
                time.sleep(size / MIB * SECONDS_PER_MIB)
        with out:
            print(f"done {waited:.6f}", flush=True)

    with ThreadPoolExecutor(workers) as threads:
        for done in [threads.submit(job, size) for size in jobs]:
            done.exception()  # who fails loses its job only
    print(f"makespan {time.perf_counter() - began:.6f}", flush=True)


# --- outside ----------------------------------------------------------------------------------------------------------


def measure(way: str, workers: int, seed: int, *, gated: bool) -> Run:
    """Run all jobs in a process of 256 MiB."""
    confinement = choose_confinement(LIMIT)
    run = Run(way)
    inside = ["--inside", str(workers), str(seed), "gated" if gated else "open"]
    try:
        process = subprocess.Popen(
            confinement.command([sys.executable, "-m", "benchmarks.job_runner", *inside]),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        over = threading.Event()
        began = time.perf_counter()

        def sample() -> None:
            while not over.wait(0.02):
                run.samples.append((time.perf_counter() - began, confinement.usage(process.pid)))

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                what, seconds = line.split()
                if what == "done":
                    run.finished += 1
                    run.waits.append(float(seconds))
                else:
                    run.makespan = float(seconds)
        finally:
            over.set()
            sampler.join()
            if run.finished != JOBS:  # killed, or this is interrupted
                process.kill()
            run.exit_code = process.wait()
        run.peak = confinement.peak()
    finally:
        confinement.remove()
    return run


def measure_all() -> dict[str, list[Run]]:
    def runs(way: str, workers: int, count: int, *, gated: bool = False) -> list[Run]:
        return [measure(way, workers, SEED + number, gated=gated) for number in range(count)]

    found: dict[str, list[Run]] = {}
    way = f"{WORKERS} workers, no gate"
    found[way] = runs(way, WORKERS, RUNS)
    way = f"{WORKERS} workers, gate"
    found[way] = runs(way, WORKERS, RUNS, gated=True)
    best = float("inf")
    for workers in range(WORKERS - 1, 0, -1):
        way = f"{workers} workers, no gate"
        found[way] = runs(way, workers, FIXED_RUNS)
        if all(run.complete for run in found[way]):
            makespan = median(run.makespan for run in found[way])
            if makespan > best * ENOUGH:  # fewer are slower still
                break
            best = min(best, makespan)
    return found


def judge(found: dict[str, list[Run]]) -> dict[str, Any]:
    """The figures that the bars are about."""
    open_runs, gated = found[f"{WORKERS} workers, no gate"], found[f"{WORKERS} workers, gate"]
    fixed = {way: runs for way, runs in found.items() if "no gate" in way and all(run.complete for run in runs)}
    best = min(fixed, key=lambda way: median(run.makespan for run in fixed[way]))
    makespan = median(run.makespan for run in gated) / median(run.makespan for run in fixed[best])
    peak = max(run.peak for run in gated) / LIMIT
    wait = max(run.longest_wait for run in gated)
    bars = {
        "without the gate, runs that lost jobs": sum(not run.complete for run in open_runs) == RUNS,
        "with the gate, runs that lost none": sum(run.complete for run in gated) == RUNS,
        "peak": peak <= PEAK_BAR,
        "makespan": makespan <= MAKESPAN_BAR,
        "longest wait": wait <= WAIT_BAR,
    }
    return {
        "runs without the gate that lost jobs": sum(not run.complete for run in open_runs),
        "runs with the gate that lost none": sum(run.complete for run in gated),
        "peak of the limit": peak,
        "best fixed": best,
        "makespan of the best fixed": makespan,
        "longest wait in medians": wait,
        "within": bars,
    }


def show(found: dict[str, list[Run]], verdict: dict[str, Any], kind: str) -> None:
    print(f"{JOBS} jobs of 4 to 40 MiB in {kind}; medians of the runs, but the greatest peak and wait of any\n")
    print(f"{'':22} {'complete':>9} {'finished':>9} {'peak':>8} {'makespan':>9} {'longest wait':>13}")
    for way, runs in found.items():
        complete = [run for run in runs if run.complete]
        seconds = f"{median(run.makespan for run in complete):.2f} s" if complete else "-"
        wait = f"{max(run.longest_wait for run in complete):.2f} medians" if complete else "-"
        print(
            f"{way:22} {len(complete)} of {len(runs):<4} {median(run.finished for run in runs):9.0f} "
            f"{max(run.peak for run in runs) / LIMIT:8.1%} {seconds:>9} {wait:>13}"
        )
    print(f"\nbest fixed number: {verdict['best fixed']}; the gate takes {verdict['makespan of the best fixed']:.2f} x")
    for bar, kept in verdict["within"].items():
        print(f"{'kept  ' if kept else 'MISSED'} {bar}")


def typical(runs: list[Run]) -> Run:
    """One that lost jobs, if there is one; else that of the median makespan."""
    lost = [run for run in runs if not run.complete]
    return lost[0] if lost else sorted(runs, key=lambda run: run.makespan)[len(runs) // 2]


def draw(found: dict[str, list[Run]], verdict: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 2), layout="constrained")
    ways = (
        (f"{WORKERS} workers, no gate", "#c0392b"),
        (verdict["best fixed"], "#7f8c8d"),
        (f"{WORKERS} workers, gate", "#1f618d"),
    )
    for way, colour in ways:
        run = typical(found[way])
        samples = [(when, size) for when, size in run.samples if size > MIB]
        left.plot([when for when, _ in samples], [size / MIB for _, size in samples], color=colour, label=way, lw=1.1)
        if not run.complete and samples:
            left.plot(samples[-1][0], LIMIT / MIB, "X", color=colour, markersize=11)
            left.annotate(f"  killed, {run.finished} of {JOBS} done", (samples[-1][0], LIMIT / MIB + 4), color=colour)
    left.axhline(LIMIT / MIB, color="black", linewidth=1)
    left.set_ylim(0, LIMIT / MIB * 1.15)
    left.set_xlabel("seconds")
    left.set_ylabel("MiB used by the process")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)
    left.set_title(f"{JOBS} jobs of 4 to 40 MiB under {LIMIT // MIB} MiB")

    names = sorted(found, key=lambda way: ("no gate" not in way, int(way.split()[0])))
    for place, way in enumerate(names):
        complete = [run.makespan for run in found[way] if run.complete]
        every = len(complete) == len(found[way])
        colour = "#1f618d" if "no gate" not in way else "#7f8c8d"
        if every:
            right.barh(place, median(complete), color=colour)
            right.text(median(complete), place, f" {median(complete):.1f} s", va="center", fontsize=9)
        else:
            lost = len(found[way]) - len(complete)
            right.text(0.1, place, f"killed in {lost} of {len(found[way])} runs", va="center", color="#c0392b")
    right.set_yticks(range(len(names)), names)
    right.set_xlabel("seconds for all jobs")
    right.set_xlim(right=right.get_xlim()[1] * 1.15)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--png", type=Path, help="draw them there (takes matplotlib)")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        workers, seed, gate = options.inside
        run_jobs(int(workers), int(seed), gated=gate == "gated")
        return 0
    probe = choose_confinement(LIMIT)
    kind = probe.kind
    probe.remove()
    found = measure_all()
    verdict = judge(found)
    show(found, verdict, kind)
    if options.json:
        runs = {way: [asdict(run) for run in runs] for way, runs in found.items()}
        options.json.write_text(json.dumps({"limit": LIMIT, "kind": kind, **verdict, "runs": runs}, indent=1))
    if options.png:
        draw(found, verdict, options.png)
    return 0 if all(verdict["within"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
