"""Text for people: tables and paragraphs that fit the terminal, and spans.

Not rich's: importing that takes longer than everything else a reading command does.
"""

import shutil
import sys
import textwrap
from collections.abc import Sequence

import click

#: Columns of a terminal that does not say how wide it is, and of prose that goes elsewhere.
WIDTH = 80
#: Narrower than this no cell is cut.
_CELL_LEAST = 6
#: Columns that a line of a paragraph has for words at least, beside its indent.
_WORD = 12


def terminal() -> int | None:
    """Columns of the terminal, or those that COLUMNS says; None when the output goes elsewhere."""
    # 0 is also what a serial line answers when asked for its size.
    return shutil.get_terminal_size((0, 0)).columns or (WIDTH if sys.stdout.isatty() else None)


def plain(text: object) -> str:
    """Return the text without what could steer a terminal: some of it comes from strangers."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> list[str]:
    """Lay out rows under a header, as wide as the terminal at most; ``right`` names columns of numbers.

    The widest columns are cut, with an ellipsis, when there is not enough room. Where there is no terminal
    nothing is cut: a program or a file may need all of it.
    """
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    room = terminal() or sys.maxsize
    while sum(widths) + 2 * (len(widths) - 1) > room and max(widths) > _CELL_LEAST:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for number, row in enumerate([list(header), *cells]):
        fitted = [
            _fit(cell, width, right=name in right)
            for cell, width, name in zip(row, widths, header, strict=True)
        ]
        line = "  ".join(fitted).rstrip()
        lines.append(click.style(line, bold=True) if number == 0 else line)
    return lines


def paragraph(text: object, *, first: str = "", indent: str = "") -> list[str]:
    """Wrap a text to the terminal; ``first`` begins the first line, ``indent`` the others."""
    room = max(terminal() or WIDTH, len(indent) + _WORD)
    return textwrap.wrap(plain(text), room, initial_indent=first, subsequent_indent=indent) or [first]


def field(name: str, text: object, column: int) -> list[str]:
    """Put a text beside its name, from a column on: wrapped on a terminal, in one line elsewhere."""
    first = f"{plain(name):<{column}}"
    if terminal() is None:
        return [(first + plain(text)).rstrip()]
    return paragraph(text, first=first, indent=" " * column)


def span(seconds: float) -> str:
    """Write a span in its two largest units, like "2h 14m"."""
    whole = int(seconds)
    for large, small, length, part in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= length:
            return f"{whole // length}{large} {whole % length // part}{small}"
    return f"{whole}s"


def octets(count: int) -> str:
    """Write a number of octets in at most five characters, like "1.2M" (powers of 1000)."""
    value = float(count)
    for unit in ("", "k", "M", "G", "T"):
        if value < 999.5:
            return f"{value:.1f}{unit}" if unit and value < 10 else f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.0f}P"


def _fit(cell: str, width: int, *, right: bool) -> str:
    if len(cell) > width:
        cell = cell[: width - 1] + "…"
    return cell.rjust(width) if right else cell.ljust(width)
