"""The HOWTO's network with real IKE daemons at its ends, of one kind, and PPTP calls beside them.

::

    client1 .2 … client4 .5 --+                       +-- server 199.0.0.1
    exposed server .10 -------+-- [vpnmasq] ----------+-- caller 199.0.0.2

Clients have tunnels to the server, the caller one to the exposed server; which there are a test file says.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Generic, TypeVar

from tests.lab import gateways, pptp
from tests.lab.capture import all_crossed, capturing
from tests.lab.gateways import Session
from tests.lab.hosts import Guest
from tests.lab.keying import Keying, Tunnel, finished
from tests.lab.machine import LabError
from tests.lab.network import WAN_ADDRESS, Network
from tests.lab.traffic import ping, transfer

SERVER: Final = "199.0.0.1"
CALLER: Final = "199.0.0.2"
EXPOSED: Final = "10.0.0.10"
CLIENTS: Final = ("10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5")

#: Inner addresses; those of clients end with their number.
SERVER_INSIDE: Final = "172.16.0.1"
CALLER_INSIDE: Final = "172.16.0.2"
EXPOSED_INSIDE: Final = "172.16.0.10"
CLIENT_INSIDE: Final = "172.16.1."

#: Answers of ten that busy guests may lose by themselves, and by rekeys: their queues are short. The gateway
#: may lose none, and is judged by what crossed it.
FEW: Final = 5

#: What carries pings (pcap-filter(7)).
ESP: Final = "esp or udp port 4500"
GRE: Final = "ip proto gre"

#: Who pings, and which inner address.
Way = tuple[Keying | pptp.Client, str]

K = TypeVar("K", bound=Keying)


def config(ipsec: str = "", source: str = "keep", *, fastpath: bool = True) -> str:
    """Clients inside to two hosts outside, of which one may also call the server inside."""
    kernel = f"fastpath = {str(fastpath).lower()}"
    return f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/29"]
servers = ["{SERVER}", "{CALLER}"]
proto = ["pptp", "ipsec"]
{kernel}

[[expose]]
name = "office"
server = "{EXPOSED}"
proto = ["pptp", "ipsec"]
allow = ["{CALLER}"]
source = "{source}"
{kernel}

[ipsec]
{ipsec}
"""


class Lab(Generic[K]):
    """Four clients and a server inside, a server and a caller outside, the gateway between them.

    All are booted and none has a daemon that runs: ``begin`` starts them.
    """

    def __init__(self, network: Network, directory: Path, kind: type[K]) -> None:
        self.network = network
        # Without a queue the kernel may carry packets straight to the other end, past those who capture here.
        network.gw.sh("for one in eth0 eth1; do tc qdisc add dev $one root pfifo; done")
        self.gateway = gateways.Vpnmasq(network, directory, config())
        places = {"server": (SERVER, SERVER_INSIDE), "caller": (CALLER, CALLER_INSIDE)}
        places["exposed"] = (EXPOSED, EXPOSED_INSIDE)
        for number, address in enumerate(CLIENTS, 1):
            places[f"client{number}"] = (address, f"{CLIENT_INSIDE}{number}")
        guests = {
            name: Guest(network, directory, name, address, software=("ppp", kind.software))
            for name, (address, _) in places.items()
        }
        for guest in guests.values():
            guest.wait()
        ends = {name: kind(guests[name], inside) for name, (_, inside) in places.items()}
        self.server, self.caller, self.exposed = ends["server"], ends["caller"], ends["exposed"]
        self.clients = [ends[f"client{number}"] for number in range(1, len(CLIENTS) + 1)]
        self._ends = list(ends.values())
        self._pptp = pptp.Server(guests["server"])
        self._callers = [pptp.Client(guests[f"client{number}"], f"client{number}") for number in (1, 2)]

    def begin(self, tunnels: Mapping[K, Sequence[Tunnel]]) -> None:
        """Start all daemons with their tunnels, and have two clients call the server by PPTP for good."""
        finished(*[(one, one.start(own)) for one, own in tunnels.items()])
        for one in self._callers:
            one.dial(SERVER)
        for one in self._callers:
            one.connected()

    def calls_stand(self) -> None:
        """Check that the PPTP calls of the beginning are there, carry data, and lose none in the gateway."""
        with self.talking(*((one, self._pptp.inside) for one in self._callers), what=GRE):
            pass
        assert len(self.sessions("pptp")) == len(self._callers)

    def end(self) -> None:
        """Hang up, and end the gateway; it must leave nothing behind."""
        pptp.hang_up(*self._callers)
        self.gateway.stop()

    def evidence(self) -> list[tuple[str, str]]:
        """Return titles and texts of all logs."""
        logs = [(f"{one.host.name}: its daemon's log", one.evidence()) for one in self._ends]
        known = "\n".join(map(str, self.gateway.sessions()))
        return [("vpnmasq's log", self.gateway.log()), ("its sessions", known), *logs]

    # -- tunnels ---------------------------------------------------------------------------------------

    @contextmanager
    def tunnels(self, name: str, *ends: K) -> Iterator[None]:
        """Have hosts bring up their tunnels of this name, all at once; tear them down at the end."""
        try:
            finished(*[(end, end.up(name)) for end in ends])
            yield
        finally:
            for end in ends:
                self.tear_down(name, end)
            self.forget()

    def tear_down(self, name: str, end: K) -> None:
        """End a tunnel of a host that began it."""
        end.down(name)

    @contextmanager
    def configured(self, ipsec: str = "", source: str = "keep", *, fastpath: bool = True) -> Iterator[None]:
        """Run the gateway with another configuration for a while."""
        self.gateway.reload(config(ipsec, source, fastpath=fastpath))
        try:
            yield
        finally:
            self.gateway.reload(config())

    def answered(self, *ways: Way) -> None:
        """Check that pings are answered, and that the gateway loses nothing of what it gets."""
        with self.talking(*ways):
            pass

    @contextmanager
    def talking(self, *ways: Way, count: int = 10, what: str = ESP) -> Iterator[None]:
        """The same of so many pings each, meanwhile and for as long as they take; they go as ``what``."""
        with capturing(self.network.gw, "any", what) as capture:
            started = [ping(one.host, target, count) for one, target in ways]
            yield
            lost = [one.lost() for one in started]
            all_crossed(capture, WAN_ADDRESS)
        assert all(one <= FEW * count // 10 for one in lost), lost

    def transfers(self, *ends: tuple[K, K], octets: int) -> None:
        """Bulk TCP through the tunnels between all these, both ways at the same time."""
        moving = []
        for number, (one, other) in enumerate(ends):
            moving.append(transfer(one.host, other.host, other.inside, octets, port=5100 + number))
            moving.append(transfer(other.host, one.host, one.inside, octets, port=5200 + number))
        for transferring in moving:
            transferring.finish()

    # -- what the gateway knows ------------------------------------------------------------------------

    def sessions(self, protocol: str) -> list[Session]:
        """Return the sessions of a protocol."""
        return [session for session in self.gateway.sessions() if session["protocol"] == protocol]

    def carried(self, protocol: str) -> bool:
        """Return whether the kernel carries all sessions of a protocol; raise LabError when it does some."""
        found = {session["fastpath"] for session in self.sessions(protocol)}
        if len(found) != 1:
            raise LabError(f"the kernel carries some {protocol} sessions: {self.sessions(protocol)}")
        return bool(found.pop())

    def inside(self, protocol: str) -> list[str]:
        """Return whose sessions of a protocol those are that stand, by their addresses inside."""
        stand = ("established", "confirmed")
        return sorted(s.get("client", EXPOSED) for s in self.sessions(protocol) if s["state"] in stand)

    def forget(self) -> None:
        """Have the gateway forget what it learnt from the tunnels of a test."""
        known = [session["id"] for session in self.gateway.sessions() if session["protocol"] != "pptp"]
        if known:
            self.gateway.command("sessions", "kill", *known)


def pings(*ways: tuple[Keying, str], count: int = 10) -> list[int]:
    """Ping at the same time; return how many answers each did not get."""
    started = [ping(one.host, target, count) for one, target in ways]
    return [one.lost() for one in started]
