"""What tests have to do with drivers of a veth's ends, and what they ask of those.

A veth's driver takes frames from another's only while its other end has its own part of the driver running
(NAPI, which goes with GRO): what is sent to one that has not is lost, and must not be sent there.
"""

import contextlib
import os
import re
import socket
from collections.abc import Iterator

from relay.fastpath.netdev import Netdev
from relay.fastpath.syscall import link_xdp
from tests.bpf.kernel import loaded_for_drivers
from tests.netns import Namespace


def without_family() -> str:
    """Why drivers cannot be asked here what they can; empty when they can."""
    with contextlib.closing(Netdev()) as asked:
        return asked.problem


def take_in(where: Namespace, interface: str, state: str = "on") -> None:
    """Have an interface's driver running, so that the other end's takes frames from drivers; or not."""
    where.sh(f"ethtool -K {interface} gro {state}")


def redirected(where: Namespace, *interfaces: str) -> int:
    """Frames that these interfaces' drivers have handed to others' themselves."""
    said = "".join(where.sh(f"ethtool -S {name}") for name in interfaces)
    return sum(map(int, re.findall(r"rx_queue_\d+_xdp_redirect: (\d+)", said)))


@contextlib.contextmanager
def occupied(where: Namespace, interface: str) -> Iterator[None]:
    """Somebody else's program is in an interface's driver, and lets everything pass."""
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(loaded_for_drivers()).fastpath._object.program_fd("lan_driver")
        with where.entered():
            link = link_xdp(program, socket.if_nametoindex(interface))
        stack.callback(os.close, link)
        yield
