"""Expressions that keep their story: where the bytes of a bound come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, SupportsIndex, TypeAlias, final

from attrs import field, frozen

from memquota.accounting.structures import structure_name, structure_size
from memquota.errors import UsageTypeError, UsageValueError
from memquota.sizes import parse_size

__all__ = [
    "Constant",
    "Expression",
    "Maximum",
    "Minimum",
    "Part",
    "Product",
    "Setting",
    "SizeOf",
    "Sum",
    "as_expression",
]

#: Values are exact below this power of two. It keeps sums of them printable: Python refuses above 4,300 digits.
_MOST_BITS: Final = 4096

#: Deeper ones are refused, so that walking through an expression needs no care for the stack.
_DEEPEST: Final = 64


class Expression(ABC):
    """A number of bytes, or a factor of one, that knows what it is made of.

    One of `Constant`, `Setting`, `SizeOf`, `Sum`, `Product`, `Maximum` and `Minimum`. Frozen, and compared by what it
    is made of. `a + b` and `a * b` make sums and products, also with whole numbers and sizes as text.

    Attributes:
        name: For people; may be empty where it is made of others.
        value: The exact value, worked out once: whole, not negative, below 2**4096.
        depth: How deep it is nested; 1 where it is not.

    Example:
        >>> from memquota.accounting import Setting
        >>> need = Setting("connections", 300) * Setting("buffer", "64KiB") + Setting("table", "1MiB")
        >>> need.value
        20709376
        >>> print(need)
        connections=300 * buffer=65_536 + table=1_048_576
    """

    __slots__ = ()
    kind: ClassVar[str]
    name: str
    value: int
    depth: int

    @property
    def formula(self) -> str:
        """How it is made, in one line, with all numbers in full."""
        return self._formula()

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, ready for JSON; `from_dict` takes it back."""
        return {"kind": self.kind, "name": self.name, "value": self.value, **self._details()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Expression:
        """The expression that `as_dict` told of.

        Raises:
            UsageError: It tells of none, or of a value that is not what comes out.
        """
        return _from_dict(data, 1)

    def __add__(self, other: Part) -> Sum:
        return Sum(*_joined(Sum, self), *_joined(Sum, other))

    def __radd__(self, other: Part) -> Sum:
        if type(other) is int and other == 0:  # where the function sum begins
            return Sum(*_joined(Sum, self))
        return Sum(other, *_joined(Sum, self))

    def __mul__(self, other: Part) -> Product:
        return Product(*_joined(Product, self), *_joined(Product, other))

    def __rmul__(self, other: Part) -> Product:
        return Product(other, *_joined(Product, self))

    def __str__(self) -> str:
        return self._formula()

    @abstractmethod
    def _formula(self) -> str: ...

    def _details(self) -> dict[str, Any]:
        """What `as_dict` tells besides."""
        return {}

    def _fill(self, **fields: object) -> None:
        """Set the fields of a frozen instance in its constructor."""
        for name, value in fields.items():
            object.__setattr__(self, name, value)


#: What an expression is made from: another one, a whole number, or a size as text.
Part: TypeAlias = Expression | SupportsIndex | str


# --- leaves -----------------------------------------------------------------------------------------------------------


@final
@frozen(init=False)
class Constant(Expression):
    """A number that stands in the program.

    Args:
        value: Bytes, or how many; whole, or a size as text.
        name: What it is; may be empty.

    Raises:
        UsageError: The value is no such number, or above 2**62.
    """

    kind = "constant"
    depth = 1
    name: str
    value: int

    def __init__(self, value: SupportsIndex | str, name: str = "") -> None:
        what = f"constant {name!r}" if _name(name) else "constant"
        self._fill(name=name, value=parse_size(value, what=what))

    def _formula(self) -> str:
        return f"{self.name}={self.value:_}" if self.name else f"{self.value:_}"


@final
@frozen(init=False)
class Setting(Expression):
    """A number that somebody configured.

    Args:
        name: What it is called in the configuration.
        value: Bytes, or how many; whole, or a size as text.

    Raises:
        UsageError: There is no name, or the value is no such number or above 2**62.
    """

    kind = "setting"
    depth = 1
    name: str
    value: int

    def __init__(self, name: str, value: SupportsIndex | str) -> None:
        if not _name(name):
            raise UsageValueError("a setting needs the name that it has in the configuration")
        self._fill(name=name, value=parse_size(value, what=f"setting {name!r}"))

    def _formula(self) -> str:
        return f"{self.name}={self.value:_}"


@final
@frozen(init=False)
class SizeOf(Expression):
    """What a structure takes, measured at once by `structure_size`.

    Args:
        thing: An example, with all that belongs to it; or a class: an instance without what its fields refer to.
        name: What it is; empty: the name of the class.

    Attributes:
        structure: The name of the class.
    """

    kind = "size_of"
    depth = 1
    name: str
    value: int
    structure: str

    def __init__(self, thing: object, name: str = "") -> None:
        structure = structure_name(thing)
        self._fill(name=_name(name) or structure, value=structure_size(thing), structure=structure)

    @classmethod
    def _known(cls, name: str, value: int, structure: str) -> SizeOf:
        measured = cls.__new__(cls)
        measured._fill(name=name, value=value, structure=structure)
        return measured

    def _formula(self) -> str:
        return f"sizeof({self.name})={self.value:_}"

    def _details(self) -> dict[str, Any]:
        return {"structure": self.structure}


# --- made of others ---------------------------------------------------------------------------------------------------


@frozen(init=False)
class _Combined(Expression):
    parts: tuple[Expression, ...]
    name: str
    value: int = field(eq=False, repr=False)
    depth: int = field(eq=False, repr=False)

    def __init__(self, *parts: Part, name: str = "") -> None:
        made = tuple(as_expression(part) for part in parts)
        if not made:
            raise UsageValueError(f"a {self.kind} needs a part")
        depth = 1 + max(part.depth for part in made)
        if depth > _DEEPEST:
            raise UsageValueError(f"expressions nested more than {_DEEPEST} deep are refused")
        value = self._combine([part.value for part in made])
        if value.bit_length() > _MOST_BITS:
            raise UsageValueError(f"a {self.kind} comes to 2**{_MOST_BITS} or more: that is no number of bytes")
        self._fill(parts=made, name=_name(name), value=value, depth=depth)

    @abstractmethod
    def _combine(self, values: Sequence[int]) -> int:
        """The value of the whole."""

    @abstractmethod
    def _written(self) -> str:
        """The formula without the name."""

    def _formula(self) -> str:
        return f"{self.name}({self._written()})" if self.name else self._written()

    def _details(self) -> dict[str, Any]:
        return {"parts": [part.as_dict() for part in self.parts]}


@final
class Sum(_Combined):
    """All parts together.

    Args:
        parts: Expressions, whole numbers, or sizes as text; at least one.
        name: What it is; may be empty.

    Raises:
        UsageError: A part is none of these; or it comes to 2**4096, or is nested more than 64 deep.
    """

    __slots__ = ()
    kind = "sum"

    def _combine(self, values: Sequence[int]) -> int:
        return sum(values)

    def _written(self) -> str:
        return " + ".join(part.formula for part in self.parts)


@final
class Product(_Combined):
    """All parts multiplied, such as how many buffers and the size of one. Arguments and errors as for `Sum`."""

    __slots__ = ()
    kind = "product"

    def _combine(self, values: Sequence[int]) -> int:
        if 0 in values:
            return 0
        total = 1
        for value in values:
            total *= value
            if total.bit_length() > _MOST_BITS:
                break  # refused in any case, and the whole may take for ever
        return total

    def _written(self) -> str:
        return " * ".join(
            f"({part.formula})" if isinstance(part, Sum) and not part.name else part.formula for part in self.parts
        )


@final
class Maximum(_Combined):
    """The largest part, where only one of them is there at a time. Arguments and errors as for `Sum`."""

    __slots__ = ()
    kind = "maximum"

    def _combine(self, values: Sequence[int]) -> int:
        return max(values)

    def _written(self) -> str:
        return f"max({', '.join(part.formula for part in self.parts)})"


@final
class Minimum(_Combined):
    """The smallest part, such as a setting and what it is capped at. Arguments and errors as for `Sum`."""

    __slots__ = ()
    kind = "minimum"

    def _combine(self, values: Sequence[int]) -> int:
        return min(values)

    def _written(self) -> str:
        return f"min({', '.join(part.formula for part in self.parts)})"


# --- into expressions -------------------------------------------------------------------------------------------------

_COMBINED: Final = {kind.kind: kind for kind in (Sum, Product, Maximum, Minimum)}


def as_expression(part: Part) -> Expression:
    """An expression as it is; a number or a text as a constant.

    Raises:
        UsageError: It is none of these.
    """
    return part if isinstance(part, Expression) else Constant(part)


def _joined(kind: type[_Combined], part: Part) -> tuple[Expression, ...]:
    """The parts of a nameless expression of the same kind: a chain of `+` is one sum."""
    made = as_expression(part)
    return made.parts if isinstance(made, kind) and not made.name else (made,)


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise UsageTypeError(f"a name must be text, not {name!r}")
    if not name.isprintable():
        raise UsageValueError(f"a name must be printable, and in one line: {name!r}")
    return name


def _from_dict(data: object, depth: int) -> Expression:
    kind = _entry(data, "kind", str)
    if depth > _DEEPEST:
        raise UsageValueError(f"expressions nested more than {_DEEPEST} deep are refused")
    name, value = _entry(data, "name", str), _entry(data, "value", int)
    made: Expression
    if kind in _COMBINED:
        made = _COMBINED[kind](*(_from_dict(part, depth + 1) for part in _entry(data, "parts", list)), name=name)
        if made.value != value:
            raise UsageValueError(f"{kind} {name!r} is said to be {value}, but comes to {made.value}: {made.formula}")
    elif kind == SizeOf.kind:
        made = SizeOf._known(_name(name), parse_size(value, what=f"size of {name!r}"), _entry(data, "structure", str))
    elif kind == Setting.kind:
        made = Setting(name, value)
    elif kind == Constant.kind:
        made = Constant(value, name)
    else:
        raise UsageValueError(f"no kind of expression is called {kind!r}")
    return made


def _entry(data: object, key: str, kind: type[Any]) -> Any:
    """An entry of what is read back, of a type that JSON has."""
    found = data.get(key) if isinstance(data, Mapping) else None
    if type(found) is not kind:
        raise UsageTypeError(f"an expression read back needs {key!r} as {kind.__name__}, not {found!r}")
    return found
