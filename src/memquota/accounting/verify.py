"""Whether what was declared fits into what was granted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, final

from attrs import frozen

from memquota.accounting.bounds import ComponentBounds
from memquota.accounting.expressions import Expression
from memquota.accounting.grant import Grant
from memquota.accounting.problems import Contradiction, Contributor, Overcommitment, Problem
from memquota.errors import BoundsError

__all__ = ["VerifiedBounds", "contradictions", "problems", "refuse", "verify"]

#: So many contributors are named in any case: a reader wants to know where to begin.
_NAMED: Final = 5


@final
@frozen
class VerifiedBounds:
    """Bounds that fit, with what they fit into.

    Attributes:
        grant: What they were verified against.
        declared: The tree of them.
    """

    grant: Grant
    declared: ComponentBounds

    @property
    def minimum(self) -> int:
        """What all components need, in bytes."""
        return self.declared.minimum

    @property
    def firm(self) -> int:
        """What all components will not exceed, in bytes."""
        return self.declared.firm

    @property
    def headroom(self) -> int:
        """What is left of the grant when each component is at its firm limit, in bytes."""
        return self.grant.available - self.declared.firm

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, ready for JSON."""
        return {"grant": self.grant.as_dict(), "headroom": self.headroom, "declared": self.declared.as_dict()}


def verify(declared: ComponentBounds, grant: Grant) -> VerifiedBounds:
    """Check that declared bounds fit into a grant: minima, firm limits, and each component by itself.

    Raises:
        BoundsError: They do not. It names all that is wrong.
    """
    found = problems(declared, grant)
    if found:
        raise refuse(f"the declared bounds do not fit into {grant}", found)
    return VerifiedBounds(grant, declared)


def problems(declared: ComponentBounds, grant: Grant) -> list[Problem]:
    """All that is wrong; empty: it fits."""
    own = [(node.name, node.bounds) for node in declared.walk() if node.bounds is not None]
    found: list[Problem] = []
    if declared.minimum > grant.available:
        minima = ((name, bounds.minimum) for name, bounds in own)
        found.append(_overcommitment("minimum", declared.minimum, grant.available, minima))
    if declared.firm > grant.available:
        firm = ((name, bounds.firm) for name, bounds in own)
        found.append(_overcommitment("firm limit", declared.firm, grant.available, firm))
    return found + contradictions(declared)


def contradictions(declared: ComponentBounds) -> list[Problem]:
    """The components whose own bounds contradict each other."""
    return [
        Contradiction(node.name, node.bounds.minimum, node.bounds.firm)
        for node in declared.walk()
        if node.bounds is not None and node.bounds.contradictory
    ]


def refuse(what: str, found: Iterable[Problem]) -> BoundsError:
    """One error for all that was found."""
    found = tuple(found)
    return BoundsError("\n".join((f"{what}:", *(problem.text for problem in found))), found)


def _overcommitment(
    what: Literal["minimum", "firm limit"], needed: int, available: int, bounds: Iterable[tuple[str, Expression]]
) -> Overcommitment:
    largest = sorted(
        ((one.value, name, one) for name, one in bounds if one.value), key=lambda item: (-item[0], item[1])
    )
    named = [item for place, item in enumerate(largest) if place < _NAMED or item[0] > available]
    rest = largest[len(named) :]
    return Overcommitment(
        what,
        needed,
        available,
        tuple(Contributor(name, value, one.formula) for value, name, one in named),
        len(rest),
        sum(value for value, _, _ in rest),
    )
