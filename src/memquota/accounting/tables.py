"""The same rows as plain text and as a table of rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from attrs import frozen

from memquota.sizes import format_size

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Rows", "indented", "size_cell"]

#: A column of names no wider than that is never narrowed.
_WHOLE: Final = 18


def indented(name: str) -> str:
    """The last part of a component's name, as far from the edge as it is deep; "all" for the root."""
    return "  " * (name.count(".") + 1) + name.rpartition(".")[2] if name else "all"


def size_cell(size: int | None) -> str:
    """A size, or a dash where it is not known."""
    return "-" if size is None else format_size(size)


@frozen
class Rows:
    """Rows for people; the first column is text, the others are figures.

    Attributes:
        header: The names of the columns.
        rows: As many cells in each.
    """

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def as_text(self) -> str:
        """Aligned with spaces."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.header))]
        return "\n".join(
            "  ".join(
                (
                    line[0].ljust(widths[0]),
                    *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
                )
            )
            for line in lines
        )

    def as_table(self, title: str) -> Table:
        """A table of rich.

        Raises:
            ImportError: There is no rich: `pip install 'memquota[cli]'`.
        """
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
        longest = max(len(line[0]) for line in (self.header, *self.rows))
        # Whole where that leaves 80 columns enough for the figures, whose units then go to a next line.
        table.add_column(self.header[0], overflow="fold", min_width=12, no_wrap=longest <= _WHOLE)
        for name in self.header[1:]:
            table.add_column(name, justify="right", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))  # as Text: a name may contain what would be markup
        return table
