"""The unit of contrib/systemd under a systemd of its own: sandboxed, watched, reloaded, restarted or not."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from relay.privileges import KEPT, Capability
from tests.bpf.kernel import built
from tests.lab.hosts import SYSTEMD, Guest, Result
from tests.lab.machine import ROOT, missing, until
from tests.lab.network import Network

pytestmark = pytest.mark.guests

_UNIT: Final = ROOT / "contrib" / "systemd" / "vpnmasq.service"
_COMMAND: Final = "/opt/checkout/.venv/bin/python -m relay"
_FILE: Final = "/etc/vpnmasq/vpnmasq.toml"

#: Seconds that a guest may take for what is done in one on real hardware: starting Python costs it five.
_PATIENCE: Final = 90

CONFIG: Final = """
version = 1

[wan]
interface = "wan0"

[lan]
interfaces = ["vec0"]
networks = ["10.0.0.0/24"]

[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["any"]
proto = ["pptp"]
"""


class Machine:
    """A machine that systemd runs, with vpnmasq's unit installed as contrib/systemd says."""

    def __init__(self, network: Network, directory: Path) -> None:
        self._guest = Guest(network, directory, "systemd", "10.0.0.1", memory=384, init=SYSTEMD)
        self._guest.wait()
        self._guest.put("/etc/systemd/system/vpnmasq.service", _UNIT.read_text(), 0o644)
        # The command is not where pip would have put it, and nobody waits half a minute for a watchdog.
        self._guest.put(
            "/etc/systemd/system/vpnmasq.service.d/test.conf",
            f"[Service]\nExecStart=\nExecStart={_COMMAND} run -c {_FILE}\n"
            f"ExecReload=\nExecReload={_COMMAND} reload\n"
            "Environment=PYTHONPATH=/opt/checkout\nWatchdogSec=8s\n",
            0o644,
        )
        self.configure(CONFIG)
        self.do(
            "ip link add wan0 type dummy && ip link set wan0 up && ip addr add 200.200.200.200/24 dev wan0"
        )
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

    def status(self) -> dict[str, Any]:
        """What vpnmasq says of itself."""
        document: dict[str, Any] = json.loads(self.do(f"PYTHONPATH=/opt/checkout {_COMMAND} status --json"))
        return document

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
    service.do("systemctl reload vpnmasq")
    assert '"event": "reloaded"' in service.do("journalctl --no-pager -u vpnmasq")
    assert (service.property("MainPID"), service.rules()) == (pid, before)
    service.do("systemctl stop vpnmasq")
    assert service.property("Result") == "success"
    assert "clsact" not in service.do("tc qdisc show")
    assert service.rules() == []


def test_a_daemon_that_hangs_is_replaced_and_its_leftovers_adopted(service: Machine) -> None:
    pid, before = service.property("MainPID"), service.rules()
    service.do(f"kill -STOP {pid}")

    def replaced() -> bool:
        return (service.property("ActiveState"), service.property("NRestarts")) == ("active", "1")

    until(replaced, "systemd has started another one", within=_PATIENCE, every=0.5)
    assert service.property("MainPID") != pid
    assert service.rules() == before


def test_a_wrong_configuration_is_not_tried_again(machine: Machine) -> None:
    machine.configure(CONFIG.replace("interface =", "interfaze ="))
    assert not machine.attempt("systemctl start vpnmasq").ok
    assert (machine.property("ExecMainStatus"), machine.property("NRestarts")) == ("78", "0")
    assert machine.property("ActiveState") == "failed"
    assert "wan.interface" in machine.do("journalctl --no-pager -u vpnmasq")
    machine.stop()
    machine.configure(CONFIG)
