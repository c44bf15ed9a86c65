"""The demo's network: namespaces of its own, with the addresses of the VPN-Masquerade-HOWTO.

    client-1 10.0.0.11 ─┐
    client-2 10.0.0.12 ─┤                     gateway                       ┌─ server   199.0.0.1
    client-3 10.0.0.13 ─┼─ lan ─ eth0 10.0.0.1 ─── 200.200.200.200 eth1 ─ internet ─ caller   199.0.0.2
    office   10.0.0.2  ─┘                                                   └─ stranger 199.0.0.3

The internet knows no private addresses, and drops what comes from them. The gateway's namespace is made anew
for each gateway, so that none finds the connection tables of another. The machine's own is not touched.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LAN_NETWORK: Final = "10.0.0.0/24"
LAN_ADDRESS: Final = "10.0.0.1"
WAN_ADDRESS: Final = "200.200.200.200"
OFFICE: Final = "10.0.0.2"
SERVER: Final = "199.0.0.1"
CALLER: Final = "199.0.0.2"
STRANGER: Final = "199.0.0.3"

_PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")  # RFC 1918 §3
_INTERNET_ADDRESS: Final = "200.200.200.1"
_OUTSIDE_ADDRESS: Final = "199.0.0.254"
_FIRST_CLIENT: Final = 11
#: Clients that fit between the first one's address and the end of the LAN.
MOST_CLIENTS: Final = 100

#: The gateway changes, its neighbours stay: with fixed addresses their ARP entries remain right.
_LAN_MAC: Final = "02:00:0a:00:00:01"
_WAN_MAC: Final = "02:00:c8:c8:c8:c8"

_PREFIX: Final = "vpnmasq-demo-"
_RUN: Final = Path("/run")
_NAMESPACES: Final = _RUN / "netns"


class NetworkError(Exception):
    """The network cannot be built; the text says what failed."""


def run(*command: str, stdin: str = "") -> str:
    """Run a command to its end and return what it printed.

    Raises:
        NetworkError: it failed; with its own words.
    """
    # In a session of its own: Ctrl-C is for the demo, which then cleans up with commands like this one.
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode:
        raise NetworkError(f"{' '.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


class Network:
    """The namespaces of one demo; named after its process, so that several never meet."""

    def __init__(self, clients: int) -> None:
        self.clients = {f"client-{n + 1}": f"10.0.0.{_FIRST_CLIENT + n}" for n in range(clients)}
        self._inside = {**self.clients, "office": OFFICE}
        self._outside = {"server": SERVER, "caller": CALLER, "stranger": STRANGER}
        self._gateways = 0

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of all hosts, which are the names of their namespaces, too."""
        return (*self._inside, *self._outside)

    @staticmethod
    def namespace(name: str) -> str:
        """Return the namespace's name on this machine."""
        return f"{_PREFIX}{os.getpid()}-{name}"

    def inside(self, name: str, *command: str) -> tuple[str, ...]:
        """Return the command that runs ``command`` in a namespace."""
        return ("ip", "netns", "exec", self.namespace(name), *command)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Build everything but the gateway; remove everything at the end, come what may.

        Raises:
            NetworkError: something could not be made.
        """
        try:
            self._add("lan", "link add lan type bridge", "link set lan up")
            for name, address in self._inside.items():
                self._attach(name, address, "lan", LAN_ADDRESS)
            self._add("internet", "link add out type bridge", "link set out up")
            self._batch("internet", f"addr add {_OUTSIDE_ADDRESS}/24 dev out")
            for name, address in self._outside.items():
                self._attach(name, address, "internet", _OUTSIDE_ADDRESS)
            for private in _PRIVATE:
                nowhere = (f"rule add blackhole from {private}", f"route add blackhole {private}")
                self._batch("internet", *nowhere)
            self._forward("internet")
            yield
        finally:
            if left := _remove(f"{_PREFIX}{os.getpid()}-"):
                raise NetworkError(f"these namespaces could not be removed: {', '.join(left)}")

    @contextmanager
    def gateway(self, *, forwarding: bool) -> Iterator[str]:
        """Put a new, empty gateway between LAN and internet; ``forwarding``: the kernel routes.

        Returns the name that ``inside`` takes.
        """
        self._gateways += 1
        name = f"gateway-{self._gateways}"
        lan, internet = self.namespace("lan"), self.namespace("internet")
        self._add(
            name,
            f"link add eth0 address {_LAN_MAC} type veth peer name gateway netns {lan}",
            f"link add eth1 address {_WAN_MAC} type veth peer name wan netns {internet}",
            f"addr add {LAN_ADDRESS}/24 dev eth0",
            f"addr add {WAN_ADDRESS}/24 dev eth1",
            "link set eth0 up",
            "link set eth1 up",
            f"route add default via {_INTERNET_ADDRESS}",
        )
        self._batch("lan", "link set gateway master lan up")
        self._batch("internet", f"addr add {_INTERNET_ADDRESS}/24 dev wan", "link set wan up")
        if forwarding:
            self._forward(name)
        try:
            yield name
        finally:
            # Deleting a namespace takes effect some time later; its cables must be gone now.
            self._batch(name, "link del eth0", "link del eth1")
            run("ip", "netns", "del", self.namespace(name))

    def _attach(self, name: str, address: str, switch: str, router: str) -> None:
        """Make a host and plug it into the bridge of ``switch``."""
        self._add(
            name,
            f"link add eth0 type veth peer name {name} netns {self.namespace(switch)}",
            f"addr add {address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {router}",
        )
        self._batch(switch, f"link set {name} master {'lan' if switch == 'lan' else 'out'} up")

    def _add(self, name: str, *lines: str) -> None:
        run("ip", "netns", "add", self.namespace(name))
        self._batch(name, "link set lo up", *lines)

    def _batch(self, name: str, *lines: str) -> None:
        run("ip", "-n", self.namespace(name), "-batch", "-", stdin="\n".join(lines) + "\n")

    def _forward(self, name: str) -> None:
        run(*self.inside(name, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"))


@contextmanager
def directory() -> Iterator[Path]:
    """Make a directory for the demo's files; it is gone when the context ends.

    It is in /run and not where temporary files usually are, since the path of a socket must be short.

    Raises:
        NetworkError: it cannot be made.
    """
    path = _RUN / f"{_PREFIX}{os.getpid()}"
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise NetworkError(str(error)) from error
    try:
        yield path
    finally:
        shutil.rmtree(path)


def sweep() -> None:
    """Remove what demos that were killed could not remove themselves."""
    for path in _RUN.glob(f"{_PREFIX}*"):
        number = path.name.removeprefix(_PREFIX)
        if number.isdigit() and not Path("/proc", number).exists():
            _remove(f"{path.name}-")
            shutil.rmtree(path, ignore_errors=True)


def _remove(prefix: str) -> list[str]:
    """Remove all that can be removed; return the names of those that could not."""
    left = []
    for path in _NAMESPACES.glob(f"{prefix}*"):
        try:
            run("ip", "netns", "del", path.name)
        except NetworkError:
            left.append(path.name)
    return left
