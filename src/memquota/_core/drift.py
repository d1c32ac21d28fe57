"""How far what was claimed is from what is really used."""

from __future__ import annotations

from math import isfinite
from typing import Final

from attrs import frozen

from memquota.errors import UsageTypeError, UsageValueError

from .events import Event

__all__ = ["AccountReconciled", "Drift", "DriftBackInBand", "DriftBand", "DriftLeftBand"]

#: How far inside the band, as a part of its width, the drift counts as back in it.
_HYSTERESIS: Final = 1 / 8


@frozen
class Drift:
    """What was claimed against what is really used, at one moment. Sizes in bytes.

    Attributes:
        nominal: What is claimed; at most 1/32 of the limit too much.
        real: What the process, or its control group, uses.
        limit: The tracker's.
        source: What `real` is: "resident size", or the source and the level of a provider's reading.
        when: Seconds of the tracker's clock.
    """

    nominal: int
    real: int
    limit: int
    source: str
    when: float

    @property
    def difference(self) -> int:
        """What is used beyond what is claimed; negative where more is claimed than used."""
        return self.real - self.nominal

    @property
    def share(self) -> float:
        """The difference as a part of the limit."""
        return self.difference / self.limit


@frozen
class DriftLeftBand(Event):
    """The drift's share left the band that was set for it."""

    drift: Drift
    low: float
    high: float


@frozen
class DriftBackInBand(Event):
    """The drift's share is well inside the band again."""

    drift: Drift
    low: float
    high: float


@frozen
class AccountReconciled(Event):
    """An account was written off by hand, because what it had claimed had leaked.

    Attributes:
        account: Its name.
        written_off: What it and its descendants had claimed, in bytes.
        used: What is claimed in all without it.
        when: Seconds of the tracker's clock.
    """

    account: str
    written_off: int
    used: int
    when: float


class DriftBand:
    """Says when the drift leaves a band, and when it is back: an eighth of the width inside, so as not to flutter.

    Raises:
        UsageError: The band is no pair of finite numbers with the lower one first.
    """

    def __init__(self, band: tuple[float, float]) -> None:
        edges: object = band
        if not isinstance(edges, tuple | list) or len(edges) != 2:
            raise UsageTypeError(f"a band is a pair of shares of the limit, such as (-0.1, 0.25), not {band!r}")
        for edge in edges:
            if isinstance(edge, bool) or not isinstance(edge, int | float):
                raise UsageTypeError(f"a band's edges are numbers, not {edge!r}")
        self.low, self.high = float(band[0]), float(band[1])
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise UsageValueError(f"a band goes from a smaller share to a larger one, not {band!r}")
        self.outside = False

    def judge(self, drift: Drift) -> DriftLeftBand | DriftBackInBand | None:
        """The event of crossing the edge; None where the drift is on the side where it was."""
        margin = (self.high - self.low) * _HYSTERESIS if self.outside else 0.0
        outside = not self.low + margin <= drift.share <= self.high - margin
        if outside is self.outside:
            return None
        self.outside = outside
        return (DriftLeftBand if outside else DriftBackInBand)(drift, self.low, self.high)
