import ast
from pathlib import Path

import pytest

from tools import mutants


def changed(source: str) -> list[str]:
    tree = ast.parse(source)
    return [change.lines()[1] for change in mutants.changes(tree)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", ["pass", "x = a <= b", "x = a >= b"]),
        (
            "x = a < b <= c",
            ["x = a <= b <= c", "x = a >= b <= c", "x = a < b < c", "x = a < b > c"],
        ),
        ("x = a and b", ["x = a or b"]),
        ("x = not a", ["x = a"]),
        ("x = a * 3 // b", ["x = a * 3 * b", "x = a // 3 // b", "x = a * 4 // b"]),
        ("x += a", ["x -= a", "pass"]),
        ("x = True", ["x = False"]),
        ("f(f'{x} bytes')", ["pass", "f(f'{x}XX bytesXX')"]),
        ("x = min(a, b)", ["x = max(a, b)"]),
        ("x = d.popleft()", ["x = d.pop()"]),
        ("if a:\n    f()", ["if not a:", "pass"]),
        ("if a == b:\n    f()", ["if a != b:"]),
        ("for x in y:\n    break", ["for x in ():", "pass"]),
        ("def f():\n    return x", ["return None"]),
        ("def f(x=1):\n    yield x", ["def f(x=2):", "pass"]),
        (
            "class C:\n    @property\n    def p(self):\n        return 0",
            ["return None", "return 1"],
        ),
        ("x = [a for a in b if a]", ["x = [a for a in b]"]),
    ],
)
def test_what_can_be_done_wrong_is_done_wrong(source: str, expected: list[str]) -> None:
    made = changed(source)

    assert [line for line in expected if line not in made] == []


@pytest.mark.parametrize(
    "source",
    [
        "'''A docstring.'''",
        "import os",
        "__all__ = ['x']",
        "x: TypeAlias = 'list[int]'",
        "def f(x: 'int') -> 'int': ...",
        "assert x is not None",
        "@f(1)\nclass C: ...",
    ],
)
def test_what_is_no_behaviour_is_left_alone(source: str) -> None:
    assert changed(source) == []


def test_listing_changes_leaves_the_tree_as_it_was() -> None:
    source = Path(mutants.__file__).read_text()
    tree = ast.parse(source)

    for change in mutants.changes(tree):
        change.lines()

    assert ast.dump(tree) == ast.dump(ast.parse(source))


def test_a_mutant_is_found_again_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "room.py"
    path.write_text("class C:\n    def m(self, x):\n        return x > 3\n")

    found = {mutant.new: ast.unparse(mutants.changed_tree(mutant)) for mutant in mutants.mutants_of(path)}

    assert found["return x >= 3"] == "class C:\n\n    def m(self, x):\n        return x >= 3"
    assert found["return x > 4"] == "class C:\n\n    def m(self, x):\n        return x > 4"
    assert len(found) == 4


def test_a_survivor_is_printed_as_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "room.py"
    path.write_text("def f(x):\n    return x['`'] > 3\n")
    first, *_ = mutants.mutants_of(path)
    monkeypatch.setattr(mutants, "LISTED", tmp_path / "list.md")
    mutants.LISTED.write_text(f"# Equivalent\n\n{first} — nobody can tell.\n", encoding="utf-8")

    assert mutants.listed() == {first.name: " — nobody can tell."}
