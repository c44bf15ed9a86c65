"""``vpnmasq demo`` as a person runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from relay.demo.network import sweep
from tests.netns import requires_netns

ROOT: Final = Path(__file__).parents[3]
COMMAND: Final = (sys.executable, "-m", "relay", "demo")
#: Seconds for a whole demo on a machine that is busy with other tests.
LIMIT: Final = 120.0

in_namespaces = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(requires_netns()), reason=requires_netns()),
    pytest.mark.skipif(shutil.which("nft") is None, reason="the comparison needs nftables"),
]


@contextmanager
def traceless(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment for the demo; at the end no process or temporary file of its own may be left.

    It also holds settings of a gateway that is none of the demo's business.
    """
    mark = f"TRACE_OF_A_DEMO={uuid4()}"
    yield {**os.environ, "TMPDIR": str(tmp_path), **dict([mark.split("=")]), "VPNMASQ_SOCKET": "/nowhere"}
    wait_until(
        lambda: not any(mark.encode() in environment(path) for path in Path("/proc").glob("[0-9]*/environ"))
    )
    assert list(tmp_path.iterdir()) == []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def environment(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def leftovers(pid: int) -> list[str]:
    """Files and namespaces of a demo."""
    return [
        str(path) for place in ("/run", "/run/netns") for path in Path(place).glob(f"vpnmasq-demo-{pid}*")
    ]


def start(environ: dict[str, str], *options: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *options], cwd=ROOT, env=environ, stdout=pipe, stderr=pipe, text=True)


class TestOnAnyMachine:
    def test_help_tells_what_it_does(self) -> None:
        done = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
        for word in ("--clients", "--keep-logs", "--plain", "--json", "same Call ID", "77"):
            assert word in done.stdout

    def test_without_privileges_it_names_them_and_ends_with_77(self) -> None:
        unprivileged = (
            ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all") if os.geteuid() == 0 else ()
        )
        done = subprocess.run(
            [*unprivileged, *COMMAND], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 77
        assert "CAP_SYS_ADMIN to make network namespaces" in done.stderr
        assert "sudo vpnmasq demo" in done.stderr
        assert done.stdout == ""

    @pytest.mark.parametrize("clients", ["0", "101", "many"])
    def test_a_number_of_clients_that_makes_no_sense_is_a_usage_error(self, clients: str) -> None:
        command = [*COMMAND, "--clients", clients]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "--clients" in done.stderr


class TestInNamespaces:
    pytestmark = in_namespaces

    def test_everything_is_right_with_vpnmasq_and_nothing_is_left_but_what_was_to_be_kept(
        self, tmp_path: Path
    ) -> None:
        kept, temporary = tmp_path / "kept", tmp_path / "temporary"
        temporary.mkdir()
        with traceless(temporary) as environ:
            demo = start(environ, "--json", "--keep-logs", str(kept))
            out, told = demo.communicate(timeout=LIMIT)
            assert leftovers(demo.pid) == []
        assert demo.returncode == 0, told
        assert {"vpnmasq.toml", "vpnmasq.log", "masquerade.nft"} <= {path.name for path in kept.iterdir()}
        result = json.loads(out)
        assert result["ok"] is True
        vpnmasq, masquerade, helper = result["gateways"]
        assert all(one["ok"] for one in vpnmasq["results"])
        own_data = {one["check"]: one for one in vpnmasq["results"]}["own_data"]
        assert (own_data["good"], own_data["wanted"]) == (300, 300)
        # The comparison compares: plain masquerading cannot tell the clients' data apart.
        assert {one["check"]: one["ok"] for one in masquerade["results"]}["own_data"] is False
        assert helper["results"] or helper["reason"]

    @pytest.mark.parametrize(
        ("moment", "number"),
        [
            pytest.param("building a LAN", signal.SIGINT, id="SIGINT-while-building"),
            pytest.param("vpnmasq:", signal.SIGTERM, id="SIGTERM-while-vpnmasq-starts"),
            pytest.param("calls up", signal.SIGINT, id="SIGINT-while-data-move"),
            pytest.param("calls up", signal.SIGTERM, id="SIGTERM-while-data-move"),
            pytest.param("nft masquerade:", signal.SIGHUP, id="SIGHUP-between-gateways"),
        ],
    )
    def test_a_signal_ends_it_at_any_moment_without_a_trace(
        self, moment: str, number: signal.Signals, tmp_path: Path
    ) -> None:
        with traceless(tmp_path) as environ:
            demo = start(environ, "--json")
            assert demo.stderr is not None
            while moment not in (line := demo.stderr.readline()):
                assert line, "it ended too early"
            demo.send_signal(number)
            # Impatient people press it again, while the network is being taken down.
            if number is signal.SIGINT:
                demo.stderr.readline()
                demo.send_signal(number)
            out, _ = demo.communicate(timeout=LIMIT)
            assert leftovers(demo.pid) == []
        assert demo.returncode == 128 + number
        assert out == ""

    def test_when_nobody_reads_on_it_clears_away_and_fails_quietly(self, tmp_path: Path) -> None:
        with traceless(tmp_path) as environ:
            demo = start(environ)
            assert demo.stdout is not None
            assert demo.stderr is not None
            demo.stdout.readline()
            demo.stdout.close()
            complaints = demo.stderr.read()
            demo.stderr.close()
            assert demo.wait(LIMIT) == 1
            assert complaints == ""
            assert leftovers(demo.pid) == []

    def test_killed_outright_it_leaves_no_process_and_the_next_demo_removes_the_rest(
        self, tmp_path: Path
    ) -> None:
        with traceless(tmp_path) as environ:
            demo = start(environ, "--json")
            assert demo.stderr is not None
            while "calls up" not in (line := demo.stderr.readline()):
                assert line, "it ended too early"
            demo.kill()
            demo.communicate(timeout=LIMIT)
            assert leftovers(demo.pid) != []
            sweep()
            assert leftovers(demo.pid) == []
