import math

import pytest

from tests.api.support import POLICIES, World


@pytest.fixture(autouse=True)
def unbounded_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are not cut into slices: how fast this machine is must not decide what a test sees."""
    monkeypatch.setattr("memquota.reclaimers._loop._SLICE", math.inf)


@pytest.fixture
def world() -> World:
    """A tracker of 1000 bytes, low water 750: too small for credit, so that every number is exact."""
    return World()


@pytest.fixture(params=POLICIES, ids=lambda policy: policy if isinstance(policy, str) else "own")
def any_policy(request: pytest.FixtureRequest) -> World:
    """The same under each policy."""
    return World(policy=request.param)
