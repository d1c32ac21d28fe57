"""The code in README, docs and docstrings is run as tests; none of it can be skipped."""

from doctest import ELLIPSIS

from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers import markdown, rest
from sybil.sybil import SybilCollection

import memquota

_fenced = [markdown.PythonCodeBlockParser(doctest_optionflags=ELLIPSIS)]

pytest_collect_file = SybilCollection(
    [
        Sybil(_fenced, pattern="README.md"),
        Sybil(_fenced, path="docs", pattern="*.md"),
        Sybil(
            [rest.DocTestParser(optionflags=ELLIPSIS), rest.PythonCodeBlockParser(), *_fenced],
            setup=lambda namespace: namespace.update(memquota=memquota),
            path="src",
            pattern="*.py",
            document_types={".py": PythonDocStringDocument},
        ),
    ]
).pytest()
