"""An account for each component, with its bounds as the account's limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Final

from memquota.account import Account
from memquota.accounting.bounds import ComponentBounds
from memquota.accounting.verify import contradictions, refuse
from memquota.errors import AccountClosed, UsageError, UsageValueError
from memquota.sizes import LARGEST_SIZE
from memquota.tracker import Tracker

__all__ = ["bring_up_to_date", "one_at_a_time", "open_accounts"]

#: The smallest limit that an account can have; a component that will hold nothing gets it.
_LEAST: Final = 1


@contextmanager
def one_at_a_time(lock: Lock) -> Iterator[None]:
    """Refuses whoever comes while another is inside: a lock that waits would hold up a round, or itself."""
    if not lock.acquire(blocking=False):
        raise UsageError("the accounts of this registry are being opened or closed already")
    try:
        yield
    finally:
        lock.release()


def open_accounts(tracker: Tracker, declared: ComponentBounds, present: Mapping[str, Account]) -> dict[str, Account]:
    """The accounts of all components: those that are open already, and new ones.

    Raises:
        BoundsError: A component contradicts itself. Nothing was opened.
        UsageError: An open account is one of another tracker. Nothing was opened.
        TrackerClosed: The tracker is closed.
    """
    found = contradictions(declared)
    if found:
        raise refuse("no accounts can be opened for bounds that contradict themselves", found)
    for name, account in present.items():
        if account.tracker is not tracker and not account.closed:
            raise UsageValueError(
                f"component {name!r} has an open account of another tracker: close_accounts comes first"
            )
    accounts: dict[str, Account] = {}
    for component in declared.walk():
        if component is declared:
            continue
        old = present.get(component.name)
        if old is not None and not old.closed:
            accounts[component.name] = old
        else:
            limit, minimum = _limits(component)
            parent = accounts.get(component.name.rpartition(".")[0])
            accounts[component.name] = tracker.new_account(component.name, parent=parent, limit=limit, minimum=minimum)
    return accounts


def bring_up_to_date(accounts: Mapping[str, Account], declared: ComponentBounds) -> None:
    """Give each account the limits that are declared now. A lower one starts a round, which may close others."""
    for component in declared.walk():
        account = accounts.get(component.name)
        if account is not None and (account.limit, account.minimum) != (wanted := _limits(component)):
            try:
                account.reconfigure(limit=wanted[0], minimum=wanted[1])
            except AccountClosed:
                pass  # opened anew, with these limits, at the next call


def _limits(component: ComponentBounds) -> tuple[int | None, int]:
    limit = max(_LEAST, min(component.firm, LARGEST_SIZE)) if component.bounded else None
    return limit, min(component.minimum, LARGEST_SIZE)
