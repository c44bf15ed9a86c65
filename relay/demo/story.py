"""The demo from beginning to end, and nothing left behind: not on success, error, Ctrl-C or SIGTERM."""

import asyncio
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.demo import contest, gateways, show
from relay.demo.hosts import Host, crew
from relay.demo.network import Network, directory, sweep

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):  # noqa: N818 - it is no error
    """A signal ended the demo, after everything was cleared away."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def tell(clients: int, screen: show.Screen, keep_logs: Path | None) -> list[show.Column]:
    """Run the demo; the result for each gateway.

    Raises:
        Interrupted: a signal came.
        NetworkError: the network could not be built.
        HostError: one of our own programs broke.
    """
    return asyncio.run(_interruptible(clients, screen, keep_logs))


async def _interruptible(clients: int, screen: show.Screen, keep_logs: Path | None) -> list[show.Column]:
    """Turn the first signal into a cancellation; later ones must not disturb the clearing away."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        if len(received) == 1:
            screen.say("\nclearing away ...")
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await _tell(clients, screen, keep_logs)
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise


async def _tell(clients: int, screen: show.Screen, keep_logs: Path | None) -> list[show.Column]:
    sweep()
    network = Network(clients)
    with directory() as files:
        try:
            screen.say(
                f"building a LAN, an internet, {len(network.hosts)} hosts and a place for the gateway ..."
            )
            with network.standing():
                async with crew(network, files) as hosts:
                    await contest.open_servers(hosts)
                    site = _Site(network, hosts, files, screen)
                    return [await site.turn(gateway) for gateway in gateways.GATEWAYS]
        finally:
            if keep_logs is not None:
                shutil.copytree(
                    files, keep_logs, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock*")
                )


@dataclass(frozen=True, slots=True)
class _Site:
    """Everything that all gateways share."""

    network: Network
    hosts: dict[str, Host]
    files: Path
    screen: show.Screen

    async def turn(self, gateway: gateways.Gateway) -> show.Column:
        """Put a gateway in its place, and run the contest through it."""
        column = show.Column(gateway)
        self.screen.gateway(gateway)
        try:
            async with gateway.standing(self.network, self.files):
                column.results = await contest.Contest(self.hosts, self.screen).run()
        except gateways.NotAvailableError as why:
            column.reason = str(why)
            self.screen.say(f"  not available: {why}")
        return column
