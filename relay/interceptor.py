"""What stands in the kernel while we run: the routing that brings us LAN traffic, and our nftables table."""

from collections.abc import Sequence

import structlog

from protocols.addr import Network, parse_ip
from relay import privileges
from relay.aside import aside
from relay.config.models import Config
from relay.kernel import KernelError
from relay.plan import Plan
from relay.privileges import Capability
from relay.rules import conntrack, nft, routing
from relay.rules.interception import Interception, Traffic, ipsec_traffic, pptp_traffic

_log = structlog.get_logger("vpnmasq.kernel")


class Interceptor:
    """Puts a plan into the kernel, and takes it out again."""

    def __init__(self, settings: Config, lan_interfaces: Sequence[str], wan_interface: str) -> None:
        self._settings = settings
        self._lan = tuple(lan_interfaces)
        self._wan = wan_interface
        self._routed = False
        self._took_over = False
        self._table: nft.Table | None = None

    async def install(self, plan: Plan, lan_networks: Sequence[Network]) -> list[str]:
        """Make the kernel do what the plan needs, changing only what differs; what to tell the operator.

        Raises:
            KernelError: routing cannot be set up, and without it the plan does not work.
        """
        # Also when nothing is to be intercepted: a crash may have left rules of another plan.
        if not privileges.missing({Capability.CAP_NET_ADMIN}):
            await aside(routing.install, self._interception(plan, lan_networks))
            self._routed = True
            await self._forget(plan)
        settings = self._settings
        table = self._wanted(plan, lan_networks)
        try:
            # A firewall that is loaded anew often flushes everybody's tables.
            if table != self._table or not await aside(nft.installed, settings.name):
                await aside(nft.install, table)
        except KernelError as error:
            _log.warning("no nftables table", error=str(error))
            also = ", and IKE messages in fragments do not arrive whole" if plan.ipsec else ""
            lost = f"conntrack sees our packets, and ICMP errors from the LAN are not translated{also}"
            return [f"{lost}: {error}"]
        self._table = table
        return []

    async def _forget(self, plan: Plan) -> None:
        """When IPsec begins to come to us, or ends to: what conntrack remembers would keep it away."""
        if (plan.ipsec is not None) != self._took_over:
            await _forget_ipsec()
        self._took_over = plan.ipsec is not None

    async def remove(self) -> None:
        """Leave the kernel as it was."""
        for done, remove in ((self._routed, routing.remove), (self._table is not None, nft.remove)):
            if not done:
                continue
            try:
                await aside(remove, self._settings.name)
            except KernelError as error:
                _log.error("left behind in the kernel", error=str(error))
        if self._took_over:
            await _forget_ipsec()

    def _wanted(self, plan: Plan, lan_networks: Sequence[Network]) -> nft.Table:
        settings, ipsec = self._settings, plan.ipsec
        answering: tuple[Network, ...] = ()
        if ipsec is not None:
            hosts = ("any",) if ipsec.intercept_clients else ipsec.keep_servers
            answering = tuple(Network.parse(host) for host in hosts)
        return nft.Table(
            settings.name,
            self._lan,
            self._wan,
            settings.interception.mark,
            tuple(lan_networks),
            ipsec=ipsec is not None,
            answering=answering,
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


async def _forget_ipsec() -> None:
    try:
        deleted = await aside(conntrack.forget_ipsec)
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
    return traffic
