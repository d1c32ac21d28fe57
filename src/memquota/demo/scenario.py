"""What is run, and what is measured."""

from __future__ import annotations

from attrs import define, field, frozen

__all__ = ["Bar", "Measured", "RunFailed", "Sample", "Scenario", "bars", "percentile"]


class RunFailed(Exception):
    """What was to be measured did not happen: something ended that should have gone on."""


@frozen(kw_only=True)
class Scenario:
    """The settings of a demonstration.

    Attributes:
        name: "slow-readers" (attackers subscribe and never read) or "flood" (they push fresh data).
        limit: The memory limit of the relay's process in bytes.
        quota: For all that the relay holds for its clients, in bytes; the low water is 75 % of it.
        peer_limit: For what it holds for one host, in bytes; None for no such limit.
        policy: Who is cut off first.
        backend: What the relay runs on.
        attackers: How many.
        honest: How many subscribers read everything and check it.
        topics: How many there are, each with a publisher of its own; subscribers are spread over them.
        frame: Bytes in a frame.
        rate: Frames a second that each publisher sends.
        baseline: Seconds of undisturbed running before the attack.
        seconds: Seconds of attack.
        patience: Seconds within which the unprotected relay is expected to die.
    """

    name: str = "slow-readers"
    limit: int = 128 * 2**20
    quota: int = 48 * 2**20
    peer_limit: int | None = None
    policy: str = "oldest_data"
    backend: str = "asyncio"
    attackers: int = 100
    honest: int = 10
    topics: int = 20
    frame: int = 64 * 1024
    rate: float = 11.0
    baseline: float = 8.0
    seconds: float = 20.0
    patience: float = 15.0


@frozen
class Sample:
    """One moment of a run: seconds since its start, bytes of the process or group, bytes tracked, victims so far."""

    when: float
    group: int
    tracked: int
    victims: int


@define
class Measured:
    """What one run of the relay showed.

    Attributes:
        protected: Whether it had a quota.
        confinement: What limited its memory, in words.
        died_after: Seconds from the start of the attack until the relay was out of memory; None when it lived.
        exit_code: The relay's, when it died: -9 when the kernel killed it.
        attack_began: Seconds from the start of the run.
        peak_group: The most that the group used, in bytes.
        peak_tracked: The most that the tracker counted.
        victims: Connections that were cut off.
        rounds: Rounds of reclamation.
        longest_round: Seconds.
        honest_cut: Honest clients (subscribers, publishers, echo) that lost their connection.
        wrong: Frames that honest subscribers received damaged or out of order.
        scheduled: Frames that should have been delivered to all honest subscribers together.
        delivered: Frames that were, correct, in order and within a second of when they were due.
        echo_baseline: Round trips of the echo clients before the attack, in seconds.
        echo_attack: And during it.
        samples: The run over time.
    """

    protected: bool
    confinement: str = ""
    died_after: float | None = None
    exit_code: int | None = None
    attack_began: float = 0.0
    peak_group: int = 0
    peak_tracked: int = 0
    victims: int = 0
    rounds: int = 0
    longest_round: float = 0.0
    honest_cut: int = 0
    wrong: int = 0
    scheduled: int = 0
    delivered: int = 0
    echo_baseline: list[float] = field(factory=list, repr=False)
    echo_attack: list[float] = field(factory=list, repr=False)
    samples: list[Sample] = field(factory=list, repr=False)

    @property
    def end(self) -> str:
        """What became of the relay, in words."""
        if self.died_after is None:
            return "alive"
        how = "killed" if self.exit_code == -9 else "died"
        return f"{how} after {self.died_after:.1f} s"

    @property
    def delivered_share(self) -> float:
        """Part of the scheduled frames that was delivered."""
        return self.delivered / self.scheduled if self.scheduled else 0.0

    @property
    def echo_rate(self) -> float:
        """Echoes a second by the median round trip under attack, as a part of the baseline's."""
        if not self.echo_attack or not self.echo_baseline:
            return 0.0
        return percentile(self.echo_baseline, 0.5) / percentile(self.echo_attack, 0.5)

    @property
    def echo_tail(self) -> float:
        """The 99th percentile of the round trips under attack, as a multiple of the baseline's."""
        if not self.echo_attack or not self.echo_baseline:
            return float("inf")
        return percentile(self.echo_attack, 0.99) / percentile(self.echo_baseline, 0.99)


def percentile(values: list[float], part: float) -> float:
    """The value that so large a part of them is below; the upper one of two."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


@frozen
class Bar:
    """Something that has to hold: what, what was seen, what was asked for."""

    what: str
    seen: str
    asked: str
    held: bool


def bars(scenario: Scenario, control: Measured, protected: Measured) -> list[Bar]:
    """What the demonstration claims, against what it saw. Its comparison is void when the control lived."""
    mib = 2**20
    died = control.died_after
    rows = [
        Bar(
            "the relay without a quota dies",
            control.end,
            "< 10 s",
            died is not None and died < 10,
        ),
        Bar("the relay with a quota lives", protected.end, "alive", protected.died_after is None),
        Bar(
            "peak of its process or group",
            f"{protected.peak_group / mib:.1f} MiB",
            f"<= {(scenario.quota + 16 * mib) / mib:.0f} MiB",
            protected.peak_group <= scenario.quota + 16 * mib,
        ),
        Bar("connections cut off", str(protected.victims), "> 0", protected.victims > 0),  # else nothing was needed
        Bar("honest clients cut off", str(protected.honest_cut), "0", protected.honest_cut == 0),
        Bar("frames wrong or out of order", str(protected.wrong), "0", protected.wrong == 0),
        Bar(
            "delivered on schedule",
            f"{protected.delivered_share:.1%}",
            ">= 97 %",
            protected.delivered_share >= 0.97,
        ),
        Bar(
            "longest round",
            f"{protected.longest_round * 1000:.1f} ms",
            "<= 5 ms",
            protected.longest_round <= 0.005,
        ),
    ]
    if scenario.name == "flood":  # it takes the processor, too, which no quota gives back
        return rows
    return [
        *rows,
        Bar(
            "echoes at the median, of the baseline's rate",
            f"{protected.echo_rate:.1%}",
            ">= 80 %",
            protected.echo_rate >= 0.8,
        ),
        Bar(
            "echoes at p99, of the baseline's time", f"{protected.echo_tail:.2f} x", "<= 2 x", protected.echo_tail <= 2
        ),
    ]
