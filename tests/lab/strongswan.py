"""StrongSwan in guests: IKEv2 by charon, and ESP in UDP by the guest's own kernel, as NAT asks for.

All know one shared secret, and themselves and each other by names.
"""

from collections.abc import Sequence
from typing import Final

from tests.lab.hosts import Job
from tests.lab.keying import Keying, Tunnel
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


def _section(tunnel: Tunnel, own: str) -> str:
    """A tunnel's section of swanctl.conf at a host with this address."""
    return f"""
  {tunnel.name} {{
    version = {tunnel.version}
    local_addrs = {own}
    remote_addrs = {tunnel.far}
    proposals = aes256-sha256-modp2048
    {tunnel.more}
    local {{
      auth = psk
      id = {tunnel.own_id}
    }}
    remote {{
      auth = psk
      id = {tunnel.far_id}
    }}
    children {{
      {tunnel.name} {{
        local_ts = {tunnel.own_inside}/32
        remote_ts = {tunnel.far_inside}/32
        esp_proposals = aes256-sha256-modp2048
      }}
    }}
  }}"""


class Strongswan(Keying):
    """A host that runs charon."""

    software = "strongswan"
    log = "/run/charon.log"

    def start(self, tunnels: Sequence[Tunnel] = ()) -> Job:
        """Begin to start charon with these tunnels, or those it had; it brings none of them up."""
        self._tunnels = tunnels = tunnels or self._tunnels
        self.host.put("/etc/strongswan.d/lab.conf", _CHARON)
        sections = "".join(_section(one, self.host.address) for one in tunnels)
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

    def peers(self) -> str:
        """What charon says of its SAs."""
        return self.host.sh("swanctl --list-sas", check=True).output

    def die(self) -> None:
        """End charon as a power failure does: nobody is told, and the kernel forgets all keys."""
        self.host.sh(
            "kill -9 $(</run/charon.pid); rm -f /run/charon.*; ip xfrm policy flush; ip xfrm state flush",
            check=True,
        )

    def _log(self) -> str:
        return self.host.sh("cat /run/charon.log").output
