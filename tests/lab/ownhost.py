"""The daemon in a guest: on a host whose kernel has IPsec, beside whatever else runs there."""

import json
from typing import Any, Final

from tests.lab.hosts import Guest, GuestJob
from tests.lab.machine import ROOT, until

_CHECKOUT: Final = "/mnt/checkout"
_SOCKET: Final = "/run/vpnmasq.sock"
_PYTHON: Final = f"cd {_CHECKOUT} && exec .venv/bin/python"

#: Seconds that a guest may take for what is done in one on real hardware: starting Python costs it five.
PATIENCE: Final = 60

_REST: Final = f"""
[api]
socket = "{_SOCKET}"
[state]
directory = ""
[fastpath]
mode = "off"
"""


class OwnHost:
    """A guest on which the daemon of this checkout runs; ``software`` of the guest must have "vpnmasq"."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._job: GuestJob | None = None
        guest.sh(f"mkdir {_CHECKOUT} && mount -t hostfs -o {ROOT} none {_CHECKOUT}", check=True)

    def python(self, code: str) -> str:
        """Run Python that may import what the daemon does; what it printed."""
        self.guest.put("/run/code.py", code)
        script = f"export PYTHONPATH={_CHECKOUT}; {_PYTHON} /run/code.py"
        return self.guest.sh(script, within=PATIENCE, check=True).output

    def start(self, config: str) -> GuestJob:
        """Start the daemon, in the place of one that runs; it may refuse to."""
        self.stop()
        self.guest.put("/etc/vpnmasq.toml", config + _REST)
        self._job = self.guest.start(f"{_PYTHON} -m relay run --timeout 0 -c /etc/vpnmasq.toml")
        return self._job

    def ready(self, config: str) -> None:
        """Start it, and wait until it serves."""
        job = self.start(config)
        until(
            lambda: '"event": "ready"' in job.said() or not job.running(),
            f"vpnmasq is ready: {job.said()}",
            within=PATIENCE,
        )

    def status(self) -> dict[str, Any]:
        """What it says of itself."""
        script = f"{_PYTHON} -m relay --socket {_SOCKET} status --json"
        document: dict[str, Any] = json.loads(self.guest.sh(script, within=PATIENCE, check=True).output)
        return document

    def attention(self) -> list[str]:
        """What needs attention there, but for nftables, which a guest's kernel does not have for IPv4."""
        said: list[str] = self.status()["attention"]
        return [text for text in said if "nftables" not in text]

    def stop(self) -> None:
        """Tell it to end, if it runs; it must succeed."""
        job, self._job = self._job, None
        if job is not None and job.running():
            self.guest.sh("kill $(pgrep -f 'relay run')", check=True)
            assert job.finish(PATIENCE).ok, job.said()

    def evidence(self) -> str:
        """Return what it has logged."""
        return self._job.said() if self._job else ""
