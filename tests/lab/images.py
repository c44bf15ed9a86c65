"""The images that the tests of contrib/container run, and the machine that runs them."""

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.lab.hosts import Result, Shelf
from tests.lab.machine import ROOT, until
from tests.lab.network import Network
from tests.lab.podman import Engine
from tests.lab.pptp import StubServer

IMAGE: Final = "localhost/vpnmasq"
#: Real pptpd and pptp-linux with the stub for pppd.
PEER: Final = "localhost/peer"

#: The machine with the engine; a server and a caller beside it.
MACHINE: Final = "199.0.0.10"
SERVER: Final = "199.0.0.1"
CALLER: Final = "199.0.0.2"


class Images:
    """The machine with its images, and hosts that talk to what runs on it."""

    def __init__(self, stack: ExitStack) -> None:
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vpnmasq-image-")))
        self._stack = stack
        self.network = stack.enter_context(Network())
        self.engine = Engine(self.network, self.directory, "machine", MACHINE)
        stack.callback(self.engine.close)
        lab = ROOT / "tests" / "lab"
        for image, file, context in (
            (IMAGE, ROOT / "contrib" / "container" / "Containerfile", ROOT),
            (PEER, lab / "peer" / "Containerfile", lab),
        ):
            self.engine.build(image.partition("/")[2], file, context)
        StubServer(self.shelf("server", SERVER))
        self.caller = self.shelf("caller", CALLER)

    def shelf(self, name: str, address: str) -> Shelf:
        """Return a new host without a kernel of its own."""
        shelf = Shelf(self.network, self.directory, name, address)
        self._stack.callback(shelf.close)
        return shelf

    def run(self, environment: dict[str, str], *options: str, command: tuple[str, ...] = ()) -> Result:
        """Run our image to its end, without a network."""
        words = ["run", "--rm", "--network=none", *options, *_variables(environment), IMAGE, *command]
        return self.engine.podman(*words, check=False)

    def start(self, name: str, network: str, environment: dict[str, str], *options: str) -> None:
        """Start our image in the network of a container."""
        words = ["--replace", f"--name={name}", f"--network=container:{network}", *options]
        self.engine.podman("run", "--detach", *words, *_variables(environment), IMAGE)

    def ready(self, name: str) -> None:
        """Wait until the daemon of a container is ready, as the image's HEALTHCHECK sees it."""
        until(lambda: self.healthy(name), f"{name} is ready", within=40, every=0.2)

    def healthy(self, name: str) -> bool:
        """Whether the image's HEALTHCHECK succeeds in a container."""
        return self.engine.podman("healthcheck", "run", name, check=False).ok

    def ask(self, name: str, *words: str) -> dict[str, Any]:
        """Return the document that a command of ours prints in a container."""
        output = self.engine.podman("exec", name, "vpnmasq", *words, "--json").output
        document: dict[str, Any] = json.loads(output)
        return document

    def log(self, name: str) -> list[dict[str, Any]]:
        """Return what the daemon of a container has said."""
        return [json.loads(line) for line in self.engine.log(name).splitlines()]

    def stop(self, name: str) -> tuple[int, float]:
        """Stop a container as its runtime does; its exit status, and the seconds that it took."""
        began = time.monotonic()
        self.engine.podman("stop", name)
        return self.engine.inspect(name)["State"]["ExitCode"], time.monotonic() - began

    def evidence(self) -> list[tuple[str, str]]:
        """Return titles and texts of all logs."""
        names = self.engine.podman("ps", "--all", "--format={{.Names}}").output.split()
        return [(name, self.engine.log(name)) for name in names]


def _variables(environment: dict[str, str]) -> list[str]:
    return [f"--env={name}={value}" for name, value in environment.items()]
