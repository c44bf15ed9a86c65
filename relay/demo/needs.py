"""What the demo needs of the machine: privileges, and the program ip."""

import shutil
from pathlib import Path
from typing import Final

#: linux/capability.h, and what the demo does with each.
_CAPABILITIES: Final = {
    "CAP_SYS_ADMIN": (21, "to make network namespaces"),
    "CAP_NET_ADMIN": (12, "to set up the network inside them"),
    "CAP_NET_RAW": (13, "to send and receive GRE"),
}
_REMEDY: Final = "Run it as root: sudo vpnmasq demo; in a container: docker run --privileged"


def effective_capabilities() -> int:
    """Return the capabilities this process has in effect, as the kernel's bits (capabilities(7))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise AssertionError("/proc/self/status has no CapEff")


def lacking_privileges(effective: int) -> str:
    """Return what a person has to know about missing ones of our capabilities; empty: none is missing."""
    missing = [f"{name} {why}" for name, (bit, why) in _CAPABILITIES.items() if not effective >> bit & 1]
    return f"privileges are missing: {', '.join(missing)}. {_REMEDY}" if missing else ""


def lacking_programs() -> str:
    """Return what to install, or nothing. Without nft only the comparison is missing; the table says so."""
    if shutil.which("ip") is None:
        return "the program ip is missing; on Debian and Ubuntu: apt install iproute2"
    return ""
