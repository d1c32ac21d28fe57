"""The picture of both runs: what the process used over time, and where it was killed."""

from __future__ import annotations

from pathlib import Path

from memquota.demo.scenario import Measured, Scenario

__all__ = ["draw"]

_MIB = 2**20


def draw(scenario: Scenario, control: Measured, protected: Measured, path: Path) -> None:
    """Write the picture as PNG. Takes matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 6.5), height_ratios=(3, 2), sharex=True, layout="constrained"
    )
    runs = ((control, "without a quota", "#c0392b"), (protected, "with a quota", "#1f618d"))
    for measured, label, colour in runs:
        times = [sample.when - measured.attack_began for sample in measured.samples]
        sizes = [sample.group / _MIB for sample in measured.samples]
        above.plot(times, sizes, color=colour, label=f"memory of the relay {label}", linewidth=1.8)
        if measured.died_after is not None and times:
            above.plot(measured.died_after, scenario.limit / _MIB, "X", color=colour, markersize=11)
            above.annotate(
                f"   {measured.end}",
                (measured.died_after, scenario.limit / _MIB),
                color=colour,
                va="top",
            )
    above.axhline(scenario.limit / _MIB, color="black", linewidth=1, linestyle="-")
    above.text(-scenario.baseline, scenario.limit / _MIB + 1.5, "limit of the process", fontsize=9)
    above.set_ylabel("MiB")
    above.set_xlim(left=-0.5 - max(scenario.baseline, control.attack_began, protected.attack_began))
    above.set_ylim(0, scenario.limit / _MIB * 1.12)
    above.legend(loc="center right")
    above.set_title(f"{scenario.attackers} attackers ({scenario.name}) against one relay")

    times = [sample.when - protected.attack_began for sample in protected.samples]
    below.plot(times, [sample.tracked / _MIB for sample in protected.samples], color="#1f618d", linewidth=1.2)
    for size, text in ((scenario.quota, "quota"), (scenario.quota * 3 // 4, "low water")):
        below.axhline(size / _MIB, color="#7f8c8d", linestyle="--", linewidth=1)
        below.text(-scenario.baseline, size / _MIB + 0.6, text, color="#566573", fontsize=9)
    below.set_ylabel("MiB tracked")
    below.set_ylim(0, scenario.quota / _MIB * 1.2)
    below.set_xlabel("seconds since the attack began")
    victims = below.twinx()
    victims.plot(times, [sample.victims for sample in protected.samples], color="#b9770e", linewidth=1.2)
    victims.set_ylabel("connections cut off", color="#b9770e")
    victims.set_ylim(bottom=0)
    for axes in (above, below):
        axes.axvline(0, color="#7f8c8d", linewidth=0.8, linestyle=":")
        axes.spines[["top"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
