"""The life of the sockets."""

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from relay.control.access import ControlError
from relay.control.listeners import is_loopback, parse_http
from relay.control.server import ApiOptions, ControlServer
from tests.relay.control.stand_in import StandIn, connect, exchange, place, serving


@pytest.fixture
def directory() -> Iterator[Path]:
    with place() as path:
        yield path


def start(path: Path, **options: Any) -> None:
    """Start a server and stop it again."""

    async def story() -> None:
        async with ControlServer(StandIn(), ApiOptions(socket=str(path), **options)):
            assert stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116

    asyncio.run(story())


def leave_stale_socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as unix:
        unix.bind(str(path))


def test_the_directory_is_made_and_the_socket_removed(directory: Path) -> None:
    path = directory / "made" / "control.sock"
    start(path)
    assert not path.exists()


def test_only_owner_and_group_may_connect() -> None:
    with serving() as served:
        assert served.path.stat().st_mode & 0o777 == 0o660


def test_the_socket_of_a_dead_daemon_is_replaced(directory: Path) -> None:
    path = directory / "control.sock"
    leave_stale_socket(path)
    start(path)
    assert not path.exists()


def test_a_living_daemon_keeps_its_socket() -> None:
    with serving() as served:
        with pytest.raises(ControlError, match="another daemon answers"):
            start(served.path)
        assert served.ask("GET", "/v1/health")[0] == 200


def test_a_daemon_that_hangs_keeps_its_socket(directory: Path) -> None:
    path = directory / "control.sock"
    with closing(socket.socket(socket.AF_UNIX)) as unix:
        unix.bind(str(path))
        unix.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(str(path))
        with pytest.raises(ControlError, match="another daemon answers"):
            start(path)
        for one in waiting:
            one.close()


def test_a_file_that_is_no_socket_is_left_alone(directory: Path) -> None:
    path = directory / "control.sock"
    path.write_text("precious")
    with pytest.raises(ControlError, match="is not a socket"):
        start(path)
    assert path.read_text() == "precious"


def test_a_socket_somebody_else_put_there_is_left_alone() -> None:
    with serving() as served:
        served.path.unlink()
        leave_stale_socket(served.path)
        served.stop()
        assert served.path.exists()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_socket_that_another_process_has_got_stays_where_it_is(directory: Path, run: Any) -> None:
    path = directory / "control.sock"

    async def story() -> None:
        server = ControlServer(StandIn(), ApiOptions(socket=str(path)))
        await server.start()
        await server.leave()

    run(story())
    assert path.is_socket()


def test_a_path_too_long_for_a_socket_is_named(directory: Path) -> None:
    with pytest.raises(ControlError, match="longer than the 107 octets"):
        start(directory / ("x" * 120))


def test_a_directory_that_cannot_be_made_is_named(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(ControlError, match="cannot create"):
        start(directory / "file" / "run" / "control.sock")


HTTP = [
    pytest.param("127.0.0.1:9470", ("127.0.0.1", 9470), id="ipv4"),
    pytest.param("[::1]:9470", ("::1", 9470), id="ipv6"),
    pytest.param("127.0.0.1", None, id="no-port"),
    pytest.param("127.0.0.1:99999", None, id="big-port"),
    pytest.param("localhost:80", None, id="name"),
    pytest.param(":80", None, id="no-address"),
    pytest.param("127.0.0.1:http", None, id="service"),
]


@pytest.mark.parametrize(("text", "expected"), HTTP)
def test_tcp_addresses(text: str, expected: tuple[str, int] | None) -> None:
    if expected is None:
        with pytest.raises(ControlError, match="is not an address and a port"):
            parse_http(text)
    else:
        assert parse_http(text) == expected
        assert is_loopback(expected[0])


def test_an_address_others_can_reach_needs_a_token(directory: Path) -> None:
    with pytest.raises(ControlError, match=r"needs api\.token"):
        start(directory / "control.sock", http="0.0.0.0:0")
    assert not (directory / "control.sock").exists()
    start(directory / "control.sock", http="0.0.0.0:0", token="secret")


def test_a_taken_tcp_address_leaves_nothing_behind(directory: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ControlError, match="cannot listen at 127"):
            start(directory / "control.sock", http=f"127.0.0.1:{port}")
    assert os.listdir(directory) == []  # noqa: PTH208


def test_listening_starts_no_thread(directory: Path) -> None:
    """Threads would keep the capabilities that the daemon gives up after its setup."""

    async def story() -> tuple[int, int]:
        before = threads()
        options = ApiOptions(socket=str(directory / "control.sock"), http="127.0.0.1:0")
        async with ControlServer(StandIn(), options):
            return before, threads()

    before, after = uvloop.run(story())
    assert before == after


def threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def test_over_tcp_a_token_makes_admin() -> None:
    with serving(http="127.0.0.1:0", token="secret") as served:
        address = served.server.http_address
        assert address is not None

        def ask(method: str, path: str, **headers: str) -> tuple[int, str]:
            with closing(socket.create_connection(address, 10)) as tcp:
                return exchange(tcp, method, path, headers=headers)

        served.daemon.reloads = [[]]
        assert ask("GET", "/v1/status")[0] == 200
        assert ask("GET", "/v1/status", Authorization="Bearer wrong")[0] == 403
        refused = ask("POST", "/v1/reload")
        assert refused[0] == 403
        assert "Authorization: Bearer" in refused[1]
        assert ask("POST", "/v1/reload", Authorization="Bearer secret")[0] == 200
    assert served.server.http_address is None


def test_the_unix_socket_needs_no_token() -> None:
    with serving(http="127.0.0.1:0", token="secret") as served, closing(connect(served.path)) as unix:
        assert exchange(unix, "GET", "/v1/status")[0] == 200
