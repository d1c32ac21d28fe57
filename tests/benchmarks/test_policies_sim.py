"""The figures behind the advice on policies: small forms of the simulation, so that the advice stays true."""

from functools import partial

import pytest

from benchmarks.attacks import LIMIT, PIECE, Audit, Connection, Outcome, Scenario, T, World, bursts, floods, simulate
from benchmarks.attacks import tricklers as let_trickle
from benchmarks.policies import POLICIES, Flood, flooded, of_ratio, predicted, table, write_into
from memquota import Reclaimed, ReclaimRequest

TEN_FLOODERS = Flood(partial(flooded, partial(floods, flooders=10), 1.5, honest=10), flooders=10)


def lost(policy: str, flood: Flood, factor: float, seed: int = 5) -> int:
    """How many honest ones are lost when the flood is `factor` times as fast as the policy is said to bear."""
    return simulate(flood.makes(factor * predicted(policy, flood)), POLICIES[policy], seed).killed


@pytest.mark.parametrize("ratio", [0.5, 4.0])
@pytest.mark.parametrize("policy", ["oldest_data", "byte_seconds", "bytes * age**2"])
def test_a_policy_protects_up_to_its_threshold_and_no_further(policy: str, ratio: float) -> None:
    """The sizing rule and its kin, against bursts of half and of four times an honest queue."""
    flood = of_ratio(ratio)

    assert lost(policy, flood, 0.93) == 0
    assert lost(policy, flood, 1.07) > 0


@pytest.mark.parametrize("policy", ["oldest_data", "byte_seconds"])
def test_flooders_who_go_on_are_borne_up_to_the_limit_instead_of_the_low_water(policy: str) -> None:
    assert lost(policy, TEN_FLOODERS, 0.93) == 0
    assert lost(policy, TEN_FLOODERS, 1.07) > 0


def test_the_sizing_rule_is_that_of_the_low_water_less_what_honest_ones_hold() -> None:
    flood = of_ratio(1.0)
    honest = 5 * (LIMIT // 250)

    assert predicted("oldest_data", flood) == pytest.approx(1 - honest / (0.75 * LIMIT))


@pytest.mark.parametrize(("ratio", "all_lost"), [(0.5, True), (2.0, False)])
def test_largest_asks_only_who_is_larger(ratio: float, all_lost: bool) -> None:
    killed = simulate(of_ratio(ratio).makes(0.2), "largest", 5).killed

    assert killed == (5 if all_lost else 0)


def test_tricklers_pass_for_young_and_not_for_small() -> None:
    scenario = Scenario(attack=let_trickle(5, LIMIT // 4, T / 2), duration=T, honest=10)

    assert simulate(scenario, "oldest_data", 5).killed == 10
    assert simulate(scenario, "byte_seconds", 5).killed == 0


def test_account_limits_protect_above_the_threshold() -> None:
    """A flood of ten times the sizing rule from few addresses, each below an account with a limit."""
    made = partial(flooded, volume=0.5, rate=10.0, honest=10)

    assert simulate(made(bursts, volume=1.5), "oldest_data", 5).killed == 10
    limited = simulate(made(partial(bursts, sources=5, limit=LIMIT // 50)), "oldest_data", 5)
    assert limited.killed == 0
    assert limited.peak < 0.15


def test_the_same_seed_gives_the_same_figures() -> None:
    scenario = of_ratio(1.0).makes(1.0)  # near the threshold, where little makes a difference

    first, second = (simulate(scenario, "oldest_data", 7) for _ in range(2))

    assert first == second
    assert isinstance(first, Outcome)
    assert first.rounds > 2


def test_a_tracker_that_does_not_behave_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(connection: Connection, request: ReclaimRequest) -> Reclaimed:
        return Reclaimed.PARTIAL

    monkeypatch.setattr(Connection, "reclaim", lie)

    with pytest.raises(AssertionError, match="not as its participant answered"):
        simulate(of_ratio(1.0).makes(0.5), "oldest_data", 5)


def test_books_that_say_something_else_than_the_queues_are_noticed() -> None:
    world = World("oldest_data", 5)
    audit = Audit(world)
    connection = world.attacker(PIECE)
    assert connection.put(PIECE)
    audit.check()

    connection.held -= 1

    with pytest.raises(AssertionError, match="bytes are claimed, not"):
        audit.check()


def test_tables_take_the_place_of_old_ones_in_a_page() -> None:
    found = {"other": "", "sizes": table(["size", "lost"], [["1/8", "50"]])}

    page = write_into("a\n<!-- figures: sizes -->\nold\n<!-- end -->\nb\n", found)

    rows = "| size | lost |\n| ---- | ---- |\n| 1/8  | 50   |"
    assert page == f"a\n<!-- figures: sizes -->\n\n{rows}\n\n<!-- end -->\nb\n"
    assert write_into(page, found) == page
