"""The index of candidates, and the policies."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from memquota._core import victims
from memquota._core.graph import AccountNode
from memquota._core.holdings import Holding
from memquota._core.victims import POLICIES, Candidate, CandidateIndex, Entry, byte_seconds, largest, oldest_data

NODE = AccountNode("account", ())


def entry(priority: int, time: float, number: int) -> Entry:
    return priority, time, number, Holding(NODE)


def test_an_empty_index_has_nobody() -> None:
    index = CandidateIndex()

    assert len(index) == 0
    assert index.after(None) == []
    assert index.after(entry(0, 0.0, 1)) == []
    assert list(index) == []


def test_priority_comes_before_time_and_time_before_number() -> None:
    rows = [entry(0, -inf, 9), entry(0, 1.0, 2), entry(0, 1.0, 3), entry(0, 5.0, 1), entry(1, 0.0, 4)]
    index = CandidateIndex()
    for row in reversed(rows):
        index.add(row)

    assert list(index) == rows
    assert index.after(None) == rows[:1]
    assert index.after(None, 3) == rows[:3]
    assert index.after(rows[1]) == rows[2:3]
    assert index.after(rows[1], 2) == rows[2:4]
    assert index.after(rows[4], 2) == []
    assert rows[2] in index
    assert entry(2, 0.0, 5) not in index


def test_an_entry_that_left_can_still_be_gone_on_from() -> None:
    rows = [entry(0, float(time), time) for time in range(4)]
    index = CandidateIndex()
    for row in rows:
        index.add(row)
    index.discard(rows[1])

    assert index.after(rows[1]) == [rows[2]]
    assert len(index) == 3


def test_discarding_who_is_not_there_does_nothing() -> None:
    index = CandidateIndex()
    here = entry(0, 1.0, 1)
    index.add(here)
    index.discard(entry(0, 1.0, 2))
    index.drop(entry(0, 1.0, 2))
    assert list(index) == [here]
    index.discard(here)
    index.discard(here)
    index.drop(here)

    assert len(index) == 0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from([-inf, 0.0, 1.0, 2.0]),
            st.sampled_from(["stays", "discarded", "dropped"]),
        ),
        max_size=60,
    )
)
def test_the_index_is_a_sorted_list(rows: list[tuple[int, float, str]]) -> None:
    index = CandidateIndex()
    model: list[Entry] = []
    for number, (priority, time, fate) in enumerate(rows):
        one = entry(priority, time, number)
        index.add(one)
        if fate == "stays":
            model.append(one)
        elif fate == "discarded":
            index.discard(one)
        else:
            index.drop(one)
    model.sort(key=lambda row: row[:3])

    assert list(index) == model
    for place, one in enumerate(model):
        assert index.after(one, 2) == model[place + 1 : place + 3]


def test_policies_name_their_key() -> None:
    candidate = Candidate("account", oldest=90.0, age=10.0, bytes=7, byte_seconds=33.0, priority=1)

    assert oldest_data(candidate) == 10.0
    assert largest(candidate) == 7
    assert byte_seconds(candidate) == 33.0


def test_policies_are_found_by_their_names() -> None:
    assert sorted(POLICIES) == ["byte_seconds", "largest", "oldest_data"]
    assert all(POLICIES[name] is getattr(victims, name) for name in POLICIES)
