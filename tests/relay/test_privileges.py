"""Privileges given up, seen from a child process that gave them up."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from relay.privileges import KEPT, Capability, explain, missing, raise_open_files

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="giving up capabilities needs some to begin with: root")

#: Gives up privileges, then shows its own sets and those of a program it starts.
PROGRAM = """
import json, subprocess, sys
from pathlib import Path
from relay.privileges import KEPT, Capability, keep_only, missing
exec(sys.argv[1])
own = Path("/proc/self/status").read_text()
child = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
print(json.dumps([own, child, [c.name for c in missing(KEPT)]]))
"""

NOBODY = 65534

#: As systemd starts a service with User= and AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW.
AS_NOBODY = f"""
import os, relay.privileges as p
p._prctl(8, 1)  # PR_SET_KEEPCAPS
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
p._capset(0x3000, 0x3000)
keep_only()
"""


def sets(status: str) -> dict[str, int]:
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return {name: int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} | {
        "NoNewPrivs": int(fields["NoNewPrivs"])
    }


def after(code: str) -> tuple[dict[str, int], dict[str, int], list[str]]:
    command = (sys.executable, "-W", "error", "-c", PROGRAM, code)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    own, child, lacking = json.loads(done.stdout)
    return sets(own), sets(child), lacking


BIND, ADMIN, RAW = (1 << bit for bit in (10, 12, 13))


@ROOT
def test_root_keeps_three_capabilities_and_its_programs_get_no_more() -> None:
    own, child, lacking = after("keep_only()")
    kept = BIND | ADMIN | RAW
    assert own == {
        "CapInh": ADMIN,
        "CapPrm": kept,
        "CapEff": kept,
        "CapBnd": kept,
        "CapAmb": ADMIN,
        "NoNewPrivs": 1,
    }
    assert child["CapEff"] & ~kept == 0
    assert child["CapEff"] & ADMIN
    assert lacking == []


@ROOT
def test_a_user_with_ambient_capabilities_keeps_them_and_its_programs_get_net_admin() -> None:
    own, child, lacking = after(AS_NOBODY)
    assert own["CapEff"] == own["CapPrm"] == ADMIN | RAW
    assert child["CapEff"] == child["CapPrm"] == ADMIN
    assert lacking == ["CAP_NET_BIND_SERVICE"]


#: As a runtime starts a program whose file has capabilities, permitted and not in effect (setcap =p).
PERMITTED_BY_ITS_FILE = f"""
import ctypes, os, struct, relay.privileges as p
p._prctl(8, 1)
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
data = struct.pack("=IIIIII", 0, 0x3000, 0, 0, 0, 0)
assert p._libc.capset(struct.pack("=Ii", p._VERSION_3, 0), data) == 0
"""


@ROOT
def test_what_the_programs_file_permits_is_not_missing_and_can_be_taken_up() -> None:
    own, child, lacking = after(PERMITTED_BY_ITS_FILE)
    assert (own["CapEff"], own["CapPrm"], child["CapEff"]) == (0, ADMIN | RAW, 0)
    assert lacking == ["CAP_NET_BIND_SERVICE"]
    own, child, lacking = after(PERMITTED_BY_ITS_FILE + "p.take_up()")
    assert own["CapEff"] == own["CapPrm"] == ADMIN | RAW
    assert child["CapEff"] == child["CapPrm"] == ADMIN


@ROOT
def test_root_has_nothing_to_take_up() -> None:
    before, _, _ = after("")
    assert after("import relay.privileges as p; p.take_up()")[0] == before


@ROOT
def test_what_is_given_up_cannot_be_had_again() -> None:
    own, child, lacking = after("keep_only({Capability.CAP_NET_RAW})")
    assert own["CapEff"] == own["CapPrm"] == own["CapBnd"] == RAW
    assert own["CapInh"] == own["CapAmb"] == 0
    assert child["CapEff"] == RAW
    assert lacking == ["CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN"]


@ROOT
def test_giving_up_twice_is_giving_up_once() -> None:
    own, _, _ = after("keep_only(); keep_only()")
    assert own["CapEff"] == BIND | ADMIN | RAW


def test_a_thread_that_would_keep_everything_is_a_bug() -> None:
    own, _, _ = after(
        "import threading\n"
        "stop = threading.Event()\n"
        "thread = threading.Thread(target=stop.wait); thread.start()\n"
        "try: keep_only()\n"
        "except RuntimeError as error: assert 'threads' in str(error)\n"
        "else: raise AssertionError\n"
        "finally: stop.set(); thread.join()\n"
    )
    assert own["NoNewPrivs"] == 0


def test_a_thread_that_has_just_ended_is_waited_for() -> None:
    own, _, _ = after(
        "import threading\n"
        "for _ in range(20):\n"
        "    thread = threading.Thread(target=int); thread.start(); thread.join()\n"
        "    keep_only()\n"
    )
    assert own["NoNewPrivs"] == 1


def test_the_explanation_has_purpose_and_remedies_per_capability() -> None:
    lines = explain([Capability.CAP_NET_ADMIN, Capability.CAP_NET_RAW]).splitlines()
    assert [line.split(" is missing: ")[0] for line in lines] == ["CAP_NET_ADMIN", "CAP_NET_RAW"]
    for line, name in zip(lines, ("NET_ADMIN", "NET_RAW"), strict=True):
        assert "root" in line
        assert f"AmbientCapabilities=CAP_{name}" in line
        assert f"--cap-add {name}" in line


def test_nothing_is_explained_when_nothing_is_missing() -> None:
    assert explain([]) == ""


@ROOT
def test_root_misses_nothing() -> None:
    assert missing(KEPT) == []


def test_the_limit_of_open_files_is_raised_as_far_as_allowed_and_never_lowered() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        assert raise_open_files(128) == 128
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (128, hard)
        assert raise_open_files(100) == 128
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


HARD_LIMIT = """
import resource
from relay.privileges import keep_only, raise_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
keep_only()
assert raise_open_files(100000) == 256, resource.getrlimit(resource.RLIMIT_NOFILE)
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (256, 256)
"""


@ROOT
def test_without_privilege_the_hard_limit_holds() -> None:
    after(HARD_LIMIT)
