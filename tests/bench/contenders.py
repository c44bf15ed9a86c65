"""The gateways that are compared, each in a row of namespaces of its own."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench.limits import raise_files
from tests.bench.netns import batch, sh_in
from tests.bench.precedence import stand_alone
from tests.bench.topology import CLIENTS, IPSEC_PEERS, LAN_ROUTER, PEERS, WAN_ROUTER, Row, row

CHECKOUT: Final = Path(__file__).resolve().parents[2]
#: Seconds a daemon may take to say that it is ready, and to end.
PATIENCE: Final = 15.0
_TABLE: Final = 118


@dataclass(frozen=True, slots=True)
class Placement:
    """Which core does the kernel's receive work. Without steering it is the one that sends."""

    steer_gateway: bool
    steer_hosts: bool = False

    def __str__(self) -> str:
        gateway = "gateway's core" if self.steer_gateway else "sender's core"
        return f"receive on the {gateway}" + (", sink on the generator's" if self.steer_hosts else "")


#: In the kernel's favour: all of its forwarding is on the gateway's core, where nothing else runs.
KERNEL: Final = Placement(steer_gateway=True)
#: As on a router whose interrupts are on another core than the daemon.
USER_SPACE: Final = Placement(steer_gateway=False)


@dataclass(slots=True)
class Contender:
    """One gateway, running."""

    name: str
    placement: Placement
    row: Row
    #: The daemon's process, for those that have one.
    pid: int | None = None
    #: Where vpnmasq's control socket is.
    socket: Path | None = None
    notes: list[str] = field(default_factory=list)

    def cpu_seconds(self) -> float:
        """Processor time the daemon has used, by the nanosecond (/proc/PID/schedstat).

        Raises:
            RuntimeError: the daemon runs no longer.
        """
        if self.pid is None:
            return 0.0
        if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            raise RuntimeError(f"{self.name} has ended by itself")
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def resident(self) -> int:
        """Octets of memory the daemon holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()


@contextlib.contextmanager
def plain(name: str, placement: Placement = KERNEL) -> Iterator[Contender]:
    """The kernel forwards, without NAT: the floor of what a gateway costs."""
    with stand(name, placement) as names:
        # Nobody masquerades, so the outside must know the way back.
        yield Contender("plain", placement, names)


@contextlib.contextmanager
def nft(name: str, placement: Placement = KERNEL) -> Iterator[Contender]:
    """The kernel masquerades, with conntrack's PPTP helper on the control connections."""
    with stand(name, placement) as names:
        sh_in(names.gateway, "nft", "-f", "-", stdin=_MASQUERADE)
        # A call that waits for its turn in the bench must not be forgotten meanwhile.
        # UDP is a stream after two seconds only.
        for which in (
            "gre_timeout",
            "gre_timeout_stream",
            "generic_timeout",
            "udp_timeout",
            "udp_timeout_stream",
        ):
            path = f"/proc/sys/net/netfilter/nf_conntrack_{which}"
            sh_in(names.gateway, "sh", "-c", f"echo 3600 > {path}")
        yield Contender("nft", placement, names)


@contextlib.contextmanager
def bare(name: str, placement: Placement = USER_SPACE, *, core: int) -> Iterator[Contender]:
    """Raw sockets under uvloop that shovel without a thought: the ceiling of what Python can do."""
    with stand(name, placement) as names:
        batch(
            names.gateway,
            [
                f"rule add iif eth0 ipproto gre lookup {_TABLE}",
                f"route add local default dev lo table {_TABLE}",
            ],
        )
        command = (sys.executable, "-m", "tests.bench.bare", LAN_ROUTER, WAN_ROUTER)
        with daemon(names.gateway, core, command) as pid:
            yield Contender("bare", placement, names, pid)


@contextlib.contextmanager
def vpnmasq(
    name: str,
    directory: Path,
    placement: Placement = USER_SPACE,
    *,
    core: int,
    profile: Path | None = None,
    mode: str = "off",
    on_change: str = "close",
) -> Iterator[Contender]:
    """The daemon, configured not to limit what is measured; ``mode``: of its fast path."""
    with stand(name, placement) as names:
        socket = directory / f"{name}.sock"
        config = directory / f"{name}.toml"
        rules = f'{RULES}\n[dynamic]\non_change = "{on_change}"\n'
        config.write_text(configuration(f"bench-{name}", rules, socket, fastpath=mode))
        program: tuple[str, ...] = ("-m", "tests.bench.sampler", str(profile)) if profile else ("-m", "relay")
        command = (sys.executable, *program, "run", "-c", str(config))
        with daemon(names.gateway, core, command) as pid:
            yield Contender("vpnmasq", placement, names, pid, socket)


_MASQUERADE: Final = """
table ip bench {
    ct helper pptp { type "pptp" protocol tcp; l3proto ip; }
    chain helpers { type filter hook prerouting priority filter; tcp dport 1723 ct helper set "pptp"; }
    chain out { type nat hook postrouting priority srcnat; oifname "eth1" masquerade; }
}
"""

RULES: Final = f"""
[[masquerade]]
name = "bench"
clients = ["{CLIENTS}"]
servers = [{", ".join(f'"{peer}"' for peer in (*PEERS, IPSEC_PEERS))}]
proto = ["pptp", "ipsec"]

# as long as nft's, for sessions that wait for their turn; an Echo-Request meanwhile would be a disturbance
[ipsec]
lifetime = "1h"
mapping = "1h"
spis_per_second = 1000000
most_spis = 100000

[pptp]
echo_after = "1h"
"""


def configuration(name: str, rules: str, socket: Path, *, fastpath: str = "off") -> str:
    """The configuration of a daemon with these rules, that does not limit what is measured."""
    return f"""
version = 1
name = "{name}"

[wan]
interface = "eth1"

[lan]
interfaces = ["eth0"]
networks = ["10.0.0.0/8"]
{rules}
[fastpath]
mode = "{fastpath}"

[api]
socket = "{socket}"

[state]
directory = ""

[limits]
sessions = 65536
sessions_per_client = 1000
new_per_second = 100000
"""


@contextlib.contextmanager
def stand(name: str, placement: Placement) -> Iterator[Row]:
    """A row of namespaces for a placement."""
    with row(
        name,
        gateway_core=GATEWAY_CORE if placement.steer_gateway else None,
        hosts_core=GENERATOR_CORE if placement.steer_hosts else None,
    ) as names:
        yield names


def _cores() -> tuple[int, int]:
    """(generator's core, gateway's core): the first and the last we may use."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


GENERATOR_CORE, GATEWAY_CORE = _cores()


@contextlib.contextmanager
def daemon(namespace: str, core: int, command: tuple[str, ...]) -> Iterator[int]:
    """Run a program in a namespace, on a core, until it says ``ready``; end it after use.

    What it says goes to a file, which costs it what a log costs and can never block it.
    """

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        stand_alone()
        raise_files()

    with tempfile.NamedTemporaryFile(prefix="vpnmasq-bench-log-") as log:
        process = subprocess.Popen(
            ("ip", "netns", "exec", namespace, *command),
            cwd=CHECKOUT,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=prepare,
        )
        try:
            _wait_ready(process, Path(log.name), command)
            yield process.pid
        finally:
            if process.poll() is not None:
                said = Path(log.name).read_text(errors="replace")[-4000:]
                print(f"{' '.join(command)} ended by itself: {process.returncode}\n{said}", file=sys.stderr)
            for number in (signal.SIGTERM, signal.SIGTERM):  # the second: without waiting for sessions
                process.send_signal(number)
                time.sleep(0.05)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: subprocess.Popen[bytes], log: Path, command: tuple[str, ...]) -> None:
    deadline = time.monotonic() + PATIENCE
    while "ready" not in (said := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{' '.join(command)} did not get ready: {said.strip()}")
        time.sleep(0.02)
