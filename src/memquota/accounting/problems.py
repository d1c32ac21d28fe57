"""What may be wrong with declared bounds, as frozen values."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, final

from attrs import asdict, frozen

from memquota.accounting.expressions import Expression
from memquota.sizes import format_size

__all__ = ["Contradiction", "Contributor", "Overcommitment", "Problem"]


@final
@frozen
class Contributor:
    """What one component adds to a sum by itself.

    Attributes:
        component: Its full name.
        size: In bytes.
        formula: Where these come from.
    """

    component: str
    size: int
    formula: str


@final
@frozen
class Contradiction:
    """A component's firm limit is below its minimum, which it includes.

    Attributes:
        component: Its full name.
        minimum: What it needs.
        firm: What it will not exceed.
    """

    component: str
    minimum: Expression
    firm: Expression

    @property
    def text(self) -> str:
        """For people; a line for what is wrong, and indented ones for where it comes from."""
        return (
            f"{self.component}: firm limit of {format_size(self.firm.value)} below the minimum of "
            f"{format_size(self.minimum.value)}, which it includes\n"
            f"  minimum {self.minimum.value:_} = {self.minimum.formula}\n"
            f"  firm limit {self.firm.value:_} = {self.firm.formula}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, ready for JSON."""
        return {
            "kind": "contradiction",
            "component": self.component,
            "minimum": self.minimum.as_dict(),
            "firm": self.firm.as_dict(),
        }


@final
@frozen
class Overcommitment:
    """All components together declare more than there is.

    Attributes:
        what: Which of their bounds.
        needed: Their sum, in bytes.
        available: What may be planned with, in bytes.
        contributors: The largest, first: five, and every other that alone is above what is available.
        others: How many contribute besides.
        others_size: What they do, in bytes.
    """

    what: Literal["minimum", "firm limit"]
    needed: int
    available: int
    contributors: tuple[Contributor, ...]
    others: int
    others_size: int

    @property
    def text(self) -> str:
        """For people; a line for what is wrong, and indented ones for its contributors."""
        excess = format_size(self.needed - self.available)
        lines = [f"{self.what}: {format_size(self.needed)} in all, {excess} more than there is"]
        lines += [f"  {one.component} {format_size(one.size)} = {one.formula}" for one in self.contributors]
        if self.others:
            lines.append(f"  and {self.others} more with {format_size(self.others_size)}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, ready for JSON."""
        return {"kind": "overcommitment", **asdict(self)}


Problem: TypeAlias = Contradiction | Overcommitment
"""One thing that is wrong with declared bounds."""
