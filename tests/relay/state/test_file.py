"""The state file: what is written comes back, and what is not ours is told from it."""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocols.snapshot import Snapshot, snapshot
from protocols.snapshot.classes import SCHEMA
from relay.state import file as state_file
from relay.state.file import OutdatedError, StateFile, UnusableError

RECORDS = tuple(SCHEMA.record(("resting", number)) for number in range(3))


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state", "vpnmasq")


def write(file: StateFile, *, now: float = 100.0) -> Snapshot:
    taken = snapshot(RECORDS, now=now)
    file.write(file.lines(taken))
    return taken


def plain(taken: Snapshot | None) -> Any:
    assert taken is not None
    return json.loads(json.dumps([taken.version, taken.now, taken.schema, taken.records]))


def test_what_is_written_is_read(file: StateFile) -> None:
    assert file.read(now=0.0) is None
    taken = write(file)
    assert plain(file.read(now=101.0)) == plain(taken)


def test_nobody_else_may_read_it(file: StateFile) -> None:
    write(file)
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700


def test_what_is_written_is_counted(file: StateFile) -> None:
    assert file.write(file.lines(snapshot(RECORDS, now=1.0))) == file.path.stat().st_size


def test_a_write_that_fails_leaves_the_old_file(file: StateFile) -> None:
    taken = write(file)

    def lines() -> Any:
        yield b"{}\n"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        file.write(lines())
    assert plain(file.read(now=101.0)) == plain(taken)
    assert [path.name for path in file.path.parent.iterdir()] == ["vpnmasq.state"]


def test_a_new_file_is_not_written_through_a_link(file: StateFile, tmp_path: Path) -> None:
    write(file)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    file.path.with_suffix(".new").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        write(file)
    assert precious.read_text() == "mine"


def rewritten(change: Callable[[list[Any]], None]) -> Callable[[bytes], bytes]:
    """The lines changed, and the checksum made right."""

    def mistaken(octets: bytes) -> bytes:
        lines = [json.loads(line) for line in octets.splitlines()]
        change(lines)
        body = b"".join(json.dumps(line).encode() + b"\n" for line in lines[:-1])
        last = {"records": len(lines) - 2, "crc32": zlib.crc32(body)}
        return body + json.dumps(last).encode() + b"\n"

    return mistaken


def header(**changes: Any) -> Callable[[bytes], bytes]:
    return rewritten(lambda lines: lines[0].update(changes))


MISTAKES = [
    pytest.param(lambda _: b"", "no state of vpnmasq|damaged", id="empty"),
    pytest.param(lambda _: b"\0" * 5000, "damaged", id="zeros"),
    pytest.param(lambda octets: octets[:-1], "checksum", id="without-the-last-octet"),
    pytest.param(lambda octets: octets[: len(octets) // 2], "checksum|damaged", id="half"),
    pytest.param(lambda octets: b"\n".join(octets.split(b"\n")[:-2]) + b"\n", "checksum", id="no-last-line"),
    pytest.param(lambda octets: octets.replace(b"resting", b"testing", 1), "checksum", id="other-letter"),
    pytest.param(lambda octets: octets + octets, "checksum", id="twice"),
    pytest.param(lambda _: b'{"hello": "world"}\n', "no state of vpnmasq", id="foreign"),
    pytest.param(lambda _: b"[]\n[]\n", "no state of vpnmasq", id="foreign-list"),
    pytest.param(lambda _: b"[" * 100_000, "damaged", id="deep"),
    pytest.param(header(schema="vpnmasq.state/2"), "written as vpnmasq.state/2", id="to-come"),
    pytest.param(header(instance="office"), "another instance, 'office'", id="another-instance"),
    pytest.param(header(now="yesterday"), "first line is damaged", id="no-time"),
    pytest.param(header(layout=[]), "first line is damaged", id="no-layout"),
    pytest.param(header(now=1e9), "of the future", id="of-the-future"),
]


@pytest.mark.parametrize(("mistake", "why"), MISTAKES)
def test_what_cannot_be_used_is_said(file: StateFile, mistake: Callable[[bytes], bytes], why: str) -> None:
    write(file)
    file.path.write_bytes(mistake(file.path.read_bytes()))
    with pytest.raises(UnusableError, match=why):
        file.read(now=101.0)


def test_no_cut_is_taken_for_the_whole(file: StateFile) -> None:
    write(file)
    octets = file.path.read_bytes()
    for length in range(len(octets)):
        file.path.write_bytes(octets[:length])
        with pytest.raises(UnusableError):
            file.read(now=101.0)


def test_a_file_of_before_the_machine_was_started_is_no_mistake(file: StateFile) -> None:
    write(file)
    file.path.write_bytes(header(boot="another", now=1e9)(file.path.read_bytes()))
    with pytest.raises(OutdatedError):
        file.read(now=101.0)


def test_what_is_no_file_is_not_read(file: StateFile) -> None:
    file.path.parent.mkdir()
    os.mkfifo(file.path)
    with pytest.raises(UnusableError, match="not a file"):
        file.read(now=0.0)
    file.path.unlink()
    file.path.symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic links"):
        file.read(now=0.0)


def test_a_file_that_is_too_large_is_not_read(file: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file)
    monkeypatch.setattr(state_file, "_MOST", 100)
    with pytest.raises(UnusableError, match="larger than 100 octets"):
        file.read(now=101.0)


def test_what_is_set_aside_takes_the_place_of_what_was(file: StateFile) -> None:
    for text in ("one", "two"):
        file.path.parent.mkdir(exist_ok=True)
        file.path.write_text(text)
        assert file.set_aside().read_text() == text
    assert [path.name for path in file.path.parent.iterdir()] == ["vpnmasq.unusable"]
