"""Debian's PPTP software in hosts: pptpd and pppd as server, pptp-linux and pppd as client."""

import re
from pathlib import Path

from tests.lab.hosts import Guest, Result, Shelf, ShelfJob
from tests.lab.machine import LabError, until
from tests.lab.traffic import PYTHON, equip

_LAB = Path(__file__).parent

#: What both pppd are told. MS-CHAPv2 and MPPE with 128 bits, nothing less.
_COMMON = """
require-mppe-128
refuse-pap
refuse-eap
nodefaultroute
noipv6
nobsdcomp
nodeflate
mtu 1400
mru 1400
lcp-echo-interval 0
lcp-restart 1
debug
logfile /run/pppd.log
"""

_SERVER = "name server\nauth\nrefuse-chap\nrefuse-mschap\nrequire-mschap-v2\nlock\n" + _COMMON


_LISTENS = "ss -Hltn sport = 1723 | grep -q 1723"
# a fork costs a guest more than anything else: these are all bash's own
_CONNECTED = "[ -e /run/connected ]"
_NO_CALL = "[ ! -e /run/ppp0.pid ] && ! compgen -G '/run/pptp/*' >/dev/null"


def _wait(condition: str, seconds: int) -> str:
    """Return bash that waits for a condition, and shows the processes when it does not come true in time."""
    late = "{ ps -eo pid,ppid,stat,args | grep pp; exit 1; }"
    return f"e=$((SECONDS+{seconds})); until {condition}; do [ $SECONDS -lt $e ] || {late}; sleep 0.1; done"


class Server:
    """A VPN server: real pptpd, real pppd."""

    def __init__(self, host: Guest, network: str = "192.168.77") -> None:
        """Start it; clients get addresses of `network`, it has the first itself."""
        self.host, self.inside = host, f"{network}.1"
        host.put(
            "/etc/pptpd.conf", f"option /etc/ppp/server\nlocalip {network}.1\nremoteip {network}.10-30\n"
        )
        host.put("/etc/ppp/server", _SERVER)
        host.put("/etc/ppp/chap-secrets", "* * secret *\n")
        equip(host)
        host.sh("rm -f /etc/ppp/ip-pre-up /etc/ppp/ip-up /etc/ppp/ip-down", check=True)
        host.sh(f"pptpd; {_wait(_LISTENS, 10)}", check=True)

    def clients(self) -> list[str]:
        """Return the addresses its clients come from, as it sees them."""
        words = self.host.sh("ps -eo args", check=True).output
        return sorted(re.findall(r"^pptpd \[([0-9.]+)", words, re.MULTILINE))

    def hang_up(self) -> None:
        """End all calls, as an administrator does."""
        self.host.sh(f"pkill -x pppd; {_wait('! pgrep -x pptpctrl >/dev/null', 15)}", check=True)

    def evidence(self) -> str:
        """Return what its pppd logged last."""
        return self.host.sh("tail -n 40 /run/pppd.log").output


class Client:
    """A VPN client: real pptp-linux, real pppd."""

    def __init__(self, host: Guest, user: str) -> None:
        self.host, self.user = host, user
        host.put("/etc/ppp/chap-secrets", f"{user} * secret *\n")
        host.put("/etc/ppp/ip-up", "#!/bin/sh\n: >/run/connected\n", 0o755)
        equip(host)
        # Debian's scripts for name servers and other things of no use here
        host.sh("rm -f /etc/ppp/ip-pre-up /etc/ppp/ip-down", check=True)

    def dial(self, server: str) -> None:
        """Start dialling; :meth:`connected` waits for its success."""
        options = (
            f'name {self.user}\nremotename server\nnoauth\nnodetach\npty "pptp {server} --nolaunchpppd"\n'
        )
        self.host.put("/etc/ppp/client", options + _COMMON)
        self.host.sh("rm -f /run/pppd.log /run/connected", check=True)
        self.host.start("exec pppd file /etc/ppp/client")

    def connected(self, within: int = 30) -> None:
        """Wait until the tunnel has an address and encrypts.

        Raises:
            LabError: it has not; the text has pppd's log.
        """
        up = self.host.sh(f"{_wait(_CONNECTED, within)}; cat /run/pppd.log", within=within + 10)
        if not up.ok or "MPPE 128-bit stateless compression enabled" not in up.output:
            raise LabError(
                f"{self.host.name}: no encrypted tunnel; pppd's log:\n{up.output}\n{self.evidence()}"
            )

    def tunnel_address(self) -> str:
        """Return its address in the tunnel."""
        words = self.host.sh("ip -4 -o address show ppp0", check=True).output.split()
        return words[words.index("inet") + 1].split("/")[0]

    def ended(self) -> None:
        """Wait until the call has been ended by the other side."""
        self.host.sh(_wait(_NO_CALL, 20), check=True)

    def evidence(self) -> str:
        """Return what its pppd logged last."""
        return self.host.sh("tail -n 40 /run/pppd.log").output


def hang_up(*clients: Client) -> None:
    """End calls, all at once and as a person does, and wait until nothing of them is left."""
    script = f"[ ! -e /run/ppp0.pid ] || kill $(</run/ppp0.pid); {_wait(_NO_CALL, 20)}"
    leaving = [(client, client.host.start(script)) for client in clients]
    for client, job in leaving:
        result = job.finish(30)
        if not result.ok:
            raise LabError(f"{client.host.name} does not hang up:\n{result.output}\n{client.evidence()}")


# without PPP ----------------------------------------------------------------------------------------------


class StubServer:
    """Real pptpd whose pppd is our stub: any number of calls, no kernel."""

    def __init__(self, host: Shelf) -> None:
        self.host = host
        host.put("/run/stub", f'#!/bin/sh\nexec {PYTHON} {_LAB}/stub_ppp.py server "$@"\n', 0o755)
        host.put("/etc/pptpd.conf", "connections 100\ndelegate\n")
        self._job = host.start("exec pptpd -f -e /run/stub -c /etc/pptpd.conf -p /run/pptpd.pid -t 30")
        until(self._listens, f"{host.name}: pptpd listens", within=10)

    def _listens(self) -> bool:
        return "1723" in self.host.sh("ss -Hltn sport = 1723", check=True).output


class StubCall:
    """Real pptp-linux whose pppd is our stub: a job that somebody has started."""

    def __init__(self, name: str, job: ShelfJob) -> None:
        self.name, self._job = name, job
        self._said = 0

    def hear(self, within: float) -> str:
        """Wait for the next line it says.

        Raises:
            LabError: it said nothing.
        """

        def spoke() -> bool:
            return len(self._job.said()) > self._said or not self._job.running()

        until(spoke, f"{self.name} says something", within=within)
        lines = self._job.said()
        if len(lines) <= self._said:
            raise LabError(f"{self.name} ended: {lines}")
        self._said += 1
        return lines[self._said - 1]

    def ask(self, count: int) -> None:
        """Have it exchange that many echoes with the server; :meth:`hear` gives the score as JSON."""
        self._job.tell(str(count))

    def hang_up(self) -> Result:
        """End the call."""
        return self._job.finish(15)


class StubClient(StubCall):
    """The same in a host of its own."""

    #: What pptp-linux reads its Call ID from, when it shall be the same for all.
    SAME = bytes([0x42]) * 4096

    def __init__(self, host: Shelf, server: str) -> None:
        """Dial; a host may do so again when its call has ended.

        pptp-linux draws its Call ID from /dev/random; here that is a file, the same for every client.
        """
        self.host = host
        host.put("/run/same", self.SAME.decode())
        host.sh("umount -q /dev/random; mount --bind /run/same /dev/random", check=True)
        stub = f"{PYTHON} {_LAB}/stub_ppp.py"
        super().__init__(host.name, host.start(f"exec {stub} client {host.name} {server}"))
