"""Every kind of network that wrong confirmations are looked for in."""

from typing import Any

_PEOPLE_AND_MACHINES = ("interactive", "ping", "quiet")

#: Name, and conditions.
KINDS: dict[str, dict[str, Any]] = {
    # How tunnels begin and how the network is.
    "starting": {"seconds": 10.0},
    "at once": {"seconds": 10.0, "starts": 0.1},
    "busy": {"seconds": 10.0, "think": (0.05, 0.5)},
    "lossy": {"seconds": 10.0, "loss": 0.02},
    "jittery": {"seconds": 10.0, "loss": 0.01, "jitter": (0.5, 1.0)},
    "near": {"seconds": 10.0, "trip": (0.001, 0.005), "jitter": (0.05, 0.5)},
    "far": {"seconds": 15.0, "trip": (0.5, 0.9)},
    # What they carry.
    "bulk": {"seconds": 4.0, "traffic": ("bulk",)},
    "upload": {"seconds": 4.0, "traffic": ("upload", "bulk")},
    "downloads in step": {"seconds": 10.0, "traffic": ("bulk",), "starts": 0.05, "jitter": (0.01,)},
    "downloads near": {"seconds": 8.0, "traffic": ("bulk", "upload"), "trip": (0.002, 0.02)},
    "pings": {"seconds": 30.0, "traffic": ("ping",), "loss": 0.01},
    "polled": {"seconds": 30.0, "traffic": ("polled",), "loss": 0.01},
    "voice": {"seconds": 4.0, "traffic": ("voice",)},
    "one way": {"seconds": 15.0, "traffic": ("stream", "sensor"), "mixed": 0.2},
    "keepalives": {"seconds": 90.0, "traffic": ("quiet",)},
    "broadcasts": {"seconds": 10.0, "broadcasts": 1.0, "listeners": 0.2},
    "hub": {"seconds": 15.0, "traffic": ("hub",)},
    "alarms": {"seconds": 20.0, "traffic": ("alarm",)},
    "everything": {
        "seconds": 8.0,
        "mixed": 0.3,
        "loss": 0.005,
        "traffic": (
            "interactive",
            "quiet",
            "bulk",
            "upload",
            "ping",
            "polled",
            "voice",
            "stream",
            "sensor",
            "hub",
            "alarm",
        ),
    },
    # What becomes of them.
    "rekeys": {"seconds": 20.0, "rekey": 8.0, "loss": 0.01},
    "pings and rekeys": {
        "seconds": 30.0,
        "rekey": 10.0,
        "traffic": ("ping", "quiet", "polled"),
        "mixed": 0.2,
    },
    "several pairs": {
        "seconds": 15.0,
        "rekey": 30.0,
        "children": 3,
        "traffic": ("interactive", "ping", "quiet"),
    },
    "reboots": {"seconds": 40.0, "reboots": 12.0, "loss": 0.01, "traffic": ("interactive", "ping")},
    "leavers": {
        "seconds": 30.0,
        "leavers": 0.4,
        "starts": 25.0,
        "traffic": ("interactive", "stream", "polled"),
    },
    "idle": {"seconds": 400.0, "lifetime": 30.0, "idle": 60.0, "rekey": 90.0, "think": (1.0, 6.0)},
    "forgotten": {"seconds": 400.0, "lifetime": 30.0, "memory": 60.0, "idle": 90.0, "think": (1.0, 6.0)},
    # What the gateway has missed.
    "just begun": {"age": 0.0, "seconds": 15.0, "traffic": ("interactive", "interactive", "ping", "quiet")},
    "IKE unseen": {"seconds": 15.0, "unseen": 1.0},
    "IKE half seen": {"seconds": 15.0, "unseen": 0.5, "rekey": 20.0},
    "already up": {"age": 0.0, "seconds": 20.0, "unseen": 1.0, "established": True},
    "up, rekeying": {
        "age": 0.0,
        "seconds": 30.0,
        "established": True,
        "rekey": 12.0,
        "traffic": ("interactive", "ping", "quiet"),
    },
    "gateway late": {
        "age": 0.0,
        "seconds": 25.0,
        "late": 6.0,
        "starts": 12.0,
        "traffic": ("interactive", "quiet", "ping"),
    },
    "gateway anew": {"seconds": 30.0, "restart": 12.0, "starts": 15.0, "rekey": 15.0, "keeps": False},
    "gateway anew, state kept": {"seconds": 30.0, "restart": 12.0, "starts": 15.0, "rekey": 15.0},
}
