"""ComponentRegistry: the components of a program by dotted name, their bounds, accounts and groups."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from threading import Lock, RLock
from typing import final

from attrs import frozen

from memquota.account import Account
from memquota.accounting import opening
from memquota.accounting.bounds import Bounds, ComponentBounds, Specification, name_parts, specified
from memquota.accounting.grant import Grant
from memquota.accounting.groups import Group
from memquota.accounting.report import Found, Report, report_of
from memquota.accounting.verify import VerifiedBounds, verify
from memquota.errors import UsageError, UsageTypeError
from memquota.tracker import Tracker

__all__ = ["Component", "ComponentRegistry"]


class _Node:
    """What is known of one component; changed under the registry's lock."""

    __slots__ = ("account", "along", "asked", "bounds", "children", "group", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.children: dict[str, _Node] = {}
        self.bounds: Bounds | None = None
        # The component whose specification told of this one; None: nobody's did.
        self.along: str | None = None
        # Whether somebody has asked for it by its name: then it stays though nobody declares it any longer.
        self.asked = False
        self.account: Account | None = None
        self.group: Group | None = None

    def walk(self) -> Iterator[_Node]:
        yield self
        for child in list(self.children.values()):  # a signal handler may ask for another one meanwhile
            yield from child.walk()

    def prune(self) -> bool:
        """Take away what nothing is known of; whether that is the case for this one."""
        self.children = {part: child for part, child in self.children.items() if not child.prune()}
        known = self.asked or self.children
        return not known and self.bounds is None and self.account is None and self.group is None

    def declared(self) -> ComponentBounds:
        components = tuple(child.declared() for child in list(self.children.values()))
        return ComponentBounds.of(self.name, self.bounds, components)


@final
class ComponentRegistry:
    """The components of a program, addressed by dotted names such as "topology.sources.http".

    A component is there as soon as it is asked for or declared, with all that its name is below. What it declares, what
    its account holds and what its group uses come together in `report`.

    The registry keeps the accounts that it has opened, and so their tracker.

    Threads:
        Any. No lock is held while specifications run. A signal handler may ask for a report; it gets a UsageError where
        it has interrupted the books of the tracker. A forked child goes on with what was declared.
    """

    def __init__(self) -> None:
        self._root = _Node("")
        self._renew()
        _registries.add(self)

    def _renew(self) -> None:
        """Fresh locks, in a forked child too: whoever held one is not there."""
        self._lock = RLock()
        # Held by who opens or closes accounts: whoever comes meanwhile is refused, as reclaimed participants may.
        self._opening = Lock()

    def component(self, name: str) -> Component:
        """The handle of a component, which is created at its first use.

        Raises:
            UsageError: The name has no, or empty, parts.
        """
        parts = name_parts(name)
        with self._lock:
            self._node(parts).asked = True
        return Component(self, name)

    def reset(self) -> None:
        """Forget what was declared; components that have no account and no group are gone.

        Handles stay good: their component is there again as soon as it is used.
        """
        self._reset("")

    # --- declared -----------------------------------------------------------------------------------------------------

    def declared(self) -> ComponentBounds:
        """What is declared now, as one tree whose root, without a name, is all of it."""
        with self._lock:
            return self._root.declared()

    def verify(self, grant: Grant) -> VerifiedBounds:
        """Check that what is declared fits into a grant, and that no component contradicts itself.

        Raises:
            BoundsError: It does not. It names all that is wrong, with the largest contributors and their formulas.
            UsageError: It is no grant.
        """
        if not isinstance(grant, Grant):
            raise UsageTypeError(f"bounds are verified against a Grant, not {grant!r}")
        return verify(self.declared(), grant)

    # --- used ---------------------------------------------------------------------------------------------------------

    def open_accounts(self, tracker: Tracker) -> dict[str, Account]:
        """Open an account for each component, below that of the component above it.

        The account's limit is the firm limit of the component and all below it, and its minimum is their minimum. It
        has no limit where neither the component nor everything below it has declared one. Called again, it opens
        what has come or was closed since, and brings the limits up to date.

        Args:
            tracker: Whose accounts they are.

        Returns:
            All of them, by the component's name.

        Raises:
            BoundsError: A component contradicts itself. Nothing was opened.
            UsageError: It is no tracker; there are open accounts of another one; another call is running; or a hard
                limit that was given to an account by hand is below its new limit.
            TrackerClosed: The tracker is closed.
            AccountClosed: An account collapsed while others were opened below it: call again.
        """
        if not isinstance(tracker, Tracker):
            raise UsageTypeError(f"accounts are opened with a tracker, not {tracker!r}")
        with opening.one_at_a_time(self._opening):
            with self._lock:
                declared = self._root.declared()
                present = {node.name: node.account for node in self._root.walk() if node.account is not None}
            accounts = opening.open_accounts(tracker, declared, present)
            with self._lock:
                for name, account in accounts.items():
                    self._node(name.split(".")).account = account
            opening.bring_up_to_date(accounts, declared)
        return accounts

    def close_accounts(self) -> None:
        """Close the accounts that were opened, with all below them. Does nothing where there are none.

        Raises:
            UsageError: It is called while accounts are being opened.
        """
        with opening.one_at_a_time(self._opening):
            with self._lock:
                accounts = [node.account for node in self._root.walk() if node.account is not None]
                for node in self._root.walk():
                    node.account = None
            for account in accounts:
                account.close()

    def report(self) -> Report:
        """What is declared and what is used, in one tree.

        Cost:
            Some microseconds for each component, and the reading of the process's resident size.

        Approximate:
            The figures are read one after another while the program goes on.
        """
        with self._lock:
            declared = self._root.declared()
            found = {node.name: Found(node.account, node.group) for node in self._root.walk()}
        return report_of(declared, found)

    # --- for its components -------------------------------------------------------------------------------------------

    def _node(self, parts: list[str]) -> _Node:
        # Lock: held.
        node = self._root
        for part in parts:
            if part not in node.children:
                node.children[part] = _Node(f"{node.name}.{part}" if node.name else part)
            node = node.children[part]
        return node

    def _find(self, name: str) -> _Node | None:
        # Lock: held.
        node: _Node | None = self._root
        for part in name.split("."):
            node = node.children.get(part) if node is not None else None
        return node

    def _declare(self, name: str, specification: Specification) -> None:
        told = specified(name, specification)
        with self._lock:
            node = self._node(name.split("."))
            node.asked = True
            for below in node.walk():
                if below.along == name:
                    below.bounds = below.along = None
            for full, bounds in told.items():
                below = self._node(full.split("."))
                # What is only a name on the way to others changes nothing.
                if bounds is not None or below.bounds is None:
                    below.bounds, below.along = bounds, name
            node.prune()

    def _reset(self, name: str) -> None:
        with self._lock:
            top = self._find(name) if name else self._root
            if top is not None:
                for node in top.walk():
                    node.bounds = node.along = None
                    node.asked = False
                self._root.prune()

    def _bounds(self, name: str) -> Bounds | None:
        with self._lock:
            node = self._find(name)
            return None if node is None else node.bounds

    def _account(self, name: str) -> Account | None:
        with self._lock:
            node = self._find(name)
            return None if node is None else node.account

    def _group(self, name: str) -> Group:
        with self._lock:
            node = self._find(name)
        if node is not None and node.group is not None:
            return node.group
        group = Group(name)  # not under the lock: the first one may log
        with self._lock:
            node = self._node(name.split("."))
            if node.group is None:
                node.group = group
            return node.group


@final
@frozen
class Component:
    """The handle of a component: its place in a registry. Two handles of one component are equal.

    Made by `ComponentRegistry.component`; any number may be held, in any thread.

    Attributes:
        registry: What it belongs to.
        name: Its full name.
    """

    registry: ComponentRegistry
    name: str

    def component(self, name: str) -> Component:
        """The handle of a component below this one. Errors as for `ComponentRegistry.component`."""
        name_parts(name)
        return self.registry.component(f"{self.name}.{name}")

    def declare(self, specification: Specification) -> None:
        """Declare the bounds of this component, and of those below it that the specification tells of.

        What an earlier declaration of this component told is forgotten, also of those below it.

        Args:
            specification: An object with `specify_bounds(builder)`, a function of a builder, or `Bounds`.

        Raises:
            UsageError: It is none of these, or tells what is no bound. Nothing was changed.
            Exception: What the specification raises passes through. Nothing was changed.
        """
        self.registry._declare(self.name, specification)

    @property
    def bounds(self) -> Bounds | None:
        """What it declared itself; None: nothing."""
        return self.registry._bounds(self.name)

    @property
    def account(self) -> Account:
        """Its account.

        Raises:
            UsageError: None was opened: see `ComponentRegistry.open_accounts`.
        """
        account = self.registry._account(self.name)
        if account is None:
            raise UsageError(f"component {self.name!r} has no account: call open_accounts of its registry")
        return account

    @property
    def group(self) -> Group:
        """To whom processor time and allocations are attributed; made at its first use."""
        return self.registry._group(self.name)

    def reset(self) -> None:
        """Forget what it and those below it declared; those that have no account and no group are gone."""
        self.registry._reset(self.name)

    def __repr__(self) -> str:
        return f"<Component {self.name!r}>"


_registries: weakref.WeakSet[ComponentRegistry] = weakref.WeakSet()


def _renew_all() -> None:
    for registry in _registries:
        registry._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
