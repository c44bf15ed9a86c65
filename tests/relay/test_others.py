"""Other programs of this host: found out from the kernel, in a namespace of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from relay import others
from relay.others import Others
from tests.netns import Namespace, network, requires_netns

WHY = requires_netns()
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(WHY), reason=WHY)]

#: Has sockets open until it is ended: a daemon of somebody else.
PROGRAM = """
import socket, sys
tcp = socket.create_server(("0.0.0.0", 1723))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 500))
raw = [socket.socket(socket.AF_INET, socket.SOCK_RAW, number) for number in (47, 50)]
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(box: Namespace, name: str = "") -> Iterator[int]:
    """The program in a namespace, under another name if need be; its process number."""
    code = f"open('/proc/self/comm', 'w').write('{name}')\n{PROGRAM}" if name else PROGRAM
    process = subprocess.Popen(
        ("ip", "netns", "exec", box.name, sys.executable, "-c", code),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.close()


@contextmanager
def unprivileged() -> Iterator[None]:
    """As another user, who has no privileges over others' programs."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def box() -> Iterator[Namespace]:
    with network() as net:
        box = net.namespace("box")
        with box.entered():
            yield box


def test_nobody_else_is_nobody(box: Namespace) -> None:
    assert Others().found(pptp=True, ipsec=True) == []
    assert others.security_associations() == 0


def test_our_own_sockets_are_nobody_elses(box: Namespace) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 47):
        assert Others().found(pptp=True, ipsec=True) == []


def test_a_program_that_has_a_port_is_named_with_what_to_do(box: Namespace) -> None:
    with running(box, "charon") as process:
        for kind, port, rule in (("tcp", 1723, "pptp"), ("udp", 500, "ipsec")):
            error = others.port_taken(kind, port, "eth0")
            assert f"{kind}/{port} on eth0 is taken by another program, charon (process {process})" in str(
                error
            )
            assert f'leave "{rule}" out of the rules' in str(error)
            assert "HOWTO §3.14" in str(error)
    assert "is taken by another program; see which" in str(others.port_taken("tcp", 8080, "eth0"))


def test_a_program_that_reads_what_we_serve_is_named(box: Namespace) -> None:
    with running(box, "pptpd") as process:
        gre, esp = Others().found(pptp=True, ipsec=True)
        assert gre.startswith(f"pptpd (process {process}) on this host reads GRE too")
        assert esp.startswith(f"pptpd (process {process}) on this host reads ESP too")
        assert Others().found(pptp=False, ipsec=False) == []


def test_another_instance_of_ours_is_no_stranger(box: Namespace) -> None:
    with running(box, "vpnmasq"):
        assert Others().found(pptp=True, ipsec=True) == []


def test_a_program_that_may_not_be_looked_at_is_named_by_its_user(box: Namespace) -> None:
    with running(box, "pptpd") as process:
        unknown, known = Others(), Others()
        assert "pptpd" in known.found(pptp=True, ipsec=False)[0]
        with unprivileged():
            (text,) = unknown.found(pptp=True, ipsec=False)
            assert text.startswith("a program of user 0 on this host reads GRE too")
            # Who was known when there were privileges is known.
            (text,) = known.found(pptp=True, ipsec=False)
            assert text.startswith(f"pptpd (process {process}) on this host")
