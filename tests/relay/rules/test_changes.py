"""Changes of routing rules and nftables, as a real kernel tells of them."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
import uvloop

from relay.kernel import KernelError
from relay.rules import changes
from relay.rules.changes import Changes
from tests.netns import Namespace, network, requires_netns

WHY = requires_netns() or ("" if shutil.which("nft") else "needs nft")
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(WHY), reason=WHY)]

#: Seconds that a report may take, and to wait for one that must not come.
SOON, QUIET = 5.0, 0.2
SETTLE = 0.05

ADD_RULE = "ip rule add priority 7 lookup 7"
ADD_TABLE = "nft add table ip somebody"

Story = Callable[["Log"], Awaitable[None]]


@dataclass
class Log:
    """How often a change was reported."""

    reports: int = 0
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self) -> None:
        self.reports += 1
        self._came.set()

    async def next(self) -> None:
        async with asyncio.timeout(SOON):
            await self._came.wait()
        self._came.clear()


@pytest.fixture
def box() -> Iterator[Namespace]:
    """A namespace with this thread in it."""
    with network() as net:
        box = net.namespace("box")
        with box.entered():
            yield box


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Callable[[Story], None]:
    """Run a story while changes are listened to, on each kind of event loop."""

    def run(story: Story) -> None:
        async def listening() -> None:
            log = Log()
            with Changes(log, settle=SETTLE, pause=0.0):
                await story(log)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(listening())

    return run


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(ADD_RULE, "ip rule delete priority 7", id="rule"),
        pytest.param(ADD_TABLE, "nft flush ruleset", id="ruleset"),
        pytest.param(ADD_TABLE, "nft add chain ip somebody other", id="chain"),
    ],
)
def test_what_others_do_is_reported(
    box: Namespace, play: Callable[[Story], None], first: str, then: str
) -> None:
    async def story(log: Log) -> None:
        for command in (first, then):
            box.sh(command)
            await log.next()

    play(story)


def test_what_does_not_concern_us_is_not_reported(box: Namespace, play: Callable[[Story], None]) -> None:
    async def story(log: Log) -> None:
        box.sh("ip link add eth5 type veth peer name eth6")
        box.sh("ip address add 10.0.0.1/8 dev lo")
        box.sh("ip route add 192.0.2.0/24 dev lo")
        await asyncio.sleep(QUIET)
        assert log.reports == 0

    play(story)


def test_many_changes_at_once_are_one_report(box: Namespace, play: Callable[[Story], None]) -> None:
    async def story(log: Log) -> None:
        rules = [f"rule add priority {number} lookup 7" for number in range(100, 3100)]
        box.sh("ip -batch -", stdin="\n".join(rules))  # more than the socket holds: that is news too
        await log.next()
        await asyncio.sleep(QUIET)
        assert log.reports == 1

    play(story)


def test_reports_keep_their_distance(box: Namespace) -> None:
    async def story() -> None:
        log, loop = Log(), asyncio.get_running_loop()
        with Changes(log, settle=0.0, pause=0.5):
            box.sh(ADD_RULE)
            await log.next()
            reported = loop.time()
            box.sh("ip rule delete priority 7")
            await log.next()
            assert loop.time() - reported >= 0.5

    asyncio.run(story())


def test_nothing_is_reported_after_the_end(box: Namespace) -> None:
    async def story() -> None:
        log = Log()
        # long enough that the end comes first, also where others keep the machine busy
        with Changes(log, settle=2.0):
            box.sh(ADD_RULE)
            await asyncio.sleep(QUIET)
        await asyncio.sleep(2.0 + QUIET)
        assert log.reports == 0

    asyncio.run(story())


def test_a_kernel_that_does_not_tell_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("relay.rules.changes.socket.socket", refuses)

    with pytest.raises(KernelError, match="CAP_NET_ADMIN"):
        changes._subscribed(0, 8)
