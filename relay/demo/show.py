"""The screen: what goes on, then the table. For programs: one JSON document."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from relay.demo.contest import CHECKS, Check, Result, Results, Watcher
from relay.demo.gateways import Gateway

#: Columns of the table where there is no terminal to ask.
_WIDTH: Final = 110

#: Columns of a terminal on which the table has room.
_WIDE: Final = 100
#: A heading's width on others.
_NARROW: Final = 12

SCHEMA: Final = "vpnmasq.demo/1"


@dataclass(slots=True)
class Column:
    """What came out for one gateway; ``reason`` says why it could not stand, or fell."""

    gateway: Gateway
    results: Results = field(default_factory=dict)
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether it stood, and everything was right."""
        return not self.reason and all(check in self.results and self.results[check].ok for check in CHECKS)


class Screen(Watcher, Protocol):
    """Who watches the demo."""

    def say(self, text: str) -> None:
        """Say what happens."""

    def gateway(self, gateway: Gateway) -> None:
        """A gateway has its turn."""


class PlainScreen:
    """One line for everything that happens."""

    def __init__(self, out: Console, clients: int) -> None:
        self._console = out
        self._clients = clients

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def gateway(self, gateway: Gateway) -> None:
        """Print the gateway's name, and what it is told."""
        self.say(f"\n{gateway.title}:")
        for line in gateway.rules.splitlines():
            self._console.print(f"    | {line}", style="dim", highlight=False, markup=False, soft_wrap=True)

    def doing(self, check: Check) -> None:
        """Print nothing: the result follows soon."""

    def moved(self, echoes: int, wanted: int) -> None:
        """Print nothing: bars are for terminals."""

    def found(self, check: Check, result: Result) -> None:
        """Print the result."""
        note = f"  ({result.note})" if result.note else ""
        self.say(f"  {_words(result):>11}  {_title(check, self._clients).strip()}{note}")


class LiveScreen(PlainScreen):
    """The same, with bars that move while data do."""

    def __init__(self, out: Console, clients: int, progress: Progress) -> None:
        super().__init__(out, clients)
        self._progress = progress
        self._bar: TaskID = progress.add_task("", total=1, visible=False)

    def doing(self, check: Check) -> None:
        """Show a bar for the check."""
        text = _title(check, self._clients).strip()
        self._progress.update(self._bar, description=text, completed=0, total=None, visible=True)

    def moved(self, echoes: int, wanted: int) -> None:
        """Move the bar."""
        self._progress.update(self._bar, completed=echoes, total=wanted)

    def found(self, check: Check, result: Result) -> None:
        """Replace the bar by the result."""
        self._progress.update(self._bar, visible=False)
        mark = "[green]✓[/]" if result.ok else "[red]✗[/]"
        note = f"  [dim]({escape(result.note)})[/]" if result.note else ""
        title = _title(check, self._clients).strip()
        self._console.print(f"  {mark} {result.good:>4}/{result.wanted:<4} {title}{note}", highlight=False)


class _Console(Console):
    """Says when nobody reads on, instead of ending the process."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command line; rich would end the process at once."""
        raise BrokenPipeError


def console(*, stderr: bool) -> Console:
    """Return the console to print on."""
    made = _Console(stderr=stderr)
    if not made.is_terminal:
        made.width = max(made.width, _WIDTH)
    return made


@contextmanager
def screen(out: Console, clients: int, *, plain: bool) -> Iterator[Screen]:
    """Return the screen that fits."""
    if plain or not out.is_terminal:
        yield PlainScreen(out, clients)
        return
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        yield LiveScreen(out, clients, progress)


def table(columns: list[Column], clients: int, width: int) -> Table:
    """Return the table of what worked, one column a gateway; on a narrow terminal words stand below words."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("What worked", overflow="fold")
    for column in columns:
        heading = textwrap.fill(column.gateway.title, _WIDE if width >= _WIDE else _NARROW)
        found.add_column(heading, justify="right", no_wrap=True)
    for check in CHECKS:
        found.add_row(_title(check, clients), *(_cell(column, check) for column in columns))
    return found


def remarks(columns: list[Column]) -> list[str]:
    """Return what the table has no room for: why a gateway could not stand, and what went wrong how."""
    lines = []
    for column in columns:
        if column.reason:
            lines.append(f"{column.gateway.title}: {column.reason}")
        for check, result in column.results.items():
            if not result.ok and result.note:
                lines.append(f"{column.gateway.title}, {check.key}: {result.note}")
    return lines


def conclude(out: Console, columns: list[Column], clients: int, seconds: float) -> None:
    """Print the table, the remarks, and the verdict."""
    out.print()
    out.print(table(columns, clients, out.width))
    for remark in remarks(columns):
        out.print(f"  {remark}", style="dim", highlight=False, markup=False, soft_wrap=True)
    verdict = "vpnmasq did everything right" if passed(columns) else "vpnmasq did NOT do everything right"
    out.print(f"{verdict}; {seconds:.0f} seconds, nothing left behind", highlight=False)


def document(columns: list[Column], clients: int, seconds: float) -> dict[str, Any]:
    """Return everything as JSON values."""
    return {
        "schema": SCHEMA,
        "ok": passed(columns),
        "clients": clients,
        "seconds": round(seconds, 1),
        "gateways": [
            {
                "key": column.gateway.key,
                "title": column.gateway.title,
                "available": not column.reason,
                "reason": column.reason,
                "ok": column.ok,
                "results": [
                    {
                        "check": check.key,
                        "title": _title(check, clients).strip(),
                        "ok": result.ok,
                        "good": result.good,
                        "wanted": result.wanted,
                        "wrong": result.wrong,
                        "note": result.note,
                    }
                    for check, result in column.results.items()
                ],
            }
            for column in columns
        ],
    }


def passed(columns: list[Column]) -> bool:
    """Whether vpnmasq did everything right; the others are only for comparison."""
    return any(column.ok for column in columns if column.gateway.key == "vpnmasq")


def _title(check: Check, clients: int) -> str:
    return check.title.format(clients=clients)


def _words(result: Result) -> str:
    return f"{'ok' if result.ok else 'NO'} {result.good}/{result.wanted}"


def _cell(column: Column, check: Check) -> str:
    result = column.results.get(check)
    if result is None:
        return "[yellow]not available[/]" if column.reason else "[red]✗[/]"
    mark = "[green]✓[/]" if result.ok else "[red]✗[/]"
    return f"{result.good}/{result.wanted} {mark}"
