"""Logs: how they look, and how much of them there is.

The policy, for everybody who writes a log line:

* Events are lower-case phrases; values are fields, never part of the phrase.
* error    the daemon cannot go on, or a bug of ours
* warning  an operator should act, and the line says how
* info     sessions opened, changed and closed, the address changed, ready, reloaded, refusals by reason
* debug    everything about one packet or message, guarded, so that it costs nothing when it is off
* Who talks to whom (addresses of clients and peers) is debug only (RFC 6888 REQ-12); names of rules, IDs of
  sessions and reasons are what info has.
* Whatever a stranger can cause goes through a Throttle: a flood costs lines by the minute, not by the packet.
* Secrets are never logged, on no level.
"""

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

import structlog

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "console", "json")

#: Seconds in which a key may write its lines.
WINDOW = 60.0


def configure(level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Set up structlog for the whole process; may be called again when the configuration changed.

    Lines go to standard error unless ``stream`` says otherwise. "auto" is "console" on a terminal and
    "json", one object a line, everywhere else.

    Raises:
        ValueError: an unknown level or format.
    """
    if level not in LEVELS:
        raise ValueError(f"log.level is one of {', '.join(LEVELS)}, not {level!r}")
    if form not in FORMATS:
        raise ValueError(f"log.format is one of {', '.join(FORMATS)}, not {form!r}")
    out = sys.stderr if stream is None else stream
    console = form == "console" or (form == "auto" and out.isatty())
    structlog.configure(
        processors=[*_common(), *(_console(colors=out.isatty()) if console else _json())],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        # Not cached: a reload may change the level of loggers that are in use.
        cache_logger_on_first_use=False,
    )


def _common() -> list[structlog.typing.Processor]:
    return [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level]


def _console(*, colors: bool) -> list[structlog.typing.Processor]:
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=24, exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _json() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]


@dataclass(slots=True)
class _Window:
    """The lines of one key in the current window."""

    opened: float
    lines: int = 0
    held: int = 0


class Throttle:
    """Lets at most ``per_minute`` lines of a key through in a minute and counts the others.

    It remembers at most ``keys`` keys: of more it forgets the one whose window opened first. So a stranger
    who invents keys costs bounded memory, and at worst gets ``per_minute`` lines for each.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, per_minute: int = 10, keys: int = 256
    ) -> None:
        self._clock = clock
        self._per_minute = per_minute
        self._keys = keys
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def allows(self, key: str) -> bool:
        """Whether a line of the key may be written now; if not, it is counted as held back."""
        now = self._clock()
        window = self._windows.get(key)
        if window is None or now - window.opened >= WINDOW:
            window = self._open(key, now, held=window.held if window else 0)
        if window.lines >= self._per_minute:
            window.held += 1
            return False
        window.lines += 1
        return True

    def held(self, key: str) -> int:
        """Return how many lines of the key were held back since this was last asked."""
        window = self._windows.get(key)
        if window is None:
            return 0
        held, window.held = window.held, 0
        return held

    def __len__(self) -> int:
        return len(self._windows)

    def _open(self, key: str, now: float, held: int) -> _Window:
        window = self._windows[key] = _Window(now, held=held)
        self._windows.move_to_end(key)
        if len(self._windows) > self._keys:
            self._windows.popitem(last=False)
        return window
