"""Nominal use against real use, and the band that tells when they part."""

import pytest

from memquota._core.drift import Drift, DriftBackInBand, DriftBand, DriftLeftBand
from memquota.errors import UsageTypeError, UsageValueError


def drift(share: float) -> Drift:
    return Drift(1000, 1000 + round(share * 1000), 1000, "here", 7.0)


def test_a_drift_says_the_difference_and_its_share_of_the_limit() -> None:
    assert (Drift(100, 350, 1000, "here", 0.0).difference, Drift(100, 350, 1000, "here", 0.0).share) == (250, 0.25)
    assert (Drift(350, 100, 1000, "here", 0.0).difference, Drift(350, 100, 1000, "here", 0.0).share) == (-250, -0.25)


def test_leaving_a_band_is_told_once_and_so_is_coming_back_well_inside() -> None:
    band = DriftBand((-0.1, 0.3))  # an eighth of its width is 0.05

    told = [
        type(band.judge(drift(share)))
        for share in (0.0, 0.3, -0.1, 0.301, 0.9, 0.3, 0.251, 0.25, 0.3, -0.101, -0.051, -0.05)
    ]

    nothing = type(None)
    left, back = DriftLeftBand, DriftBackInBand
    assert told == [nothing, nothing, nothing, left, *[nothing] * 3, back, nothing, left, nothing, back]


def test_from_one_edge_past_the_other_stays_outside() -> None:
    band = DriftBand((-0.1, 0.3))

    first = band.judge(drift(0.5))

    assert first == DriftLeftBand(drift(0.5), -0.1, 0.3)
    assert band.judge(drift(-0.5)) is None
    assert band.outside
    assert band.judge(drift(0.0)) == DriftBackInBand(drift(0.0), -0.1, 0.3)
    assert not band.outside


@pytest.mark.parametrize("band", [0.1, None, "ab", (0.1,), (0.1, 0.2, 0.3)])
def test_a_band_that_is_no_pair_is_refused(band: object) -> None:
    with pytest.raises(UsageTypeError) as caught:
        DriftBand(band)  # type: ignore[arg-type]

    assert str(caught.value) == f"a band is a pair of shares of the limit, such as (-0.1, 0.25), not {band!r}"


@pytest.mark.parametrize(("band", "edge"), [((True, 2.0), "True"), ((0.0, "1"), "'1'"), ((None, 1.0), "None")])
def test_a_band_whose_edges_are_no_numbers_is_refused(band: object, edge: str) -> None:
    with pytest.raises(UsageTypeError) as caught:
        DriftBand(band)  # type: ignore[arg-type]

    assert str(caught.value) == f"a band's edges are numbers, not {edge}"


@pytest.mark.parametrize("band", [(0.1, 0.1), (0.2, 0.1), (float("nan"), 1.0), (0.0, float("inf")), (float("-inf"), 0)])
def test_a_band_that_makes_no_sense_is_refused(band: tuple[float, float]) -> None:
    with pytest.raises(UsageValueError) as caught:
        DriftBand(band)

    assert str(caught.value) == f"a band goes from a smaller share to a larger one, not {band!r}"


def test_whole_numbers_are_edges_too() -> None:
    band = DriftBand((0, 1))

    assert (band.low, band.high) == (0.0, 1.0)
