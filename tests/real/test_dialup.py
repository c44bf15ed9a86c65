"""A gateway that dials: the daemon in a guest whose way out is pppd's, and another address at each call."""

import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lab.dialup import Customer, Provider, cables
from tests.lab.hosts import Guest, Shelf, ShelfJob
from tests.lab.machine import ROOT, missing, until
from tests.lab.network import LAN_GATEWAY, Network
from tests.lab.pptp import StubClient, StubServer
from tests.lab.traffic import PYTHON

pytestmark = pytest.mark.guests

PROVIDER: Final = "199.0.0.253"
SERVER: Final = "199.0.0.1"
CALLER: Final = "199.0.0.2"
CLIENT: Final = "10.0.0.2"
EXPOSED: Final = "10.0.0.9"

_FILE: Final = "/etc/vpnmasq/vpnmasq.toml"
_HOOKS: Final = ROOT / "contrib" / "hooks" / "ppp"
_STUB: Final = ROOT / "tests" / "lab" / "stub_natt.py"

#: Seconds that a guest may take for what is done in one on real hardware: starting Python costs it five.
_PATIENCE: Final = 90

ECHOES: Final = 10

CONFIG: Final = f"""
version = 1

[wan]
interface = "ppp0"

[lan]
interfaces = ["vec0"]
networks = ["10.0.0.0/24"]

[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["any"]
proto = ["pptp", "ipsec"]

[[expose]]
name = "office"
server = "{EXPOSED}"
proto = ["pptp"]
allow = ["any"]

[dynamic]
up_commands = ["/bin/bash -c 'echo $VPNMASQ_EVENT $* $(</sys/class/net/ppp0/ifindex) >>/run/told' sh"]
down_commands = ["/bin/sh -c 'echo $VPNMASQ_EVENT $* >>/run/told' sh"]

[fastpath]
mode = "off"
"""

#: The command as a hook finds it; what hooks are answered is kept.
COMMAND: Final = """#!/bin/sh
export PYTHONPATH=/mnt/checkout
command="/mnt/checkout/.venv/bin/python -m relay"
[ "$1" = wan ] || exec $command "$@"
$command "$@" >>/run/answered 2>&1
"""


class Gateway:
    """The daemon in its guest, installed as a user would, with the hooks that pppd calls."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        guest.put("/usr/bin/vpnmasq", COMMAND, 0o755)
        for name in ("ip-up.d/90-vpnmasq", "ip-down.d/90-vpnmasq"):
            guest.put(f"/etc/ppp/{name}", (_HOOKS / name).read_text(), 0o755)
        guest.put(_FILE, CONFIG)
        guest.sh(
            "mkdir /mnt/checkout && . /mnt/host/env && mount -t hostfs -o $CHECKOUT none /mnt/checkout",
            check=True,
        )
        self._before = self._kernel()
        self._job = guest.start(f"echo $BASHPID >/run/gateway.pid; exec vpnmasq run -c {_FILE} --timeout 0")

    def logged(self, event: str, times: int = 1) -> None:
        """Wait until its log says something for the so manieth time."""

        def said() -> bool:
            return self.count(event) >= times or not self._job.running()

        until(said, f"{times} × {event}", within=_PATIENCE)
        self.must_live()

    def must_live(self) -> None:
        """Fail when the daemon has ended."""
        assert self._job.running(), self.log()

    def count(self, event: str) -> int:
        """How often its log says something."""
        return self._job.said().count(f'"event": "{event}"')

    def health(self) -> tuple[int, str]:
        """What ``vpnmasq health`` ends with and says."""
        result = self._guest.sh("exec vpnmasq health", within=_PATIENCE)
        return result.status, result.output.strip()

    def status(self) -> dict[str, Any]:
        """What ``vpnmasq status`` says."""
        text = self._guest.sh("exec vpnmasq status --json", within=_PATIENCE, check=True).output
        document: dict[str, Any] = json.loads(text)
        return document

    def keep(self) -> None:
        """Have what can move do so."""
        self._guest.put(_FILE, CONFIG.replace("[dynamic]", '[dynamic]\non_change = "keep"'))
        self._guest.sh("exec vpnmasq reload", within=_PATIENCE, check=True)

    def told(self, lines: int) -> list[str]:
        """What the user's commands were called with, when there are so many lines of it."""
        return self._file("/run/told", lines)

    def answered(self, lines: int) -> list[str]:
        """What pppd's hooks were answered, when there are so many lines of it."""
        return self._file("/run/answered", lines)

    def stop(self) -> None:
        """End it; it must succeed and leave the guest's kernel as it was."""
        self._guest.sh("kill $(</run/gateway.pid)", check=True)
        assert self._job.finish(_PATIENCE).ok, self.log()
        assert self._kernel() == self._before

    def log(self) -> str:
        """Return its last words."""
        return "\n".join(self._job.said().splitlines()[-60:])

    def _file(self, path: str, lines: int) -> list[str]:
        late = "[ $SECONDS -ge $((began + 20)) ]"
        wait = f"until mapfile -t l <{path}; [ ${{#l[@]}} -ge {lines} ] || {late}; do sleep 0.2; done"
        script = f"began=$SECONDS; touch {path}; {wait}; cat {path}"
        return self._guest.sh(script, check=True).output.splitlines()

    def _kernel(self) -> str:
        return self._guest.sh("ip rule; ip route show table all; ip -br address", check=True).output


class Lab:
    """The customer's house and the provider, nobody of whom has called yet."""

    def __init__(self, stack: ExitStack, network: Network, directory: Path) -> None:
        self._stack, self._network, self._directory = stack, network, directory
        plugs = stack.enter_context(cables())
        software = ("ppp", "pppoe")
        # Python is in one of them twice: the daemon, and the command that a hook calls.
        gateway = Guest(
            network, directory, "gateway", LAN_GATEWAY, software=software, memory=384, devices=plugs.customer
        )
        provider = Guest(network, directory, "provider", PROVIDER, software=software, devices=plugs.provider)
        # Both are in the place of what stands there otherwise.
        network.gw.sh("ip link set eth0 down; ip link set eth1 down")
        network.inet.sh(f"ip address flush dev gw1; ip route add 200.200.200.0/24 via {PROVIDER}")
        hosts = {"server": SERVER, "caller": CALLER, "client": CLIENT, "exposed": EXPOSED}
        self.hosts = {name: self._shelf(name, address) for name, address in hosts.items()}
        for guest in (gateway, provider):
            guest.wait()
        self.customer, self.provider = Customer(gateway), Provider(provider)
        self.gateway = Gateway(gateway)
        for name in ("server", "exposed"):
            StubServer(self.hosts[name])
        self._natt = self.hosts["server"].start(f"exec {PYTHON} {_STUB} server")

    def evidence(self) -> list[tuple[str, str]]:
        """Return titles and texts of all logs."""
        return [
            ("vpnmasq's log", self.gateway.log()),
            ("the customer's pppd", self.customer.evidence()),
            ("the provider's pppd", self.provider.evidence()),
        ]

    def call(self, host: str, to: str) -> StubClient:
        """Return a PPTP client that got through, and dials as often as it takes while the gateway does."""
        deadline = time.monotonic() + _PATIENCE
        while (client := StubClient(self.hosts[host], to)).hear(45) != "up":
            self.gateway.must_live()
            assert time.monotonic() < deadline, f"{host} does not get through to {to}"
        return client

    def natt(self) -> ShelfJob:
        """Return a client with an IKE_SA by UDP 4500."""
        return self.hosts["client"].start(f"exec {PYTHON} {_STUB} client {SERVER}")

    def is_refused(self) -> bool:
        """Whether a client that dials is told at once that it will not be served."""
        dial = self.hosts["client"].sh(f"exec 3<>/dev/tcp/{SERVER}/1723 && ! read -t 10 -u 3", within=15)
        return "refused" in dial.output or "reset" in dial.output

    def _shelf(self, name: str, address: str) -> Shelf:
        shelf = Shelf(self._network, self._directory, name, address)
        self._stack.callback(shelf.close)
        return shelf


def seen_by(client: StubClient) -> str:
    """Return the address by which the server of a call that carries data knows the client."""
    client.ask(ECHOES)
    score = json.loads(client.hear(45))
    assert (score["answers"], score["foreign"]) == (ECHOES, 0), score
    (server,) = score["servers"]
    return str(server).split("@")[1]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The daemon has been started and nobody has dialled; at the end nothing of it is left."""
    if why := missing("ppp", "pppoe", guests=True):
        pytest.skip(why)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vpnmasq-dial-")))
        network = stack.enter_context(Network(offloads=False))
        lab = Lab(stack, network, directory)
        yield lab
        lab.customer.hang_up()
        lab.gateway.stop()


def every_change_was_told(gateway: Gateway) -> None:
    """Check that the user's commands were called three times when ppp0 came up and between when it went."""
    addresses = sorted([f"200.200.200.20{n}" for n in range(3)] * 2)
    told = [line.split() for line in gateway.told(5)]
    assert [words[:2] for words in told] == [[word, "ppp0"] for word in ("up", "down", "up", "down", "up")]
    assert [address in words for words, address in zip(told, addresses, strict=False)] == [True] * 5
    assert len({words[-1] for words in told[::2]}) == 3  # each time the kernel has made another ppp0


def test_calls_over_a_serial_line_with_another_address_each(lab: Lab) -> None:
    gateway = lab.gateway
    gateway.logged("waiting")
    status, text = gateway.health()
    assert status == 1
    assert text.startswith("starting: waiting for interface ppp0, which is not there")
    assert lab.is_refused()

    lab.customer.dial("serial")
    gateway.logged("ready")
    client, caller = lab.call("client", SERVER), lab.call("caller", "200.200.200.200")
    assert (seen_by(client), seen_by(caller)) == ("200.200.200.200", CALLER)
    assert gateway.health() == (0, "ready")

    # pppd's script has called our hook, which returns when the address is served.
    assert gateway.answered(1) == ["ppp0: 200.200.200.200"]

    lab.provider.hang_up()
    assert client.hear(20) == "ended"  # told at once, by no timeout of its own
    client = lab.call("client", SERVER)
    caller = lab.call("caller", "200.200.200.201")
    assert (seen_by(client), seen_by(caller)) == ("200.200.200.201", CALLER)
    down, up = gateway.answered(3)[1:]
    assert down in ("ppp0: no address", up)  # pppd does not wait for its script to dial again
    assert up == "ppp0: 200.200.200.201"

    lab.customer.hang_up()
    assert client.hear(20) == "ended"
    assert lab.is_refused()
    assert gateway.status()["state"] == "waiting"
    lab.customer.dial("serial")
    assert seen_by(lab.call("client", SERVER)) == "200.200.200.202"
    assert seen_by(lab.call("caller", "200.200.200.202")) == CALLER
    assert gateway.answered(5)[3:] == ["ppp0: no address", "ppp0: 200.200.200.202"]

    every_change_was_told(gateway)
    wan = gateway.status()["wan"]
    assert (wan["address"], wan["changes"]) == ("200.200.200.202", 5)


def test_pppoe_and_a_session_that_moves_to_the_new_address(lab: Lab) -> None:
    gateway = lab.gateway
    gateway.logged("waiting")
    lab.customer.hang_up()
    gateway.keep()
    lab.customer.dial("pppoe")
    client, natt = lab.call("client", SERVER), lab.natt()
    first = seen_by(client)
    assert re.fullmatch(r"200\.200\.200\.22\d", first)
    natt.tell("")
    until(lambda: natt.said() == [first], "the IKE_SA's first exchange", within=20)

    lab.provider.hang_up()
    assert client.hear(20) == "ended"  # PPTP's connections cannot move
    natt.tell("")
    until(lambda: len(natt.said()) == 2, "the IKE_SA's second exchange", within=20)
    second = natt.said()[1]
    assert second != first
    client = lab.call("client", SERVER)
    assert seen_by(client) == second
    assert seen_by(lab.call("caller", second)) == CALLER
