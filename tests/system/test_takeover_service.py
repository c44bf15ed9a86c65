"""Another process takes over within a service, and whoever looks after the service keeps up."""

import os
import signal
import socket
import struct
from pathlib import Path
from typing import Final

import pytest

from relay.cli.exits import Exit
from tests.pidns import UNSHARED, first, requires_pidns
from tests.system.calls import call
from tests.system.home import PATIENCE, PEER, PUBLIC, Daemon, Home, until
from tests.system.test_takeover import another, answers, start

pytestmark = pytest.mark.usefixtures("nothing_stays")

#: struct ucred: pid, uid, gid (unix(7)).
_UCRED: Final = struct.Struct("3i")


def said_to(systemd: socket.socket) -> tuple[str, int]:
    """What systemd is told next, and by which process."""
    text, ancillary, _, _ = systemd.recvmsg(1000, socket.CMSG_SPACE(_UCRED.size))
    return text.decode(), _UCRED.unpack(ancillary[0][2])[0]


def says(process: int, systemd: socket.socket) -> str:
    """What a process tells systemd next; others may have a last word."""
    while True:
        text, teller = said_to(systemd)
        if teller == process:
            return text


def test_systemd_learns_of_its_new_main_process_before_that_speaks(house: Home, tmp_path: Path) -> None:
    """And it is fed as before, and whoever has started the process may go."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(PATIENCE)
        systemd.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        old = start(house, NOTIFY_SOCKET=str(path), WATCHDOG_USEC="900000")
        tunnel = call(house, house.client, PEER, house.peer)
        starter = another(house, old, "--detach", wait=False)
        assert starter.ends() == Exit.DONE, starter.log()
        assert old.ends() == Exit.DONE
        told = [said_to(systemd)]
        while not told[-1][0].startswith("MAINPID="):
            told.append(said_to(systemd))
        new = int(told[-1][0].partition("=")[2])
        assert {teller for _, teller in told} == {old.process.pid}
        assert new not in (old.process.pid, starter.process.pid)
        try:
            assert says(new, systemd) == f"READY=1\nSTATUS=1 session on {PUBLIC}"
            assert [says(new, systemd) for _ in range(2)] == ["WATCHDOG=1"] * 2
            answers(tunnel)
        finally:
            os.kill(new, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{new}").exists())


def test_who_waits_for_a_new_process_learns_how_it_failed(house: Home) -> None:
    daemon = start(house)
    starter = another(house, daemon, "--detach", "--set", "wan.interfaze=eth1", wait=False)
    assert starter.ends() == Exit.BAD_CONFIGURATION
    assert "wan.interfaze" in starter.log()


def in_container(house: Home, *above: str) -> Daemon:
    """A daemon that these have started in a namespace of processes."""
    if requires_pidns():
        pytest.skip(requires_pidns())
    return start(house, under=(*UNSHARED, *above))


def test_in_a_container_that_goes_on_another_process_takes_over(house: Home, tmp_path: Path) -> None:
    old = in_container(house, *first(tmp_path, "init", waits=False))
    tunnel = call(house, house.client, PEER, house.peer)
    new = another(house, old)
    until(lambda: "another process has taken over" in old.log())
    answers(tunnel)
    assert new.document("status")["state"] == "ready"
    assert old.process.poll() is None
    house.daemons.remove(old)
    old.stop(signal.SIGKILL)


def test_where_a_container_would_end_the_process_in_it_goes_on(house: Home, tmp_path: Path) -> None:
    old = in_container(house, *first(tmp_path, "tini"), "--")
    tunnel = call(house, house.client, PEER, house.peer)
    new = another(house, old, wait=False)
    assert new.ends() == Exit.FAILED
    assert "replace the container instead" in new.log()
    answers(tunnel)
    within = Path(f"/proc/{old.process.pid}/task/{old.process.pid}/children")
    tini = int(within.read_text())
    (daemon,) = Path(f"/proc/{tini}/task/{tini}/children").read_text().split()
    os.kill(int(daemon), signal.SIGTERM)
    assert old.ends() == Exit.DONE
    house.daemons.remove(old)
