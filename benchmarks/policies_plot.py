"""Draws what `benchmarks.policies` measured. Takes matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

INK = "#1c2733"
SOFT = "#53616e"
FAINT = "#8794a1"
LOOKS = {"oldest_data": ("#1f5fa8", "o"), "byte_seconds": ("#15803d", "s"), "bytes * age**2": ("#8e44ad", "D")}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.dpi": 150,
}


def plot(figures: Mapping[str, Rows], folder: Path) -> None:
    """Draw `policies-floods.png` and `policies-sizes.png` in a folder, which is made if need be."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, figure in (("floods", _floods(figures)), ("sizes", _sizes(figures["sizes"]))):
            figure.savefig(folder / f"policies-{name}.png", metadata={"Software": None})


def _unique(rows: Rows, key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _floods(figures: Mapping[str, Rows]) -> Any:
    """How many are lost at which rate, in each flood under each policy; and where the threshold was measured."""
    from matplotlib import pyplot
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    rows = figures["floods"]
    floods, policies, rates = (_unique(rows, key) for key in ("flood", "policy", "rate"))
    honest = max(row["killed"] for row in rows)
    shades = LinearSegmentedColormap.from_list("lost", ["#eaf4ea", "#f6d9a8", "#d9695f"])
    step = log10(rates[1] / rates[0])
    left, right = log10(rates[0]) - step / 2, log10(rates[-1]) + step / 2
    # The sizing rule: what oldest_data is predicted to bear of the worst flood.
    rule = log10(next(row["predicted"] for row in figures["thresholds"][::-1] if row["policy"] == "oldest_data"))
    figure, panels = pyplot.subplots(len(floods), 1, figsize=(10, 8.4), sharex=True, layout="constrained")
    for flood, panel in zip(floods, panels, strict=True):
        found = {policies.index(row["policy"]): row for row in figures["thresholds"] if row["flood"] == flood}
        for row in rows:
            if row["flood"] != flood:
                continue
            x, y = log10(row["rate"]), policies.index(row["policy"])
            color = shades(row["killed"] / honest)
            panel.add_patch(
                Rectangle((x - step / 2, y - 0.5), step, 1, facecolor=color, edgecolor="white", linewidth=1.5)
            )
            line = log10(found[y]["measured"]) if y in found else right
            shift = 0.1 if abs(rule - x) < step / 4 else 0.0  # beside the lines, not on them
            if abs(line - x) < step / 8:
                shift = 0.28 if line <= x else -0.28
            panel.text(x + shift * step, y, row["killed"], ha="center", va="center", fontsize=11)
        panel.axvline(rule, color=FAINT, linewidth=1.4, linestyle=(0, (4, 3)))
        for y, row in found.items():
            x = log10(row["measured"])
            if x < right:
                panel.plot([x, x], [y - 0.5, y + 0.5], color=INK, linewidth=3, solid_capstyle="butt")
            panel.text(right + step / 8, y, f"{row['measured']:.3g} ({row['predicted']:.3g})", va="center")
        panel.text(right + step / 8, -0.72, "threshold (predicted)", fontsize=9, va="center", color=SOFT)
        panel.set_title(flood, loc="left", fontsize=11, fontweight="bold")
        panel.set_yticks(range(len(policies)), policies, family="DejaVu Sans Mono", fontsize=9)
        panel.set_ylim(len(policies) - 0.5, -0.5)
        panel.set_xlim(left, right)
        panel.tick_params(length=0)
        for side in panel.spines.values():
            side.set_visible(False)
    panels[0].text(rule, -0.72, "low_water = R·T + H", fontsize=9, ha="center", va="center", color=SOFT)
    panels[-1].set_xticks([log10(rate) for rate in rates], [f"{rate:.2g}" for rate in rates])
    panels[-1].set_xlabel("rate of the flood, in units of low_water / T")
    figure.suptitle(
        f"Honest connections lost, of {honest}. Black: measured threshold; dashed: the sizing rule",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    return figure


def _sizes(rows: Rows) -> Any:
    """Thresholds by the size of the attackers: lines are predicted, marks measured."""
    from matplotlib import pyplot

    ratios = _unique(rows, "ratio")
    figure, panel = pyplot.subplots(figsize=(8.6, 5.4), layout="constrained")
    for policy in _unique(rows, "policy"):
        own = [row for row in rows if row["policy"] == policy]
        color, mark = LOOKS[policy]
        predicted = [row["predicted"] / row["room"] for row in own]
        panel.plot(ratios, predicted, color=color, linewidth=1.8)
        panel.plot(ratios, [row["measured"] / row["room"] for row in own], mark, color=color, markersize=7)
        panel.annotate(
            policy,
            (ratios[-1], predicted[-1]),
            (8, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=11,
        )
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.set_xlim(ratios[0] / 1.15, ratios[-1] * 2.6)
    panel.set_xticks(ratios, [f"1/{1 / ratio:.0f}" if ratio < 1 else f"{ratio:.0f}" for ratio in ratios])
    levels = [0.25, 0.5, 1, 2, 4, 8, 16]
    panel.set_yticks(levels, [f"{level:g}" for level in levels])
    panel.minorticks_off()
    panel.grid(color="#e3e8ed", linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.set_xlabel("what an attacker's account holds, over what an honest one holds")
    panel.set_ylabel("largest rate without a loss, in (low_water - H) / T")
    panel.set_title(
        "Thresholds under a flood of bursts: lines predicted, marks measured", loc="left", fontsize=12, color=INK
    )
    return figure
