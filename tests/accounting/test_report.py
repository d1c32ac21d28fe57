"""The report: declared and used in one tree, as values, JSON, text and a table."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from memquota import Tracker, UsageError, UsageTypeError, UsageValueError
from memquota.accounting import (
    Bounds,
    ComponentRegistry,
    ComponentReport,
    GroupStatistics,
    Report,
    Setting,
    allocations,
)

KIB = 1024
MIB = 1024**2


@pytest.fixture
def tracker() -> Tracker:
    return Tracker("64MiB", strict=True, name="main")


@pytest.fixture
def registry() -> ComponentRegistry:
    registry = ComponentRegistry()
    registry.component("sources.http").declare(Bounds(MIB, Setting("http.max", "10MiB")))
    registry.component("sources.file").declare(Bounds(MIB, "2MiB"))
    registry.component("parser")
    return registry


@pytest.fixture
def counting() -> Iterator[None]:
    if not allocations.available():
        pytest.skip(f"allocations cannot be counted here: {allocations.why_not()}")
    with allocations.tracking():
        yield


def by_name(report: Report) -> dict[str, ComponentReport]:
    return {one.name: one for one in report.root.walk()}


def test_before_anything_is_used_there_is_what_was_declared(registry: ComponentRegistry) -> None:
    report = registry.report()

    found = {one.name: (one.minimum, one.firm, one.used, one.room, one.total) for one in report.root.walk()}
    assert found == {
        "": (2 * MIB, None, None, None, None),
        "sources": (2 * MIB, 12 * MIB, None, None, None),
        "sources.http": (MIB, 10 * MIB, None, None, None),
        "sources.file": (MIB, 2 * MIB, None, None, None),
        "parser": (None, None, None, None, None),
    }
    assert report.tracker is None
    assert by_name(report)["sources.http"].bounds == Bounds(MIB, Setting("http.max", "10MiB"))


def test_with_accounts_there_is_what_is_claimed_and_what_is_left(registry: ComponentRegistry, tracker: Tracker) -> None:
    accounts = registry.open_accounts(tracker)
    accounts["sources.http"].claim(3 * MIB)
    accounts["sources"].claim(MIB)
    accounts["parser"].claim(5)
    stranger = tracker.new_account("stranger")
    stranger.claim(7)

    report = registry.report()

    assert {one.name: (one.used, one.room) for one in report.root.walk()} == {
        "": (4 * MIB + 5, None),
        "sources": (4 * MIB, 8 * MIB),
        "sources.http": (3 * MIB, 7 * MIB),
        "sources.file": (0, 2 * MIB),
        "parser": (5, None),
    }
    assert report.tracker is not None
    assert (report.tracker.name, report.tracker.used, report.tracker.limit) == ("main", 4 * MIB + 12, 64 * MIB)
    assert report.tracker.drift is not None
    assert report.tracker.drift.nominal == 4 * MIB + 12
    assert report.tracker.drift.source == "resident size"


def test_a_component_over_its_firm_limit_has_less_than_no_room(tracker: Tracker) -> None:
    registry = ComponentRegistry()
    registry.component("x").declare(Bounds(0, 100))
    registry.open_accounts(tracker)["x"].claim(100)
    registry.component("x").declare(Bounds(0, 70))

    assert by_name(registry.report())["x"].room == -30


def test_components_without_an_open_account_tell_no_claims(registry: ComponentRegistry, tracker: Tracker) -> None:
    accounts = registry.open_accounts(tracker)
    accounts["sources"].claim(5)
    accounts["sources"].close()
    registry.component("late")

    found = by_name(registry.report())

    assert {name: one.used for name, one in found.items()} == {
        "": 0,
        "sources": None,
        "sources.http": None,
        "sources.file": None,
        "parser": 0,
        "late": None,
    }
    tracker.close()
    assert registry.report().tracker is None
    assert registry.report().root.used is None


def test_what_groups_used_adds_up_along_the_tree(registry: ComponentRegistry) -> None:
    http, sources = registry.component("sources.http"), registry.component("sources")
    for component in (http, http, sources):
        with component.group:
            sum(range(100_000))

    found = by_name(registry.report())

    assert found["parser"].own is None
    assert found["sources.file"].total is None
    assert found["sources.http"].own == found["sources.http"].total == http.group.statistics()
    assert found["sources"].own == sources.group.statistics()
    assert found["sources"].total == sources.group.statistics().merge(http.group.statistics())
    assert found[""].total == found["sources"].total
    assert found["sources"].total.calls == 3
    seconds = found["sources"].cpu_seconds
    assert seconds is not None
    assert seconds == pytest.approx(sum(one.group.statistics().cpu_seconds or 0.0 for one in (http, sources)))


def test_live_bytes_and_claims_differ_by_the_drift(
    registry: ComponentRegistry, tracker: Tracker, counting: None
) -> None:
    accounts = registry.open_accounts(tracker)
    kept: list[bytes] = []
    with registry.component("sources.http").group:
        kept.append(bytes(5 * MIB))
    with registry.component("sources.file").group:
        accounts["sources.file"].claim(MIB)
    registry.component("sources").group  # noqa: B018  # made, and never entered

    found = by_name(registry.report())

    assert 5 * MIB <= (found["sources.http"].live_bytes or 0) <= 5 * MIB + 10_000
    assert (found["sources"].own or GroupStatistics()).live_bytes == 0
    assert 5 * MIB <= (found["sources.http"].drift or 0) <= 5 * MIB + 10_000
    assert -MIB <= (found["sources.file"].drift or 0) <= -MIB + 10_000
    assert 4 * MIB <= (found["sources"].drift or 0) <= 4 * MIB + 20_000
    # The larger of claims and live bytes is what counts.
    assert 5 * MIB - 10_000 <= (found["sources.http"].room or 0) <= 5 * MIB
    assert found["sources.file"].room == MIB
    assert found["parser"].live_bytes is None
    assert found["parser"].drift is None


def some_report(tracker: Tracker) -> Report:
    registry = ComponentRegistry()
    registry.component("a.b").declare(Bounds(1, Setting("most", 1000)))
    registry.open_accounts(tracker)["a.b"].claim(10)
    with registry.component("a.b").group:
        pass
    return registry.report()


def test_json_has_this_form(tracker: Tracker) -> None:
    told = json.loads(json.dumps(some_report(tracker).as_dict()))

    assert list(told) == ["schema", "version", "time", "tracker", "root"]
    assert (told["schema"], told["version"]) == ("memquota.report", 1)
    assert isinstance(told["time"], float)
    assert list(told["tracker"]) == ["name", "used", "limit", "peak", "drift"]
    assert list(told["tracker"]["drift"]) == ["nominal", "real", "limit", "source", "when", "difference", "share"]
    (a,) = told["root"]["components"]
    (b,) = a["components"]
    for component in (told["root"], a, b):
        assert list(component) == [
            *("name", "minimum", "firm", "used", "live_bytes", "drift", "room", "cpu_seconds"),
            *("own", "total", "bounds", "components"),
        ]
    assert [told["root"]["name"], a["name"], b["name"]] == ["", "a", "a.b"]
    assert (b["minimum"], b["firm"], b["used"], b["room"]) == (1, 1000, 10, 990)
    assert list(b["own"]) == ["cpu_seconds", "calls", "live_bytes", "live_objects", "allocated_bytes", "freed_bytes"]
    assert (a["own"], a["total"]) == (None, b["own"])
    assert b["bounds"] == Bounds(1, Setting("most", 1000)).as_dict()
    assert a["bounds"] is None


def test_a_report_is_the_same_again_after_json(
    tracker: Tracker, registry: ComponentRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = registry.report()
    monkeypatch.setattr(Tracker, "drift", lambda self: (_ for _ in ()).throw(OSError("unknown")))
    without_drift = some_report(Tracker("1MiB"))
    monkeypatch.undo()

    assert without_drift.tracker is not None
    assert without_drift.tracker.drift is None
    for report in (some_report(tracker), bare, without_drift):
        assert Report.from_dict(json.loads(json.dumps(report.as_dict()))) == report


def test_a_report_of_a_later_version_with_more_entries_is_read(tracker: Tracker) -> None:
    report = some_report(tracker)
    told = report.as_dict()
    (a,) = told["root"]["components"]
    (b,) = a["components"]
    for place in (told, told["tracker"], told["tracker"]["drift"], b, b["own"], b["total"], b["bounds"]):
        place["added"] = 1

    assert Report.from_dict(json.loads(json.dumps(told))) == report


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"schema": "other"}, UsageTypeError, "a report read back has the schema 'memquota.report'"),
        ({"version": 2}, UsageValueError, "reports are read in version 1, not 2"),
        ({"root": {}}, UsageValueError, r"incomplete: KeyError\('name'\)"),
        ({"root": None}, UsageValueError, "incomplete: TypeError"),
        ({"tracker": {"drift": None}}, UsageValueError, r"incomplete: KeyError\('name'\)"),
        (None, UsageTypeError, "a report read back has the schema"),
    ],
)
def test_what_is_no_report_is_refused(
    tracker: Tracker, change: dict[str, Any] | None, error: type[UsageError], text: str
) -> None:
    told = some_report(tracker).as_dict()

    with pytest.raises(error, match=text):
        Report.from_dict(None if change is None else {**told, **change})  # type: ignore[arg-type]


def test_as_text_and_as_a_table_it_has_a_line_for_each_component(registry: ComponentRegistry, tracker: Tracker) -> None:
    accounts = registry.open_accounts(tracker)
    accounts["sources.http"].claim(3 * MIB)
    registry.component("[bold]no markup")
    report = registry.report()
    printed = io.StringIO()
    Console(file=printed, width=90).print(report)

    for text in (str(report), printed.getvalue()):
        rows = {line.strip().split("  ")[0]: line.split() for line in text.splitlines() if line.strip()}
        assert rows["component"] == ["component", "minimum", "firm", "limit", "claimed", "live", "drift", "room", "CPU"]
        assert rows["all"][1:] == ["2.0", "MiB", "-", "3.0", "MiB", "-", "-", "-", "-"]
        assert rows["http"][1:] == ["1.0", "MiB", "10.0", "MiB", "3.0", "MiB", "-", "-", "7.0", "MiB", "-"]
        assert rows["parser"][1:] == ["-", "-", "0", "B", "-", "-", "-", "-"]
        assert rows["[bold]no markup"][-7:] == ["-"] * 7
        assert "Tracker 'main': 3.0 MiB claimed of 64.0 MiB, 3.0 MiB at most." in text
    assert str(report).splitlines()[2].startswith("  sources ")
    assert str(report).splitlines()[3].startswith("    http ")


def test_in_a_narrow_terminal_figures_are_wrapped_and_nothing_is_cut_off() -> None:
    known = ComponentReport(
        name="sources.http",
        bounds=None,
        minimum=1001 * KIB,
        firm=1002 * KIB,
        used=1003 * KIB,
        own=None,
        total=GroupStatistics(cpu_seconds=1004.56, calls=1, live_bytes=7 * KIB),
        components=(),
    )
    printed = io.StringIO()

    Console(file=printed, width=80).print(Report(0.0, None, known))

    words = {"http", "1001.0", "1002.0", "1003.0", "7.0", "-996.0", "-1.0", "1004.56", "s"}
    assert words <= set(printed.getvalue().split())


def test_without_accounts_the_text_says_so(registry: ComponentRegistry) -> None:
    assert str(registry.report()).splitlines()[-1] == "No accounts are open."
