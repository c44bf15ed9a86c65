"""Wrong configuration files: what is said about each, and where."""

from pathlib import Path

import pytest

from relay.config import ConfigError, Problem, load

# text of the file, then line, key, and pieces of message and advice
CASES = [
    pytest.param(
        '[wan]\ninterfce = "eth1"', 2, "wan.interfce", "unknown key", '"wan.interface"', id="misspelt-key"
    ),
    pytest.param(
        'interface = "eth1"', 1, "interface", "unknown key", '"wan.interface"', id="key-in-the-wrong-table"
    ),
    pytest.param('[wna]\ninterface = "eth1"', 1, "wna", "unknown key", '"wan"', id="misspelt-table"),
    pytest.param(
        "[limits]\nsessions-per-client = 3",
        2,
        "limits.sessions-per-client",
        "unknown",
        "sessions_per",
        id="dashes",
    ),
    pytest.param('wan = "eth1"', 1, "wan", 'must be a table, not "eth1"', "[wan]", id="table-is-text"),
    pytest.param(
        '[expose]\nserver = "10.0.0.2"', 1, "expose", "double brackets", "[[expose]]", id="single-brackets"
    ),
    pytest.param("version = 2", 1, "version", "2 is not a version", "version = 1", id="future-version"),
    pytest.param(
        'version = "1"', 1, "version", '"1" is not a version', "version = 1", id="version-in-quotes"
    ),
    pytest.param('name = "a b"', 1, "name", '"a b" is not a name', "a letter", id="name-with-a-space"),
    pytest.param('refuse = "rest"', 1, "refuse", "not known", '"reset"', id="misspelt-choice"),
    pytest.param(
        '[lan]\ninterfaces = "eth0"', 2, "lan.interfaces", "must be a list", '["eth0"]', id="text-for-a-list"
    ),
    pytest.param(
        "[lan]\ninterfaces = []", 2, "lan.interfaces", "is empty", '["auto"]', id="no-lan-interface"
    ),
    pytest.param('[lan]\ninterfaces = ["lo"]', 2, "lan.interfaces[0]", "loopback", "ip link", id="loopback"),
    pytest.param(
        '[wan]\ninterface = "averyverylongname"',
        2,
        "wan.interface",
        "not the name",
        "15",
        id="long-interface",
    ),
    pytest.param(
        '[wan]\ninterface = "eth0"\n[lan]\ninterfaces = [\n  "eth1",\n  "eth0",\n]',
        6,
        "lan.interfaces[1]",
        "eth0 is wan.interface as well",
        "cannot be both",
        id="one-interface-on-both-sides",
    ),
    pytest.param(
        '[lan]\nnetworks = ["10.0.0.5/8"]',
        2,
        "lan.networks[0]",
        "10.0.0.5/8 has host bits set; did you mean 10.0.0.0/8?",
        '"10.0.0.0/8"',
        id="host-bits",
    ),
    pytest.param(
        '[lan]\nnetworks = ["any"]', 2, "lan.networks[0]", "cannot stand here", "10.0.0.0/8", id="lan-is-any"
    ),
    pytest.param(
        '[lan]\nnetworks = ["fd00::/8"]', 2, "lan.networks[0]", "IPv6", "IPv4 only", id="ipv6-network"
    ),
    pytest.param(
        '[lan]\nnetworks = ["10.0.0.0/33"]', 2, "lan.networks[0]", "0 to 32", "", id="prefix-too-long"
    ),
    pytest.param('[wan]\naddress = "2001:db8::1"', 2, "wan.address", "IPv6", "IPv4 only", id="ipv6-address"),
    pytest.param(
        '[wan]\naddress = "gw.example.org"',
        2,
        "wan.address",
        "not an IPv4",
        "not looked up",
        id="name-for-address",
    ),
    pytest.param(
        '[wan]\naddress = "10.0.0.1"',
        2,
        "wan.address",
        "inside lan.networks",
        "smaller",
        id="wan-inside-the-lan",
    ),
    pytest.param(
        '[ipsec]\nlifetime = "30 min"', 2, "ipsec.lifetime", "not a time", '"30m"', id="time-in-words"
    ),
    pytest.param("[ipsec]\nlifetime = 0", 2, "ipsec.lifetime", "above zero", "30s", id="no-time"),
    pytest.param("[ipsec]\nlifetime = nan", 2, "ipsec.lifetime", "above zero", "30s", id="not-a-number"),
    pytest.param("[ipsec]\nlifetime = inf", 2, "ipsec.lifetime", "too long", "366d", id="forever"),
    pytest.param(
        "[ipsec]\nlifetime = true", 2, "ipsec.lifetime", "true is not a time", "", id="time-is-true"
    ),
    pytest.param(
        '[sockets]\nreceive_buffer = "4X"', 2, "sockets.receive_buffer", "not a size", '"4M"', id="size"
    ),
    pytest.param(
        "[sockets]\nreceive_buffer = 1", 2, "sockets.receive_buffer", "out of range", "4K", id="small-buffer"
    ),
    pytest.param("[limits]\nsessions = 0", 2, "limits.sessions", "too small", "at least 1", id="no-sessions"),
    pytest.param(
        '[limits]\nsessions = "9"', 2, "limits.sessions", "not a whole number", "without quotes", id="quoted"
    ),
    pytest.param(
        "[limits]\nsessions = 1.5", 2, "limits.sessions", "1.5 is not a whole number", "", id="fraction"
    ),
    pytest.param(
        "[limits]\nsessions = true", 2, "limits.sessions", "true is not a whole number", "", id="true"
    ),
    pytest.param(
        "[interception]\nmark = 0", 2, "interception.mark", "not a packet mark", "0x76706e01", id="mark"
    ),
    pytest.param(
        "[interception]\npriority = 40000", 2, "interception.priority", "too large", "32765", id="priority"
    ),
    pytest.param('[api]\nhttp = "0.0.0.0:9470"', 2, "api.http", "no token", "token_file", id="open-api"),
    pytest.param('[api]\nhttp = "127.0.0.1"', 2, "api.http", "no port", '"127.0.0.1:9470"', id="no-port"),
    pytest.param('[api]\nhttp = "http://127.0.0.1:1"', 2, "api.http", "URL", "alone", id="url"),
    pytest.param(
        '[api]\ntoken_file = "/nonexistent/t"',
        2,
        "api.token_file",
        "no such file",
        "check",
        id="no-token-file",
    ),
    pytest.param('[api]\ntoken = ""', 2, "api.token", "is empty", "openssl", id="empty-token"),
    pytest.param(
        '[api]\nsocket = "run/x.sock"', 2, "api.socket", "not an absolute path", "root", id="relative-path"
    ),
    pytest.param('[api]\nsocket = ""', 2, "api.socket", "is needed", "control.sock", id="no-socket"),
    pytest.param("[log]\nlevel = 3", 2, "log.level", "3 is not known", '"info"', id="level-is-a-number"),
    pytest.param(
        '[lan]\ninterfaces=["e0","e0"]', 2, "lan.interfaces[1]", "named twice", "once", id="lan-twice"
    ),
    pytest.param(
        '[lan]\ninterfaces=["e0","auto"]', 2, "lan.interfaces", "stands alone", "", id="auto-and-more"
    ),
    pytest.param(
        "[lan]\ninterfaces = 3", 2, "lan.interfaces", "must be a list, not 3", "", id="number-for-a-list"
    ),
    pytest.param(
        "[api]\nread_group = 3", 2, "api.read_group", "3 is not text", "quotes", id="number-for-text"
    ),
    pytest.param(
        "[api]\ntoken = 3", 2, "api.token", "the value is not text", "quotes", id="secret-not-shown"
    ),
    pytest.param(
        '[api]\ntoken = "t"\ntoken_file = "/t"', 3, "api.token_file", "given as well", "one", id="two-tokens"
    ),
    pytest.param(
        '[api]\ntoken_file = "/dev/null"', 2, "api.token_file", "is empty", "openssl", id="no-token-in-it"
    ),
    pytest.param(
        '[state]\ndirectory = "/\\u0000"', 2, "state.directory", "zero octet", "", id="zero-in-a-path"
    ),
    pytest.param(
        f'[api]\nsocket = "/{"x" * 107}"', 2, "api.socket", "107 octets", "shorter", id="long-socket-path"
    ),
    pytest.param("[wan]\ninterface = eth1", 2, "", "invalid value", "quotes", id="no-quotes"),
    pytest.param('[wan]\ninterface = "eth1', 2, "", "", "not TOML", id="unfinished-text"),
    pytest.param("[wan]\n\n[wan]\n", 3, "", "", "not TOML", id="table-twice"),
    pytest.param('[lan]\nnetworks = ["10.0.0.0/8"\n', 2, "", "", "not TOML", id="unclosed-list"),
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
