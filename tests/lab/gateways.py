"""What stands between the two sides: vpnmasq, or netfilter to see that the lab itself works."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from tests.lab.machine import LabError, tail, until
from tests.lab.network import Network

VPNMASQ = str(Path(sys.executable).with_name("vpnmasq"))

#: Seconds that SIGTERM may take while sessions are still there.
DRAIN = 3

Session = dict[str, Any]


class Gateway(Protocol):
    """A gateway that runs."""

    def sessions(self) -> list[Session]:
        """Return its sessions, as in ``vpnmasq sessions --json``."""
        ...

    def drops(self) -> dict[str, int]:
        """Return how many packets it refused or lost, by reason."""
        ...

    def reload(self, config: str) -> None:
        """Give it another configuration."""
        ...

    def log(self) -> str:
        """Return its last words."""
        ...

    def stop(self) -> None:
        """End it; raise LabError when it did not leave everything as it was."""
        ...


#: What every configuration in this network begins with.
_NETWORK: Final = """\
version = 1
name = "lab"

[wan]
interface = "eth1"

[lan]
interfaces = ["eth0"]
networks = ["10.0.0.0/24"]
"""


class Vpnmasq:
    """The real daemon in the gateway's namespace. Its configuration is given without network and paths."""

    def __init__(self, network: Network, directory: Path, config: str) -> None:
        self._network = network
        self._config, self._log = directory / "vpnmasq.toml", directory / "vpnmasq.log"
        self._socket = str(directory / "control.sock")
        self._write(config)
        self._before = _kernel_state(network)
        command = [VPNMASQ, "--socket", self._socket, "run", "-c", str(self._config), "--timeout", str(DRAIN)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # should the tests be killed, it goes with them
                network.gw.entering("setpriv", "--pdeathsig", "TERM", *command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            until(self._ready, "vpnmasq health says ready", within=15)
        except LabError as error:
            self._process.kill()
            self._process.wait()
            raise LabError(f"{error}\n{self.log()}") from None

    def sessions(self) -> list[Session]:
        """Return its sessions."""
        document = json.loads(self.command("sessions", "--json"))
        assert document["schema"] == "vpnmasq.sessions/1"
        sessions: list[Session] = document["sessions"]
        return sessions

    def drops(self) -> dict[str, int]:
        """Return how many packets it refused, by reason, and how many its sockets lost."""
        status = json.loads(self.command("status", "--json"))
        lost = {f"socket {one['name']}": one["kernel_drops"] for one in status["sockets"]}
        return {**status["drops"], **lost}

    def reload(self, config: str) -> None:
        """Write another configuration and have it read."""
        self._write(config)
        self.command("reload")

    def command(self, *words: str) -> str:
        """Run a command of the command line against it and return what it printed."""
        argv = [VPNMASQ, "--socket", self._socket, *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
        if done.returncode:
            raise LabError(f"vpnmasq {' '.join(words)}: exit {done.returncode}: {done.stderr}\n{self.log()}")
        return done.stdout

    def log(self) -> str:
        """Return its last words."""
        return tail(self._log, 80)

    def stop(self) -> None:
        """End it as systemd does; it must succeed and leave the kernel as it found it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(DRAIN + 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise LabError(f"vpnmasq did not end within {DRAIN + 10} s of SIGTERM\n{self.log()}") from None
        if status:
            raise LabError(f"vpnmasq ended with status {status}\n{self.log()}")
        after = _kernel_state(self._network)
        if after != self._before:
            raise LabError(f"vpnmasq left something behind.\nBefore:\n{self._before}\nAfter:\n{after}")

    def _write(self, config: str) -> None:
        own = f'[api]\nsocket = "{self._socket}"\n\n[state]\ndirectory = ""\n'
        self._config.write_text(f"{_NETWORK}\n{config}\n{own}")

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise LabError(f"vpnmasq ended with status {self._process.returncode}")
        argv = [VPNMASQ, "--socket", self._socket, "health"]
        return subprocess.run(argv, capture_output=True, timeout=20).returncode == 0


def _kernel_state(network: Network) -> str:
    """Return what a gateway may change in its namespace, as text."""
    commands = ("ip rule", "ip route show table all", "ip -brief address", "nft list ruleset")
    return "\n".join(network.gw.sh(command) for command in commands) + "\n".join(network.gw.processes())


class Netfilter:
    """The kernel's masquerading with its PPTP helper: for developing the lab, it has no sessions to show."""

    def __init__(self, network: Network, exposed: str) -> None:
        network.gw.sh("echo 1 >/proc/sys/net/ipv4/ip_forward")
        rules = f"""
            table ip reference {{
              ct helper pptp {{ type "pptp" protocol tcp; }}
              chain helper {{ type filter hook prerouting priority 0; tcp dport 1723 ct helper set "pptp"; }}
              chain pre {{
                type nat hook prerouting priority dstnat;
                iifname "eth1" tcp dport 1723 dnat to {exposed};
              }}
              chain post {{ type nat hook postrouting priority srcnat; oifname "eth1" masquerade; }}
            }}"""
        network.gw.run("nft", "-f", "-", stdin=rules)

    def sessions(self) -> list[Session]:
        """Skip: there are none to ask for."""
        pytest.skip("netfilter has no sessions")

    def drops(self) -> dict[str, int]:
        """Skip: there is nothing to ask."""
        pytest.skip("netfilter counts no drops")

    def reload(self, config: str) -> None:
        """Skip: there is nothing to reload."""
        pytest.skip("netfilter has no configuration")

    def log(self) -> str:
        """Return nothing."""
        return ""

    def stop(self) -> None:
        """Leave the rules to the namespace's end."""


def start(network: Network, directory: Path, config: str, *, exposed: str) -> Gateway:
    """Start vpnmasq, or with VPNMASQ_TEST_GATEWAY=netfilter the kernel's own translation."""
    if os.environ.get("VPNMASQ_TEST_GATEWAY") == "netfilter":
        return Netfilter(network, exposed)
    return Vpnmasq(network, directory, config)
