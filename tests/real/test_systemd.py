"""The unit of contrib/systemd under a systemd of its own: sandboxed, watched, reloaded, restarted or not."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from relay.cli.exits import Exit
from relay.privileges import KEPT, Capability
from tests.bpf.kernel import built
from tests.lab.hosts import SYSTEMD, Guest, GuestJob, Result
from tests.lab.machine import ROOT, missing, until
from tests.lab.network import Network

pytestmark = pytest.mark.guests

_UNIT: Final = ROOT / "contrib" / "systemd" / "vpnmasq.service"
_PYTHON: Final = "/opt/checkout/.venv/bin/python"
_COMMAND: Final = f"{_PYTHON} -m relay"
_FILE: Final = "/etc/vpnmasq/vpnmasq.toml"

#: Seconds that a guest may take for what is done in one on real hardware: starting Python costs it five.
_PATIENCE: Final = 90

CONFIG: Final = """
version = 1

[wan]
interface = "wan0"

[lan]
interfaces = ["lan0"]
networks = ["10.0.1.0/24"]

[[masquerade]]
name = "staff"
clients = ["10.0.1.0/24"]
servers = ["any"]
proto = ["pptp"]
"""

#: A client and a peer, namespaces of the machine.
_HOSTS: Final = """
modprobe veth
ip netns add client
ip netns add peer
ip link add lan0 type veth peer name eth0 netns client
ip link add wan0 type veth peer name eth0 netns peer
ip addr add 10.0.1.1/24 dev lan0
ip addr add 200.200.200.200/24 dev wan0
ip link set lan0 up
ip link set wan0 up
ip -n client addr add 10.0.1.2/24 dev eth0
ip -n client link set eth0 up
ip -n client route add default via 10.0.1.1
ip -n peer addr add 200.200.200.1/24 dev eth0
ip -n peer link set eth0 up
"""


class Call:
    """A call that stands, with traffic: see tests/system/standing_call.py."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        script = f"rm -f /run/hang-up; cd /opt/checkout && exec {_PYTHON} -m tests.system.standing_call"
        self._job: GuestJob = guest.start(f"{script} client peer /run/hang-up")
        self.goes_on()

    def _last(self) -> dict[str, int]:
        lines = [line for line in self._job.said().splitlines() if line.endswith("}")]
        found: dict[str, int] = json.loads(lines[-1]) if lines else {}
        return found

    def goes_on(self) -> None:
        """Wait for more data at both ends, and for echoes on the control connection, both ways."""
        before = self._last()

        def more() -> bool:
            if not self._job.running():
                raise AssertionError(self._job.said())
            now = self._last()
            return bool(now) and all(now[what] > before.get(what, 0) for what in now if what != "lost")

        until(more, "the call goes on", within=_PATIENCE, every=0.2)

    @property
    def lost(self) -> int:
        """Data packets that have not come until two seconds ago."""
        return self._last()["lost"]

    def hang_up(self) -> None:
        """End it; that is to be confirmed."""
        self._guest.put("/run/hang-up", "")
        result = self._job.finish(_PATIENCE)
        assert result.ok, result.output


class Machine:
    """A machine that systemd runs, with vpnmasq's unit installed as contrib/systemd says."""

    def __init__(self, network: Network, directory: Path) -> None:
        self._guest = Guest(network, directory, "systemd", "10.0.0.1", memory=384, init=SYSTEMD)
        self._guest.wait()
        # The command is not where pip would have put it, and nobody waits half a minute for a watchdog.
        unit = _UNIT.read_text().replace("/usr/local/bin/vpnmasq", _COMMAND)
        self._guest.put("/etc/systemd/system/vpnmasq.service", unit, 0o644)
        self._guest.put(
            "/etc/systemd/system/vpnmasq.service.d/test.conf",
            "[Service]\nEnvironment=PYTHONPATH=/opt/checkout\nWatchdogSec=8s\n",
            0o644,
        )
        self.configure(CONFIG)
        self.do(f"set -e; {_HOSTS}")
        self.do("systemctl daemon-reload")

    def configure(self, text: str) -> None:
        """Write the configuration file."""
        self._guest.put(_FILE, text, 0o644)

    def do(self, script: str) -> str:
        """Run what must succeed."""
        return self._guest.sh(script, within=_PATIENCE, check=True).output

    def attempt(self, script: str) -> Result:
        """Run what may fail."""
        return self._guest.sh(script, within=_PATIENCE)

    def property(self, name: str) -> str:
        """What systemd says of the service."""
        return self.do(f"systemctl show --value -p {name} vpnmasq").strip()

    def vpnmasq(self, *words: str) -> Result:
        """Run a command of vpnmasq as an administrator does."""
        return self.attempt(f"cd /opt/checkout && {_COMMAND} {' '.join(words)}")

    def status(self) -> dict[str, Any]:
        """What vpnmasq says of itself."""
        document: dict[str, Any] = json.loads(self.vpnmasq("status", "--json").output)
        return document

    def sessions(self) -> list[dict[str, Any]]:
        """What tells that sessions are the same ones."""
        rows = json.loads(self.vpnmasq("sessions", "--json").output)["sessions"]
        return [{key: row[key] for key in ("id", "call_ids", "state", "opened_at")} for row in rows]

    def call(self) -> Call:
        """Set a call up."""
        return Call(self._guest)

    def is_at(self, restarts: int) -> bool:
        """Whether the service runs, and systemd has started it anew so many times."""
        return (self.property("ActiveState"), self.property("NRestarts")) == ("active", str(restarts))

    def rules(self) -> list[str]:
        """Our routing rules."""
        return [line for line in self.do("ip rule").splitlines() if "proto 118" in line]

    def stop(self) -> None:
        """Stop the service, whatever it does."""
        self.do("systemctl stop vpnmasq; systemctl reset-failed vpnmasq || true")

    def evidence(self) -> list[tuple[str, str]]:
        """What there is to read when a test fails."""
        journal = self.attempt("journalctl --no-pager -n 60").output
        return [("journal", journal), ("console", self._guest.console())]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One machine for all tests."""
    if why := missing(guests=True):
        pytest.skip(why)
    if not Path("/lib/systemd/systemd").exists():
        pytest.skip("needs systemd itself: sudo contrib/test installs it")
    with tempfile.TemporaryDirectory(prefix="vpnmasq-") as directory, Network(offloads=False) as network:
        yield Machine(network, Path(directory))


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    """The machine with the service started; afterwards it is stopped."""
    machine.do("systemctl start vpnmasq")
    yield machine
    machine.stop()
    machine.configure(CONFIG)


def test_it_serves_under_a_user_of_its_own_reloads_and_leaves_nothing(service: Machine) -> None:
    pid = service.property("MainPID")
    assert service.property("StatusText") == "0 sessions on 200.200.200.200"
    status = service.status()
    assert status["state"] == "ready"
    assert built() or status["fastpath"]["active"], status["fastpath"]["reason"]
    found = dict(line.split(":", 1) for line in service.do(f"cat /proc/{pid}/status").splitlines())
    assert int(found["CapBnd"], 16) == sum(1 << c for c in Capability)
    assert int(found["CapEff"], 16) == sum(1 << c for c in KEPT)
    assert found["Uid"].split()[0] != "0"
    assert found["Seccomp"].strip() == "2"
    before = service.rules()
    service.configure(CONFIG.replace("staff", "people"))
    assert service.vpnmasq("reload").ok
    assert '"event": "reloaded"' in service.do("journalctl --no-pager -u vpnmasq")
    assert (service.property("MainPID"), service.rules()) == (pid, before)
    service.do("systemctl stop vpnmasq")
    assert service.property("Result") == "success"
    assert "clsact" not in service.do("tc qdisc show")
    assert service.rules() == []


def test_a_daemon_that_hangs_is_replaced_and_its_leftovers_adopted(service: Machine) -> None:
    pid, before = service.property("MainPID"), service.rules()
    service.do(f"kill -STOP {pid}")
    until(lambda: service.is_at(1), "systemd has started another one", within=_PATIENCE, every=0.5)
    assert service.property("MainPID") != pid
    assert service.rules() == before


def test_a_call_with_traffic_outlives_an_update_and_a_crash(service: Machine) -> None:
    """Control connection and all: of the update it notices nothing."""
    call = service.call()
    pid, before = service.property("MainPID"), service.sessions()
    assert len(before) == 1
    service.do("systemctl reload vpnmasq")
    successor = service.property("MainPID")
    assert successor != pid
    until(lambda: not service.attempt(f"[ -e /proc/{pid} ]").ok, "the old process has left", within=_PATIENCE)
    assert service.sessions() == before
    call.goes_on()
    assert service.property("StatusText") == "1 session on 200.200.200.200"
    # It is that one whom systemd watches now, and whose end it notices, with what it has kept for it.
    assert service.property("NFileDescriptorStore") == "2"
    service.do("sleep 10")
    assert call.lost == 0
    service.do(f"kill -9 {successor}")
    until(lambda: service.is_at(1), "systemd has started another one", within=_PATIENCE, every=0.5)
    assert service.sessions() == before
    call.goes_on()
    call.hang_up()


def test_who_cannot_take_over_is_told_so_and_the_service_goes_on(service: Machine) -> None:
    pid = service.property("MainPID")
    outside = service.vpnmasq("run", "--takeover", "-c", _FILE)
    assert outside.status == Exit.FAILED
    assert "systemctl reload" in outside.output
    service.configure(CONFIG.replace("interface =", "interfaze ="))
    assert not service.attempt("systemctl reload vpnmasq").ok
    assert "wan.interfaze" in service.do("journalctl --no-pager -u vpnmasq")
    assert (service.property("MainPID"), service.status()["state"]) == (pid, "ready")


def test_a_wrong_configuration_is_not_tried_again(machine: Machine) -> None:
    machine.configure(CONFIG.replace("interface =", "interfaze ="))
    assert not machine.attempt("systemctl start vpnmasq").ok
    assert (machine.property("ExecMainStatus"), machine.property("NRestarts")) == ("78", "0")
    assert machine.property("ActiveState") == "failed"
    assert "wan.interface" in machine.do("journalctl --no-pager -u vpnmasq")
    machine.stop()
    machine.configure(CONFIG)
