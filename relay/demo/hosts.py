"""The programs in the hosts' namespaces, as the demo sees them."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from relay.demo.network import Network

#: Seconds an order may take at most; each has shorter limits of its own.
_LIMIT: Final = 30.0
#: Seconds a program may take to end by itself.
_GRACE: Final = 2.0

_ROOT: Final = Path(__file__).parents[2]


class HostError(Exception):
    """A program of ours broke; never a gateway's fault."""


def environment() -> dict[str, str]:
    """Return the environment in which ``python -m relay`` finds the code that runs here.

    Settings of the user's own gateway (VPNMASQ_...) are none of the demo's.
    """
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VPNMASQ_")}
    return {**kept, "PYTHONPATH": path}


@asynccontextmanager
async def process(*command: str, log: Path, pipes: bool = False) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program beside us; it is gone when the context ends, and its complaints are in ``log``.

    Should we be killed, the kernel ends it (setpriv is part of every Debian; without it only that is lost).
    """
    if shutil.which("setpriv") is not None:
        command = ("setpriv", "--pdeathsig", "TERM", *command)
    with log.open("wb") as errors:
        running = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else errors,
            stderr=errors,
            env=environment(),
            start_new_session=True,  # Ctrl-C is for us; we end our programs ourselves
        )
    try:
        yield running
    finally:
        await end(running, _GRACE)


async def end(running: asyncio.subprocess.Process, grace: float) -> int:
    """Ask a program to end, insist after ``grace`` seconds, and return its exit status."""
    if running.returncode is None:
        running.terminate()
    try:
        # Not asyncio.timeout: before Python 3.11.3 that does not work in a task that was cancelled, as ours
        # is when a signal ends the demo.
        return await asyncio.wait_for(running.wait(), grace)
    except TimeoutError:
        running.kill()
        return await running.wait()


class Host:
    """One host's program: give it orders, get reports."""

    def __init__(self, name: str, running: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._running = running
        self._log = log
        #: Called with the number of echoes returned so far, while data move.
        self.progress: Callable[[int], None] = lambda _echoes: None

    async def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Give an order and return the report; it has ``error`` when the order could not be carried out.

        Raises:
            HostError: the program itself is broken.
        """
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        self._running.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
        try:
            async with asyncio.timeout(_LIMIT):
                while line := await self._running.stdout.readline():
                    report: dict[str, Any] = json.loads(line)
                    if "progress" not in report:
                        return report
                    self.progress(report["progress"])
        except TimeoutError:
            raise HostError(f"{self.name} did not answer {do!r}") from None
        raise HostError(f"{self.name} broke at {do!r}: {self._log.read_text().strip()[-500:]}")


@asynccontextmanager
async def crew(network: Network, logs: Path) -> AsyncIterator[dict[str, Host]]:
    """Start the programs of all hosts; they are gone when the context ends."""
    async with AsyncExitStack() as stack:
        hosts = {}
        for name in network.hosts:
            log = logs / f"{name}.log"
            command = network.inside(name, sys.executable, "-m", "relay.demo.peer", name)
            running = await stack.enter_async_context(process(*command, log=log, pipes=True))
            hosts[name] = Host(name, running, log)
        yield hosts


async def together(orders: Iterable[tuple[Host, str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Give several hosts their orders at the same time; reports in the order given.

    Raises:
        HostError: one of the programs is broken.
    """
    return await asyncio.gather(*(host.ask(do, **details) for host, do, details in orders))
