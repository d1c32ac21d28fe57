"""What a person sees: the demonstration as it goes, the table at the end, the files that stay."""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path

import anyio
from attrs import asdict
from rich.console import Console
from rich.live import Live
from rich.table import Table

from memquota.demo.picture import draw
from memquota.demo.run import run_once
from memquota.demo.scenario import Bar, Measured, RunFailed, Sample, Scenario, bars, percentile
from memquota.errors import UsageError, size_text
from memquota.sizes import parse_size

__all__ = ["add_arguments", "main"]

_RESULTS = Path("demo-results")
#: A share of one host in a flood still holds a frame then.
_LEAST_QUOTA = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `memquota demo`."""
    parser.add_argument(
        "--scenario", choices=["slow-readers", "flood"], default="slow-readers", help="what attackers do"
    )
    parser.add_argument("--attackers", type=_count, help="how many (100; 24 in a flood)")
    parser.add_argument("--quota", type=_quota, default="48MiB", help="for all that it holds for its clients (48MiB)")
    parser.add_argument("--seconds", type=_seconds, default=20.0, help="how long the attack lasts (20)")
    parser.add_argument("--policy", default="oldest_data", choices=["oldest_data", "largest", "byte_seconds"])
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"], help="what the relay runs on")


def main(options: argparse.Namespace) -> int:
    """Run the relay twice, tell, and write `demo-results/`. Returns the exit code: 0 when every bar held."""
    scenario = _scenario(options)
    console = Console()
    try:
        _RESULTS.mkdir(exist_ok=True)
    except OSError as error:
        console.print(f"No results can be written here: {error}")
        return 2
    console.print(
        f"The same relay twice, {scenario.attackers} attackers ({scenario.name}), {scenario.honest} honest "
        f"subscribers on {scenario.topics} topics: without a quota, then with {size_text(scenario.quota)}."
    )
    runs = anyio.run(_both, scenario, console)
    if len(runs) < 2:
        return 1
    control, protected = runs
    rows = bars(scenario, control, protected)
    console.print(_figures(scenario, control, protected))
    console.print(_verdict(rows))
    if control.died_after is None:
        console.print("[bold]The relay without a quota lived: the comparison is void.[/]")
    _write(scenario, control, protected, rows, console)
    return 0 if all(row.held for row in rows) else 1


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"there must be one at least, not {text}")
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"from 1 to 3600, not {text}")
    return seconds


def _quota(text: str) -> int:
    try:
        quota = parse_size(text, what="quota")
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if quota < _LEAST_QUOTA:
        raise argparse.ArgumentTypeError(f"{size_text(_LEAST_QUOTA)} at least, not {text}")
    return quota


def _scenario(options: argparse.Namespace) -> Scenario:
    quota = options.quota
    if options.scenario == "flood":
        return Scenario(
            name="flood",
            quota=quota,
            # All attacking hosts together stay below the low water.
            peer_limit=quota // 24,
            policy=options.policy,
            backend=options.backend,
            attackers=options.attackers or 24,
            seconds=options.seconds,
            topics=4,
            rate=16.0,
            frame=32 * 1024,
        )
    return Scenario(
        quota=quota,
        policy=options.policy,
        backend=options.backend,
        attackers=options.attackers or 100,
        seconds=options.seconds,
    )


async def _both(scenario: Scenario, console: Console) -> list[Measured]:
    """Both runs; fewer, and why, when one failed or a signal ended it."""
    runs: list[Measured] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_at_signal, tasks.cancel_scope, console)
        try:
            runs.append(await _one(scenario, console, protected=False))
            runs.append(await _one(scenario, console, protected=True))
        except RunFailed as failure:
            console.print(f"Nothing can be said: {failure}", markup=False, soft_wrap=True)
        tasks.cancel_scope.cancel()
    return runs


async def _end_at_signal(scope: anyio.CancelScope, console: Console) -> None:
    """So that processes and groups are cleaned up, whichever it is."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()
            console.print("Interrupted.")  # after that: the terminal may be gone


async def _one(scenario: Scenario, console: Console, *, protected: bool) -> Measured:
    with Live(console=console, refresh_per_second=8, transient=True) as live:

        def progress(phase: str, sample: Sample | None, measured: Measured, received: int) -> None:
            live.update(_progress(scenario, phase, sample, measured, received))

        measured = await run_once(scenario, protected=protected, progress=progress)
    title = "with a quota" if protected else "without a quota"
    end = measured.end if measured.died_after is None else f"{measured.end} of attack"
    console.print(f"{title}: {end}, peak {size_text(measured.peak_group)}")
    return measured


def _progress(scenario: Scenario, phase: str, sample: Sample | None, measured: Measured, received: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(f"[bold]{'with' if measured.protected else 'without'} a quota[/]", phase)
    if sample is not None:
        table.add_row("memory", _gauge(sample.group, scenario.limit), f"of {size_text(scenario.limit)}")
        if measured.protected:
            water = f"of {size_text(scenario.quota)}, low water {size_text(scenario.quota * 3 // 4)}"
            table.add_row("tracked", _gauge(sample.tracked, scenario.quota), water)
            table.add_row("cut off", str(sample.victims), f"honest ones: {measured.honest_cut}")
        table.add_row("delivered", f"{received} frames", f"{sample.when:.0f} s")
    return table


def _gauge(used: int, whole: int) -> str:
    filled = min(40, round(40 * used / whole))
    colour = "green" if used < 0.75 * whole else "yellow" if used <= whole else "red"
    return f"[{colour}]{'█' * filled}[/][dim]{'░' * (40 - filled)}[/] {size_text(used)}"


def _figures(scenario: Scenario, control: Measured, protected: Measured) -> Table:
    table = Table("", "without a quota", "with a quota", title=f"What was seen, in {protected.confinement}")

    def milliseconds(values: list[float], part: float) -> str:
        return f"{percentile(values, part) * 1000:.1f} ms" if values else "-"

    rows = [
        ("survived", *("yes" if run.died_after is None else "no" for run in (control, protected))),
        ("peak memory", *(size_text(run.peak_group) for run in (control, protected))),
        ("peak tracked", "-", size_text(protected.peak_tracked)),
        ("connections cut off", "-", str(protected.victims)),
        ("honest clients cut off", *(str(run.honest_cut) for run in (control, protected))),
        ("frames delivered on schedule", *(f"{run.delivered_share:.1%}" for run in (control, protected))),
        ("echo, median, before the attack", *(milliseconds(run.echo_baseline, 0.5) for run in (control, protected))),
        ("echo, median, under attack", *(milliseconds(run.echo_attack, 0.5) for run in (control, protected))),
        ("echo, p99, before the attack", *(milliseconds(run.echo_baseline, 0.99) for run in (control, protected))),
        ("echo, p99, under attack", *(milliseconds(run.echo_attack, 0.99) for run in (control, protected))),
        ("rounds of reclamation", "-", str(protected.rounds)),
        ("longest round", "-", f"{protected.longest_round * 1000:.2f} ms"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _verdict(rows: list[Bar]) -> Table:
    table = Table("claim", "seen", "bar", "", title="What is claimed")
    for row in rows:
        table.add_row(row.what, row.seen, row.asked, "[green]held[/]" if row.held else "[red]missed[/]")
    return table


def _write(scenario: Scenario, control: Measured, protected: Measured, rows: list[Bar], console: Console) -> None:
    name = scenario.name
    figures = {
        "scenario": asdict(scenario),
        "bars": [asdict(row) for row in rows],
        "without_quota": _summary(control),
        "with_quota": _summary(protected),
    }
    (_RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw(scenario, control, protected, _RESULTS / f"{name}.png")
    console.print(f"Written: {_RESULTS / f'{name}.json'}, {_RESULTS / f'{name}.png'}")


def _summary(run: Measured) -> dict[str, object]:
    values = asdict(run, filter=lambda attribute, _: not attribute.name.startswith("echo"))
    for name in ("echo_baseline", "echo_attack"):
        times = getattr(run, name)
        values[name] = {
            "count": len(times),
            "median": percentile(times, 0.5) if times else None,
            "p99": percentile(times, 0.99) if times else None,
        }
    return values
