"""The routes, through a real Unix socket."""

import json
from contextlib import closing
from typing import Any

import pytest
import uvloop

from protocols.addr import parse_ip
from protocols.sessions import Role, State, Traffic
from relay.control.daemon import Link, ReloadRefused
from tests.relay.control.stand_in import Served, StandIn, connect, serving, session


@pytest.fixture
def served() -> Any:
    with serving(StandIn([session(1), session(2)])) as it:
        yield it


def test_status_has_every_field_of_the_contract(served: Served) -> None:
    status, document = served.ask("GET", "/v1/status")
    assert status == 200
    assert document.pop("started_at").endswith("Z")
    assert document["wan"].pop("since").endswith("Z")
    assert document == {
        "schema": "vpnmasq.status/1",
        "state": "ready",
        "instance": "vpnmasq",
        "version": "0.1.0",
        "uptime_seconds": 200.0,
        "wan": {
            "interface": "eth1",
            "address": "200.200.200.200",
            "changes": 1,
            "served_seconds": 0.0123,
            "first_packet_seconds": None,
        },
        "rules": [
            {"name": "staff", "role": "masquerade", "protocols": ["pptp"], "sessions": 2, "refused": 2}
        ],
        "sessions": {"pptp": 2},
        "ddns": [
            {
                "name": "home",
                "host": "vpn.example.org",
                "provider": "rfc2136",
                "state": "current",
                "addresses": ["200.200.200.200"],
                "problem": "",
                "updates": 1,
            }
        ],
        "fastpath": {
            "mode": "off",
            "active": False,
            "reason": "not built in",
            "flows": 0,
            "refused": 0,
            "drivers": {},
        },
        "strangers": {"kept_out": False, "reason": "not built in"},
        "traffic": {
            "outbound": {"packets": 120, "octets": 9000},
            "inbound": {"packets": 118, "octets": 12000},
        },
        "drops": {"stranger": 50, "unknown-call": 7},
        "sockets": [{"name": "gre@eth1", "packets": 1000, "kernel_drops": 12, "receive_buffer": 4194304}],
        "attention": ["the kernel dropped 12 packets at gre@eth1 because they were read too slowly"],
    }


def test_a_session_has_every_field_of_the_contract(served: Served) -> None:
    status, document = served.ask("GET", "/v1/sessions/p1")
    (one,) = document["sessions"]
    assert (status, document["schema"]) == (200, "vpnmasq.sessions/1")
    assert one.pop("opened_at").endswith("Z")
    assert one == {
        "id": "p1",
        "protocol": "pptp",
        "role": "masquerade",
        "rule": "staff",
        "state": "established",
        "client": "10.0.0.2",
        "gateway": "200.200.200.200",
        "peer": "199.0.0.1",
        "call_ids": {"client": 1, "gateway": 49153, "peer": 100},
        "age_seconds": 134.0,
        "idle_seconds": 0.5,
        "packets": {"outbound": 120, "inbound": 118},
        "octets": {"outbound": 9000, "inbound": 12000},
        "fastpath": False,
    }


def test_an_exposed_server_is_not_called_client() -> None:
    exposed = session(3, role=Role.EXPOSE, rule="office", inside=parse_ip("10.0.0.9"))
    with serving(StandIn([exposed])) as served:
        (one,) = served.ask("GET", "/v1/sessions")[1]["sessions"]
    assert one["server"] == "10.0.0.9"
    assert "client" not in one


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 64, 500])
def test_all_sessions_come_in_order_however_many_there_are(count: int) -> None:
    with serving(StandIn(session(number) for number in range(count))) as served:
        status, document = served.ask("GET", "/v1/sessions")
    assert status == 200
    assert [one["id"] for one in document["sessions"]] == [f"p{number:x}" for number in range(count)]


def test_a_session_just_opened_is_not_idle_for_a_negative_time() -> None:
    fresh = session(
        1, opened=234.1, last_seen=234.1, outbound=Traffic(), inbound=Traffic(), state=State.CONNECTING
    )
    with serving(StandIn([fresh])) as served:
        (one,) = served.ask("GET", "/v1/sessions")[1]["sessions"]
    assert (one["age_seconds"], one["idle_seconds"]) == (0.0, 0.0)


def test_kill_says_what_it_ended_and_what_it_does_not_know(served: Served) -> None:
    answer = served.ask("POST", "/v1/sessions/kill", b'{"ids": ["p1", "nope", "p1"]}')
    assert answer == (200, {"schema": "vpnmasq.kill/1", "killed": ["p1"], "unknown": ["nope"]})
    assert list(served.daemon.table) == ["p2"]


def test_killing_only_unknown_sessions_is_not_found(served: Served) -> None:
    status, document = served.ask("POST", "/v1/sessions/kill", b'{"ids": ["nope"]}')
    assert (status, document["unknown"]) == (404, ["nope"])


BAD_BODIES = [
    pytest.param(b"", "no body", id="empty"),
    pytest.param(b"{", "not JSON", id="cut-off"),
    pytest.param(b"\xff\xfe\xff", "not JSON", id="not-utf8"),
    pytest.param(b"[" * 30000, "not JSON", id="too-deep"),
    pytest.param(b"[]", "a JSON list", id="list"),
    pytest.param(b"null", "a JSON null", id="null"),
    pytest.param(b'"p1"', "a JSON string", id="string"),
    pytest.param(b"7", "a JSON number", id="number"),
    pytest.param(b"{}", "at least one session ID", id="no-ids"),
    pytest.param(b'{"ids": []}', "at least one session ID", id="none"),
    pytest.param(b'{"ids": "p1"}', "at least one session ID", id="not-a-list"),
    pytest.param(b'{"ids": [1]}', "not a session ID", id="number-in-list"),
    pytest.param(b'{"ids": [""]}', "not a session ID", id="empty-id"),
    pytest.param(b'{"ids": ["' + b"x" * 65 + b'"]}', "not a session ID", id="long-id"),
    pytest.param(b'{"ids": ["p1"], "now": true}', "unknown key 'now'", id="unknown-key"),
    pytest.param(json.dumps({"ids": ["p"] * 1025}).encode(), "at most 1024", id="too-many"),
]


@pytest.mark.parametrize(("body", "text"), BAD_BODIES)
def test_a_bad_body_is_explained(served: Served, body: bytes, text: str) -> None:
    status, document = served.ask("POST", "/v1/sessions/kill", body)
    assert (status, document["schema"]) == (400, "vpnmasq.error/1")
    assert text in document["error"]


ERRORS = [
    pytest.param("POST", "/v1/sessions/kill", b" " * 70000, 413, "longer than 65536", id="long-body"),
    pytest.param("GET", "/v1/sessions/nope", None, 404, "there is no session 'nope'", id="unknown-session"),
    pytest.param("GET", "/", None, 404, "paths begin with /v1/", id="root"),
    pytest.param("GET", "/v1/secrets", None, 404, "there is no /v1/secrets", id="unknown-path"),
    pytest.param("DELETE", "/v1/status", None, 405, "not DELETE", id="wrong-method"),
    pytest.param("GET", "/v1/reload", None, 405, "takes POST", id="get-reload"),
]


@pytest.mark.parametrize(("method", "path", "body", "expected", "text"), ERRORS)
def test_every_refusal_is_a_document(
    served: Served, method: str, path: str, body: bytes | None, expected: int, text: str
) -> None:
    status, document = served.ask(method, path, body)
    assert (status, document["schema"]) == (expected, "vpnmasq.error/1")
    assert text in document["error"]


# -- told pairs of ESP ------------------------------------------------------------------------------------

PAIR = {"peer": "199.0.0.1", "spi": "0xC0DE0002", "client": "10.0.0.3"}


def tell(served: Served, **changes: object) -> tuple[int, dict[str, Any]]:
    return served.ask("POST", "/v1/pairs/add", json.dumps(PAIR | changes).encode())


def test_a_pair_is_told_listed_and_taken_back(served: Served) -> None:
    status, document = tell(served, lifetime="1h30m")
    (one,) = document["pairs"]
    assert (status, document["schema"]) == (200, "vpnmasq.pairs/1")
    assert one.pop("until").endswith("Z")
    assert one == PAIR | {"spi": "0xc0de0002", "remaining_seconds": 5400.0}
    assert tell(served, spi=0x900)[1]["pairs"][0]["remaining_seconds"] == 28800.0
    listed = served.ask("GET", "/v1/pairs")[1]["pairs"]
    assert [each["spi"] for each in listed] == ["0xc0de0002", "0x00000900"]
    gone = json.dumps({"peer": "199.0.0.1", "spi": 0xC0DE0002}).encode()
    assert [each["spi"] for each in served.ask("POST", "/v1/pairs/delete", gone)[1]["pairs"]] == [
        "0x00000900"
    ]
    status, document = served.ask("POST", "/v1/pairs/delete", gone)
    assert (status, document["error"]) == (404, "nobody has told us whose 0xc0de0002 of 199.0.0.1 is")


def test_a_pair_that_no_rule_allows_is_refused_with_the_reason(served: Served) -> None:
    status, document = tell(served, client="10.9.9.9")
    assert (status, document["reason"]) == (409, "no-rule")
    assert document["error"].startswith("10.9.9.9 cannot own 0xc0de0002 of 199.0.0.1: no-rule: ")


BAD_PAIRS = [
    pytest.param({"peer": None}, "'peer' is missing", id="no-peer"),
    pytest.param({"peer": "example.org"}, "names are not looked up", id="name"),
    pytest.param({"client": "10.0.0.0/24"}, "one address is wanted", id="network"),
    pytest.param({"spi": 0}, "not an SPI", id="zero"),
    pytest.param({"spi": 1 << 32}, "not an SPI", id="33-bits"),
    pytest.param({"spi": "0xc0de00021"}, "not an SPI", id="nine-digits"),
    pytest.param({"spi": "c0de0002"}, "not an SPI", id="no-0x"),
    pytest.param({"spi": "010"}, "not an SPI", id="octal"),
    pytest.param({"spi": True}, "not an SPI", id="boolean"),
    pytest.param({"spi": None}, "not an SPI", id="no-spi"),
    pytest.param({"lifetime": "soon"}, "not a time", id="lifetime"),
    pytest.param({"lifetime": -1}, "above zero", id="past"),
    pytest.param({"for": "1h"}, "unknown key 'for'", id="unknown-key"),
]


@pytest.mark.parametrize(("changes", "text"), BAD_PAIRS)
def test_a_bad_pair_is_explained(served: Served, changes: dict[str, object], text: str) -> None:
    status, document = tell(served, **changes)
    assert (status, document["schema"]) == (400, "vpnmasq.error/1")
    assert text in document["error"]
    assert served.daemon.pairs() == []


def test_a_hook_tells_of_a_link(served: Served) -> None:
    pppd = {
        "interface": "eth1",
        "tty": "/dev/ttyS0",
        "speed": "115200",
        "local": "200.200.200.200",
        "remote": "200.200.200.1",
        "ipparam": "office",
    }
    status, document = served.ask("POST", "/v1/wan/up", json.dumps(pppd).encode())
    assert status == 200
    assert document == {
        "schema": "vpnmasq.wan/1",
        "served": True,
        "interface": "eth1",
        "address": "200.200.200.200",
    }
    assert served.ask("POST", "/v1/wan/down", b'{"interface": "ppp9", "local": ""}')[1]["served"] is False
    assert served.daemon.links == [("up", Link(**pppd)), ("down", Link("ppp9"))]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "'interface' is missing"),
        ({"interface": "ppp0", "mtu": "1500"}, "unknown key 'mtu'"),
        ({"interface": "ppp0", "speed": 115200}, "speed: 115200 is not a printable text"),
        ({"interface": "ppp0", "tty": "\n"}, "tty:"),
        ({"interface": "a/b"}, "interface:"),
        ({"interface": "ppp0", "local": "1.2.3"}, "local:"),
    ],
)
def test_a_hook_that_makes_no_sense_is_told_so(served: Served, body: dict[str, object], said: str) -> None:
    status, document = served.ask("POST", "/v1/wan/up", json.dumps(body).encode())
    assert status == 400
    assert said in document["error"]
    assert served.daemon.links == []


def test_health_follows_the_state(served: Served) -> None:
    assert served.ask("GET", "/v1/health") == (
        200,
        {"schema": "vpnmasq.health/1", "ready": True, "state": "ready", "reason": ""},
    )
    served.daemon.state = "draining"
    assert served.ask("GET", "/v1/health") == (
        503,
        {"schema": "vpnmasq.health/1", "ready": False, "state": "draining", "reason": ""},
    )


def test_reload_names_the_changed_keys(served: Served) -> None:
    served.daemon.reloads = [["limits.sessions"], []]
    assert served.ask("POST", "/v1/reload")[1] == {
        "schema": "vpnmasq.reload/1",
        "changed": ["limits.sessions"],
    }
    assert served.ask("POST", "/v1/reload")[1]["changed"] == []


def test_a_refused_reload_lists_every_problem(served: Served) -> None:
    served.daemon.reloads = [ReloadRefused(["f.toml:1: wan.interface: …", "f.toml:9: lan.networks: …"])]
    status, document = served.ask("POST", "/v1/reload")
    assert status == 422
    assert document["problems"] == ["f.toml:1: wan.interface: …", "f.toml:9: lan.networks: …"]


def test_a_bug_in_an_answer_does_not_end_the_server(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.daemon.reloads = [RuntimeError("boom")]
    status, document = served.ask("POST", "/v1/reload")
    assert status == 500
    assert "boom" not in document["error"]
    assert served.ask("GET", "/v1/health")[0] == 200


def test_it_works_on_uvloop_too() -> None:
    with serving(StandIn([session(1)]), new_loop=uvloop.new_event_loop) as served:
        assert served.ask("GET", "/v1/sessions")[0] == 200
        assert served.ask("POST", "/v1/sessions/kill", b'{"ids": ["p1"]}')[0] == 200
    assert not served.path.exists()


def ask_for_takeover(served: Served) -> tuple[bytes, bytes]:
    """The header of the answer, and what comes after it."""
    body = b'{"protocol": 1}'
    with closing(connect(served.path)) as unix:
        header = b"POST /v1/takeover HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        unix.sendall(header + body)
        got = b""
        while part := unix.recv(4096):
            got += part
            if got.endswith(b"handed over"):
                break
        header, _, rest = got.partition(b"\r\n\r\n")
        return header, rest


def test_a_takeover_goes_on_on_the_same_connection(served: Served) -> None:
    header, rest = ask_for_takeover(served)
    assert header.startswith(b"HTTP/1.1 101 ")
    assert rest == b"handed over"


def test_a_takeover_that_is_refused_says_why(served: Served) -> None:
    served.daemon.no_takeover = "the running gateway is about to stop"
    status, document = served.ask("POST", "/v1/takeover", b"{}")
    assert (status, document["error"]) == (409, "the running gateway is about to stop")


def test_while_another_process_takes_over_nothing_is_changed(served: Served) -> None:
    served.daemon.is_frozen = True
    for path in ("/v1/reload", "/v1/sessions/kill", "/v1/takeover"):
        status, document = served.ask("POST", path, b"{}")
        assert (status, document["error"]) == (503, "another process is taking over: ask again in a moment")
    assert served.ask("GET", "/v1/status")[0] == 200
