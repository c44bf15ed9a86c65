"""The ways to update a name that are not DNS: what is sent, and what each answer means."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestServer

from relay.config.models import Ddns
from relay.ddns.dyndns2 import Dyndns2
from relay.ddns.program import Program
from relay.ddns.provider import LATER, NEVER, SOON, Provider, UpdateError
from relay.ddns.url import Url

HOST, ADDRESS = "vpn.example.org", "200.200.200.200"


def entry(provider: str, **settings: object) -> Ddns:
    return Ddns.model_validate({"name": "home", "provider": provider, "host": HOST} | settings)


class Web:
    """A provider's web server, which answers everything alike."""

    def __init__(self, status: int, text: str) -> None:
        self._answer = (status, text)
        self.asked: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        status, text = self._answer
        headers = {"Location": "/elsewhere"} if status == 302 else None
        return web.Response(status=status, text=text, headers=headers)


def asked(
    make: Callable[[str], Provider], status: int = 200, text: str = ""
) -> tuple[list[web.Request], UpdateError | None]:
    """Update by a web server that answers this; what it was asked, and how that ended."""

    async def story() -> tuple[list[web.Request], UpdateError | None]:
        server = Web(status, text)
        application = web.Application()
        application.router.add_get("/{path:.*}", server.answer)
        async with TestServer(application) as running:
            failure = await failed(make(str(running.make_url("/nic/update"))).update(ADDRESS))
        return server.asked, failure

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(story())


async def failed(update: Awaitable[None]) -> UpdateError | None:
    try:
        await update
    except UpdateError as error:
        return error
    return None


def alone(provider: Provider) -> UpdateError | None:
    """Update without anybody else."""

    async def story() -> UpdateError | None:
        return await failed(provider.update(ADDRESS))

    return asyncio.run(story())


def dyndns2(**settings: object) -> Callable[[str], Provider]:
    return lambda url: Dyndns2(entry("dyndns2", url=url, **settings))


def test_dyndns2_is_one_request_with_the_account() -> None:
    requests, failure = asked(dyndns2(username="me", password="secret"), 200, f"good {ADDRESS}")
    assert failure is None
    [request] = requests
    assert dict(request.query) == {"hostname": HOST, "myip": ADDRESS}
    assert request.headers["Authorization"] == f"Basic {b64encode(b'me:secret').decode()}"
    assert request.headers["User-Agent"].startswith("vpnmasq/")


@pytest.mark.parametrize(
    ("status", "text", "said", "again"),
    [
        (200, f"nochg {ADDRESS}", None, SOON),
        (200, "badauth", "badauth: user name or password are wrong", NEVER),
        (401, "badauth", "badauth: user name or password are wrong", NEVER),
        (200, "nohost", "the account has no such host", NEVER),
        (200, "abuse", "too many updates", NEVER),
        (200, "911", "out of order", LATER),
        (403, "", "HTTP 403", NEVER),
        (500, "<html>", "HTTP 500 and '<html>'", SOON),
        (200, "", "HTTP 200", SOON),
        (200, "welcome to our portal", "'welcome to our portal'", SOON),
        (302, "good", "HTTP 302", SOON),
    ],
)
def test_what_dyndns2_answers_mean(status: int, text: str, said: str | None, again: float) -> None:
    requests, failure = asked(dyndns2(username="me", password="x"), status, text)
    assert len(requests) == 1, "no redirect is followed"
    if said is None:
        assert failure is None
    else:
        assert failure is not None
        assert said in str(failure)
        assert failure.again == again


def test_the_password_file_is_read_for_each_update(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    make = dyndns2(username="me", password_file=str(secret))
    failure = alone(make("http://127.0.0.1:9/"))
    assert str(failure) == f"password_file {secret}: No such file or directory"
    assert failure is not None
    assert failure.again == NEVER
    for word in ("one", "two"):
        secret.write_text(f"{word}\n")
        [request], _ = asked(make, 200, "good")
        assert b64decode(request.headers["Authorization"].split()[1]).decode() == f"me:{word}"
    secret.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in str(alone(make("http://127.0.0.1:9/")))


def test_nobody_there_is_no_answer() -> None:
    failure = alone(dyndns2()("http://127.0.0.1:9/nic/update"))
    assert failure is not None
    assert str(failure).startswith("no answer: ")
    assert failure.again == SOON


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.ddns.web.PATIENCE", 0.1)

    async def story() -> UpdateError | None:
        closed = asyncio.Event()

        async def silent(_reader: Any, writer: asyncio.StreamWriter) -> None:
            await closed.wait()
            writer.close()

        async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            failure = await failed(dyndns2()(f"http://127.0.0.1:{port}/").update(ADDRESS))
            closed.set()
        return failure

    assert str(asyncio.run(story())) == "no answer within 0.1 s"


def test_a_url_is_fetched_with_host_and_address_filled_in() -> None:
    [request], failure = asked(lambda base: Url(entry("url", url=f"{base}?d={{host}}&ip={{address}}")), 204)
    assert failure is None
    assert dict(request.query) == {"d": HOST, "ip": ADDRESS}
    assert "Authorization" not in request.headers


@pytest.mark.parametrize(("status", "again"), [(302, SOON), (401, NEVER), (404, NEVER), (503, SOON)])
def test_a_url_that_does_not_succeed(status: int, again: float) -> None:
    _, failure = asked(lambda base: Url(entry("url", url=base)), status, "no")
    assert failure is not None
    assert str(failure) == f"answered with HTTP {status} and 'no'"
    assert failure.again == again


def test_a_program_gets_host_address_and_account(tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = f'echo "$1 $2 $DDNS_HOST $DDNS_ADDRESS $DDNS_USERNAME $DDNS_PASSWORD" > {said}'
    command = ["/bin/sh", "-c", script, "sh", "{host}", "{address}"]
    assert alone(Program(entry("exec", command=command, username="me", password="secret"))) is None
    assert said.read_text() == f"{HOST} {ADDRESS} {HOST} {ADDRESS} me secret\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["/bin/sh", "-c", "echo one; echo no such zone >&2; exit 2"],
            "exit status 2, and says 'no such zone'",
        ),
        (["/bin/sh", "-c", "exit 2"], "/bin/sh exit status 2"),
        (["/no/such/program"], "cannot be run: No such file"),
        (["/bin/echo", "a\0b"], "cannot be run: embedded null byte"),
    ],
)
def test_a_program_that_fails(command: list[str], said: str) -> None:
    assert said in str(alone(Program(entry("exec", command=command))))
