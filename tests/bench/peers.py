"""Bulk TCP between real peers, in PPTP with MPPE and in ESP, beside what plain routing lets them have.

Two user-mode-linux guests, one inside and one outside, each on a core of its own: they encrypt and decrypt,
and are the limit. Plain routing, the fast path and user space are taken in turns between the same two, which
dial anew each time, for with plain routing they know each other by other addresses.
"""

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.contenders import GATEWAY_CORE, GENERATOR_CORE
from tests.bench.report import Report, Result, Section
from tests.bench.setting import Setting
from tests.lab import pptp
from tests.lab.gateways import Vpnmasq
from tests.lab.hosts import Guest, Host
from tests.lab.keying import Tunnel, finished
from tests.lab.libreswan import Libreswan
from tests.lab.machine import missing, until
from tests.lab.network import WAN_ADDRESS, Network
from tests.lab.traffic import ping, transfer

#: Of plain routing's octets per second, what the fast path has at least.
TARGET: Final = 0.95

#: Octets of one transfer: about two seconds for a guest.
_OCTETS: Final = {"PPTP": 8_000_000, "ESP": 30_000_000}
#: Transfers each way while a tunnel stands: to dial takes longer than both.
_TRANSFERS: Final = 2

_CLIENT: Final = "10.0.0.2"
_SERVER: Final = "199.0.0.1"
_CLIENT_INSIDE: Final = "172.16.1.1"
_SERVER_INSIDE: Final = "172.16.0.1"

_PLAIN: Final = "plain"
_FAST: Final = "fast path"
_USER: Final = "user space"
_WAYS: Final = (_PLAIN, _FAST, _USER)

#: Octets per second by protocol, direction and way.
_Rates = dict[tuple[str, str, str], list[float]]


def unavailable() -> str | None:
    """Why it cannot be measured here, in words for a person."""
    return missing("ppp", "libreswan", guests=True)


@dataclass(frozen=True, slots=True)
class _Ends:
    """The two guests, and what each of them runs."""

    network: Network
    directory: Path
    client: Libreswan
    server: Libreswan
    caller: pptp.Client
    answering: pptp.Server


@dataclass(frozen=True, slots=True)
class Peers:
    """The measure of ``python -m tests.bench peers``."""

    setting: Setting

    def run(self, report: Report) -> None:
        """Both protocols, both ways, through all there is to compare."""
        rates: _Rates = {}
        with self._ends() as ends:
            for turn in range(self.setting.effort.rounds):
                at = turn % len(_WAYS)
                for way in _WAYS[at:] + _WAYS[:at]:
                    with _standing(ends, way) as carried:
                        _measure(ends, way, carried, rates)
        report.sections.append(_section(rates))

    @contextlib.contextmanager
    def _ends(self) -> Iterator[_Ends]:
        """The guests, booted, with the daemons that wait for tunnels."""
        with Network(offloads=False) as network:
            # private addresses may pass: with plain routing the ends see them
            network.inet.sh(f"nft delete table ip internet; ip route add 10.0.0.0/24 via {WAN_ADDRESS}")
            guests = {}
            for name, address, core in (
                ("client", _CLIENT, GENERATOR_CORE),
                ("server", _SERVER, GATEWAY_CORE),
            ):
                with _on({core}):
                    guests[name] = Guest(
                        network, self.setting.directory, name, address, software=("ppp", "libreswan")
                    )
            for guest in guests.values():
                guest.wait()
            client = Libreswan(guests["client"], _CLIENT_INSIDE)
            server = Libreswan(guests["server"], _SERVER_INSIDE)
            own = Tunnel("bulk", _SERVER, "c", "s", _CLIENT_INSIDE, _SERVER_INSIDE)
            theirs = Tunnel("bulk", "%any", "s", "c", _SERVER_INSIDE, _CLIENT_INSIDE)
            finished((client, client.start([own])), (server, server.start([theirs])))
            caller, answering = pptp.Client(guests["client"], "client"), pptp.Server(guests["server"])
            yield _Ends(network, self.setting.directory, client, server, caller, answering)


@contextlib.contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """Have what is started meanwhile run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _standing(ends: _Ends, way: str) -> Iterator[Callable[[], bool]]:
    """A gateway of one kind between the two; tells whether it carries data as that kind is to do."""
    if way == _PLAIN:
        ends.network.gw.sh("echo 1 >/proc/sys/net/ipv4/ip_forward")
        try:
            yield lambda: True
        finally:
            ends.network.gw.sh("echo 0 >/proc/sys/net/ipv4/ip_forward")
        return
    # where the guests leave it room
    with _on({GENERATOR_CORE, GATEWAY_CORE}):
        gateway = Vpnmasq(ends.network, ends.directory, _configuration(fastpath=way == _FAST))

    def carried() -> bool:
        stand = [one for one in gateway.sessions() if one["state"] in ("established", "confirmed")]
        data = [one["fastpath"] for one in stand if one["protocol"] in ("pptp", "esp")]
        return data == [way == _FAST]

    try:
        yield carried
    finally:
        gateway.stop()


def _configuration(*, fastpath: bool) -> str:
    return f"""
[[masquerade]]
name = "bulk"
clients = ["{_CLIENT}"]
servers = ["{_SERVER}"]
proto = ["pptp", "ipsec"]
fastpath = {str(fastpath).lower()}

[fastpath]
mode = "{"require" if fastpath else "off"}"
"""


def _measure(ends: _Ends, way: str, carried: Callable[[], bool], rates: _Rates) -> None:
    """Transfers both ways, by PPTP and by ESP, one tunnel at a time."""

    def take(protocol: str, inside: str, far: str) -> None:
        assert ping(ends.client.host, far, 5).lost() == 0
        until(carried, f"{protocol} goes by {way}", within=10)
        hosts: tuple[Host, Host] = (ends.client.host, ends.server.host)
        ways = (("outbound", hosts, far), ("inbound", hosts[::-1], inside))
        for direction, (source, target), to in ways * _TRANSFERS:
            seconds = transfer(source, target, to, _OCTETS[protocol]).finish()
            rates.setdefault((protocol, direction, way), []).append(_OCTETS[protocol] / seconds)

    ends.caller.dial(_SERVER)
    ends.caller.connected()
    take("PPTP", ends.caller.tunnel_address(), ends.answering.inside)
    pptp.hang_up(ends.caller)
    finished((ends.client, ends.client.up("bulk")))
    take("ESP", _CLIENT_INSIDE, _SERVER_INSIDE)
    ends.client.down("bulk")


def _section(rates: _Rates) -> Section:
    section = Section(
        "peers",
        "Bulk TCP between real peers, megabits per second",
        ["protocol, direction", *_WAYS, *(f"{way} / {_PLAIN}" for way in _WAYS[1:]), "spread of plain"],
    )
    for protocol, direction in dict.fromkeys((one[0], one[1]) for one in rates):
        samples = {way: rates[protocol, direction, way] for way in _WAYS}
        found = {way: statistics.median(taken) for way, taken in samples.items()}
        ratios = [found[way] / found[_PLAIN] for way in _WAYS[1:]]
        section.results.append(
            Result(
                [
                    f"{protocol}, {direction}",
                    *(f"{rate * 8 / 1e6:.1f}" for rate in found.values()),
                    *(f"{ratio:.2f}" for ratio in ratios),
                    f"{_spread(samples[_PLAIN]):.0%}",
                ],
                {
                    "protocol": protocol,
                    "direction": direction,
                    **{f"octets_per_second_{way}": rate for way, rate in found.items()},
                    "ratio_fast_path": ratios[0],
                    "ratio_user_space": ratios[1],
                    "spread_plain": _spread(samples[_PLAIN]),
                },
                ratios[0] >= TARGET,
            )
        )
    section.notes.append(
        f"target: the fast path has {TARGET} of plain routing; spread: (most − least) / median"
    )
    section.notes.append(
        f"the guest inside has core {GENERATOR_CORE}, the one outside core {GATEWAY_CORE}; the kernel's work "
        "is done where packets are sent, and the daemon runs where there is room"
    )
    sizes = ", ".join(f"{octets // 10**6} MB in {protocol}" for protocol, octets in _OCTETS.items())
    section.notes.append(f"medians of {len(next(iter(rates.values())))} transfers: {sizes}")
    return section


def _spread(samples: Sequence[float]) -> float:
    return (max(samples) - min(samples)) / statistics.median(samples)
