"""One daemon for a socket and a name, also after a crash."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.lock import Held, Locks, hold, hold_name

#: Holds a lock until it is killed.
HOLDER = """
import sys
from pathlib import Path
from relay.lock import hold, hold_name
with hold(Path(sys.argv[2])) if sys.argv[1] == "file" else hold_name(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""

NAME = f"test-{os.getpid()}"


@contextmanager
def another(kind: str, what: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock."""
    command = (sys.executable, "-c", HOLDER, kind, what)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_lock_can_be_taken_again_after_it_was_given_back(tmp_path: Path) -> None:
    path = tmp_path / "control.sock.lock"
    for _ in range(2):
        with hold(path):
            assert path.read_text() == f"{os.getpid()}\n"
    assert path.read_text() == ""
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_second_holder_is_told_the_first_ones_pid(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        another("file", str(path)) as process,
        pytest.raises(Held, match=f"{path} is in use by process {process.pid}") as caught,
        hold(path),
    ):
        pass
    assert caught.value.pid == process.pid


def test_a_crash_gives_the_lock_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with another("file", str(path)) as process:
        process.kill()
        process.wait()
        assert path.read_text() == f"{process.pid}\n"
        with hold(path):
            assert path.read_text() == f"{os.getpid()}\n"


def test_a_holder_that_wrote_no_pid_is_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with another("file", str(path)):
        path.write_text("")
        with pytest.raises(Held, match="in use by another process"), hold(path):
            pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"), hold(tmp_path / "lock"):
        pass
    assert not (tmp_path / "victim").exists()


def test_a_name_is_held_once_and_its_holder_known(tmp_path: Path) -> None:
    with another("name", NAME) as process:
        for _ in range(3):
            with pytest.raises(Held, match=f'"{NAME}" is in use by process {process.pid}'), hold_name(NAME):
                pass
        with hold_name(f"{NAME}-other"):
            pass
        process.kill()
        process.wait()
        with hold_name(NAME):
            pass
    with hold_name(NAME):
        pass


def test_a_lock_goes_from_process_to_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path) as old:
        given = os.dup(old.fd)
        old.ours = False  # as it is when somebody has taken over
    assert path.read_text() == f"{os.getpid()}\n"
    with hold(path, given) as new:
        with pytest.raises(Held):
            run_other(path)
        new.sign()
    assert path.read_text() == ""


def run_other(path: Path) -> None:
    with hold(path):
        pass


def test_a_process_that_does_not_take_over_leaves_the_lock_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path) as old:
        with hold(path, os.dup(old.fd)):
            pass
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(Held):
            run_other(path)


def test_the_name_shows_who_has_taken_it_over(tmp_path: Path) -> None:
    name = f"test-{os.getpid()}"
    with hold_name(name) as sock:
        given = os.dup(sock.fileno())
    with hold_name(name, given) as taken, hold(tmp_path / "lock") as file:
        Locks(file, taken).take_up()
        with pytest.raises(Held) as caught, hold_name(name):
            pass
        assert caught.value.pid == os.getpid()
