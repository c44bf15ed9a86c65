"""Programs of the user's own: run without a shell, with an end to their time and to their output."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final

#: Octets of output that are kept; what comes after is read and thrown away.
MOST_OUTPUT: Final = 16384
#: Seconds from SIGTERM to SIGKILL, and from the program's end to that of the output of what it left running.
_GRACE: Final = 1.0
_LAST_WORDS: Final = 0.2
_CHUNK: Final = 4096


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended. ``failure`` is empty when it did what it should, and for people otherwise."""

    failure: str
    output: str


async def run(argv: Sequence[str], *, seconds: float, more: Mapping[str, str] | None = None) -> Outcome:
    """Run a program, for so many seconds at most, with ``more`` environment variables.

    It gets no input, a session of its own, and nothing of our environment that is ours: there may be secrets.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VPNMASQ_")}
    # A pipe of our own: asyncio's would keep ``wait`` until whatever the program left running closes it.
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as here:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
                env=environment | dict(more or {}),
            )
        except OSError as error:
            return Outcome(f"cannot be run: {error.strerror}", "")
        except ValueError as error:  # an argument or variable with a NUL
            return Outcome(f"cannot be run: {error}", "")
        finally:
            os.close(writing)
        heard = bytearray()
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(_listen(here, heard))
            try:
                failure = await _ended(process, seconds)
            except asyncio.CancelledError:
                _kill(process.pid, signal.SIGKILL)
                await process.wait()
                raise
            # Something it left running may hold the other end open for ever.
            await asyncio.wait([listening], timeout=_LAST_WORDS)
            listening.cancel()
    return Outcome(failure, heard.decode(errors="replace"))


async def _ended(process: asyncio.subprocess.Process, seconds: float) -> str:
    """What went wrong, once the program has ended, for which it is given so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            status = await process.wait()
    except TimeoutError:
        await _end(process)
        return f"took longer than {seconds:g} s and was ended"
    if status == 0:
        return ""
    return f"was ended by signal {-status}" if status < 0 else f"exit status {status}"


async def _listen(pipe: IO[bytes], heard: bytearray) -> None:
    """Take what is written until nobody can write any more.

    Not by ``connect_read_pipe``: uvloop closes a pipe twice, and the second time its number may be that of a
    file which another thread has opened meanwhile.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    number = pipe.fileno()
    os.set_blocking(number, False)

    def take() -> None:
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(number, _CHUNK)
            heard.extend(chunk[: MOST_OUTPUT - len(heard)])
            if not chunk:
                ended.set()
                loop.remove_reader(number)

    loop.add_reader(number, take)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(number)


async def _end(process: asyncio.subprocess.Process) -> None:
    _kill(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GRACE):
            await process.wait()
    # Also when it has gone: what it started may not have.
    _kill(process.pid, signal.SIGKILL)
    await process.wait()


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
