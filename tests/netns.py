"""Networks for tests: namespaces with links between them, gone when the test is over (network_namespaces(7)).

    with network() as net:
        client, gateway = net.namespace("client"), net.namespace("gateway")
        net.link(client, "eth0", gateway, "eth0")
        client.address("eth0", "10.0.0.2/8")
        gateway.address("eth0", "10.0.0.1/8")
        client.sh("ping -c 1 10.0.0.1")

Names hold the process id, so that several test runs on one machine never meet.
"""

import contextlib
import ctypes
import functools
import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Final

_CLONE_NEWNET: Final = 0x40000000

#: Seconds a command may take before the test fails.
_PATIENCE: Final = 30.0

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


@functools.cache
def requires_netns() -> str:
    """Why this machine cannot make network namespaces; empty when it can.

    ``pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(requires_netns()), reason=requires_netns())]``
    """
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    with contextlib.suppress(RuntimeError), network() as net:
        net.namespace("probe")
        return ""
    return "this machine forbids network namespaces"


@dataclass(slots=True)
class Namespace:
    """One network namespace. Made by :meth:`Network.namespace`; its loopback interface is up."""

    name: str
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command inside and return what it printed.

        Raises:
            RuntimeError: it failed; the text has the command and what it said.
        """
        return _run("ip", "netns", "exec", self.name, *command, stdin=stdin)

    def sh(self, line: str, *, stdin: str | None = None) -> str:
        """The same for a command in one string, split like a shell does (no pipes)."""
        return self.run(*shlex.split(line), stdin=stdin)

    def start(self, *command: str, stdout: int | IO[str] = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Start a program inside; it is ended with the network, if it has not ended by itself."""
        process = subprocess.Popen(
            ("ip", "netns", "exec", self.name, *command), stdout=stdout, stderr=subprocess.STDOUT, text=True
        )
        self._processes.append(process)
        return process

    def address(self, interface: str, *addresses: str) -> None:
        """Give an interface addresses, ``10.0.0.1/8``, and set it up."""
        for address in addresses:
            self.run("ip", "address", "add", address, "dev", interface)
        self.run("ip", "link", "set", interface, "up")

    def sysctl(self, key: str, value: int | str) -> None:
        """Set ``net.ipv4.ip_forward`` and the like, inside only."""
        self.run("sysctl", "-q", "-w", f"{key}={value}")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside with this thread for a while: sockets opened and programs started now stay there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(there)
            os.close(home)

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        with contextlib.suppress(RuntimeError):
            _run("ip", "netns", "delete", self.name)


@dataclass(slots=True)
class Network:
    """Namespaces and the links between them. Made by :func:`network`."""

    namespaces: list[Namespace] = field(default_factory=list)

    def namespace(self, label: str) -> Namespace:
        """Make a namespace; the label is for people who look at ``ip netns``."""
        name = f"vmt{os.getpid()}-{next(_numbers)}-{label}"
        _run("ip", "netns", "add", name)
        namespace = Namespace(name)
        self.namespaces.append(namespace)
        namespace.run("ip", "link", "set", "lo", "up")
        return namespace

    def link(self, one: Namespace, interface: str, other: Namespace, other_interface: str) -> None:
        """Connect two namespaces by a veth pair, both ends up."""
        _run(
            *("ip", "link", "add", interface, "netns", one.name, "type", "veth"),
            *("peer", "name", other_interface, "netns", other.name),
        )
        one.run("ip", "link", "set", interface, "up")
        other.run("ip", "link", "set", other_interface, "up")

    def bridge(
        self, where: Namespace, interface: str, members: Sequence[Namespace], member_interface: str = "eth0"
    ) -> None:
        """Connect members, by an interface of the same name in each, to a bridge in ``where``."""
        where.run("ip", "link", "add", interface, "type", "bridge", "forward_delay", "0")
        where.run("ip", "link", "set", interface, "up")
        for number, member in enumerate(members):
            port = f"{interface[:8]}p{number}"
            self.link(member, member_interface, where, port)
            where.run("ip", "link", "set", port, "master", interface)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network to build; whatever happens, its processes and namespaces are gone afterwards."""
    net = Network()
    try:
        yield net
    finally:
        for namespace in net.namespaces:
            namespace._end()


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _run(*command: str, stdin: str | None = None) -> str:
    source = subprocess.DEVNULL if stdin is None else None
    done = subprocess.run(
        command, input=stdin, stdin=source, capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise RuntimeError(f"{shlex.join(command)}: {said or f'exit status {done.returncode}'}")
    return done.stdout
