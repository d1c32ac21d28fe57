"""Expressions: exact, written as formulas, and the same again after JSON."""

from __future__ import annotations

import ast
import copy
import json
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota import UsageError, UsageTypeError, UsageValueError
from memquota.accounting import Constant, Expression, Maximum, Minimum, Product, Setting, SizeOf, Sum

Model = tuple[Any, ...]

names = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=8)
values = st.integers(0, 2**62) | st.integers(0, 9)
leaves = st.one_of(
    st.tuples(st.just("constant"), names, values),
    st.tuples(st.just("setting"), names.map(lambda name: name or "x"), values),
)
models: st.SearchStrategy[Model] = st.recursive(
    leaves,
    lambda below: st.tuples(
        st.sampled_from(["sum", "product", "maximum", "minimum"]), names, st.lists(below, min_size=1, max_size=4)
    ),
    max_leaves=20,
)


def made(model: Model) -> Expression:
    kind, name, content = model
    match kind:
        case "constant":
            return Constant(content, name)
        case "setting":
            return Setting(name, content)
    kinds: dict[str, Callable[..., Expression]] = {
        "sum": Sum,
        "product": Product,
        "maximum": Maximum,
        "minimum": Minimum,
    }
    return kinds[kind](*map(made, content), name=name)


def worked_out(model: Model) -> int:
    """The value, by Python's own means."""
    kind, _, content = model
    if kind in ("constant", "setting"):
        assert isinstance(content, int)
        return content
    parts = [worked_out(part) for part in content]
    by: dict[str, Any] = {"sum": sum, "product": math.prod, "maximum": max, "minimum": min}
    return int(by[kind](parts))


@given(models)
def test_an_expression_has_the_exact_value_whatever_its_size(model: Model) -> None:
    assert made(model).value == worked_out(model)


@given(models)
def test_an_expression_is_the_same_again_after_json(model: Model) -> None:
    expression = made(model)

    again = Expression.from_dict(json.loads(json.dumps(expression.as_dict())))

    assert again == expression
    assert again.value == expression.value
    assert str(again) == str(expression)
    assert hash(again) == hash(expression)


plain_names = st.from_regex(re.compile("[a-z]{0,5}", re.ASCII), fullmatch=True)
plain_leaves = st.one_of(
    st.tuples(st.just("constant"), plain_names, values),
    st.tuples(st.just("setting"), st.just("x"), values),
)
nameless: st.SearchStrategy[Model] = st.recursive(
    plain_leaves,
    lambda below: st.tuples(
        st.sampled_from(["sum", "product", "maximum", "minimum"]), st.just(""), st.lists(below, min_size=2, max_size=4)
    ),
    max_leaves=20,
)


@given(nameless)
def test_a_formula_without_its_names_comes_to_the_value(model: Model) -> None:
    expression = made(model)

    bare = re.sub(r"[a-z]+=", "", expression.formula)

    assert (
        eval(compile(ast.parse(bare, mode="eval"), "formula", "eval")) == expression.value
    )  # the language is the model


@given(models, models)
def test_operators_add_and_multiply(one: Model, other: Model) -> None:
    assert (made(one) + made(other)).value == worked_out(one) + worked_out(other)
    assert (made(one) * made(other)).value == worked_out(one) * worked_out(other)


def test_numbers_and_sizes_as_text_are_constants_on_either_side() -> None:
    buffer = Setting("buffer", "64KiB")

    assert 3 * buffer + "1MiB" == Sum(Product(3, buffer), "1MiB")
    assert ("1MiB" + buffer * 3).value == 1024**2 + 3 * 65536


def test_the_function_sum_adds_no_part_of_its_own() -> None:
    parts = [Setting("a", 1), Setting("b", 2), Setting("c", 3)]

    assert sum(parts) == Sum(*parts)  # type: ignore[comparison-overlap]  # sum() answers 0 to none
    assert str(sum(parts)) == "a=1 + b=2 + c=3"


def test_a_chain_of_one_operator_is_one_expression_but_what_has_a_name_stays_whole() -> None:
    a, b, c = (Setting(name, 2) for name in "abc")

    assert a + b + c == Sum(a, b, c)
    assert a * b * c == Product(a, b, c)
    assert Sum(a, b, name="both") + c == Sum(Sum(a, b, name="both"), c)
    total: Expression = Constant(0)
    for _ in range(1000):
        total = total + a
    assert (total.value, total.depth) == (2000, 2)


@pytest.mark.parametrize(
    ("expression", "formula"),
    [
        (Constant(5), "5"),
        (Constant(70_000, "table"), "table=70_000"),
        (Setting("workers", 8), "workers=8"),
        (SizeOf(bytes(967), "frame"), "sizeof(frame)=1_000"),
        (Sum(Setting("a", 1), 2, name="head"), "head(a=1 + 2)"),
        ((Setting("a", 1) + 2) * 3, "(a=1 + 2) * 3"),
        (Sum(Setting("a", 1), 2, name="head") * 3, "head(a=1 + 2) * 3"),
        (Setting("a", 1) + Constant(2) * 3, "a=1 + 2 * 3"),
        (Maximum(Setting("a", 1), Constant(2) + 3), "max(a=1, 2 + 3)"),
        (Minimum(Setting("a", 1), "1KiB", name="cap"), "cap(min(a=1, 1_024))"),
    ],
)
def test_formulas_read_like_this(expression: Expression, formula: str) -> None:
    assert expression.formula == formula
    assert str(expression) == formula


def test_an_expression_cannot_be_changed_and_survives_copying_and_pickling() -> None:
    expression = Sum(Setting("a", 1) * SizeOf([]), Maximum(1, 2, name="most"))

    for twin in (copy.deepcopy(expression), pickle.loads(pickle.dumps(expression))):
        assert twin == expression
        assert twin.value == expression.value
    with pytest.raises(AttributeError):
        expression.value = 3  # type: ignore[misc]


def test_a_measured_size_is_kept_and_not_measured_again() -> None:
    growing: list[int] = []
    size = SizeOf(growing, "list")
    before = size.value
    growing.extend(range(1000))

    assert size.value == before
    assert Expression.from_dict(size.as_dict()).value == before
    assert size.structure == "list"


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Constant(-1), UsageValueError, "constant must not be negative"),
        (lambda: Constant(1.0), UsageTypeError, "constant must be a whole number of bytes"),  # type: ignore[arg-type]
        (lambda: Constant(True, "flag"), UsageTypeError, "constant 'flag' must be a whole number of bytes"),
        (lambda: Constant(2**62 + 1), UsageValueError, "constant must not be above"),
        (lambda: Setting("", 1), UsageValueError, "a setting needs the name"),
        (lambda: Setting("buffer", "64K"), UsageValueError, "setting 'buffer' '64K' is ambiguous"),
        (lambda: Setting("two\nlines", 1), UsageValueError, "a name must be printable"),
        (lambda: Setting(3, 1), UsageTypeError, "a name must be text, not 3"),  # type: ignore[arg-type]
        (Sum, UsageValueError, "a sum needs a part"),
        (lambda: Sum(None), UsageTypeError, "constant must be a whole number"),  # type: ignore[arg-type]
        (lambda: Setting("a", 1) + 1.5, UsageTypeError, "constant must be a whole number"),  # type: ignore[operator]
        (lambda: Product(*[2**62] * 67), UsageValueError, r"a product comes to 2\*\*4096 or more"),
    ],
)
def test_what_is_no_expression_is_refused(make: Any, error: type[UsageError], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_a_product_of_very_many_is_refused_without_being_worked_out() -> None:
    many = [Setting("n", 2**62)] * 1_000_000

    with pytest.raises(UsageValueError, match="or more"):
        Product(*many)
    assert Product(*many, 0).value == 0
    assert Product(*[2**61] * 67).value == 2**4087


def test_the_largest_values_can_still_be_shown() -> None:
    largest = Product(*[2**61] * 67)

    assert json.loads(json.dumps((largest + largest).as_dict()))["value"] == 2**4088


def test_expressions_nested_too_deeply_are_refused() -> None:
    deep: Expression = Constant(1)
    for _ in range(63):
        deep = Maximum(deep)

    assert Expression.from_dict(deep.as_dict()) == deep
    with pytest.raises(UsageValueError, match="nested more than 64 deep"):
        Maximum(deep)
    with pytest.raises(UsageValueError, match="nested more than 64 deep"):
        Expression.from_dict({"kind": "maximum", "name": "", "value": 1, "parts": [deep.as_dict()]})


good = {"kind": "sum", "name": "", "value": 3, "parts": [{"kind": "constant", "name": "", "value": 3}]}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "difference"}, "no kind of expression is called 'difference'"),
        ({"kind": None}, "needs 'kind' as str, not None"),
        ({"value": 4}, "sum '' is said to be 4, but comes to 3: 3"),
        ({"value": 3.0}, "needs 'value' as int, not 3.0"),
        ({"value": True}, "needs 'value' as int, not True"),
        ({"parts": []}, "a sum needs a part"),
        ({"parts": None}, "needs 'parts' as list, not None"),
        ({"parts": [7]}, "needs 'kind' as str, not None"),
        ({"kind": "setting"}, "a setting needs the name"),
        ({"kind": "size_of"}, "needs 'structure' as str, not None"),
        ({"kind": "size_of", "structure": "x", "value": -3}, "must not be negative"),
    ],
)
def test_what_tells_of_no_expression_is_refused(change: dict[str, object], text: str) -> None:
    assert Expression.from_dict(good).value == 3
    with pytest.raises(UsageError, match=re.escape(text)):
        Expression.from_dict({**good, **change})


@pytest.mark.parametrize("data", [None, 3, [], "sum"])
def test_what_is_no_dictionary_is_refused(data: Any) -> None:
    with pytest.raises(UsageTypeError, match="needs 'kind'"):
        Expression.from_dict(data)
