"""What the daemon makes of settings: policy, and what a reload changes."""

from pathlib import Path

import pytest

from protocols.addr import Network, parse_ip
from protocols.policy import (
    Expose,
    Forward,
    ForwardTimers,
    Ipsec,
    Limits,
    Masquerade,
    Pairing,
    Policy,
    PptpTimers,
    Refuse,
    Source,
)
from relay.config import Settings, differences, load, needs_restart, policy
from relay.config.cautions import address_cautions, cautions
from relay.config.interfaces import lan_interfaces

RULES = {
    "VPNMASQ_MASQUERADE": "10.0.0.0/24 -> 199.0.0.1 pptp name staff",
    "VPNMASQ_EXPOSE": "10.0.0.2 pptp allow 199.0.0.2 name office",
}


def settings(*sets: str) -> Settings:
    return load(None, ["lan.networks=10.0.0.0/8", *sets], RULES)


def test_the_defaults_of_the_configuration_are_those_of_the_core() -> None:
    made = policy(load(None, ["lan.networks=10.0.0.0/8"]))
    assert made == Policy(lan_networks=(Network.parse("10.0.0.0/8"),))


def test_a_policy_holds_rules_limits_and_times() -> None:
    made = policy(
        settings(
            "masquerade[0].listen=10.0.0.1",
            "expose[0].source=gateway",
            "expose[0].proto=pptp,ipsec",
            "refuse=silent",
            "limits.sessions=9",
            "limits.sessions_per_client=8",
            "limits.new_per_second=7",
            "limits.icmp_per_second=6",
            "pptp.echo_after=1",
            "forward=tcp/80 -> 10.0.0.3:8080 allow 199.0.0.9 name web;ip/94 -> 10.0.0.4 name fwz",
            "forward[0].source=gateway",
            "forwarding.tcp=3h",
            "forwarding.tcp_transitory=5m",
            "forwarding.udp=13",
            "forwarding.ip=14",
            "forwarding.most_endpoints=15",
            "pptp.echo_timeout=2",
            "pptp.handshake_timeout=3",
            "pptp.message_timeout=4",
            "pptp.call_setup_timeout=5",
            "pptp.closing_timeout=6",
            "pptp.ghost=7",
            "ipsec.pairing=refuse",
            "ipsec.lifetime=2h",
            "ipsec.change_port=199.0.0.3",
            "ipsec.mapping=8",
            "ipsec.ports=40000-41000",
            "ipsec.most_candidates=9",
            "ipsec.copies_per_second=10",
            "ipsec.spis_per_second=11",
            "ipsec.most_spis=12",
            "ipsec.most_outbound=13",
            "ipsec.most_associations=14",
            "ipsec.most_unanswered=15",
            "ipsec.most_held=16",
            "ipsec.most_outstanding=17",
            "ipsec.most_endpoints=18",
            "ipsec.most_remembered=19",
            "ipsec.most_told=20",
        )
    )
    assert made == Policy(
        lan_networks=(Network.parse("10.0.0.0/8"),),
        masquerade=(
            Masquerade(
                name="staff",
                clients=(Network.parse("10.0.0.0/24"),),
                servers=(Network.parse("199.0.0.1"),),
                listen=parse_ip("10.0.0.1"),
            ),
        ),
        expose=(
            Expose(
                name="office",
                server=parse_ip("10.0.0.2"),
                allow=(Network.parse("199.0.0.2"),),
                ipsec=True,
                source=Source.GATEWAY,
            ),
        ),
        forward=(
            Forward(
                name="web",
                protocol=6,
                port=80,
                server=parse_ip("10.0.0.3"),
                server_port=8080,
                allow=(Network.parse("199.0.0.9"),),
                source=Source.GATEWAY,
            ),
            Forward("fwz", 94, 0, parse_ip("10.0.0.4"), 0, ()),
        ),
        forwarding=ForwardTimers(tcp=10800, tcp_transitory=300, udp=13, ip=14, most_endpoints=15),
        refuse=Refuse.SILENT,
        limits=Limits(sessions=9, sessions_per_client=8, new_per_second=7, icmp_per_second=6),
        pptp=PptpTimers(
            echo_after=1, echo_timeout=2, handshake=3, message=4, call_setup=5, closing=6, ghost=7
        ),
        ipsec=Ipsec(
            pairing=Pairing.REFUSE,
            lifetime=7200,
            change_port=(Network.parse("199.0.0.3"),),
            mapping=8,
            ports=(40000, 41000),
            most_candidates=9,
            copies_per_second=10,
            spis_per_second=11,
            most_spis=12,
            most_outbound=13,
            most_associations=14,
            most_unanswered=15,
            most_held=16,
            most_outstanding=17,
            most_endpoints=18,
            most_remembered=19,
            most_told=20,
        ),
    )


def test_differences_are_the_keys_that_changed() -> None:
    assert differences(settings(), settings()) == []
    changed = settings("log.level=debug", "expose[0].allow=any", "forward=tcp/80 -> 10.0.0.2")
    assert differences(settings(), changed) == [
        "expose[0].allow",
        "log.level",
        "forward[0].name",
        "forward[0].listen",
        "forward[0].server",
        "forward[0].allow",
        "forward[0].source",
        "forward[0].fastpath",
    ]


RESTART = [
    pytest.param("name=other", id="name"),
    pytest.param("api.socket=/run/other.sock", id="socket"),
    pytest.param("wan.interface=ppp0", id="wan"),
    pytest.param("lan.interfaces=eth0", id="lan"),
    pytest.param("interception.priority=200", id="priority"),
    pytest.param("interception.mark=1", id="mark"),
    pytest.param("sockets.batch=1", id="batch"),
    pytest.param("fastpath.mode=off", id="fast-path"),
    pytest.param("fastpath.xdp=true", id="drivers"),
]


@pytest.mark.parametrize("argument", RESTART)
def test_what_stands_from_start_to_stop_needs_a_restart(argument: str) -> None:
    changed = settings(argument, "log.level=debug")
    assert needs_restart(settings(), changed) == [argument.partition("=")[0]]


def test_rules_and_limits_need_no_restart() -> None:
    assert (
        needs_restart(
            settings(), settings("limits.sessions=9", "expose[0].allow=any", "wan.address=192.0.2.1")
        )
        == []
    )


def test_a_new_token_in_the_same_file_is_a_difference(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("one", encoding="utf-8")
    old = settings(f"api.token_file={secret}")
    secret.write_text("two", encoding="utf-8")
    assert differences(old, settings(f"api.token_file={secret}")) == ["api.token_file"]


ADDRESSES = [
    ("lo", parse_ip("127.0.0.1")),
    ("eth1", parse_ip("192.168.7.7")),
    ("eth0", parse_ip("10.0.0.1")),
    ("eth0", parse_ip("192.168.0.1")),
    ("eth2", parse_ip("203.0.113.9")),
    ("eth3", parse_ip("172.16.0.1")),
]


def test_auto_takes_the_interfaces_with_an_address_inside_but_never_the_outside_one() -> None:
    config = load(None).config
    assert lan_interfaces(config, ADDRESSES, "eth1") == ("eth0", "eth3")
    assert lan_interfaces(config, [], "eth1") == ()


def test_named_interfaces_are_taken_as_they_are() -> None:
    assert lan_interfaces(load(None, ["lan.interfaces=eth9"]).config, ADDRESSES, "eth1") == ("eth9",)


CAUTIONS = [
    pytest.param(["expose=", "masquerade="], "no rule", id="no-rule"),
    pytest.param(["expose[0].allow="], "nobody may reach 10.0.0.2", id="nobody"),
    pytest.param(["expose[0].allow=any"], "everybody may try", id="everybody"),
    pytest.param(["forward=tcp/80 -> 10.0.0.2"], "nobody may reach", id="forward-for-nobody"),
    pytest.param(["api.http=127.0.0.1:9470"], "every user", id="http-without-a-token"),
]


@pytest.mark.parametrize(("sets", "words"), CAUTIONS)
def test_what_is_allowed_but_odd_is_said(sets: list[str], words: str) -> None:
    (caution,) = cautions(settings(*sets).config)
    assert words in caution


def test_an_ordinary_configuration_needs_no_caution() -> None:
    assert list(cautions(settings().config)) == []


def test_a_public_address_inside_the_lan_or_none_at_all_is_said() -> None:
    config = settings().config
    assert list(address_cautions(config, parse_ip("200.200.200.200"))) == []
    assert [
        "10.0.0.7 is inside lan.networks" in text for text in address_cautions(config, parse_ip("10.0.0.7"))
    ] == [True]
    assert ["no address now" in text for text in address_cautions(config, None)] == [True]
