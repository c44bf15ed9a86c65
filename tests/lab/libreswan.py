"""Libreswan in guests: IKE by pluto, and ESP by the guest's own kernel, raw, with no UDP around it.

All know one shared secret, and themselves and each other by names.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final

from tests.lab.hosts import Job
from tests.lab.keying import Keying, Tunnel, finished
from tests.lab.machine import LabError, run, until

_LIBEXEC: Final = "/usr/libexec/ipsec"
_WHACK: Final = f"{_LIBEXEC}/whack"

#: NAT is found, and nothing is made of it: IKE stays on port 500 and ESP goes as it is.
_CONFIG: Final = """
config setup
  logfile=/run/pluto.log
  uniqueids=no
  ikev1-policy=accept
conn %default
  authby=secret
  ike=aes256-sha2_256;modp2048
  esp=aes256-sha2_256;modp2048
  encapsulation=no
  nat-keepalive=no
  leftupdown=%disabled
  auto=add
"""

_VERSIONS: Final = {1: "ikev2=no\nnat-ikev1-method=none", 2: "ikev2=insist"}


def _section(tunnel: Tunnel, own: str) -> str:
    """A tunnel's section of ipsec.conf at a host with this address."""
    lines = [
        f"left={own}",
        f"leftid=@{tunnel.own_id}",
        f"leftsubnet={tunnel.own_inside}/32",
        f"right={tunnel.far}",
        f"rightid=@{tunnel.far_id}",
        f"rightsubnet={tunnel.far_inside}/32",
        *_VERSIONS[tunnel.version].splitlines(),
        *tunnel.more.splitlines(),
    ]
    return f"conn {tunnel.name}\n" + "".join(f"  {line}\n" for line in lines)


class Libreswan(Keying):
    """A host that runs pluto."""

    software = "libreswan"
    log = "/run/pluto.log"

    @cached_property
    def is_new(self) -> bool:
        """Whether it is of version 5 or later."""
        return "--rekey-child" in self.host.sh(f"{_WHACK} --help").output

    def start(self, tunnels: Sequence[Tunnel] = ()) -> Job:
        """Begin to start pluto with these tunnels, or those it had; it brings none of them up."""
        self._tunnels = tunnels = tunnels or self._tunnels
        self.host.put(
            "/etc/ipsec.conf", _CONFIG + "".join(_section(one, self.host.address) for one in tunnels)
        )
        self.host.put("/etc/ipsec.secrets", ': PSK "secret"\n')
        last = tunnels[-1].name
        return self.host.start(
            "set -e; mkdir -p /var/lib/ipsec/nss; cd /run; : >pluto.log;"
            "[ -e /var/lib/ipsec/nss/cert9.db ] || certutil -N -d sql:/var/lib/ipsec/nss --empty-password;"
            f"{_LIBEXEC}/pluto --config /etc/ipsec.conf --logfile /run/pluto.log;"
            # it adds what ipsec.conf says by itself, in its own time
            f"e=$((SECONDS+20)); until [[ $(</run/pluto.log) = *'\"{last}\": added'* ]]; do"
            "  [ $SECONDS -lt $e ] || exit 1; sleep 0.1; done"
        )

    def up(self, name: str) -> Job:
        """Begin to bring a tunnel up."""
        return self.host.start(f"exec timeout 25 {_WHACK} --name {name} --initiate")

    def down(self, name: str) -> None:
        """Tear a tunnel down, telling the other end; its addresses are free for another."""
        self.host.sh(f"{_WHACK} --name {name} --terminate; {_WHACK} --name {name} --unroute", check=True)

    def rekey(self, name: str, *, ike: bool = False) -> None:
        """Replace a tunnel's keys, of its data or of its IKE, before their time."""
        if any(one.name == name and one.version == 1 for one in self._tunnels):
            self._another_quick_mode(name)
            return
        what = "--rekey-child" if self.is_new else "--rekey-ipsec"
        self.host.sh(f"timeout 20 {_WHACK} --name {name} {'--rekey-ike' if ike else what}", check=True)

    def peers(self) -> str:
        """What pluto says of its SAs."""
        return self.host.sh(f"{_WHACK} --showstates", check=True).output

    def die(self) -> None:
        """End pluto as a power failure does: nobody is told, and the kernel forgets all keys."""
        self.host.sh(
            "kill -9 $(</run/pluto/pluto.pid); rm -f /run/pluto/pluto.* /run/pluto.log;"
            "ip xfrm policy flush; ip xfrm state flush",
            check=True,
        )

    def _another_quick_mode(self, name: str) -> None:
        """Have one of these, which is the rekey of IKEv1."""
        if not self.is_new:
            finished((self, self.up(name)))
            return
        # who was called cannot be told to initiate any more, but that the keys' time has come
        before = self._newest(name)
        self.host.sh(f"{_WHACK} --asynchronous --impair trigger_v1_replace:{before}", check=True)
        until(lambda: self._newest(name) > before, f"new keys for {name}", within=20, every=0.2)

    def _newest(self, name: str) -> int:
        """The number of the SA that a tunnel's data takes now, by IKEv1."""
        found = re.search(rf'#(\d+): "{name}".* STATE_QUICK_.* newest;', said := self.peers())
        if found is None:
            raise LabError(f"{self.host.name} has no keys for {name}: {said}")
        return int(found[1])


def with_certificate(tunnel: Tunnel, name: str, *, in_parts: bool = True) -> Tunnel:
    """The same tunnel with certificates instead of the secret: messages that do not fit the MTU.

    ``in_parts``: this end can divide them itself (RFC 7383); unless both ends can, IP has to.
    """
    more = (
        f"authby=rsasig\nleftcert={tunnel.own_id}\nleftsendcert=always\nrightca=%same\n"
        f"fragmentation={'yes' if in_parts else 'no'}"
    )
    return replace(tunnel, name=name, more=more)


class Authority:
    """Makes certificates, so large that two datagrams of the usual size do not hold one."""

    _NAMES: Final = ",".join(f"DNS:{number:048}.example" for number in range(40))

    def __init__(self, directory: Path) -> None:
        self._dir = directory
        self._openssl("req -x509 -nodes -newkey rsa:2048 -keyout ca.key -out ca.pem -subj /CN=ca -days 9")

    def equip(self, peer: Libreswan, name: str) -> None:
        """Give a host a certificate for its name, and the authority's own."""
        subject = f"-subj /CN={name} -addext subjectAltName=DNS:{name},{self._NAMES}"
        self._openssl(f"req -nodes -newkey rsa:2048 -keyout {name}.key -out {name}.csr {subject}")
        self._openssl(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy "
            f"-out {name}.pem -days 9"
        )
        self._openssl(
            f"pkcs12 -export -in {name}.pem -inkey {name}.key -certfile ca.pem -name {name} "
            f"-out {name}.p12 -passout pass:"
        )
        peer.host.put("/run/own.p12", base64.b64encode((self._dir / f"{name}.p12").read_bytes()).decode())
        nss = "sql:/var/lib/ipsec/nss"
        peer.host.sh(
            "set -e; mkdir -p /var/lib/ipsec/nss; base64 -d /run/own.p12 >/run/own;"
            f"certutil -N -d {nss} --empty-password; pk12util -i /run/own -d {nss} -W '';"
            f"certutil -M -d {nss} -n ca -t CT,,",
            check=True,
        )

    def _openssl(self, words: str) -> None:
        run("sh", "-c", f"cd {self._dir} && exec openssl {words} 2>&1")
