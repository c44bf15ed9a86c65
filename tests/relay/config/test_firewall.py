"""The lines for other people's firewalls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from relay.config import load
from relay.config.capabilities import needed_capabilities
from relay.config.firewall import Advice, firewall_lines

ERRORS = "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept"


def advice(*rules: str, lan: tuple[str, ...] = ("eth0",)) -> Advice:
    return firewall_lines(load(None, ["lan.networks=10.0.0.0/8", *rules]).config, "eth1", lan)


def test_clients_need_their_way_in_and_the_peers_gre() -> None:
    lines = advice("masquerade=10.0.0.0/24 -> 199.0.0.1 pptp name staff")
    assert lines.inward == (
        'iifname "eth0" ip saddr 10.0.0.0/24 ip daddr 199.0.0.1 tcp dport 1723 accept comment "staff"',
        'iifname "eth0" ip saddr 10.0.0.0/24 ip daddr 199.0.0.1 ip protocol gre accept comment "staff"',
        'iifname "eth1" ip saddr 199.0.0.1 ip protocol gre accept comment "staff"',
        f'iifname "eth1" {ERRORS}',
        f'iifname "eth0" {ERRORS}',
    )
    assert lines.outward == (
        'oifname "eth1" ip daddr 199.0.0.1 tcp dport 1723 accept comment "staff"',
        'oifname "eth1" ip daddr 199.0.0.1 ip protocol gre accept comment "staff"',
        'oifname "eth0" ip daddr 10.0.0.0/24 tcp sport 1723 accept comment "staff"',
        'oifname "eth0" ip daddr 10.0.0.0/24 ip protocol gre accept comment "staff"',
        f'oifname "eth1" {ERRORS}',
        f'oifname "eth0" {ERRORS}',
    )


def test_an_exposed_server_opens_port_1723_to_its_peers_alone() -> None:
    lines = advice("expose=10.0.0.2 pptp allow 199.0.0.2,199.0.0.3 name office")
    assert lines.inward[:4] == (
        'iifname "eth1" ip saddr { 199.0.0.2, 199.0.0.3 } tcp dport 1723 accept comment "office"',
        'iifname "eth1" ip saddr { 199.0.0.2, 199.0.0.3 } ip protocol gre accept comment "office"',
        'iifname "eth0" ip saddr 10.0.0.2 tcp sport 1723 ct state established accept comment "office"',
        'iifname "eth0" ip saddr 10.0.0.2 ip protocol gre accept comment "office"',
    )
    assert not [line for line in lines.inward if line.startswith('iifname "eth1" tcp dport')]


def test_relay_style_lets_clients_dial_our_own_address() -> None:
    lines = advice("masquerade=any -> 199.0.0.1 pptp listen 10.0.0.1 name relay", lan=("eth0", "eth2"))
    assert lines.inward[0] == (
        'iifname { "eth0", "eth2" } ip daddr 10.0.0.1 tcp dport 1723 accept comment "relay"'
    )


def test_inside_hosts_that_may_dial_the_public_address_are_let_in() -> None:
    lines = advice("expose=10.0.0.2 pptp allow 10.1.0.0/16,199.0.0.2 name office")
    assert 'iifname "eth0" ip saddr 10.1.0.0/16 tcp dport 1723 accept comment "office"' in lines.inward


def test_a_network_inside_another_is_left_out() -> None:
    lines = advice("expose=10.0.0.2 pptp allow 199.0.0.0/24,199.0.0.2,199.0.0.2,203.0.113.1 name office")
    assert "ip saddr { 199.0.0.0/24, 203.0.113.1 } tcp" in lines.inward[0]


def test_without_a_rule_that_can_work_nothing_is_opened() -> None:
    assert advice() == Advice((), ())
    assert advice("expose=10.0.0.2 pptp") == Advice((), ())
    assert advice("expose=10.0.0.2 ipsec") == Advice((), ())


def test_ipsec_needs_its_ports_and_esp_on_both_sides() -> None:
    lines = advice("expose=10.0.0.2 ipsec allow 199.0.0.1 name office")
    for what in ("udp dport { 500, 4500 }", "ip protocol esp"):
        assert f'iifname "eth1" ip saddr 199.0.0.1 {what} accept comment "office"' in lines.inward
        assert f'iifname "eth0" ip saddr 10.0.0.2 {what} accept comment "office"' in lines.inward
        assert f'oifname "eth1" ip daddr 199.0.0.1 {what} accept comment "office"' in lines.outward


@pytest.mark.netns
@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed: apt install nftables")
@pytest.mark.skipif(os.geteuid() != 0, reason="nft checks a ruleset for root only")
def test_nft_accepts_every_line(tmp_path: Path) -> None:
    lines = advice(
        "masquerade=10.0.0.0/24,10.0.1.7 -> any pptp+ipsec name staff; any -> 199.0.0.1 pptp listen 10.0.0.1",
        "expose=10.0.0.2 pptp allow any; 10.0.0.3 ipsec allow 199.0.0.0/24,199.0.0.2,10.0.0.0/16 name b",
        "forward=tcp/80 -> 10.0.0.2:81 allow any; ip/94 -> 10.0.0.2 allow 199.0.0.1; udp/9 -> 10.0.0.2",
        lan=("eth0", "eth2"),
    )
    text = "table inet filter {\n"
    for chain, rules in (("input", lines.inward), ("output", lines.outward)):
        text += f"chain {chain} {{ type filter hook {chain} priority 0; policy drop;\n"
        text += "\n".join(rules) + "\n}\n"
    path = tmp_path / "rules.nft"
    path.write_text(text + "}\n", encoding="ascii")
    done = subprocess.run(["nft", "-c", "-f", path], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


def needed(*rules: str) -> set[str]:
    return set(needed_capabilities(load(None, rules).config))


def test_only_router_style_needs_net_admin() -> None:
    router = {"CAP_NET_RAW", "CAP_NET_ADMIN"}
    assert needed("masquerade=any -> any pptp") == router
    assert needed("expose=10.0.0.2 pptp allow any") == router
    assert needed("expose=10.0.0.2 pptp allow any source gateway") == {"CAP_NET_RAW"}
    assert needed("masquerade=any -> 199.0.0.1 pptp listen 10.0.0.1") == {"CAP_NET_RAW"}


def test_low_ports_need_net_bind_service() -> None:
    both = {"CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}
    assert needed("forward=tcp/80 -> 10.0.0.2 source gateway") == both
    assert needed("forward=tcp/8080 -> 10.0.0.2 source gateway") == {"CAP_NET_RAW"}
    assert needed("forward=tcp/80 -> 10.0.0.2; ip/94 -> 10.0.0.2") == {*both, "CAP_NET_ADMIN"}
    assert needed("expose=10.0.0.2 ipsec source gateway") == both
    assert needed("api.http=127.0.0.1:80") == both


def test_where_a_runtime_opens_low_ports_to_everybody_they_need_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysctl = tmp_path / "ip_unprivileged_port_start"
    monkeypatch.setattr("relay.config.capabilities._FIRST_UNPRIVILEGED", sysctl)
    sysctl.write_text("0\n")
    assert needed("expose=10.0.0.2 ipsec source gateway") == {"CAP_NET_RAW"}
    sysctl.unlink()
    assert needed("expose=10.0.0.2 ipsec source gateway") == {"CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}


def test_a_forward_opens_its_port_and_lets_the_servers_answers_in() -> None:
    lines = advice("forward=tcp/80 -> 10.0.0.2:8080 allow 199.0.0.2,10.1.0.0/16 name web")
    assert lines.inward == (
        'iifname "eth1" ip saddr { 199.0.0.2, 10.1.0.0/16 } tcp dport 80 accept comment "web"',
        'iifname "eth0" ip saddr 10.0.0.2 tcp sport 8080 ct state established accept comment "web"',
        'iifname "eth0" ip saddr 10.1.0.0/16 tcp dport 80 accept comment "web"',
        f'iifname "eth1" {ERRORS}',
        f'iifname "eth0" {ERRORS}',
    )
    assert lines.outward[:3] == (
        'oifname "eth0" ip daddr 10.0.0.2 tcp dport 8080 accept comment "web"',
        'oifname "eth1" ip daddr { 199.0.0.2, 10.1.0.0/16 } tcp sport 80 accept comment "web"',
        'oifname "eth0" ip daddr 10.1.0.0/16 tcp sport 80 accept comment "web"',
    )


def test_a_forwarded_protocol_is_the_same_both_ways() -> None:
    lines = advice("forward=ip/94 -> 10.0.0.2 allow any name fwz;tcp/25 -> 10.0.0.3 name closed")
    assert lines.inward[:3] == (
        'iifname "eth1" ip protocol 94 accept comment "fwz"',
        'iifname "eth0" ip saddr 10.0.0.2 ip protocol 94 accept comment "fwz"',
        'iifname "eth0" ip saddr 10.0.0.0/8 ip protocol 94 accept comment "fwz"',
    )
    assert not [line for line in lines.inward if "25" in line]
