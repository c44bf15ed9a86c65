"""Programs of the user's own: they end, and so does what they say."""

import asyncio
import io
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvloop

from relay.programs import MOST_OUTPUT, Outcome, run

LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest) -> Any:
    def on_loop(story: Coroutine[Any, Any, Outcome]) -> Outcome:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(story)

    return on_loop


def shell(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text)


@pytest.mark.parametrize(
    ("text", "failure", "output"),
    [
        ("echo one; echo two >&2", "", "one\ntwo\n"),
        ("exit 3", "exit status 3", ""),
        ("kill -9 $$", "was ended by signal 9", ""),
        ("cat; echo $DDNS_HOST", "", "home\n"),
        ("echo ${VPNMASQ_API__TOKEN-nothing}", "", "nothing\n"),
    ],
)
def test_what_becomes_of_a_program(
    play: Any, monkeypatch: pytest.MonkeyPatch, text: str, failure: str, output: str
) -> None:
    monkeypatch.setenv("VPNMASQ_API__TOKEN", "secret")
    assert play(run(shell(text), seconds=10, more={"DDNS_HOST": "home"})) == Outcome(failure, output)


def test_one_that_is_not_there_is_said_to_be(play: Any) -> None:
    assert play(run(("/no/such/program",), seconds=1)).failure == "cannot be run: No such file or directory"


def test_one_that_hangs_is_ended_with_its_children(play: Any, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    started = time.monotonic()
    outcome = play(run(shell(f"trap '' TERM; (sleep 2; touch {sign}) & sleep 60"), seconds=0.2))
    assert outcome.failure == "took longer than 0.2 s and was ended"
    assert time.monotonic() - started < 10
    time.sleep(1.5)
    assert not sign.exists()


def test_what_it_leaves_running_holds_nobody_up(play: Any) -> None:
    started = time.monotonic()
    outcome = play(run(shell("echo done; sleep 5 &"), seconds=4))
    assert outcome == Outcome("", "done\n")
    assert time.monotonic() - started < 3


def test_of_much_output_the_beginning_is_kept(play: Any) -> None:
    outcome = play(run(shell("yes | head -c 1000000"), seconds=10))
    assert (outcome.failure, len(outcome.output)) == ("", MOST_OUTPUT)


def test_it_ends_with_whoever_waits_for_it(tmp_path: Path) -> None:
    sign = tmp_path / "sign"

    async def story() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await run(shell(f"sleep 1; touch {sign}"), seconds=10)

    asyncio.run(story())
    time.sleep(1.2)
    assert not sign.exists()


class Watched(io.FileIO):
    """A file that notes whether it was open still when it was closed."""

    was_open: ClassVar[list[bool]] = []

    def close(self) -> None:
        if not self.closed:
            self.was_open.append(Path(f"/proc/self/fd/{self.fileno()}").exists())
        super().close()


def test_its_pipe_is_closed_once(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time, its number may be that of a file which another thread has opened."""
    Watched.was_open.clear()
    monkeypatch.setattr(os, "fdopen", lambda number, mode: Watched(number))
    assert play(run(shell("echo one"), seconds=10)) == Outcome("", "one\n")
    assert Watched.was_open == [True]
