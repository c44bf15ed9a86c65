"""What the kernel refuses, in words for people."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from relay.kernel import KernelError, refused


def test_an_error_says_what_and_what_to_do() -> None:
    assert str(KernelError("no route", "add one")) == "no route; add one"
    assert str(KernelError("no route")) == "no route"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        pytest.param(
            errno.EPERM,
            "look: Operation not permitted; run as root or with CAP_NET_ADMIN",
            id="forbidden",
        ),
        pytest.param(errno.EBUSY, "look: Device or resource busy", id="no-remedy-known"),
        pytest.param(None, "look: failed", id="no-number"),
    ],
)
def test_error_numbers_become_words(code: int | None, text: str) -> None:
    assert str(refused("look", code)) == text


#: Tries to change the kernel as nobody.
PROGRAM = """
import os
from relay.kernel import KernelError
from relay.rules import nft, routing
from relay.rules.interception import Interception, Traffic
os.setgroups([]); os.setgid(65534); os.setuid(65534)
table = nft.Table("vpnmasq", ("eth0",), "eth1", 1)
wanted = Interception("vpnmasq", ("eth0",), (), (Traffic(47),))
for install, argument in ((nft.install, table), (routing.install, wanted)):
    try:
        install(argument)
    except KernelError as error:
        print(error.remedy)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming nobody takes root")
def test_without_privilege_every_change_is_refused_with_the_remedy() -> None:
    done = subprocess.run(
        (sys.executable, "-W", "error", "-c", PROGRAM),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["run as root or with CAP_NET_ADMIN"] * 2
