"""Every recorded tree reads as its README says."""

from pathlib import Path

import pytest

from memquota import host
from tests.host.support import TREES, expected_of

NAMES = sorted(path.parent.name for path in TREES.glob("*/README.md"))


@pytest.fixture(params=NAMES)
def tree(request: pytest.FixtureRequest) -> Path:
    return TREES / str(request.param)


def test_the_reading_is_that_of_the_readme(tree: Path) -> None:
    """F47: nested limits, hybrid hierarchies, namespaces and containers bind where they do."""
    expected = expected_of(tree)

    with host.detect(str(tree)) as provider:
        if "problem" in expected:
            with pytest.raises(host.ReadingUnavailable, match=expected["problem"]):
                provider.read()
            return
        reading = provider.read()

    found = {
        "limit": reading.limit,
        "used": reading.used,
        "available": reading.available,
        "source": reading.source,
        "level": reading.level,
    }
    assert found == {name: expected[name] for name in found}


def test_the_limits_are_those_of_the_readme(tree: Path) -> None:
    expected = expected_of(tree)

    found = host.limits(str(tree))

    assert found.effective == expected["effective"]
    assert (found.first and found.first.title) == expected["first"]
    assert [row.title for row in found.rows if row.problem] == expected.get("unknown", [])
    if "soft" in expected:
        soft = {row.title: row.distance for row in found.rows if row.kind == "soft"}
        assert {title: soft[title] for title in expected["soft"]} == expected["soft"]
    if "notes" in expected:
        notes = {row.title: row.limit for row in found.rows if row.kind == "note"}
        assert notes == {**notes, **expected["notes"]}


def test_the_limits_and_the_reading_tell_the_same(tree: Path) -> None:
    expected = expected_of(tree)
    if "problem" in expected:
        return

    found = host.limits(str(tree))

    assert found.effective == expected["limit"]
    nearest = min(row.distance for row in found.rows if row.kind == "hard" and row.distance is not None)
    assert nearest == expected["available"]


def test_the_pressure_is_that_of_the_readme(tree: Path) -> None:
    reading = host.pressure(str(tree))

    assert (reading and reading.level) == expected_of(tree)["pressure"]


def test_every_tree_has_a_readme_with_its_source() -> None:
    for folder in TREES.iterdir():
        if folder.is_dir():
            assert "\nSource: " in (folder / "README.md").read_text()
    assert len(NAMES) == 23
