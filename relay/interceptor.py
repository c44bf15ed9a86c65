"""What stands in the kernel while we run: the routing that brings us LAN traffic, and our nftables table."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog

from protocols.addr import Network, parse_ip
from protocols.policy import TCP
from relay import privileges
from relay.aside import aside
from relay.config.models import Config
from relay.kernel import KernelError
from relay.plan import Plan
from relay.privileges import Capability
from relay.rules import conntrack, nft, routing
from relay.rules.interception import Interception, Traffic, ipsec_traffic, pptp_traffic

_log = structlog.get_logger("vpnmasq.kernel")

_PUT_BACK: Final = (
    "it was put back, but packets were lost meanwhile: let firewall scripts flush only their own tables, and "
    "systemd-networkd leave the rules of others (ManageForeignRoutingPolicyRules=no)"
)


class Interceptor:
    """Puts a plan into the kernel, takes it out again, and puts back what others take."""

    def __init__(
        self, settings: Config, lan_interfaces: Sequence[str], wan_interface: str, *, shared: bool = False
    ) -> None:
        self._settings = settings
        #: Whether another process needs what stands, and so it is not to be removed.
        self.shared = shared
        self._lan = tuple(lan_interfaces)
        #: Its name; empty while it is not known.
        self.wan = wan_interface
        #: What conntrack has been made to forget, because it comes to us.
        self._took_over: frozenset[conntrack.Kind] = frozenset()
        #: One change at a time, and none after the last.
        self._changing = asyncio.Lock()
        self._removed = False
        #: What stands in the kernel, and the table as the kernel shows it.
        self._routing: Interception | None = None
        self._table: nft.Table | None = None
        self._listing: str | None = None
        #: How often others have taken it.
        self._taken: Counter[str] = Counter()
        #: What to tell the operator now; always the same list.
        self.attention: list[str] = []

    async def install(self, plan: Plan, lan_networks: Sequence[Network], answer_port: int) -> None:
        """Make the kernel do what the plan needs, changing only what differs; nothing after ``remove``.

        ``answer_port`` is the Station's.

        Raises:
            KernelError: routing cannot be set up, and without it the plan does not work.
        """
        async with self._changing:
            if not self._removed:
                await self._install(plan, lan_networks, answer_port)

    async def _install(self, plan: Plan, lan_networks: Sequence[Network], answer_port: int) -> None:
        self._taken.clear()  # whoever changes something here has read what there was to say
        # Also when nothing is to be intercepted: a crash may have left rules of another plan.
        if not privileges.missing({Capability.CAP_NET_ADMIN}):
            wanted = self._interception(plan, lan_networks)
            await aside(routing.install, wanted)
            self._routing = wanted
            await self._forget(plan)
        table, lacking = self._wanted(plan, lan_networks, answer_port), []
        try:
            if table != self._table or not await self._stands():
                await self._write(table)
        except KernelError as error:
            _log.warning("no nftables table", error=str(error))
            also = ", and IKE messages in fragments do not arrive whole" if plan.ipsec else ""
            lost = f"conntrack sees our packets, and ICMP errors from the LAN are not translated{also}"
            lacking = [f"{lost}: {error}"]
        self._tell(lacking)

    @contextlib.asynccontextmanager
    async def untouched(self) -> AsyncIterator[None]:
        """Leave everything to another process meanwhile."""
        async with self._changing:
            yield

    async def mend(self) -> None:
        """Put back what others have taken: a firewall that is loaded anew, a network manager."""
        async with self._changing:
            if self._removed:
                return
            try:
                await self._mend()
            except KernelError as error:
                _log.error("what another program took cannot be put back", error=str(error))
                self._tell([f"what another program took cannot be put back: {error}"])

    async def _mend(self) -> None:
        taken: list[str] = []
        if self._routing is not None and (await aside(routing.install, self._routing)).added:
            taken.append("routing rules")
            # Meanwhile the router's own masquerading has carried it.
            await _forget(self._took_over)
        if self._table is not None and not await self._stands():
            await self._write(self._table)
            taken.append("nftables table")
        if taken:
            self._taken.update(taken)
            _log.warning("put back what another program took", taken=taken)
            self._tell([])

    def _tell(self, lacking: list[str]) -> None:
        times = [f"the {what} {count} time{'s' * (count > 1)}" for what, count in self._taken.items()]
        self.attention[:] = lacking
        if times:
            self.attention.append(f"another program took away {' and '.join(times)}; {_PUT_BACK}")

    async def _stands(self) -> bool:
        return self._listing is not None and await aside(nft.listing, self._settings.name) == self._listing

    async def _write(self, table: nft.Table) -> None:
        await aside(nft.install, table)
        self._table, self._listing = table, await aside(nft.listing, self._settings.name)

    async def remove(self) -> None:
        """Leave the kernel as it was, for good."""
        async with self._changing:
            self._removed = True
            if not self.shared:
                await self._remove()

    async def _remove(self) -> None:
        standing = (
            (self._routing is not None, routing.remove),
            (self._table is not None, nft.remove),
        )
        for stands, remove in standing:
            if not stands:
                continue
            try:
                await aside(remove, self._settings.name)
            except KernelError as error:
                _log.error("left behind in the kernel", error=str(error))
        await _forget(self._took_over)

    async def _forget(self, plan: Plan) -> None:
        """When something begins to come to us, or ends to: what conntrack remembers would keep it away."""
        kinds = conntrack.IPSEC if plan.ipsec is not None else frozenset()
        kinds |= {(one.protocol, one.server_port) for one in plan.forwards if one.protocol != TCP}
        await _forget(kinds ^ self._took_over)
        self._took_over = kinds

    def _wanted(self, plan: Plan, lan_networks: Sequence[Network], answer_port: int) -> nft.Table:
        settings, ipsec = self._settings, plan.ipsec
        answering: tuple[Network, ...] = ()
        if ipsec is not None:
            hosts = ("any",) if ipsec.intercept_clients else ipsec.keep_servers
            answering = tuple(Network.parse(host) for host in hosts)
        return nft.Table(
            settings.name,
            self._lan,
            self.wan,
            settings.interception.mark,
            tuple(lan_networks),
            pptp=plan.pptp,
            ipsec=ipsec is not None,
            answering=answering,
            forwarded=tuple(
                nft.Forwarded(one.protocol, Network(one.server, 0xFFFFFFFF), one.server_port)
                for one in plan.forwards
            ),
            answer_port=answer_port,
        )

    def _interception(self, plan: Plan, lan_networks: Sequence[Network]) -> Interception:
        return Interception(
            instance=self._settings.name,
            interfaces=self._lan,
            exempt=tuple(lan_networks),
            traffic=_traffic(plan),
            mark=self._settings.interception.mark,
            priority=self._settings.interception.priority,
        )


async def _forget(kinds: frozenset[conntrack.Kind]) -> None:
    if not kinds:
        return
    try:
        deleted = await aside(conntrack.forget, kinds)
    except KernelError as error:  # a kernel without conntrack remembers nothing
        _log.info("old connections not looked at", error=str(error))
    else:
        _log.info("old connections forgotten", entries=deleted)


def _traffic(plan: Plan) -> tuple[Traffic, ...]:
    servers = [parse_ip(server) for server in plan.keep_servers]
    traffic: tuple[Traffic, ...] = ()
    if plan.pptp:
        traffic = pptp_traffic(clients=plan.intercept_clients, servers=servers)
    if plan.ipsec is not None:
        servers = [parse_ip(server) for server in plan.ipsec.keep_servers]
        traffic += ipsec_traffic(clients=plan.ipsec.intercept_clients, servers=servers)
    return traffic + plan.answers
