"""Dynamic updates, and the questions about their outcome, with a real BIND on loopback."""

import socket
import tempfile
from collections.abc import Awaitable, Iterator
from pathlib import Path

import dns.asyncresolver
import pytest
import uvloop

from relay.config.models import Ddns
from relay.ddns import published as asking
from relay.ddns.provider import NEVER, SOON, UpdateError
from relay.ddns.published import published, zone_of
from relay.ddns.rfc2136 import Rfc2136
from tests.lab.bind import ALGORITHMS, HOST, KEY, KEY_NAME, STRANGER, ZONE, Bind
from tests.lab.machine import CACHE

ONE, TWO = "200.200.200.200", "200.200.200.201"

pytestmark = pytest.mark.skipif(
    not (CACHE / "bind").is_dir(), reason="sudo contrib/test fetches the name server it needs"
)


@pytest.fixture(scope="module")
def bind() -> Iterator[Bind]:
    with tempfile.TemporaryDirectory(prefix="vpnmasq-bind-") as name:
        server = Bind(Path(name), port=free_port())
        yield server
        server.stop()


@pytest.fixture(autouse=True)
def nothing_registered(bind: Bind) -> None:
    bind.point_at()


def free_port() -> int:
    """A port that nobody has, for UDP and TCP."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            port = int(tcp.getsockname()[1])
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def at(bind: Bind) -> str:
    return f"{bind.address}:{bind.port}"


def provider(bind: Bind, **settings: object) -> Rfc2136:
    entry = {"name": "home", "provider": "rfc2136", "host": HOST, "zone": ZONE, "server": at(bind)}
    entry |= {"username": KEY_NAME, "password": KEY, "ttl": "2m"}
    return Rfc2136(Ddns.model_validate(entry | settings))


def fails(what: Awaitable[object]) -> UpdateError:
    async def story() -> None:
        await what

    with pytest.raises(UpdateError) as caught:
        uvloop.run(story())
    return caught.value


def seen(bind: Bind, host: str = HOST) -> frozenset[str]:
    found: frozenset[str] = uvloop.run(published(host, ZONE, (at(bind),)))
    return found


def test_an_update_replaces_whatever_was_there(bind: Bind) -> None:
    assert seen(bind) == frozenset()
    uvloop.run(provider(bind).update(ONE))
    assert seen(bind) == {ONE}
    bind.point_at(ONE, "192.0.2.1")
    assert seen(bind) == {ONE, "192.0.2.1"}
    uvloop.run(provider(bind).update(TWO))
    assert seen(bind) == bind.has() == {TWO}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_keys_of_every_algorithm_are_taken(bind: Bind, algorithm: str) -> None:
    uvloop.run(provider(bind, algorithm=algorithm, username=f"home-{algorithm}").update(ONE))
    assert seen(bind) == {ONE}


def test_the_key_is_read_from_its_file(bind: Bind, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    uvloop.run(provider(bind, password=None, password_file=str(key)).update(ONE))
    assert seen(bind) == {ONE}


@pytest.mark.parametrize(
    ("settings", "said", "again"),
    [
        ({"password": "d3Jvbmc="}, "does not accept the TSIG key", NEVER),
        ({"username": "nobody"}, "does not accept the TSIG key", NEVER),
        ({"algorithm": "hmac-sha512"}, "does not accept the TSIG key", NEVER),
        ({"username": STRANGER}, "refuses the update: REFUSED", NEVER),
        ({"username": "", "password": None}, "refuses the update: REFUSED", NEVER),
        ({"zone": "example.net", "host": "vpn.example.net"}, "refuses the update: NOTAUTH", NEVER),
        ({"host": "other.example.org"}, "refuses the update: REFUSED", NEVER),
        ({"password": "no base64!"}, "home is no TSIG key: ", NEVER),
        ({"server": "127.0.0.1:9"}, "no answer from 127.0.0.1: ", SOON),
    ],
)
def test_what_is_refused_says_why(bind: Bind, settings: dict[str, object], said: str, again: float) -> None:
    failure = fails(provider(bind, **settings).update(ONE))
    assert said in str(failure)
    assert failure.again == again
    assert bind.has() == set()


def test_of_servers_all_are_asked_and_only_the_zones_own_count(
    bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_EACH", 0.2)
    uvloop.run(provider(bind).update(ONE))
    assert uvloop.run(published(HOST, ZONE, (at(bind), at(bind)))) == {ONE}
    assert "no answer from 127.0.0.1" in str(fails(published(HOST, ZONE, (at(bind), "127.0.0.1:9"))))
    # Without recursion it refuses to speak of other zones.
    assert "REFUSED about vpn.example.net" in str(fails(published("vpn.example.net", "", (at(bind),))))


def test_zone_and_servers_are_found_by_asking(bind: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    """With BIND in the place of the provider's resolver, and of every server's port 53."""

    def resolver() -> dns.asyncresolver.Resolver:
        made = dns.asyncresolver.Resolver(configure=False)
        made.nameservers, made.port, made.lifetime = [bind.address], bind.port, 5.0
        return made

    monkeypatch.setattr(asking, "_resolver", resolver)
    monkeypatch.setattr(asking, "_PORT", bind.port)
    uvloop.run(provider(bind, zone=None, server=None).update(ONE))
    assert uvloop.run(zone_of(HOST)) == f"{ZONE}."
    assert uvloop.run(published(HOST, "", ())) == {ONE}
    assert uvloop.run(published(HOST, "", (f"ns.{ZONE}",))) == {ONE}
    assert "the address of nowhere.example.org was not found" in str(
        fails(published(HOST, "", ("nowhere.example.org",)))
    )
    for zone in ("", "example.net"):
        assert "not found" in str(fails(published("vpn.example.net", zone, ())))
    assert "primary server of example.net was not found" in str(
        fails(provider(bind, zone="example.net", server=None).update(ONE))
    )


def test_without_a_resolver_it_is_said_and_no_name_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> dns.asyncresolver.Resolver:
        return dns.asyncresolver.Resolver(filename="/dev/null")

    monkeypatch.setattr(asking, "_resolver", none)
    assert "the zone of vpn.example.org was not found" in str(fails(published(HOST, "", ())))
