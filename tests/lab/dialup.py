"""A provider and its customer, both guests: pppd over a serial line, and PPPoE over an Ethernet cable.

The customer gets another address each time it dials. Both lines have the customer's ``ppp0`` at their end,
which the kernel makes anew for every call.
"""

import contextlib
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.lab.hosts import Guest

#: The provider's end of every link.
FAR_END: Final = "200.200.200.1"

#: Customers get the addresses that follow, one each call.
FIRST_BY_SERIAL: Final = 200
FIRST_BY_PPPOE: Final = 220

Devices = dict[str, socket.socket]


class Cables(NamedTuple):
    """What to plug into each guest."""

    customer: Devices
    provider: Devices


@contextlib.contextmanager
def cables() -> Iterator[Cables]:
    """A null-modem cable at ``ttyS0`` and an Ethernet cable at ``vec1``."""
    with contextlib.ExitStack() as stack:
        serial = [stack.enter_context(end) for end in socket.socketpair()]
        ethernet = [stack.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)]
        yield Cables(
            *(
                {
                    "ssl0=fd:": serial[number],
                    f"vec1:transport=fd,depth=64,mac=02:76:70:6e:01:0{number},fd=": ethernet[number],
                }
                for number in (0, 1)
            )
        )


#: What pppd is told on both sides of both lines; Debian's own options want what a pseudo-modem has not.
_COMMON: Final = "noauth\nnoipv6\nlcp-restart 1\nlcp-echo-interval 0\ndebug\nlogfile /run/pppd.log\n"


class Provider:
    """Answers, one customer at a time."""

    def __init__(self, guest: Guest) -> None:
        """Begin to answer on both lines."""
        self._guest = guest
        guest.put("/etc/ppp/options", _COMMON)
        serial = (
            "pppd /dev/ttyS0 115200 local nodetach noipdefault"
            f' connect "chat -t 3600 ATDT CONNECT" {FAR_END}:200.200.200.$n'
        )
        guest.sh(
            # the scripts are for name servers and other things of no use here
            "rm -f /etc/ppp/ip-pre-up /etc/ppp/ip-up /etc/ppp/ip-down; echo 1 >/proc/sys/net/ipv4/ip_forward;"
            "ip link set vec1 up;"
            f"pppoe-server -I vec1 -L {FAR_END} -R 200.200.200.{FIRST_BY_PPPOE} -O /dev/null",
            check=True,
        )
        guest.start(f"n={FIRST_BY_SERIAL}; while :; do {serial}; n=$((n+1)); done")

    def hang_up(self) -> None:
        """End the call, as providers do once a day."""
        self._guest.sh("kill $(</run/ppp0.pid)", check=True)

    def evidence(self) -> str:
        """Return what its pppd logged last."""
        return self._guest.sh("tail -n 40 /run/pppd.log").output


#: pppd dials again by itself when the other side has ended the call.
_CUSTOMER: Final = "noipdefault\ndefaultroute\npersist\nmaxfail 0\nholdoff 1\nipparam home\n"


class Customer:
    """Dials; on either line with ``persist``, so that pppd does so again when the provider hangs up."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        guest.put("/etc/ppp/options", _COMMON)
        chat = "chat -t 5 '' ATDT CONNECT"
        guest.put("/etc/ppp/peers/serial", f'/dev/ttyS0\n115200\nlocal\nconnect "{chat}"\n{_CUSTOMER}')
        guest.put("/etc/ppp/peers/pppoe", f"plugin pppoe.so\nvec1\n{_CUSTOMER}")
        guest.sh("rm -f /etc/ppp/ip-pre-up; ip link set vec1 up; ip route del default", check=True)

    def dial(self, line: str) -> None:
        """Start to dial on the "serial" line or by "pppoe"."""
        self._guest.sh(f"pppd call {line}", check=True)

    def hang_up(self) -> None:
        """End the call if there is one, and do not dial again."""
        wait = "while pgrep -x pppd >/dev/null; do [ $SECONDS -lt $e ] || exit 1; sleep 0.1; done"
        self._guest.sh(f"pkill -x pppd; e=$((SECONDS+20)); {wait}", check=True)

    def evidence(self) -> str:
        """Return what its pppd logged last."""
        return self._guest.sh("tail -n 60 /run/pppd.log").output
