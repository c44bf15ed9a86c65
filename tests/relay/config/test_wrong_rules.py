"""Wrong rules: what is said about each, and where."""

from pathlib import Path

import pytest

from relay.config import ConfigError, Problem, load

GOOD = """
[lan]
networks = ["10.0.0.0/8"]
"""

# text of the file, then line, key, and pieces of message and advice
CASES = [
    pytest.param(
        '[[masquerade]]\nservers = ["any"]\nproto = ["pptp"]',
        1,
        "masquerade[0].clients",
        "is missing",
        "clients =",
        id="masquerade-without-clients",
    ),
    pytest.param(
        '[[masquerade]]\nclients = []\nservers = ["any"]\nproto = ["pptp"]',
        2,
        "masquerade[0].clients",
        "is empty",
        "leave the rule out",
        id="masquerade-with-no-client",
    ),
    pytest.param(
        '[[masquerade]]\nclients = ["any"]\nservers = ["any"]',
        1,
        "masquerade[0].proto",
        "is missing",
        '["pptp"]',
        id="no-proto",
    ),
    pytest.param(
        '[[masquerade]]\nclients = ["172.16.0.0/24"]\nservers = ["any"]\nproto = ["pptp"]' + GOOD,
        2,
        "masquerade[0].clients[0]",
        "not inside lan.networks",
        "spoofed",
        id="clients-outside",
    ),
    pytest.param(
        '[[masquerade]]\nclients = ["any"]\nservers = ["10.1.0.1"]\nproto = ["pptp"]' + GOOD,
        3,
        "masquerade[0].servers[0]",
        "inside lan.networks",
        "outside",
        id="servers-inside",
    ),
    pytest.param(
        '[[masquerade]]\nclients = ["any"]\nservers = ["any"]\nproto = ["pptp"]\nlisten = "10.0.0.1"',
        3,
        "masquerade[0].servers",
        "no single server",
        "exactly one",
        id="listen-for-any-server",
    ),
    pytest.param(
        '[[masquerade]]\nclients = ["any"]\nservers = ["199.0.0.1"]\nproto = ["pptp"]\nlisten = "192.0.2.1"',
        5,
        "masquerade[0].listen",
        "outside lan.networks",
        "address of this machine",
        id="listen-outside",
    ),
    pytest.param(
        '[[masquerade]]\nclients=["any"]\nservers=["199.0.0.1"]\nproto=["pptp"]\nlisten="10.0.0.1"\n'
        '[[masquerade]]\nclients=["any"]\nservers=["199.0.0.2"]\nproto=["pptp"]\nlisten="10.0.0.1"',
        10,
        "masquerade[1].listen",
        '"masquerade-1" (masquerade[0])',
        "of its own",
        id="two-rules-one-listen",
    ),
    pytest.param(
        '[[masquerade]]\nclients=["any"]\nservers=["any"]\nproto=["pptp"]\nlisten=1',
        5,
        "masquerade[0].listen",
        "1 is not an IPv4 address",
        "in quotes",
        id="listen-is-a-number",
    ),
    pytest.param(
        '[[expose]]\nserver = "10.0.0.2"\nproto = ["pptp", "l2tp"]',
        3,
        "expose[0].proto[1]",
        '"l2tp" is not known',
        "[[forward]]",
        id="unknown-proto",
    ),
    pytest.param(
        '[[expose]]\nserver = "10.0.0.2"\nproto = ["pptp", "pptp"]',
        3,
        "expose[0].proto",
        "named twice",
        "once",
        id="proto-twice",
    ),
    pytest.param(
        '[[expose]]\nserver = "10.0.0.2"\nproto = ["pptp"]\nallow = "any"',
        4,
        "expose[0].allow",
        "must be a list",
        'allow = ["any"]',
        id="any-without-brackets",
    ),
    pytest.param(
        '[[expose]]\nserver = "10.0.0.2"\nproto = ["pptp"]\nallow = ["*"]',
        4,
        "expose[0].allow[0]",
        '"*"',
        '"any"',
        id="star-for-any",
    ),
    pytest.param(
        '[[expose]]\nserver = "10.0.0.2"\nproto = ["pptp"]\nallow = ["0.0.0.0/0"]',
        4,
        "expose[0].allow[0]",
        "0.0.0.0/0",
        '"any"',
        id="zero-prefix-for-any",
    ),
    pytest.param(
        '[[expose]]\nserver = "192.0.2.7"\nproto = ["pptp"]',
        2,
        "expose[0].server",
        "not inside lan.networks",
        "is inside",
        id="server-outside",
    ),
    pytest.param(
        '[[expose]]\nserver = "10.0.0.0/24"\nproto = ["pptp"]',
        2,
        "expose[0].server",
        "is a network",
        '"10.0.0.0"',
        id="server-is-a-network",
    ),
    pytest.param(
        '[[expose]]\nserver = "224.0.0.1"\nproto = ["pptp"]',
        2,
        "expose[0].server",
        "not the address of a host",
        "",
        id="server-is-multicast",
    ),
    pytest.param(
        '[[expose]]\nname = "x"\nserver = "10.0.0.2"\nproto = ["pptp"]\n'
        '[[masquerade]]\nname = "x"\nclients = ["any"]\nservers = ["any"]\nproto = ["pptp"]',
        2,
        "expose[0].name",
        '"x" is the name of masquerade[0] already',
        "of its own",
        id="one-name-for-two-rules",
    ),
    pytest.param(
        '[[expose]]\nname="a"\nserver="10.0.0.2"\nproto=["pptp"]\nallow=["199.0.0.0/24"]\n'
        '[[expose]]\nname="b"\nserver="10.0.0.3"\nproto=["pptp"]\nallow=["192.0.2.1", "199.0.0.7"]',
        10,
        "expose[1].allow",
        '199.0.0.7 may reach 10.0.0.3 by "b" and 10.0.0.2 by "a"',
        "disjoint",
        id="ambiguous",
    ),
    pytest.param(
        '[[forward]]\nlisten = "80/tcp"\nserver = "10.0.0.2"',
        2,
        "forward[0].listen",
        "not something to listen on",
        '"tcp/80"',
        id="listen-turned-round",
    ),
    pytest.param(
        '[[forward]]\nlisten = "tcp/70000"\nserver = "10.0.0.2"',
        2,
        "forward[0].listen",
        "not a port",
        "65535",
        id="no-such-port",
    ),
    pytest.param(
        '[[forward]]\nlisten = "ip/6"\nserver = "10.0.0.2"',
        2,
        "forward[0].listen",
        "tcp cannot be forwarded whole",
        "tcp/PORT",
        id="all-of-tcp",
    ),
    pytest.param(
        '[[forward]]\nlisten = "ip/94"\nserver = "10.0.0.2:80"',
        3,
        "forward[0].server",
        "has no ports",
        'server = "10.0.0.2"',
        id="port-for-a-protocol",
    ),
    pytest.param(
        '[[forward]]\nlisten="tcp/80"\nserver="10.0.0.2"\n[[forward]]\nlisten="tcp/80"\nserver="10.0.0.3"',
        5,
        "forward[1].listen",
        '"forward-1" (forward[0])',
        "leave one",
        id="two-forwards-of-one-port",
    ),
    pytest.param(
        '[[expose]]\nserver="10.0.0.2"\nproto=["pptp"]\n[[forward]]\nlisten="tcp/1723"\nserver="10.0.0.3"',
        5,
        "forward[0].listen",
        'expose rule "expose-1"',
        "leave one",
        id="forward-of-an-exposed-port",
    ),
    pytest.param(
        '[[masquerade]]\nclients=["any"]\nservers=["any"]\nproto=["ipsec"]\n'
        '[[forward]]\nlisten="ip/50"\nserver="10.0.0.3"',
        6,
        "forward[0].listen",
        'masquerade rule "masquerade-1"',
        "leave one",
        id="forward-of-what-clients-use",
    ),
    pytest.param(
        '[[masquerade]]\nclients=["any"]\nservers=["any"]\nproto=["ipsec"]\n'
        '[[forward]]\nlisten="udp/61000"\nserver="10.0.0.3"',
        6,
        "forward[0].listen",
        "one of ipsec.ports",
        "ipsec.ports",
        id="forward-of-a-port-that-is-given-out",
    ),
    pytest.param(
        '[[forward]]\nlisten="ip/94"\nserver="10.0.0.3"\nsource="gateway"',
        4,
        "forward[0].source",
        "cannot tell peers apart",
        "keep",
        id="a-protocol-without-ports-from-our-address",
    ),
    pytest.param(
        '[[ddns]]\nprovider = "url"\nhost = "vpn.example.org"', 1, "ddns[0].url", "missing", "url", id="ddns"
    ),
    pytest.param(
        '[[ddns]]\nprovider="dyndns2"\nhost="a.example"\npassword="p"\npassword_file="/p"',
        5,
        "ddns[0].password_file",
        "given as well",
        "one",
        id="two-passwords",
    ),
    pytest.param(
        '[[ddns]]\nprovider="url"\nhost="a.example"\nurl="ftp://a.example"',
        4,
        "ddns[0].url",
        "no address of the web",
        "https://",
        id="not-http",
    ),
    pytest.param(
        '[[ddns]]\nprovider="dyndns2"\nhost="a.example"\nusername="me:you"',
        4,
        "ddns[0].username",
        "has a colon",
        "leave it out",
        id="a-user-name-that-http-cannot-carry",
    ),
    pytest.param(
        '[[ddns]]\nprovider="rfc2136"\nhost="a.example"\nserver="ns.example:0"',
        4,
        "ddns[0].server",
        "port",
        "",
        id="no-port-of-a-server",
    ),
    pytest.param(
        '[dynamic]\nup_commands = ["/bin/echo \'"]',
        2,
        "dynamic.up_commands[0]",
        "no closing quotation",
        "close the quotation",
        id="half-a-command",
    ),
    pytest.param(
        '[dynamic]\nup_commands = ["  "]',
        2,
        "dynamic.up_commands[0]",
        "is empty",
        "a program and its arguments",
        id="no-command",
    ),
    pytest.param(
        '[[ddns]]\nprovider="dyndns2"\nhost="a b"',
        3,
        "ddns[0].host",
        "not a host name",
        "",
        id="no-host-name",
    ),
    pytest.param(
        '[[expose]]\nname="a b"\nserver="10.0.0.2"\nproto=["pptp"]',
        2,
        "expose[0].name",
        "not a name",
        "",
        id="rule-name",
    ),
    pytest.param(
        '[[forward]]\nlisten = "80"\nserver = "10.0.0.2"',
        2,
        "forward[0].listen",
        "not something",
        "tcp/80",
        id="port-alone",
    ),
    pytest.param(
        '[[forward]]\nlisten = "ip/999"\nserver = "10.0.0.2"',
        2,
        "forward[0].listen",
        "1 to 254",
        "ip/94",
        id="ip-999",
    ),
]


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value.problems


@pytest.mark.parametrize(("text", "line", "key", "message", "advice"), CASES)
def test_a_wrong_file_gets_place_key_and_advice(
    tmp_path: Path, text: str, line: int, key: str, message: str, advice: str
) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_text(text, encoding="utf-8")
    (problem,) = problems(path)
    assert (problem.where, problem.key) == (f"{path}:{line}", key), str(problem)
    assert message.lower() in problem.message.lower()
    assert advice in problem.advice


#: Rules for IPsec that have no host in common with the forward.
APART = {
    "masquerade": '[[masquerade]]\nclients = ["10.0.0.7"]\nservers = ["199.0.0.7"]\nproto = [{}]',
    "expose": '[[expose]]\nserver = "10.0.0.7"\nallow = ["199.0.0.7"]\nproto = [{}]',
}
TUNNELS = '[[forward]]\nlisten = "ip/{}"\nserver = "10.0.0.3"\nallow = ["199.0.0.9"]'


@pytest.mark.parametrize("more", ['"ipsec"', '"pptp", "ipsec"'], ids=["ipsec", "both"])
@pytest.mark.parametrize("kind", APART)
@pytest.mark.parametrize("before", ["", *APART], ids=["alone", *(f"after-{kind}" for kind in APART)])
def test_esp_is_not_forwarded_beside_any_rule_for_ipsec(
    tmp_path: Path, before: str, kind: str, more: str
) -> None:
    """The kernel's program counts on it, and so does the short lane."""
    other = '[[forward]]\nlisten = "udp/5000"\nserver = "10.0.0.4"'
    pptp = APART[before].format('"pptp"').replace(".7", ".8") if before else ""
    rules = [pptp, other, TUNNELS.format(50), APART[kind].format(more)]
    path = tmp_path / "vpnmasq.toml"
    path.write_text(GOOD + "\n".join(rules), encoding="utf-8")
    (problem,) = problems(path)
    assert problem.key == "forward[1].listen"
    assert f"ip/50 is taken by {kind} rule" in problem.message


@pytest.mark.parametrize(("kind", "refused"), [("masquerade", False), ("expose", True)])
def test_other_gre_is_forwarded_beside_clients_alone(tmp_path: Path, kind: str, refused: bool) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_text(GOOD + APART[kind].format('"pptp"') + "\n" + TUNNELS.format(47), encoding="utf-8")
    if refused:
        (problem,) = problems(path)
        assert "ip/47 is taken by expose rule" in problem.message
    else:
        assert load(path).config.forward[0].listen == "ip/47"
