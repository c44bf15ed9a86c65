"""The watcher, in a namespace in which things change."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from protocols.addr import Ip4, parse_ip
from relay.addresses import Interface, interface
from relay.watcher import SETTLE, Watcher
from tests.netns import Namespace, network, requires_netns

pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(requires_netns()), reason=requires_netns())]

ONE, TWO, THREE = (parse_ip(f"200.200.200.20{n}") for n in range(3))


@pytest.fixture
def box() -> Iterator[Namespace]:
    """A namespace with this thread in it, and a link eth1 to another one."""
    with network() as net:
        box, other = net.namespace("box"), net.namespace("other")
        net.link(box, "eth1", other, "eth0")
        with box.entered():
            yield box


Story = Callable[["Log"], Awaitable[None]]


class Log:
    """What a watcher reported, to be waited for."""

    def __init__(self) -> None:
        self.reported: list[Interface] = []
        self.since: list[float] = []
        self._news = asyncio.Event()

    def __call__(self, found: Interface, since: float) -> None:
        self.reported.append(found)
        self.since.append(since)
        self._news.set()

    async def until(self, condition: Callable[[Interface], bool]) -> Interface:
        """Wait until the last report fulfils a condition."""
        async with asyncio.timeout(10):
            while not self.reported or not condition(self.reported[-1]):
                self._news.clear()
                await self._news.wait()
        return self.reported[-1]


def watcher(log: Log, settle: float = SETTLE) -> Watcher[Interface]:
    """A watcher of eth1, which without an address may be about to get one."""
    return Watcher(lambda: interface("eth1"), log, whole=lambda found: bool(found.addresses), settle=settle)


LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest) -> Callable[[Story], None]:
    """Run a story with a watcher of eth1 on each kind of event loop."""

    def run(story: Story) -> None:
        async def watched() -> None:
            log = Log()
            async with watcher(log, settle=0.05):
                await story(log)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(watched())

    return run


def has(address: Ip4 | None) -> Callable[[Interface], bool]:
    return lambda found: found.address == address


def test_an_address_that_comes_changes_and_goes_is_reported(
    box: Namespace, play: Callable[[Story], None]
) -> None:
    async def story(log: Log) -> None:
        box.address("eth1", "200.200.200.200/24")
        await log.until(has(ONE))
        box.sh("ip -batch -", stdin="address flush dev eth1\naddress add 200.200.200.201/24 dev eth1\n")
        await log.until(has(TWO))
        box.sh("ip address flush dev eth1")
        await log.until(has(None))
        assert [found.address for found in log.reported] == [ONE, TWO, None]

    play(story)


def test_a_link_that_goes_down_and_one_that_is_deleted_are_reported(
    box: Namespace, play: Callable[[Story], None]
) -> None:
    async def story(log: Log) -> None:
        box.address("eth1", "200.200.200.200/24")
        first = await log.until(has(ONE))
        box.sh("ip link set eth1 down")
        await log.until(lambda found: not found.up)
        box.sh("ip link delete eth1")
        assert await log.until(lambda found: not found.exists) == Interface("eth1")
        box.sh("ip link add eth1 type veth peer name eth2")
        again = await log.until(lambda found: found.exists)
        assert again.index != first.index

    play(story)


def test_what_changes_and_changes_back_or_concerns_others_is_not_reported(
    box: Namespace, play: Callable[[Story], None]
) -> None:
    box.address("eth1", "200.200.200.200/24")

    async def story(log: Log) -> None:
        box.sh("ip link add eth5 type veth peer name eth6")
        box.sh(
            "ip -batch -",
            stdin="address add 10.0.0.5/8 dev eth5\n"
            "address flush dev eth1\naddress add 200.200.200.200/24 dev eth1\n",
        )
        box.sh("ip address add 200.200.200.202/24 dev eth1")  # a secondary one
        box.sh("ip link set eth1 mtu 1300")
        await log.until(lambda found: found.mtu == 1300)
        assert [found.mtu for found in log.reported] == [1300]

    play(story)


def test_changes_without_a_pause_are_reported_all_the_same(box: Namespace) -> None:
    async def story() -> None:
        log = Log()
        async with watcher(log, settle=0.5):
            for number in range(1, 200):
                box.address("eth1", f"200.200.200.{number}/24")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):  # far shorter than ``settle``
                        await log.until(lambda found: found.address is not None)
                        return
            raise AssertionError("no report while changes went on")

    asyncio.run(story())


def lost_messages() -> int:
    """How many messages the subscription that is open in this namespace has lost (/proc/net/netlink)."""
    lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]
    subscribed = [fields for line in lines if int((fields := line.split())[3], 16) == 0x11]
    ((*_, drops, _),) = subscribed
    return int(drops)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_change_whose_message_was_lost_is_reported_and_so_are_later_ones(
    box: Namespace, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    box.sh("ip link add eth5 type veth peer name eth6")
    flood = [f"address add 10.0.{n}.1/24 dev eth5" for n in range(100)]

    async def story() -> None:
        log = Log()
        async with watcher(log, settle=0.05) as watching:
            watching._subscription.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # room for a few
            # All of it while the loop does not run, so that nobody reads: the last message finds no room.
            box.sh("ip -batch -", stdin="\n".join([*flood, "address add 200.200.200.200/24 dev eth1"]))
            assert lost_messages() > 50
            await log.until(has(ONE))
            box.sh("ip address flush dev eth1")
            await log.until(has(None))
            assert [found.address for found in log.reported] == [ONE, None]

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story())


def test_a_flood_of_changes_elsewhere_does_not_blind(box: Namespace, play: Callable[[Story], None]) -> None:
    box.sh("ip link add eth5 type veth peer name eth6")
    flood = [f"address add 10.{1 + n // 250}.{n % 250}.1/24 dev eth5" for n in range(1500)]

    async def story(log: Log) -> None:
        flooding = asyncio.get_running_loop().run_in_executor(
            None, lambda: box.sh("ip -batch -", stdin="\n".join(flood))
        )
        box.address("eth1", "200.200.200.200/24")
        await log.until(has(ONE))
        await flooding

    play(story)


def test_the_state_at_the_start_is_known_and_not_reported(box: Namespace) -> None:
    box.address("eth1", "200.200.200.200/24")

    async def story() -> None:
        log = Log()
        async with watcher(log) as watching:
            assert watching.current.address == ONE
        assert log.reported == []

    asyncio.run(story())


def test_nothing_is_reported_after_the_end(box: Namespace) -> None:
    async def story() -> None:
        log = Log()
        async with watcher(log, settle=0.0):
            box.address("eth1", "200.200.200.200/24")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert log.reported == []

    asyncio.run(story())


def test_the_watcher_leaves_neither_threads_nor_tasks_and_hides_no_error(
    box: Namespace, play: Callable[[Story], None]
) -> None:
    async def story(log: Log) -> None:
        box.address("eth1", "200.200.200.200/24")
        await log.until(has(ONE))
        assert threading.active_count() == before
        raise LookupError("of the body")

    before = threading.active_count()
    with pytest.raises(LookupError, match="of the body"):
        play(story)
    assert threading.active_count() == before


def test_what_is_gained_is_told_at_once_and_what_is_lost_may_come_back(box: Namespace) -> None:
    async def story() -> None:
        log = Log()
        async with watcher(log, settle=1.0):
            loop = asyncio.get_running_loop()
            started = loop.time()
            box.address("eth1", "200.200.200.200/24")
            await log.until(has(ONE))
            assert loop.time() - started < 0.9
            box.sh("ip address flush dev eth1")
            await asyncio.sleep(0.2)
            box.address("eth1", "200.200.200.201/24")
            await log.until(has(TWO))
            lost = loop.time()
            box.sh("ip address flush dev eth1")
            await log.until(has(None))
            assert loop.time() - lost >= 1.0
            assert [found.address for found in log.reported] == [ONE, TWO, None]
            assert log.since == sorted(log.since)

    asyncio.run(story())


def test_a_hint_makes_it_look(box: Namespace) -> None:
    seen = [1, 2]

    async def story() -> None:
        told = asyncio.Event()
        async with Watcher(lambda: seen[0], lambda found, since: told.set()) as watching:
            seen.pop(0)
            watching.hint()
            await asyncio.wait_for(told.wait(), 10)
            assert watching.current == 2

    asyncio.run(story())
