"""Report: what was declared and what is used, by component, at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, final

from attrs import asdict, fields, frozen

from memquota._core.drift import Drift
from memquota.account import Account
from memquota.accounting.bounds import Bounds, ComponentBounds
from memquota.accounting.groups import Group
from memquota.accounting.statistics import GroupStatistics
from memquota.accounting.tables import Rows, indented, size_cell
from memquota.clock import monotonic
from memquota.errors import UsageTypeError, UsageValueError
from memquota.sizes import format_size
from memquota.tracker import Tracker

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ComponentReport", "Found", "Report", "TrackerReport", "report_of"]

#: What `Report.as_dict` calls itself, and the version of its form: entries may be added, any other change is a new one.
SCHEMA: Final = "memquota.report"
VERSION: Final = 1


@frozen
class Found:
    """What a registry knows of a component beside its bounds."""

    account: Account | None
    group: Group | None


@final
@frozen(kw_only=True)
class ComponentReport:
    """One component, with what is below it. Sizes in bytes; None: not known.

    Attributes:
        name: Its full name; empty: all components together.
        bounds: What it declared itself; None: nothing.
        minimum: What it and all below it declared as needed; None: none of them declared anything.
        firm: What it and all below it declared not to exceed; None: that is not known for all of it.
        used: What it and all below it claim, by its account. None: it has no open account.
        own: What its group used; None: it has no group.
        total: What its group and those below it used.
        components: Those directly below it.
    """

    name: str
    bounds: Bounds | None
    minimum: int | None
    firm: int | None
    used: int | None
    own: GroupStatistics | None
    total: GroupStatistics | None
    components: tuple[ComponentReport, ...]

    @property
    def live_bytes(self) -> int | None:
        """What it and all below it allocated and is not freed."""
        return None if self.total is None else self.total.live_bytes

    @property
    def cpu_seconds(self) -> float | None:
        """The processor time of it and all below it, in seconds."""
        return None if self.total is None else self.total.cpu_seconds

    @property
    def drift(self) -> int | None:
        """What is live beyond what is claimed; negative where more is claimed than is live."""
        return None if self.live_bytes is None or self.used is None else self.live_bytes - self.used

    @property
    def room(self) -> int | None:
        """What the larger of claims and live bytes leaves of the firm limit; negative: it is exceeded."""
        known = [size for size in (self.used, self.live_bytes) if size is not None]
        return None if self.firm is None or not known else self.firm - max(known)

    def walk(self) -> Iterator[ComponentReport]:
        """It and all below it, each before its own."""
        yield self
        for component in self.components:
            yield from component.walk()

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, ready for JSON."""
        return {
            "name": self.name,
            "minimum": self.minimum,
            "firm": self.firm,
            "used": self.used,
            "live_bytes": self.live_bytes,
            "drift": self.drift,
            "room": self.room,
            "cpu_seconds": self.cpu_seconds,
            "own": None if self.own is None else asdict(self.own),
            "total": None if self.total is None else asdict(self.total),
            "bounds": None if self.bounds is None else self.bounds.as_dict(),
            "components": [component.as_dict() for component in self.components],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ComponentReport:
        """What `as_dict` told of."""
        return cls(
            **{key: data[key] for key in ("name", "minimum", "firm", "used")},
            bounds=None if data["bounds"] is None else Bounds.from_dict(data["bounds"]),
            own=_statistics(data["own"]),
            total=_statistics(data["total"]),
            components=tuple(cls.from_dict(component) for component in data["components"]),
        )


@final
@frozen(kw_only=True)
class TrackerReport:
    """The tracker whose accounts the components have. Sizes in bytes.

    Attributes:
        name: Its name.
        used: What is claimed, also by accounts that belong to no component.
        limit: Above it reclamation starts.
        peak: The largest `used` so far.
        drift: What is claimed against what the process uses; None: that cannot be told now.
    """

    name: str
    used: int
    limit: int
    peak: int
    drift: Drift | None

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, ready for JSON."""
        drift = self.drift
        told = None if drift is None else {**asdict(drift), "difference": drift.difference, "share": drift.share}
        return {"name": self.name, "used": self.used, "limit": self.limit, "peak": self.peak, "drift": told}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrackerReport:
        """What `as_dict` told of."""
        told = data["drift"]
        drift = None if told is None else Drift(*(told[key] for key in ("nominal", "real", "limit", "source", "when")))
        return cls(drift=drift, **{key: data[key] for key in ("name", "used", "limit", "peak")})


_HEADER: Final = ("component", "minimum", "firm limit", "claimed", "live", "drift", "room", "CPU")


@final
@frozen
class Report:
    """What was declared and what is used, at one moment.

    `print(report)` shows it as plain text, `rich.print(report)` as a table.

    Attributes:
        time: When it was made, in seconds of `time.monotonic`.
        tracker: The tracker of the components' accounts; None: no accounts are open.
        root: All components together; its `components` are those at the top.
    """

    time: float
    tracker: TrackerReport | None
    root: ComponentReport

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, ready for JSON; how to read it stands in "Read the report" in the documentation."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "time": self.time,
            "tracker": None if self.tracker is None else self.tracker.as_dict(),
            "root": self.root.as_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `as_dict` told of, as in another process.

        Raises:
            UsageError: It tells of none, or in another version.
        """
        found: object = data
        if not isinstance(found, Mapping) or found.get("schema") != SCHEMA:
            raise UsageTypeError(f"a report read back has the schema {SCHEMA!r}, unlike {data!r}")
        if found.get("version") != VERSION:
            raise UsageValueError(f"reports are read in version {VERSION}, not {found.get('version')!r}")
        try:
            tracker = None if data["tracker"] is None else TrackerReport.from_dict(data["tracker"])
            return cls(data["time"], tracker, ComponentReport.from_dict(data["root"]))
        except (KeyError, TypeError) as error:
            raise UsageValueError(f"a report read back is incomplete: {error!r}") from error

    def table(self) -> Table:
        """A table of rich.

        Raises:
            ImportError: There is no rich: `pip install 'memquota[cli]'`.
        """
        return self._rows().as_table("Declared and used")

    def __rich__(self) -> Table:
        table = self.table()
        table.caption, table.caption_justify = self._tracker_text(), "left"
        return table

    def __str__(self) -> str:
        return "\n".join((self._rows().as_text(), self._tracker_text()))

    def _rows(self) -> Rows:
        return Rows(_HEADER, [_row(component) for component in self.root.walk()])

    def _tracker_text(self) -> str:
        tracker = self.tracker
        if tracker is None:
            return "No accounts are open."
        text = (
            f"Tracker {tracker.name!r}: {format_size(tracker.used)} claimed of {format_size(tracker.limit)}, "
            f"{format_size(tracker.peak)} at most."
        )
        drift = tracker.drift
        if drift is not None:
            text += f" The process uses {format_size(drift.real)} ({drift.source})."
        return text


def report_of(declared: ComponentBounds, found: Mapping[str, Found]) -> Report:
    """What is declared, and what the accounts and groups of components tell now."""
    root = _component(declared, found)
    accounts = (known.account for known in found.values() if known.account is not None)
    tracker = next((account.tracker for account in accounts if not account.closed), None)
    return Report(monotonic(), None if tracker is None else _tracker(tracker), root)


def _component(declared: ComponentBounds, found: Mapping[str, Found]) -> ComponentReport:
    components = tuple(_component(below, found) for below in declared.components)
    known = found[declared.name]
    if not declared.name:
        of_accounts = [below.used for below in components if below.used is not None]
        used = sum(of_accounts) if of_accounts else None
    else:
        used = None if known.account is None or known.account.closed else known.account.used
    own = None if known.group is None else known.group.statistics()
    totals = [one for one in (own, *(below.total for below in components)) if one is not None]
    said = any(part.bounds is not None for part in declared.walk())
    return ComponentReport(
        name=declared.name,
        bounds=declared.bounds,
        minimum=declared.minimum if said else None,
        firm=declared.firm if declared.bounded else None,
        used=used,
        own=own,
        total=reduce(GroupStatistics.merge, totals) if totals else None,
        components=components,
    )


def _tracker(tracker: Tracker) -> TrackerReport:
    try:
        drift = tracker.drift()
    except OSError:  # as ReadingUnavailable is
        drift = None
    statistics = tracker.statistics()
    return TrackerReport(
        name=tracker.name, used=statistics.used, limit=statistics.limit, peak=statistics.peak, drift=drift
    )


def _statistics(data: Mapping[str, Any] | None) -> GroupStatistics | None:
    # By name: a later version may have added entries.
    return None if data is None else GroupStatistics(**{key.name: data[key.name] for key in fields(GroupStatistics)})


def _row(component: ComponentReport) -> tuple[str, ...]:
    return (
        indented(component.name),
        size_cell(component.minimum),
        size_cell(component.firm),
        size_cell(component.used),
        size_cell(component.live_bytes),
        size_cell(component.drift),
        size_cell(component.room),
        "-" if component.cpu_seconds is None else f"{component.cpu_seconds:.2f} s",
    )
