"""What can stand in the gateway's place. All are told the same policy, and all start from nothing.

Clients inside may reach outside; the caller outside, and nobody else, may reach the server in the office.
"""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.demo.hosts import end, process
from relay.demo.network import CALLER, LAN_NETWORK, OFFICE, SERVER, WAN_ADDRESS, Network, NetworkError, run

#: Seconds vpnmasq may take to serve, and to leave.
_START: Final = 60.0
_STOP: Final = 10.0

_RULES: Final = f"""\
[[masquerade]]                  # clients inside, a server outside
name    = "staff"
clients = ["{LAN_NETWORK}"]
servers = ["{SERVER}"]
proto   = ["pptp"]

[[expose]]                      # a server inside, a caller outside
name    = "office"
server  = "{OFFICE}"
proto   = ["pptp"]
allow   = ["{CALLER}"]
"""

_CONFIGURATION: Final = """\
version = 1
name    = "demo-{pid}"

[wan]
interface = "eth1"

[lan]
interfaces = ["eth0"]
networks   = ["{lan}"]

{rules}
[api]
socket = "{socket}"

[state]
directory = ""
"""

_NFT: Final = """\
table ip demo {{
    {helper}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "eth0" oifname "eth1" accept
        ct status dnat accept
    }}
    chain dstnat {{
        type nat hook prerouting priority dstnat;
        iifname "eth1" ip saddr {caller} ip daddr {wan} tcp dport 1723 dnat to {office}
        {gre}
    }}
    chain srcnat {{
        type nat hook postrouting priority srcnat;
        oifname "eth1" masquerade
    }}
}}
"""

#: The kernel looks for a helper in every new control connection, from either side.
_NFT_HELPER: Final = """\
ct helper pptp { type "pptp" protocol tcp; l3proto ip; }
    chain helper {
        type filter hook prerouting priority filter;
        tcp dport 1723 ct helper set "pptp"
    }
"""
#: Without the helper nothing connects GRE with its control connection: all of it goes to the one server.
_NFT_GRE: Final = 'iifname "eth1" ip saddr {caller} ip daddr {wan} ip protocol gre dnat to {office}'


class NotAvailableError(Exception):
    """This gateway cannot stand on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A column of the table."""

    key: str
    title: str
    #: What it was told, for people.
    rules: str
    #: Put it in the gateway's place; gone when the context ends. Raises NotAvailableError.
    standing: Callable[[Network, Path], AbstractAsyncContextManager[None]]


def configuration(directory: Path) -> str:
    """Return vpnmasq's configuration file, with the control socket in ``directory``."""
    socket = directory / "control.sock"
    return _CONFIGURATION.format(pid=os.getpid(), lan=LAN_NETWORK, rules=_RULES, socket=socket)


def ruleset(*, helper: bool) -> str:
    """Return the nft ruleset with the same policy."""
    gre = "" if helper else _NFT_GRE.format(caller=CALLER, wan=WAN_ADDRESS, office=OFFICE)
    return _NFT.format(
        helper=_NFT_HELPER if helper else "", gre=gre, caller=CALLER, wan=WAN_ADDRESS, office=OFFICE
    )


@asynccontextmanager
async def _vpnmasq(network: Network, directory: Path) -> AsyncIterator[None]:
    """The real daemon with a real configuration file; the kernel forwards nothing."""
    file = directory / "vpnmasq.toml"
    file.write_text(configuration(directory))
    log = directory / "vpnmasq.log"
    vpnmasq = (sys.executable, "-m", "relay", "--socket", str(directory / "control.sock"))
    with network.gateway(forwarding=False) as place:
        command = network.inside(place, *vpnmasq, "run", "--timeout", "0", "-c", str(file))
        async with process(*command, log=log) as daemon:
            await _ready(daemon, (*vpnmasq, "health"), log)
            try:
                yield
            finally:
                status = await end(daemon, _STOP)
            if status:
                raise NotAvailableError(f"vpnmasq ended with status {status}: {_last_words(log)}")


async def _ready(daemon: asyncio.subprocess.Process, health: tuple[str, ...], log: Path) -> None:
    """Wait until the daemon says that it serves."""
    try:
        async with asyncio.timeout(_START):
            while daemon.returncode is None:
                async with process(*health, log=log.with_name("health.log")) as asked:
                    if await asked.wait() == 0:
                        return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise NotAvailableError(f"vpnmasq was not ready in {_START:.0f} s: {_last_words(log)}") from None
    raise NotAvailableError(f"vpnmasq ended with status {daemon.returncode}: {_last_words(log)}")


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-3:]) or "it said nothing"


def _nft(*, helper: bool) -> Callable[[Network, Path], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def standing(network: Network, directory: Path) -> AsyncIterator[None]:
        """The kernel's own forwarding and NAT."""
        if shutil.which("nft") is None:
            raise NotAvailableError("the program nft is missing; on Debian and Ubuntu: apt install nftables")
        file = directory / f"{'helper' if helper else 'masquerade'}.nft"
        file.write_text(ruleset(helper=helper))
        if helper:
            _load_nat_helper()
        with network.gateway(forwarding=True) as place:
            try:
                run(*network.inside(place, "nft", "-f", str(file)))
            except NetworkError as refused:
                raise NotAvailableError(_reason(str(refused), helper=helper)) from refused
            yield

    return standing


def _load_nat_helper() -> None:
    """Load the helper's NAT half where it is a module: nft makes the kernel load the other half only."""
    with contextlib.suppress(NetworkError, FileNotFoundError):
        run("modprobe", "--quiet", "nf_nat_pptp")


def _reason(refusal: str, *, helper: bool) -> str:
    if helper and "No such file or directory" in refusal:
        return "this kernel has no PPTP helper (nf_conntrack_pptp)"
    return refusal.splitlines()[0]


_NFT_RULES: Final = f'oifname "eth1" masquerade\niifname "eth1" ip saddr {CALLER} dnat to {OFFICE}'

GATEWAYS: Final = (
    Gateway("vpnmasq", "vpnmasq", _RULES, _vpnmasq),
    Gateway("masquerade", "nft masquerade", f"{_NFT_RULES}  # tcp/1723 and GRE", _nft(helper=False)),
    Gateway(
        "helper",
        "nft + PPTP helper",
        f'{_NFT_RULES}  # tcp/1723\ntcp dport 1723 ct helper set "pptp"',
        _nft(helper=True),
    ),
)
