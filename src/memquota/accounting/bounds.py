"""Bounds: what a component declares, how it says so, and the tree of all that was declared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol, Self, SupportsIndex, TypeAlias, final, runtime_checkable

from attrs import frozen

from memquota.accounting.expressions import Constant, Expression, Part, Setting, SizeOf, Sum, as_expression
from memquota.errors import UsageError, UsageTypeError, UsageValueError

__all__ = ["Bounded", "Bounds", "BoundsBuilder", "ComponentBounds", "Specification", "name_parts", "specified"]

#: More parts than that in a name are refused, so that walking through a tree needs no care for the stack.
_MOST_PARTS: Final = 64


@final
@frozen(init=False)
class Bounds:
    """What one component declares for itself, without those below it.

    Args:
        minimum: What it needs to work at all: an expression, a whole number of bytes, or a size as text.
        firm: What it will not exceed, with the minimum in it; None: the minimum.

    Raises:
        UsageError: One is none of these. That they contradict each other is found when they are verified.
    """

    minimum: Expression
    firm: Expression

    def __init__(self, minimum: Part = 0, firm: Part | None = None) -> None:
        least = as_expression(minimum)
        object.__setattr__(self, "minimum", least)
        object.__setattr__(self, "firm", least if firm is None else as_expression(firm))

    @property
    def contradictory(self) -> bool:
        """Whether the firm limit is below the minimum, which it includes."""
        return self.firm.value < self.minimum.value

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, ready for JSON; `from_dict` takes it back."""
        return {"minimum": self.minimum.as_dict(), "firm": self.firm.as_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Bounds:
        """The bounds that `as_dict` told of.

        Raises:
            UsageError: It tells of none.
        """
        found: object = data
        if not isinstance(found, Mapping) or not {"minimum", "firm"} <= found.keys():
            raise UsageTypeError(f"bounds read back need 'minimum' and 'firm', not {data!r}")
        return cls(Expression.from_dict(data["minimum"]), Expression.from_dict(data["firm"]))


@runtime_checkable
class Bounded(Protocol):
    """What can say how much memory it needs and will not exceed.

    Callbacks:
        `specify_bounds` is called when it is declared, in that thread and with no lock held. What it raises passes
        through, and nothing was declared then.
    """

    def specify_bounds(self, builder: BoundsBuilder) -> object:
        """Tell the builder; what is returned does not matter."""
        ...


Specification: TypeAlias = Bounded | Bounds | Callable[["BoundsBuilder"], object]
"""What `Component.declare` takes: an object that is `Bounded`, bounds, or a function that is given a builder."""


class Terms:
    """What a minimum or a firm limit is the sum of. Each method returns it again.

    Raises:
        UsageError: From each method: a part that is none, or the specification is over.
    """

    __slots__ = ("_open", "_parts")

    def __init__(self) -> None:
        self._parts: list[Expression] = []
        self._open = True

    def add(self, *parts: Part) -> Self:
        """Add expressions, whole numbers of bytes, or sizes as text."""
        made = [as_expression(part) for part in parts]
        if not self._open:
            raise UsageError("the bounds were built already: declare them anew")
        self._parts += made
        return self

    def constant(self, name: str, value: SupportsIndex | str) -> Self:
        """Add a number that stands in the program."""
        return self.add(Constant(value, name))

    def setting(self, name: str, value: SupportsIndex | str) -> Self:
        """Add a number that somebody configured."""
        return self.add(Setting(name, value))

    def size_of(self, thing: object, name: str = "") -> Self:
        """Add what a structure takes, as measured by `structure_size`."""
        return self.add(SizeOf(thing, name))

    def _sum(self) -> Expression | None:
        """All of it; None where nothing was added. It is over then."""
        self._open = False
        return Sum(*self._parts) if len(self._parts) > 1 else next(iter(self._parts), None)


@final
class FirmTerms(Terms):
    """What a firm limit is the sum of. It includes the minimum, which `above_minimum` sees to."""

    __slots__ = ("above",)

    def __init__(self) -> None:
        super().__init__()
        self.above = False

    def above_minimum(self, *parts: Part) -> Self:
        """Add what may be taken above the minimum: the firm limit is that and all that is added here."""
        self.add(*parts)
        self.above = True
        return self


@final
class BoundsBuilder:
    """What a component tells its bounds, and those of the components that are parts of it.

    What is told in `minimum` and in `firm` adds up. Without a `firm` it is the minimum; a component that tells neither
    has no bounds of its own.

    Attributes:
        name: The component's full name.
        minimum: What it needs to work at all.
        firm: What it will not exceed, with the minimum in it.

    Example:
        >>> from memquota.accounting import ComponentRegistry, Setting
        >>> class Cache:
        ...     def specify_bounds(self, builder):
        ...         builder.minimum.constant("index", "1MiB")
        ...         builder.firm.above_minimum(Setting("entries", 1000) * Setting("entry", "8KiB"))
        >>> registry = ComponentRegistry()
        >>> registry.component("cache").declare(Cache())
        >>> print(registry.component("cache").bounds.firm)
        index=1_048_576 + entries=1_000 * entry=8_192
    """

    __slots__ = ("_components", "firm", "minimum", "name")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.minimum = Terms()
        self.firm = FirmTerms()
        self._components: dict[str, BoundsBuilder] = {}

    def component(self, name: str, specification: Specification | None = None) -> BoundsBuilder:
        """A component that is a part of this one.

        Args:
            name: Its name below this one; with dots, further below.
            specification: What tells its bounds. None: the returned builder is to be told.

        Returns:
            Its builder; the same one every time.

        Raises:
            UsageError: A wrong argument, or its bounds were told already.
            Exception: What the specification raises passes through.
        """
        builder = self
        for part in name_parts(name):
            full = f"{builder.name}.{part}" if builder.name else part
            name_parts(full)  # not too many
            builder.minimum.add()  # not too late
            builder = builder._components.setdefault(part, BoundsBuilder(full))
        if specification is not None:
            if builder._components or builder.minimum._parts or builder.firm._parts:
                raise UsageValueError(f"component {builder.name!r} is specified twice")
            builder._tell(specification)
        return builder

    def _tell(self, specification: object) -> None:
        """Let a specification tell this builder."""
        if isinstance(specification, Bounds):
            self.minimum.add(specification.minimum)
            self.firm.add(specification.firm)
        elif callable(tell := getattr(specification, "specify_bounds", specification)) and not isinstance(
            specification, type
        ):
            tell(self)
        else:
            raise UsageTypeError(f"bounds are told by specify_bounds, a function or Bounds, not by {specification!r}")

    def _build(self) -> Iterator[tuple[str, Bounds | None]]:
        """The full names and the bounds of this and all components below; None: it told none."""
        minimum = self.minimum._sum()
        firm = self.firm._sum()
        if firm is not None and self.firm.above and minimum is not None:
            firm = minimum + firm
        elif firm is None:
            firm = minimum
        yield self.name, None if firm is None else Bounds(0 if minimum is None else minimum, firm)
        for component in self._components.values():
            yield from component._build()


def specified(name: str, specification: object) -> dict[str, Bounds | None]:
    """What a specification tells of a component and of those below it, by full name."""
    builder = BoundsBuilder(name)
    builder._tell(specification)
    return dict(builder._build())


def name_parts(name: object) -> list[str]:
    """The parts of a dotted name.

    Raises:
        UsageError: It is no text, has empty or unprintable parts or spaces at their ends, or more than 64 of them.
    """
    if not isinstance(name, str):
        raise UsageTypeError(f"a component's name must be text, not {name!r}")
    parts = name.split(".")
    if not all(part and part.isprintable() and part == part.strip() for part in parts):
        raise UsageValueError(f"a component's name is made of printable parts with dots between, unlike {name!r}")
    if len(parts) > _MOST_PARTS:
        raise UsageValueError(f"a component's name has at most {_MOST_PARTS} parts, not {len(parts)}")
    return parts


@final
@frozen
class ComponentBounds:
    """What was declared for a component and all below it, at one moment. Sizes in bytes.

    Attributes:
        name: Its full name; empty: all components together.
        bounds: What it declared itself; None: nothing.
        components: Those directly below it, in the order in which they came.
        minimum: What it and all below it need.
        firm: What it and all below it will not exceed, as far as they declared anything.
        bounded: Whether that covers all of it: it has declared, or else each below it has.
    """

    name: str
    bounds: Bounds | None
    components: tuple[ComponentBounds, ...]
    minimum: int
    firm: int
    bounded: bool

    @classmethod
    def of(cls, name: str, bounds: Bounds | None, components: tuple[ComponentBounds, ...]) -> ComponentBounds:
        """Summed up."""
        own = (0, 0) if bounds is None else (bounds.minimum.value, bounds.firm.value)
        return cls(
            name,
            bounds,
            components,
            own[0] + sum(component.minimum for component in components),
            own[1] + sum(component.firm for component in components),
            bounds is not None or (bool(components) and all(component.bounded for component in components)),
        )

    def walk(self) -> Iterator[ComponentBounds]:
        """It and all below it, each before its own."""
        yield self
        for component in self.components:
            yield from component.walk()

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, ready for JSON."""
        return {
            "name": self.name,
            "minimum": self.minimum,
            "firm": self.firm,
            "bounded": self.bounded,
            "bounds": None if self.bounds is None else self.bounds.as_dict(),
            "components": [component.as_dict() for component in self.components],
        }
