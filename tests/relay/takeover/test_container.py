"""Which containers end with us, by who their first processes are."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.pidns import UNSHARED, first, requires_pidns

pytestmark = pytest.mark.skipif(bool(requires_pidns()), reason=requires_pidns())

_ASK: Final = "from relay.takeover import container; print(container.ends_with_us(), flush=True)"
_ASKS: Final = (sys.executable, "-c", _ASK)

#: The same in the background, as soon as those that have started it are gone.
_DETACHED: Final = f"""
import os, time
from relay.cli.background import detached
detached()(0)
while os.path.exists(f"/proc/{{os.getsid(0)}}"):
    time.sleep(0.01)
{_ASK}
"""


def ends(*above: str, asks: tuple[str, ...] = _ASKS) -> bool:
    """What a process says that these have started in a namespace of their own."""
    said = subprocess.run((*UNSHARED, *above, *asks), capture_output=True, text=True, check=True, timeout=30)
    return {"True": True, "False": False}[said.stdout.strip()]


def test_one_ends_with_its_first_process() -> None:
    assert ends()


@pytest.mark.parametrize("name", ["tini", "docker-init", "catatonit", "podman-init", "dumb-init"])
def test_one_ends_with_what_its_first_process_waits_for(tmp_path: Path, name: str) -> None:
    assert ends(*first(tmp_path, name), "--")


def test_one_ends_with_what_somebody_waits_for_that_the_first_process_waits_for(tmp_path: Path) -> None:
    """As our image does with ``--init``: it has a tini of its own."""
    assert ends(*first(tmp_path, "podman-init"), "--", *first(tmp_path, "tini"), "--")


@pytest.mark.parametrize("name", ["init", "openrc-init", "runit", "s6-svscan", "systemd"])
def test_one_goes_on_whose_first_process_looks_after_more(tmp_path: Path, name: str) -> None:
    assert not ends(*first(tmp_path, name))


def test_an_init_that_is_given_a_command_waits_for_that(tmp_path: Path) -> None:
    assert ends(*first(tmp_path, "init"), "--")


def test_of_a_first_process_that_nobody_knows_it_is_feared(tmp_path: Path) -> None:
    assert ends(*first(tmp_path, "launcher"))


def test_one_goes_on_whose_first_process_waits_for_somebody_else(tmp_path: Path) -> None:
    assert not ends(*first(tmp_path, "tini"), "sh", "-c", '"$@"; exit $?', "sh")


def test_nothing_ends_with_a_process_in_the_background(tmp_path: Path) -> None:
    asks = ("sh", "-c", '"$@" | cat', "sh", sys.executable, "-c", _DETACHED)
    assert not ends(*first(tmp_path, "tini"), asks=asks)


def test_a_machine_goes_on() -> None:
    said = subprocess.run(_ASKS, capture_output=True, text=True, check=True, timeout=30)
    assert said.stdout == "False\n"
