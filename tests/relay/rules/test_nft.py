"""Our nftables table in a real kernel, beside a router's own firewall."""

import contextlib
import shutil
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from protocols.addr import Network
from relay.kernel import KernelError
from relay.rules import nft, routing
from relay.rules.interception import Interception, pptp_traffic
from relay.rules.nft import Table
from relay.sockets.raw import icmp_receiver, receiver, sender
from tests.netns import Namespace, network, requires_netns

WHY = requires_netns() or next(
    (f"needs {program}" for program in ("nft", "conntrack") if not shutil.which(program)), ""
)
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(WHY), reason=WHY)]

TABLE = Table("vpnmasq", ("eth0",), "eth1", 0x76706E01)
INTERCEPTION = Interception(
    "vpnmasq", ("eth0",), (Network.parse("10.0.0.0/8"),), pptp_traffic(clients=True, servers=())
)

#: A usual home router, and the lines a VPN gateway adds to its input chain.
FIREWALL = """
table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "eth1" masquerade
    }
}
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        iifname "lo" accept
        ip protocol gre accept
        ip protocol icmp accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        iifname "eth0" oifname "eth1" accept
    }
    chain output {
        type filter hook output priority filter; policy accept;
        ct state invalid drop
    }
}
"""

PPTP = struct.pack("!HHHHI", 0x3001, 0x880B, 0, 5, 0)
PLAIN_GRE = struct.pack("!HH", 0, 0x0800) + bytes(20)


@pytest.fixture
def box() -> Iterator[Namespace]:
    """A namespace with this thread in it."""
    with network() as net:
        box = net.namespace("box")
        with box.entered():
            yield box


def test_installed_and_removed_beside_the_users_tables(box: Namespace) -> None:
    box.sh("nft -f -", stdin=FIREWALL)
    before = box.sh("nft list ruleset")
    nft.install(TABLE)
    assert nft.listing("vpnmasq")
    assert before in box.sh("nft list ruleset")
    nft.remove("vpnmasq")
    assert nft.listing("vpnmasq") is None
    assert box.sh("nft list ruleset") == before


def test_installing_again_replaces_the_table(box: Namespace) -> None:
    nft.install(replace(TABLE, lan_interfaces=("eth7",)))
    nft.install(TABLE)
    once = box.sh("nft list ruleset")
    nft.install(TABLE)
    assert box.sh("nft list ruleset") == once
    assert "eth7" not in once
    assert once.count("table ip") == 1


def test_removing_what_was_never_there_is_no_error(box: Namespace) -> None:
    nft.remove("vpnmasq")
    assert box.sh("nft list ruleset") == ""


def test_instances_have_tables_of_their_own(box: Namespace) -> None:
    nft.install(TABLE)
    nft.install(replace(TABLE, instance="second"))
    assert nft.listing("third") is None
    nft.remove("second")
    assert nft.listing("vpnmasq")


def test_a_saved_ruleset_loads_again_and_means_the_same(box: Namespace) -> None:
    nft.install(TABLE)
    saved = box.sh("nft list ruleset")
    assert saved.count("880b") == 1  # however this nft writes it
    box.sh("nft flush ruleset")
    assert nft.listing("vpnmasq") is None
    box.sh("nft -f -", stdin=saved)
    assert box.sh("nft list ruleset") == saved


def test_lan_and_wan_may_be_one_interface(box: Namespace) -> None:
    nft.install(replace(TABLE, lan_interfaces=("eth0", "eth2"), wan_interface="eth0"))
    assert nft.listing("vpnmasq")


@pytest.mark.parametrize("name", ['e"', "e*", "e\\"])
def test_names_that_nft_would_misread_are_refused(box: Namespace, name: str) -> None:
    with pytest.raises(KernelError, match="rename the interface"):
        nft.install(replace(TABLE, wan_interface=name))
    assert box.sh("nft list ruleset") == ""


def test_a_missing_nft_is_named_with_its_remedy(box: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(KernelError, match="nft is not installed; install nftables"):
        nft.install(TABLE)


def test_what_nft_refuses_is_said_in_its_words(box: Namespace) -> None:
    with pytest.raises(KernelError, match=r"set up the nftables table: .*[Ee]rror"):
        nft.install(replace(TABLE, lan_interfaces=()))


# -- packets -------------------------------------------------------------------------------------------


@dataclass
class Row:
    """Client, gateway, peer in a row, and the gateway's sockets."""

    client: Namespace
    gateway: Namespace
    peer: Namespace

    def tracked(self) -> str:
        """What conntrack knows that is not TCP or UDP."""
        flows = self.gateway.sh("conntrack -L").splitlines()
        return "\n".join(line for line in flows if not line.startswith(("tcp", "udp")))


@pytest.fixture
def row() -> Iterator[Row]:
    """A router with a firewall of its own, and us on it."""
    with network() as net:
        client, gateway, peer = (net.namespace(label) for label in ("client", "gateway", "peer"))
        net.link(client, "eth0", gateway, "eth0")
        net.link(gateway, "eth1", peer, "eth0")
        client.address("eth0", "10.0.0.2/8")
        gateway.address("eth0", "10.0.0.1/8")
        gateway.address("eth1", "200.200.200.200/24")
        peer.address("eth0", "200.200.200.1/24", "199.0.0.1/32")
        client.sh("ip route add default via 10.0.0.1")
        gateway.sh("ip route add default via 200.200.200.1")
        gateway.sysctl("net.ipv4.ip_forward", 1)
        gateway.sh("nft -f -", stdin=FIREWALL)
        with gateway.entered():
            routing.install(INTERCEPTION)
        yield Row(client, gateway, peer)


def raw(namespace: Namespace, protocol: int) -> socket.socket:
    with namespace.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    sock.settimeout(5)
    return sock


def ipv4(src: str, dst: str, protocol: int, payload: bytes) -> bytes:
    """A packet whose checksum the kernel fills in."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    return head + socket.inet_aton(src) + socket.inet_aton(dst) + payload


def icmp(kind: int, quoted: bytes) -> bytes:
    message = struct.pack("!BBHI", kind, 0, 0, 0) + quoted
    words = sum(struct.unpack(f"!{len(message) // 2}H", message))
    words = (words & 0xFFFF) + (words >> 16)
    return message[:2] + struct.pack("!H", ~(words + (words >> 16)) & 0xFFFF) + message[4:]


@contextlib.contextmanager
def gateway_sockets(row: Row) -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """The daemon's: GRE from the LAN, ICMP errors from the LAN, and the sender."""
    with row.gateway.entered():
        sockets = receiver(47, "eth0", 65536), icmp_receiver("eth0", 65536), sender(65536)
    with contextlib.ExitStack() as stack:
        for sock in sockets:
            stack.enter_context(sock)
            sock.settimeout(5)
        yield sockets


def relay_both_ways(row: Row) -> None:
    """A PPTP data packet out with another Call ID, and its answer in."""
    with (
        gateway_sockets(row) as (from_lan, _, out),
        raw(row.client, 47) as client,
        raw(row.peer, 47) as peer,
    ):
        client.sendto(PPTP, ("199.0.0.1", 0))
        assert from_lan.recv(100)[20:] == PPTP
        out.sendto(ipv4("200.200.200.200", "199.0.0.1", 47, PPTP), ("199.0.0.1", 0))
        assert peer.recv(100)[20:] == PPTP
        answer = ipv4("199.0.0.1", "200.200.200.200", 47, PPTP)
        peer.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        peer.sendto(answer, ("200.200.200.200", 0))
        out.sendto(ipv4("199.0.0.1", "10.0.0.2", 47, PPTP), ("10.0.0.2", 0))
        assert client.recv(100)[20:] == PPTP


def test_conntrack_never_hears_of_our_packets(row: Row) -> None:
    with row.gateway.entered():
        nft.install(TABLE)
    relay_both_ways(row)
    assert row.tracked() == ""


def test_without_the_table_conntrack_does_hear_of_them(row: Row) -> None:
    relay_both_ways(row)
    assert "gre" in row.tracked()


def test_gre_that_is_not_pptp_stays_conntracks(row: Row) -> None:
    with row.gateway.entered():
        nft.install(TABLE)
    with gateway_sockets(row) as (from_lan, _, _), raw(row.client, 47) as client:
        client.sendto(PLAIN_GRE, ("199.0.0.1", 0))
        assert from_lan.recv(100)[20:] == PLAIN_GRE
    assert "gre" in row.tracked() or "unknown  47" in row.tracked()


@pytest.mark.parametrize("kind", [3, 11, 12])
def test_icmp_errors_of_the_lan_about_gre_are_brought_to_us(row: Row, kind: int) -> None:
    with row.gateway.entered():
        nft.install(TABLE)
    error = icmp(kind, ipv4("199.0.0.1", "10.0.0.2", 47, PPTP[:8]))
    with gateway_sockets(row) as (_, from_lan, _), raw(row.client, 1) as client:
        client.sendto(error, ("199.0.0.1", 0))
        assert from_lan.recv(100)[20:] == error
    assert row.tracked() == ""


def test_icmp_errors_about_anything_else_are_the_kernels(row: Row) -> None:
    with row.gateway.entered():
        nft.install(TABLE)
    about_udp = icmp(3, ipv4("199.0.0.1", "10.0.0.2", 17, bytes(8)))
    about_gre = icmp(3, ipv4("199.0.0.1", "10.0.0.2", 47, PPTP[:8]))
    with gateway_sockets(row) as (_, from_lan, _), raw(row.client, 1) as client:
        client.sendto(about_udp, ("199.0.0.1", 0))
        client.sendto(about_gre, ("199.0.0.1", 0))
        assert from_lan.recv(100)[20:] == about_gre


def test_the_lans_other_traffic_is_masqueraded_as_before(row: Row) -> None:
    with row.gateway.entered():
        nft.install(TABLE)
    row.client.sh("ping -c 1 -W 5 199.0.0.1")
    assert "src=10.0.0.2 dst=199.0.0.1" in row.tracked()
