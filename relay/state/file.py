"""The state file: what the gateway knows, as lines of JSON.

    {"schema": "vpnmasq.state/1", "instance": …, "boot": …, "version": …, "now": …, "layout": …}
    [record]
    …
    {"records": 20000, "crc32": 3735928559}

A new file takes the old one's place in one step (rename(2)), so there is always a whole one, also after a
loss of power. The last line shows that it is.
"""

import contextlib
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from protocols.snapshot import Snapshot

SCHEMA: Final = "vpnmasq.state/1"

#: What a line of JSON is made without.
_COMPACT: Final = (",", ":")

#: Octets of a file that is read at all: a million sessions fit.
_MOST: Final = 2 << 30

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class UnusableError(Exception):
    """The file is not one that we can go on from; the text says why, for people."""


class OutdatedError(Exception):
    """Nothing is wrong with the file, but the machine has been started since it was written."""


class StateFile:
    """The file of one instance. All methods block, and none is for the loop's thread while packets flow."""

    def __init__(self, directory: Path, instance: str) -> None:
        self._directory = directory
        self._instance = instance
        self.path = directory / f"{instance}.state"

    def lines(self, taken: Snapshot) -> Iterator[bytes]:
        """A snapshot as the lines of a file, but for the last one."""
        yield encoded(
            {
                "schema": SCHEMA,
                "instance": self._instance,
                "boot": boot_id(),
                "version": taken.version,
                "now": taken.now,
                "layout": taken.schema,
            }
        )
        for record in taken.records:
            yield encoded(record)

    def write(self, lines: Iterable[bytes]) -> int:
        """Put these lines and a last one in the place of the file; octets written.

        Raises:
            OSError: the disk is full, for one. The file is as it was.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb", buffering=1 << 20) as out:
                size, crc, count = 0, 0, -1
                for line in lines:
                    out.write(line)
                    size, crc, count = size + len(line), zlib.crc32(line, crc), count + 1
                last = encoded({"records": count, "crc32": crc})
                out.write(last)
                out.flush()
                os.fsync(out.fileno())
            new.replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        self._sync_directory()
        return size + len(last)

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def read(self, *, now: float) -> Snapshot | None:
        """What the file holds; None when there is none.

        Raises:
            UnusableError: it is not whole, not ours, or of a version to come.
            OutdatedError: the clock that its times are counted in has begun anew.
            OSError: it cannot be read.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as source:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise UnusableError("it is not a file")
            if found.st_size > _MOST:
                raise UnusableError(f"it is larger than {_MOST} octets")
            return self._parsed(source.read(), now)

    def _parsed(self, octets: bytes, now: float) -> Snapshot:
        body, last = _whole(octets)
        lines = body.splitlines()
        header: Any = _json(lines[0]) if lines else None
        self._check(header, now)
        if last.get("crc32") != zlib.crc32(body) or last.get("records") != len(lines) - 1:
            raise UnusableError("it is damaged: its checksum is wrong")
        records = tuple(_json(line) for line in lines[1:])
        return Snapshot(header["version"], header["now"], header["layout"], records)

    def _check(self, header: Any, now: float) -> None:
        """Judge a file by its first line, before it is asked whether it is whole."""
        schema = header.get("schema") if isinstance(header, dict) else None
        if not isinstance(schema, str) or not schema.startswith("vpnmasq.state/"):
            raise UnusableError("it is no state of vpnmasq")
        if schema != SCHEMA:
            raise UnusableError(f"it is written as {schema}, and this version reads {SCHEMA}")
        if header.get("instance") != self._instance:
            raise UnusableError(f"it is of another instance, {header.get('instance')!r}")
        written = header.get("now")
        if not isinstance(written, float) or not isinstance(header.get("layout"), dict):
            raise UnusableError("its first line is damaged")
        if header.get("boot") != boot_id():
            raise OutdatedError
        if written > now:
            raise UnusableError("it is of the future")

    def set_aside(self) -> Path:
        """Move the file out of the way, in the place of one that was before; where it is now.

        Raises:
            OSError: it stays where it is.
        """
        return self.path.replace(self.path.with_suffix(".unusable"))


def boot_id() -> str:
    """Names the time since the machine was started, in which the loop's clock goes on without a break."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def encoded(value: Any) -> bytes:
    """A record, the header or the last line, as a line of the file."""
    return json.dumps(value, separators=_COMPACT).encode() + b"\n"


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnusableError("it is damaged: a line is not JSON") from error


def _whole(octets: bytes) -> tuple[bytes, dict[str, Any]]:
    """All lines but the last, and the last one.

    Of a file that is not whole the last line is something else.
    """
    body, newline, line = octets.removesuffix(b"\n").rpartition(b"\n")
    body += newline
    last: Any = None
    if octets.endswith(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            last = json.loads(line)
    if isinstance(last, dict) and "crc32" in last:
        return body, last
    # Whose it is is worth more than that it is not whole.
    return octets, {}
