"""Hosts on the two sides: guests with a kernel of their own, and lighter ones that are only namespaces.

Both look alike: `put` writes a file, `sh` runs bash, `start` does so without waiting. A host sees this
machine's files, with Debian's VPN software laid over them; what it writes nobody else sees.
"""

import contextlib
import itertools
import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from tests.lab.machine import CACHE, ROOT, LabError, tail, until
from tests.lab.namespace import Namespace
from tests.lab.network import Network

_INIT: Final = Path(__file__).with_name("guest") / "init.sh"

#: What makes of a guest one that systemd runs.
SYSTEMD: Final = _INIT.with_name("systemd.sh")

_OVERLAID = ("usr", "etc", "var")

_ESP = (
    "xfrm_user esp4 crypto_null authenc authencesn ecb cbc hmac gcm ctr echainiv seqiv sha512_generic "
    "jitterentropy_rng drbg"
)

#: What a guest's kernel loads for the software in it; nothing is loaded on demand later.
_MODULES: Final = {
    "ppp": "tun ppp_generic ppp_async ppp_mppe",
    "pppoe": "pppoe",
    "libreswan": _ESP,
    "strongswan": _ESP,
    "vpnmasq": "veth",
}


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended, and what it wrote."""

    status: int
    output: str

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.status == 0


class Job(Protocol):
    """A command that runs in a host."""

    def running(self) -> bool:
        """Whether it has not ended yet."""
        ...

    def finish(self, within: float) -> Result:
        """Wait for its end."""
        ...


class Host(Protocol):
    """One computer."""

    name: str
    address: str

    def put(self, path: str, text: str, mode: int = 0o600) -> None:
        """Write a file inside."""
        ...

    def start(self, script: str) -> Job:
        """Start a bash script inside."""
        ...

    def sh(self, script: str, *, within: float = 30, check: bool = False) -> Result:
        """Run a bash script inside; with `check`, raise LabError when it fails."""
        ...


def _checked(name: str, script: str, result: Result) -> Result:
    if not result.ok:
        raise LabError(f"{name}: exit {result.status}: {script}\n{result.output}")
    return result


# guests ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GuestJob:
    """A command in a guest: files with its output and, once it has ended, its status."""

    guest: "Guest"
    path: Path

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._status().endswith("\n")

    def finish(self, within: float) -> Result:
        """Wait for its end."""

        def ended() -> bool:
            self.guest.must_live()
            return not self.running()

        what = f"{self.guest.name}: the end of: {self.path.with_suffix('.cmd').read_text().strip()}"
        until(ended, what, within=within, every=0.02)
        return Result(int(self._status()), self.said())

    def said(self) -> str:
        """What it has written so far."""
        output = self.path.with_suffix(".out")
        return output.read_text(errors="replace") if output.exists() else ""

    def _status(self) -> str:
        try:
            return self.path.with_suffix(".rc").read_text()
        except FileNotFoundError:
            return ""


class Guest:
    """A user-mode-linux guest: a real kernel, with PPP, PPTP and MPPE whatever this machine's has.

    It lives in its side's namespaces, and ends with them.
    """

    _numbers = itertools.count(1)

    def __init__(
        self,
        network: Network,
        directory: Path,
        name: str,
        address: str,
        *,
        software: Sequence[str] = ("ppp",),
        memory: int = 128,
        init: Path = _INIT,
        devices: Mapping[str, socket.socket] | None = None,
    ) -> None:
        """Boot it.

        `devices` are more of what its kernel's command line has, each joined to an end of a socket pair:
        ``ssl0=fd:`` is a serial port, ``vec1:transport=fd,fd=`` a network card.
        """
        self.name, self.address = name, address
        self._init, self._devices = init, devices or {}
        self._dir = directory / name
        (self._dir / "ctl").mkdir(parents=True)
        (self._dir / "files").mkdir()
        self._counter = itertools.count(1)
        side, router = network.side(address)
        self.router = router
        tap, number = f"t-{name}", next(self._numbers)
        side.sh(f"ip tuntap add {tap} mode tap && ip link set {tap} master br0 up")
        settings = {"NAME": name, "ADDRESS": f"{address}/24", "ROUTER": router}
        settings |= {"CACHE": str(CACHE), "CHECKOUT": str(ROOT), "SOFTWARE": " ".join(software)}
        settings["MODULES"] = " ".join(_MODULES[name] for name in software)
        (self._dir / "env").write_text("".join(f"{k}={shlex.quote(v)}\n" for k, v in settings.items()))
        self._process = self._boot(side, directory, tap, f"02:76:70:6e:00:{number % 256:02x}", memory)

    def wait(self) -> None:
        """Wait until it has booted and its network is up."""

        def booted() -> bool:
            self.must_live()
            return (self._dir / "up").exists()

        until(booted, f"{self.name} has booted; its console:\n{self.console()}", within=60)

    def must_live(self) -> None:
        """Raise LabError with its console when it has died."""
        if self._process.poll() is not None:
            raise LabError(f"{self.name} died; its console:\n{self.console()}")

    def console(self) -> str:
        """Return its kernel's last words."""
        return tail(self._dir / "console")

    def put(self, path: str, text: str, mode: int = 0o600) -> None:
        """Write a file inside."""
        name = str(next(self._counter))
        (self._dir / "files" / name).write_text(text)
        # counted along with the commands, whose numbers must not have gaps
        command = f"install -D -m {mode:o} ../files/{name} {shlex.quote(path)}"
        _checked(self.name, command, self._submit(name, command).finish(30))

    def start(self, script: str) -> GuestJob:
        """Start a bash script inside."""
        return self._submit(str(next(self._counter)), script)

    def sh(self, script: str, *, within: float = 30, check: bool = False) -> Result:
        """Run a bash script inside; with `check`, raise LabError when it fails."""
        result = self.start(script).finish(within)
        return _checked(self.name, script, result) if check else result

    def _submit(self, number: str, script: str) -> GuestJob:
        path = self._dir / "ctl" / number
        draft = path.with_suffix(".tmp")
        draft.write_text(script + "\n")
        draft.rename(path.with_suffix(".cmd"))
        return GuestJob(self, path)

    def _boot(
        self, side: Namespace, directory: Path, tap: str, mac: str, memory: int
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            side.entering(
                CACHE / "uml/usr/bin/linux.uml",
                *(f"mem={memory}M", f"umid={self.name}", f"uml_dir={directory}/umid"),
                *(
                    "rootfstype=hostfs",
                    "rootflags=/",
                    "root=/dev/root",
                    "ro",
                    f"init={self._init}",
                    f"lab_dir={self._dir}",
                ),
                *("con=null", "con0=null,fd:1", "ssl=null", "loglevel=5"),
                f"vec0:transport=tap,ifname={tap},depth=128,gro=0,mac={mac}",
                *(f"{device}{end.fileno()}" for device, end in self._devices.items()),
            ),
            pass_fds=[end.fileno() for end in self._devices.values()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        # a pipe, not the file itself: the guest polls its console, and epoll refuses files
        threading.Thread(
            target=_drain, args=(process, process.stdout, self._dir / "console"), daemon=True
        ).start()
        return process


def _drain(process: subprocess.Popen[bytes], source: IO[bytes], target: Path) -> None:
    with source, target.open("wb", buffering=0) as file:
        while data := os.read(source.fileno(), 4096):
            file.write(data)
    process.wait()


# namespace hosts ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShelfJob:
    """A command in a shelf; `process` has its standard input as a pipe."""

    process: subprocess.Popen[str]
    output: Path

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def said(self) -> list[str]:
        """Return the lines it wrote so far."""
        return self.output.read_text(errors="replace").splitlines()

    def hang_up(self) -> None:
        """Close its standard input."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def finish(self, within: float) -> Result:
        """Close its standard input and wait for its end."""
        self.hang_up()
        try:
            status = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise LabError(
                f"no end within {within:g} s: {self.process.args!r}\n{tail(self.output)}"
            ) from None
        return Result(status, self.output.read_text(errors="replace"))


class Shelf:
    """A host without a kernel of its own: one more namespace, ready in a tenth of a second.

    Enough for software that works in user space.
    """

    def __init__(
        self,
        network: Network,
        directory: Path,
        name: str,
        address: str,
        *,
        software: Sequence[str] = ("ppp",),
    ) -> None:
        self.name, self.address = name, address
        self._software = software
        self._dir = directory / name
        (self._dir / "top").mkdir(parents=True)
        self._counter = itertools.count(1)
        side, router = network.side(address)
        self._space = Namespace()
        self._jobs: list[ShelfJob] = []
        # made from the gateway's namespace, where process numbers mean what they mean here
        network.gw.sh(
            f"ip link add v-{name} netns {side.pid} type veth peer name eth0 netns {self._space.pid}"
        )
        side.sh(f"ip link set v-{name} master br0 up")
        self._space.sh(
            f"set -e; mount -t tmpfs tmpfs {self._dir}/top; {self._overlays()}"
            "mount -t tmpfs tmpfs /run; mkdir -p /run/lock /run/pptp;"
            f"ip link set eth0 up; ip addr add {address}/24 dev eth0; ip route add default via {router};"
            # the kernel sees to it in its own time that a new cable is connected
            f"for i in {{1..15}}; do ping -q -c1 -W1 {router} >/dev/null && break; done"
        )

    def close(self) -> None:
        """End everything in it."""
        self._space.close()
        for job in self._jobs:
            job.hang_up()
            job.process.wait()

    def put(self, path: str, text: str, mode: int = 0o600) -> None:
        """Write a file inside."""
        self._space.run("install", "-D", "-m", f"{mode:o}", "/dev/stdin", path, stdin=text)

    def start(self, script: str) -> ShelfJob:
        """Start a bash script inside."""
        output = self._dir / f"{next(self._counter)}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                self._space.entering("bash", "-c", script),
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/run", "LANG": "C"},
            )
        job = ShelfJob(process, output)
        self._jobs.append(job)
        return job

    def sh(self, script: str, *, within: float = 30, check: bool = False) -> Result:
        """Run a bash script inside; with `check`, raise LabError when it fails."""
        result = self.start(script).finish(within)
        return _checked(self.name, script, result) if check else result

    def _overlays(self) -> str:
        top, commands = self._dir / "top", ""
        for name in _OVERLAID:
            layers = [CACHE / one / name for one in self._software if (CACHE / one / name).is_dir()]
            lower = ":".join(map(str, [*layers, f"/{name}"]))
            upper, work = top / "upper" / name, top / "work" / name
            options = f"lowerdir={lower},upperdir={upper},workdir={work}"
            commands += f"mkdir -p {upper} {work}; mount -t overlay overlay -o {options} /{name};"
        return commands
