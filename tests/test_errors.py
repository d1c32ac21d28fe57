import copy
import pickle

import anyio
import pytest

from memquota import CloseKind, CloseReason, errors
from memquota.errors import (
    AccountClosed,
    BoundsError,
    Closed,
    MemoryQuotaError,
    MemoryReclaimed,
    ParticipationClosed,
    QuotaExceeded,
    TrackerBroken,
    TrackerClosed,
    UsageError,
    UsageTypeError,
    UsageValueError,
)

GIVEN_UP = CloseReason(CloseKind.RECLAIMED, "conn-7", "oldest data", 12.5)

EXAMPLES: list[MemoryQuotaError] = [
    UsageError("a child cannot be its own parent"),
    UsageTypeError("claim must be an int, not bool"),
    UsageValueError("claim must not be negative, got -1"),
    QuotaExceeded("conn-7", 4096, 8 << 20, 8 << 20, (("conn-1", 6 << 20), ("conn-2", 2 << 20))),
    BoundsError("minimum: 8 B are needed, 3 B more than there are"),
    Closed("closed"),
    TrackerClosed("tracker 'main' is closed"),
    ParticipationClosed("the participation in 'conn-7' is closed"),
    AccountClosed("account 'conn-7' is closed"),
    MemoryReclaimed("account 'conn-7' gave up 2.0 MiB", GIVEN_UP, 12.5),
    TrackerBroken("used is 3 and the accounts sum up to 4"),
]


def test_the_family_of_errors_is_as_designed() -> None:
    parents = {name: [base.__name__ for base in getattr(errors, name).__bases__] for name in errors.__all__}

    assert parents == {
        "MemoryQuotaError": ["Exception"],
        "UsageError": ["MemoryQuotaError"],
        "UsageTypeError": ["UsageError", "TypeError"],
        "UsageValueError": ["UsageError", "ValueError"],
        "QuotaExceeded": ["MemoryQuotaError"],
        "BoundsError": ["MemoryQuotaError"],
        "Closed": ["MemoryQuotaError"],
        "TrackerClosed": ["Closed"],
        "ParticipationClosed": ["Closed"],
        "AccountClosed": ["Closed"],
        "MemoryReclaimed": ["AccountClosed", "BrokenResourceError"],
        "TrackerBroken": ["MemoryQuotaError"],
    }


def test_a_reader_that_knows_only_anyio_understands_reclaimed_memory() -> None:
    with pytest.raises(anyio.BrokenResourceError):
        raise MemoryReclaimed("account 'conn-7' gave up 2.0 MiB", GIVEN_UP, 12.5)


def test_quota_exceeded_says_who_asked_for_what_and_how_full_it_was() -> None:
    error = QuotaExceeded(account="conn-7", asked=4096, used=8 << 20, limit=8 << 20)

    assert str(error) == "claim of 4.0 KiB by 'conn-7' refused: 8.0 MiB used of 8.0 MiB"
    assert (error.account, error.asked, error.used, error.limit) == (
        "conn-7",
        4096,
        8 << 20,
        8 << 20,
    )
    assert error.holders == ()


def test_quota_exceeded_names_the_largest_holders() -> None:
    error = QuotaExceeded("conn-7", 1, 3000, 3000, [("conn-1", 2048), ("conn-2", 952)])

    assert str(error) == (
        "claim of 1 B by 'conn-7' refused: 2.9 KiB used of 2.9 KiB; largest holders: 'conn-1' 2.0 KiB, 'conn-2' 952 B"
    )
    assert error.holders == (("conn-1", 2048), ("conn-2", 952))


def test_memory_reclaimed_carries_why_and_when() -> None:
    error = MemoryReclaimed("account 'conn-7' gave up 2.0 MiB", reason=GIVEN_UP, when=12.5)

    assert str(error) == "account 'conn-7' gave up 2.0 MiB"
    assert error.reason is GIVEN_UP
    assert error.when == 12.5


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling_and_copying(error: MemoryQuotaError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
        assert twin.args == error.args


def test_every_error_is_among_the_examples() -> None:
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__) - {"MemoryQuotaError"}
