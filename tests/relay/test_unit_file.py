"""contrib/systemd/vpnmasq.service, as systemd itself reads it (systemd.exec(5))."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relay.cli.exits import Exit
from relay.privileges import Capability

UNIT = Path(__file__).parents[2] / "contrib" / "systemd" / "vpnmasq.service"

#: Tenths of systemd's points of exposure: below 2.5 of 10.
EXPOSURE = 25

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: sudo contrib/test installs it"
)


def analyze(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, argv)], capture_output=True, text=True, timeout=60)


def service() -> configparser.SectionProxy:
    """The section [Service]; of settings that come several times, the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


@needs_systemd
def test_little_is_exposed() -> None:
    found = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", UNIT)
    assert found.returncode == 0, found.stdout.splitlines()[-1]


@needs_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    # What it checks besides is that the program is there; here is another one.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/vpnmasq", sys.executable))
    found = analyze("verify", "--man=no", unit)
    assert (found.returncode, found.stderr) == (0, "")


def test_it_keeps_what_the_daemon_keeps_and_nothing_else() -> None:
    for name in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert set(service()[name].split()) == {capability.name for capability in Capability}


def test_what_no_restart_cures_is_not_restarted() -> None:
    assert service()["RestartPreventExitStatus"].split() == [
        str(int(status)) for status in (Exit.NO_PRIVILEGE, Exit.BAD_CONFIGURATION)
    ]
