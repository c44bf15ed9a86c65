"""Several things wrong at once: all are said, and one does not hide or cause another."""

from pathlib import Path

import pytest

from relay.config import ConfigError, Problem, load


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value.problems


def test_all_errors_of_a_file_are_reported_at_once_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_text(
        "version = 1\n"
        "nmae = 'x'\n"
        "[wan]\n"
        "address = '10.0.0.5/8'\n"
        "[lan]\n"
        "networks = ['10.0.0.0/8']\n"
        "[[expose]]\n"
        "server = '300.0.0.2'\n"
        "allow = ['any', '::1']\n"
        "[[expose]]\n"
        "server = '192.0.2.2'\n"
        "proto = ['pptp']\n"
        "[[masquerade]]\n"
        "clients = ['172.16.0.1']\n"
        "servers = ['any']\n"
        "proto = ['pptp']\n"
        "[limits]\n"
        "sessions = -1\n",
        encoding="utf-8",
    )
    found = [(int(p.where.rpartition(":")[2]), p.key) for p in problems(path)]
    assert found == [
        (2, "nmae"),
        (4, "wan.address"),
        (7, "expose[0].proto"),
        (8, "expose[0].server"),
        (9, "expose[0].allow[1]"),
        (11, "expose[1].server"),
        (14, "masquerade[0].clients[0]"),
        (18, "limits.sessions"),
    ]


def test_a_wrong_lan_does_not_make_every_rule_wrong(tmp_path: Path) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_text(
        "[lan]\nnetworks = ['200.0.0.5/8']\n[[expose]]\nserver = '200.0.0.2'\nproto = ['pptp']\n",
        encoding="utf-8",
    )
    assert [problem.key for problem in problems(path)] == ["lan.networks[0]"]


def test_a_file_that_cannot_be_read_does_not_make_rules_from_elsewhere_wrong(tmp_path: Path) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_text("[lan]\nnetworks = [200.0.0.0/8]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, (), {"VPNMASQ_EXPOSE": "200.0.0.2 pptp"})
    assert [problem.where for problem in caught.value.problems] == [f"{path}:2"]


#: Rules that do not fit together.
TORN = """\
[lan]
networks = ["10.0.0.0/8"]
[[masquerade]]
name = "a"
clients = ["10.0.0.2"]
servers = ["any"]
proto = ["pptp"]
listen = "192.0.2.1"
[[expose]]
name = "a"
server = "10.0.0.2"
proto = ["pptp"]
allow = ["any"]
[[expose]]
server = "10.0.0.3"
proto = ["pptp"]
allow = ["any"]
[[forward]]
listen = "tcp/1723"
server = "192.0.2.2"
"""
FOUND = {
    "masquerade[0].servers",
    "masquerade[0].listen",
    "expose[0].name",
    "expose[1].allow",
    "forward[0].listen",
    "forward[0].server",
}

#: What is replaced in TORN, what is said of it, and what can then not be told.
FAULTS = [
    pytest.param('["10.0.0.2"]', '["10.0.0.256"]', "masquerade[0].clients[0]", set(), id="clients"),
    pytest.param(
        '["any"]\nproto = ["pptp"]\nlisten', '["any"]\nlisten', "masquerade[0].proto", set(), id="missing"
    ),
    pytest.param(
        'name = "a"\nclients', 'name = "a"\nclient = 1\nclients', "masquerade[0].client", set(), id="unknown"
    ),
    pytest.param(
        'listen = "192.0.2.1"', "listen = 1", "masquerade[0].listen", {"masquerade[0].servers"}, id="listen"
    ),
    pytest.param('servers = ["any"]', "servers = []", "masquerade[0].servers", set(), id="servers"),
    pytest.param(
        'server = "10.0.0.3"\nproto = ["pptp"]',
        'server = "10.0.0.3"\nproto = ["pptq"]',
        "expose[1].proto[0]",
        {"expose[1].allow"},
        id="proto",
    ),
    pytest.param('server = "10.0.0.3"', 'server = "x"', "expose[1].server", {"expose[1].allow"}, id="server"),
    pytest.param(
        'allow = ["any"]\n[[forward]]',
        'allow = ["any"]\nsource = "kep"\n[[forward]]',
        "expose[1].source",
        {"expose[1].allow"},
        id="source",
    ),
    pytest.param('listen = "tcp/1723"', 'listen = "tcp"', "forward[0].listen", set(), id="forward"),
    pytest.param('server = "192.0.2.2"', "", "forward[0].server", set(), id="no-server"),
    pytest.param(
        'networks = ["10.0.0.0/8"]',
        'networks = ["10.0.0.1/8"]',
        "lan.networks[0]",
        {"masquerade[0].listen", "forward[0].server"},
        id="networks",
    ),
    pytest.param('networks = ["10.0.0.0/8"]', 'networks = ["10.0.0.0/8"]\nx = 1', "lan.x", set(), id="table"),
]


@pytest.mark.parametrize(("right", "wrong", "key", "hidden"), FAULTS)
def test_a_key_that_is_wrong_hides_only_what_cannot_be_told_without_it(
    tmp_path: Path, right: str, wrong: str, key: str, hidden: set[str]
) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_text(TORN, encoding="utf-8")
    assert {problem.key for problem in problems(path)} == FOUND
    assert TORN.count(right) == 1, right
    path.write_text(TORN.replace(right, wrong), encoding="utf-8")
    assert {problem.key for problem in problems(path)} == (FOUND - hidden) | {key}


#: Two wrong keys that have to do with each other, and what is found of the rest.
PAIRS = [
    pytest.param(
        '[api]\nhttp = "0.0.0.0:1"\ntoken_file = 3\ntoken = ""', {"api.token_file"}, id="no-token-is-known"
    ),
    pytest.param(
        '[ipsec]\nports = "x"\n[[forward]]\nlisten = "udp/61000"\nserver = "10.0.0.2"\n'
        '[[masquerade]]\nclients = ["any"]\nservers = ["any"]\nproto = ["ipsec"]',
        {"ipsec.ports"},
        id="ports-are-unknown",
    ),
    pytest.param(
        '[[ddns]]\nprovider = "dyndns"\nhost = "a..b"', {"ddns[0].provider", "ddns[0].host"}, id="ddns"
    ),
    pytest.param(
        '[[ddns]]\n[[ddns]]\nprovider = "url"\nhost = "a.example"',
        {"ddns[0].provider", "ddns[0].host", "ddns[1].url"},
        id="ddns-by-its-place",
    ),
    pytest.param("expose = [3, {}]", {"expose[0]", "expose[1].server", "expose[1].proto"}, id="no-table"),
]


@pytest.mark.parametrize(("text", "found"), PAIRS)
def test_what_is_wrong_causes_nothing_else(tmp_path: Path, text: str, found: set[str]) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_text(text, encoding="utf-8")
    assert {problem.key for problem in problems(path)} == found
