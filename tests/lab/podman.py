"""A machine with podman, as a host in the lab's network: real images, containers and networks of its own.

Whatever podman does to interfaces, netfilter, cgroups and mounts it does there, and it is gone with the host.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.lab.hosts import Result, Shelf
from tests.lab.machine import CACHE, ROOT, LabError, run
from tests.lab.namespace import Namespace
from tests.lab.network import Network

#: The tag under which the Containerfile and compose.yaml know the base.
BASE: Final = "docker.io/library/debian:bookworm-slim"

#: What contrib/lib/peers.sh made for the image's build: that base, and what pip takes.
_BASE_FILE: Final = CACHE / "base.tar"
_WHEELS: Final = CACHE / "wheels"

_COMPOSE: Final = ROOT / "contrib" / "container"

_CONTAINERS: Final = """
[containers]
netns = "bridge"
# as Docker's
default_capabilities = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "NET_RAW",
  "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"]
# Limits and controllers that this machine may not have to give.
default_ulimits = {0}
pids_limit = 0
apparmor_profile = "unconfined"

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
image_copy_tmp_dir = "storage"
# There is no systemd to run health checks: the tests do.
env = ["DISABLE_HC_SYSTEMD=true"]

[network]
network_backend = "netavark"
"""

_PIP: Final = "[global]\nno-index = true\nfind-links = /wheels\ndisable-pip-version-check = true\n"

#: A part of the cgroups that is this host's alone, and all there is of them.
_CGROUPS: Final = """
set -e
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/{0}
mount --bind /sys/fs/cgroup/{0} /sys/fs/cgroup
"""

#: Who was killed leaves a moment later.
_NO_CGROUPS: Final = """
podman kill --all
for i in {{1..50}}; do
  find /sys/fs/cgroup -mindepth 1 -depth -type d -exec rmdir {{}} + && break
  sleep 0.1
done
umount /sys/fs/cgroup && rmdir /sys/fs/cgroup/{0}
"""

#: Images are kept as layers over each other where the file system takes that, else as copies.
_DRIVER: Final = """
cd {0} && mkdir -p try/lower try/upper try/work try/all
options=lowerdir=try/lower,upperdir=try/upper,workdir=try/work
if mount -t overlay overlay -o $options try/all 2>/dev/null; then umount try/all; echo overlay
else echo vfs; fi
"""


def unprepared() -> str | None:
    """Return why no image can be built here, in words for a person, or None when one can."""
    there = _BASE_FILE.exists() and _WHEELS.is_dir()
    return None if there else "the image's base or its packages could not be fetched: sudo contrib/test"


def traces() -> dict[str, str]:
    """Return what podman changes on a machine that it runs on, but for cgroups: see :meth:`Engine.close`."""
    commands = {
        "interfaces": "ip -details -brief link",
        "routes": "ip route show table all",
        "netfilter": "nft list ruleset",
        "sysctls": "sysctl --all --pattern '^net[.](ipv4|bridge)'",
    }
    return {name: run("bash", "-c", command) for name, command in commands.items()}


def _own_limits() -> list[str]:
    """The limits of this process, for containers.conf; a limit that is not named there may be set higher."""
    numbers = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    limits = {name: resource.getrlimit(number) for name, number in numbers.items()}
    return [f"{name}={soft}:{hard}" for name, (soft, hard) in limits.items()]


class Engine(Shelf):
    """A host that runs containers. Its images and containers are kept in `directory`."""

    def __init__(self, network: Network, directory: Path, name: str, address: str) -> None:
        super().__init__(network, directory, name, address, software=("podman",))
        self._cgroup = f"vpnmasq-lab-{self._space.pid}"
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all containers and everything else in it.

        Raises:
            LabError: something of it stays in the cgroups.
        """
        self.sh(_NO_CGROUPS.format(self._cgroup), within=60, check=True)
        super().close()

    def podman(
        self, *words: str, net: Namespace | None = None, check: bool = True, within: float = 60
    ) -> Result:
        """Run a podman command; `net` stands for this host's network, so that ``--network=host`` is that one.

        Raises:
            LabError: it failed, and `check` is set.
        """
        where = ["--net"] if net is None else [f"--net=/proc/{net.pid}/ns/net"]
        return self._podman(where, words, check=check, within=within)

    def build(self, tag: str, containerfile: Path, context: Path) -> None:
        """Build an image: Debian's packages come through this machine's network, Python's are there."""
        words = ["build", "--pull=never", "--layers=false", "--network=host", "--format=docker"]
        words += ["--volume=/etc/pip.conf:/etc/pip.conf:ro", f"--volume={_WHEELS}:/wheels:ro"]
        words += [f"--tag={tag}", f"--file={containerfile}", str(context)]
        self._podman((), words, check=True, within=300)

    def compose(self, *words: str, **environment: str) -> None:
        """Run a podman-compose command on contrib/container/compose.yaml."""
        settings = " ".join(f"{name}={value}" for name, value in environment.items())
        program = f"{sys.executable} -m podman_compose --in-pod=false -p lab"
        self.sh(f"cd {_COMPOSE} && {settings} {program} {' '.join(words)}", within=60, check=True)

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what podman knows about a container or an image."""
        [found] = json.loads(self.podman("inspect", name).output)
        return dict(found)

    def log(self, container: str) -> str:
        """Return what a container has written."""
        done = subprocess.run(
            self._space.entering("podman", "logs", container), capture_output=True, text=True
        )
        return done.stdout + done.stderr

    def processes(self, container: str) -> list[dict[str, str]]:
        """Return /proc/PID/status of all processes of a container, process 1 first."""
        group = f"/sys/fs/cgroup/libpod_parent/libpod-{self.inspect(container)['Id']}"
        pids = self._space.run("cat", f"{group}/cgroup.procs").split()
        found = []
        for pid in sorted(pids, key=int):
            lines = self._space.run("cat", f"/proc/{pid}/status").splitlines()
            found.append({name: value.strip() for name, _, value in (one.partition(":") for one in lines)})
        return found

    def _prepare(self) -> None:
        store = self._dir / "store"
        # podman makes neither, since 5 not even the directory that image_copy_tmp_dir = "storage" stands for
        (store / "tmp").mkdir(parents=True)
        self._space.sh(_CGROUPS.format(self._cgroup))
        # what Debian's packages leave to their installation
        self._space.sh("for n in iptables ip6tables; do ln -sf xtables-nft-multi /usr/sbin/$n; done")
        driver = self._space.sh(_DRIVER.format(self._dir)).strip()
        storage = f'driver = "{driver}"\ngraphroot = "{store}"\nrunroot = "/run/containers/storage"\n'
        self.put("/etc/containers/storage.conf", f"[storage]\n{storage}")
        self.put("/etc/containers/containers.conf", _CONTAINERS.format(json.dumps(_own_limits())))
        self.put("/etc/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')
        self.put("/etc/pip.conf", _PIP, 0o644)
        self.podman("import", "--quiet", "--change=CMD=bash", str(_BASE_FILE), BASE)

    def _podman(
        self, where: tuple[str, ...] | list[str], words: Any, *, check: bool, within: float
    ) -> Result:
        argv = ["nsenter", f"--target={self._space.pid}", "--mount", "--pid", *where, "podman", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=within)
        result = Result(done.returncode, done.stdout + (done.stderr if done.returncode else ""))
        if check and not result.ok:
            raise LabError(f"podman {' '.join(words)}: exit {result.status}: {result.output}")
        return result
