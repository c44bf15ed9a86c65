"""Debian's BIND, master of one zone that takes updates signed with a key."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import dns.message
import dns.query
import dns.rdatatype
import dns.tsigkeyring
import dns.update

from tests.lab.machine import CACHE, LabError, tail, until

ZONE: Final = "example.org"
HOST: Final = f"vpn.{ZONE}"
KEY_NAME: Final = "home"
KEY: Final = "c2VjcmV0IG9mIHRoZSBob21lIG9mIHRoZSBnYXRld2F5"

#: With each of these there is a key ``home-ALGORITHM``, too.
ALGORITHMS: Final = ("hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")

#: This key may update nothing.
STRANGER: Final = "stranger"

_SERVER: Final = CACHE / "bind" / "usr" / "sbin" / "named"

_CONFIGURATION: Final = """
options {{
  directory "{directory}";
  pid-file none;
  session-keyfile none;
  managed-keys-directory "{directory}";
  listen-on port {port} {{ {address}; }};
  listen-on-v6 {{ none; }};
  recursion no;
  dnssec-validation no;
  notify no;
}};
controls {{ }};
{keys}
zone "{zone}" {{ type primary; file "zone"; update-policy {{ {grants} }}; }};
"""

_RECORDS: Final = """$TTL 60
@ IN SOA ns.{zone}. admin.{zone}. 1 3600 600 86400 60
@ IN NS ns.{zone}.
ns IN A {address}
"""


class Bind:
    """A server that runs; `under` is the command line that it runs by, ``ip netns exec`` for one."""

    def __init__(
        self, directory: Path, address: str = "127.0.0.1", port: int = 53, *, under: Sequence[str] = ()
    ) -> None:
        self.address, self.port = address, port
        self._log = directory / "named.log"
        words = {"directory": directory, "port": port, "address": address, "zone": ZONE, "host": HOST}
        keys = {KEY_NAME: "hmac-sha256"} | {f"{KEY_NAME}-{one}": one for one in ALGORITHMS}
        words["grants"] = " ".join(f"grant {name} name {HOST} A;" for name in keys)
        words["keys"] = "\n".join(
            f'key {name} {{ algorithm {one}; secret "{KEY}"; }};'
            for name, one in {**keys, STRANGER: "hmac-sha256"}.items()
        )
        (directory / "named.conf").write_text(_CONFIGURATION.format(**words))
        (directory / "zone").write_text(_RECORDS.format(**words))
        self._command = [*under, str(_SERVER), "-g", "-n", "1", "-c", str(directory / "named.conf")]
        self.start()

    def start(self) -> None:
        """Start it, again if need be."""
        libraries = ":".join(str(path) for path in (CACHE / "bind" / "usr" / "lib").glob("*-linux-gnu"))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LD_LIBRARY_PATH": libraries},
            )
        until(self._running, "named runs", within=30)

    def _running(self) -> bool:
        if self._process.poll() is not None:
            raise LabError(f"named ended with status {self._process.returncode}:\n{self.log()}")
        return "running\n" in self._log.read_text()

    def stop(self) -> None:
        """End it, if it runs."""
        self._process.terminate()
        self._process.wait(20)

    def log(self) -> str:
        """Return its last words."""
        return tail(self._log)

    def has(self) -> set[str]:
        """Return the addresses of HOST. To be called where the server can be reached."""
        answer = dns.query.udp(dns.message.make_query(HOST, "A"), self.address, port=self.port, timeout=10)
        return {record.address for rrset in answer.answer for record in rrset}

    def point_at(self, *addresses: str) -> None:
        """Let HOST have these addresses, as somebody else would who has the key."""
        update = dns.update.UpdateMessage(ZONE, keyring=dns.tsigkeyring.from_text({KEY_NAME: KEY}))
        update.delete(f"{HOST}.", "A")
        for address in addresses:
            update.add(f"{HOST}.", 60, "A", address)
        answer = dns.query.tcp(update, self.address, port=self.port, timeout=10)
        if answer.rcode():
            raise LabError(f"named refuses: {answer.rcode()}:\n{self.log()}")
