"""The program at interfaces: real packets between hosts, and nothing is left in the kernel."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Final

import pytest

from protocols.actions import Side
from tests.bpf.flows import SHORTCUTS
from tests.bpf.wires import FIRST, Wires, host, numbered, wires
from tests.netns import requires_netns

pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(requires_netns()), reason=requires_netns())]

#: How many packets each way.
MANY: Final = range(FIRST, FIRST + 50)

ESP: Final = 50

#: Seconds that flows hold after a crash, here.
LEASE: Final = 0.5


@pytest.fixture(scope="module")
def wired() -> Iterator[Wires]:
    with wires() as made:
        yield made


def filters(wired: Wires) -> str:
    """What there is of qdiscs and filters at the gateway's interfaces that was not there at first."""
    lines = []
    for name in ("eth0", "eth1"):
        lines += wired.gateway.sh(f"tc qdisc show dev {name} clsact").splitlines()
        for hook in ("ingress", "egress"):
            lines += wired.gateway.sh(f"tc filter show dev {name} {hook}").splitlines()
    return "\n".join(lines)


@pytest.mark.parametrize("tcx", [True, False], ids=["tcx", "clsact"])
@pytest.mark.parametrize("kind", SHORTCUTS)
def test_packets_of_a_flow_are_forwarded_both_ways(wired: Wires, kind: str, tcx: bool) -> None:
    with wired.carrying(tcx=tcx) as fastpath:
        wired.offload(fastpath, kind)
        wired.passes(kind, MANY)
        for number in range(2):
            carried = fastpath.carried(number)
            assert carried is not None
            assert carried[0] == len(MANY)


def test_nothing_is_left_of_clsact(wired: Wires) -> None:
    assert filters(wired) == ""
    with wired.carrying(tcx=False):
        assert filters(wired).count("clsact") == 2
    assert filters(wired) == ""


def test_a_qdisc_of_somebody_elses_stays(wired: Wires) -> None:
    wired.gateway.sh("tc qdisc add dev eth0 clsact")
    before = filters(wired)
    with wired.carrying(tcx=False):
        assert "lan_ethernet" in filters(wired)
    assert filters(wired) == before
    wired.gateway.sh("tc qdisc del dev eth0 clsact")


def test_a_qdisc_of_ours_stays_for_the_filter_of_somebody_else(wired: Wires) -> None:
    with contextlib.ExitStack() as other:
        with wired.carrying(tcx=False):
            other.enter_context(wired.carrying(tcx=False, instance="other"))
        assert filters(wired).count("direct-action") == 2
    for name in ("eth0", "eth1"):
        wired.gateway.sh(f"tc qdisc del dev {name} clsact")


def test_whose_place_another_took_removes_nothing(wired: Wires) -> None:
    """As after a takeover, where the old gateway ends after the new one has begun."""
    with contextlib.ExitStack() as new:
        with wired.carrying(tcx=False):
            new.enter_context(wired.carrying(tcx=False))
        assert filters(wired).count("direct-action") == 2
    assert filters(wired) == ""


_CRASH: Final = """
import os, sys
from protocols.actions import Side
from relay.fastpath import kernel
from tests.bpf.flows import SHORTCUTS
kernel._LEASE = {lease}
fastpath = kernel.KernelFastPath(64, instance="wires", tcx=False)
fastpath.attach("eth0", Side.LAN)
fastpath.attach("eth1", Side.WAN)
fastpath.prepare(1, SHORTCUTS["esp"])
fastpath.offload(1)
fastpath.look()
os.write(1, b"attached everywhere")
os.kill(os.getpid(), 9)
"""


def test_after_a_crash_flows_end_with_their_lease_and_the_next_one_cleans_up(wired: Wires) -> None:
    script = _CRASH.format(lease=int(LEASE * 1e9))
    with pytest.raises(RuntimeError, match="attached everywhere"):
        wired.gateway.run(sys.executable, "-c", script)
    assert filters(wired).count("direct-action") == 2
    with host(wired.client, ESP) as client, host(wired.peer, ESP) as peer:
        time.sleep(LEASE)
        client.send(numbered("esp", Side.LAN, FIRST))
        assert peer.nothing()
    with wired.carrying(tcx=False):
        assert filters(wired).count("direct-action") == 2
    assert filters(wired) == ""
