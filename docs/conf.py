"""How the documentation is built: Sphinx, MyST and furo; every warning is an error."""

from importlib.metadata import version as version_of

from sphinx.application import Sphinx

project = "memquota"
author = "memquota contributors"
copyright = author
release = version = version_of("memquota")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
default_role = "py:obj"  # `name` in a docstring links to what it names, where that is documented

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("Clock",)}
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# The labelled paragraphs of our docstrings, beside those that every Google-style docstring has.
napoleon_custom_sections = [
    ("Threads", "notes_style"),
    ("Cancellation", "notes_style"),
    ("Callbacks", "notes_style"),
    ("Cost", "notes_style"),
    ("Approximate", "notes_style"),
    ("Source", "notes_style"),
]

html_theme = "furo"
html_title = "memquota"
html_static_path: list[str] = []


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)  # before napoleon


def prepare_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turns Markdown's fences into reStructuredText, and lets a property's first line be prose.

    Where a property's docstring starts with a colon in its line, napoleon takes what is before it for a type.
    """
    converted = ["..", ""] if what == "property" else []  # an empty comment
    fenced = False
    for line in lines:
        if line.lstrip().startswith("```"):
            indent, _, language = line.partition("```")
            converted += ["", f"{indent}.. code-block:: {language}", ""] if language else [""]
            fenced = bool(language)
        else:
            converted.append(f"    {line}" if fenced and line else line)
    lines[:] = converted
