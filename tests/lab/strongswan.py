"""StrongSwan in guests: IKEv2 by charon, and ESP in UDP by the guest's own kernel, as NAT asks for.

All know one shared secret, and themselves and each other by names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.lab.hosts import Guest, Job
from tests.lab.keying import Keying
from tests.lab.machine import until

#: Routes are ours; the log is read when something has failed.
_CHARON: Final = """
charon {
  install_routes = no
  install_virtual_ip = no
  filelog {
    lab {
      path = /run/charon.log
      default = 1
      flush_line = yes
    }
  }
}
swanctl {
  load = random openssl
}
"""

_SECRETS: Final = "secrets {\n  ike {\n    secret = secret\n  }\n}\n"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What one host knows of a tunnel. ``far`` is an address, or ``%any`` for whoever knows the secret."""

    name: str
    far: str
    #: The names and inner addresses of both ends.
    own_id: str
    far_id: str
    own_inside: str
    far_inside: str

    def text(self, own: str) -> str:
        """Its section of swanctl.conf at a host with this address."""
        return f"""
  {self.name} {{
    version = 2
    local_addrs = {own}
    remote_addrs = {self.far}
    proposals = aes256-sha256-modp2048
    local {{
      auth = psk
      id = {self.own_id}
    }}
    remote {{
      auth = psk
      id = {self.far_id}
    }}
    children {{
      {self.name} {{
        local_ts = {self.own_inside}/32
        remote_ts = {self.far_inside}/32
        esp_proposals = aes256-sha256-modp2048
      }}
    }}
  }}"""


class Strongswan(Keying):
    """A host that runs charon."""

    log = "/run/charon.log"

    def __init__(self, host: Guest, inside: str) -> None:
        super().__init__(host, inside)
        self._tunnels: Sequence[Tunnel] = ()

    def start(self, tunnels: Sequence[Tunnel] = ()) -> Job:
        """Begin to start charon with these tunnels, or those it had; it brings none of them up."""
        self._tunnels = tunnels = tunnels or self._tunnels
        self.host.put("/etc/strongswan.d/lab.conf", _CHARON)
        sections = "".join(one.text(self.host.address) for one in tunnels)
        self.host.put("/etc/swanctl/conf.d/lab.conf", f"connections {{{sections}\n}}\n{_SECRETS}")
        return self.host.start(
            "/usr/lib/ipsec/charon >/run/charon.out 2>&1 &"
            "e=$((SECONDS+20)); until [ -S /run/charon.vici ]; do"
            "  [ $SECONDS -lt $e ] || exit 1; sleep 0.1; done; exec swanctl --load-all"
        )

    def up(self, name: str) -> Job:
        """Begin to bring a tunnel up."""
        return self.host.start(f"exec swanctl --initiate --child {name} --timeout 20")

    def down(self, name: str) -> None:
        """Tear a tunnel down, telling the other end."""
        self.host.sh(f"swanctl --terminate --ike {name} --timeout 10")

    def rekey(self, name: str, *, ike: bool = False) -> None:
        """Replace a tunnel's keys, of its data or of its IKE, before their time; return when that is done."""
        if ike:
            before = self._log().count(" rekeyed ")
            self.host.sh(f"exec swanctl --rekey --ike {name}", check=True)
            until(lambda: self._log().count(" rekeyed ") > before, "a new IKE_SA", within=20)
            return
        keys = self.spis()
        self.host.sh(f"exec swanctl --rekey --child {name}", check=True)
        until(lambda: len(self.spis() - keys) >= 2, f"new keys of {name}", within=20)

    def die(self) -> None:
        """End charon as a power failure does: nobody is told, and the kernel forgets all keys."""
        self.host.sh(
            "kill -9 $(</run/charon.pid); rm -f /run/charon.*; ip xfrm policy flush; ip xfrm state flush",
            check=True,
        )

    def _log(self) -> str:
        return self.host.sh("cat /run/charon.log").output
