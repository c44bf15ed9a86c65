"""Metrics for Prometheus: plain counters of the daemon, read when somebody scrapes.

Nothing here is touched per packet, and no label holds an address: their number stays bounded.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from protocols.drops import Reason
from relay.control.daemon import Counted, Daemon, Status

#: Text format 0.0.4, which every Prometheus reads.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Values of the ``datapath`` label: who carried a packet.
USERSPACE = "userspace"
KERNEL = "kernel"
#: Until the kernel is known to have carried anything.
_NOTHING = Counted(packets=0, octets=0)


class GatewayCollector(Collector):
    """Turns the daemon's status into metric families, anew for each scrape."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def collect(self) -> Iterator[Metric]:
        """Read every counter once."""
        status = self._daemon.status()
        yield InfoMetricFamily(
            "vpnmasq_build", "Version and instance", {"version": status.version, "instance": status.instance}
        )
        yield GaugeMetricFamily("vpnmasq_ready", "1 while the gateway serves", int(self._daemon.ready()))
        yield GaugeMetricFamily(
            "vpnmasq_uptime_seconds", "Since the start", self._daemon.clock() - status.started_at
        )
        yield GaugeMetricFamily(
            "vpnmasq_wan_up", "1 while there is a WAN address", int(status.wan.address is not None)
        )
        yield CounterMetricFamily("vpnmasq_wan_changes", "Changes of the WAN address", status.wan.changes)
        yield from _recovery(status)
        yield from _names(status)
        yield from _sessions(status)
        yield from _traffic(status)
        yield from _fastpath(status)
        yield from _sockets(status)
        yield _drops(status)


class Exposition:
    """The text of /v1/metrics."""

    def __init__(self, daemon: Daemon) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(_Undescribed(daemon))

    def text(self) -> bytes:
        """Return every metric in text format 0.0.4."""
        return generate_latest(self._registry)


class _Undescribed(GatewayCollector):
    """Registers without a first collect: the daemon may not have a status yet."""

    def describe(self) -> list[Metric]:
        return []


def _recovery(status: Status) -> Iterator[Metric]:
    """Of the last change of address; no sample before there was one."""
    for name, text, seconds in (
        ("served", "until it was used everywhere", status.wan.served),
        ("first_packet", "until the first packet was forwarded", status.wan.first_packet),
    ):
        documentation = f"From the kernel's word of the last change of the WAN address {text}"
        gauge = GaugeMetricFamily(f"vpnmasq_wan_change_{name}_seconds", documentation)
        if seconds is not None:
            gauge.add_metric([], seconds)
        yield gauge


def _names(status: Status) -> Iterator[Metric]:
    current = GaugeMetricFamily(
        "vpnmasq_ddns_current", "1 while the name points at the WAN address", labels=["name"]
    )
    updates = CounterMetricFamily("vpnmasq_ddns_updates", "Updates that were accepted", labels=["name"])
    for name in status.ddns:
        current.add_metric([name["name"]], int(name["state"] == "current"))
        updates.add_metric([name["name"]], name["updates"])
    yield from (current, updates)


def _sessions(status: Status) -> Iterator[Metric]:
    sessions = GaugeMetricFamily("vpnmasq_sessions", "Sessions now", labels=["protocol"])
    for protocol, count in status.sessions.items():
        sessions.add_metric([protocol], count)
    yield sessions
    of_rule = GaugeMetricFamily("vpnmasq_rule_sessions", "Sessions by rule", labels=["rule", "role"])
    refused = CounterMetricFamily("vpnmasq_rule_refused", "Refused by rule", labels=["rule", "role"])
    for rule in status.rules:
        of_rule.add_metric([rule["name"], rule["role"]], rule["sessions"])
        refused.add_metric([rule["name"], rule["role"]], rule["refused"])
    yield of_rule
    yield refused


def _traffic(status: Status) -> Iterator[Metric]:
    labels = ["direction", "datapath"]
    packets = CounterMetricFamily("vpnmasq_packets", "Data packets carried", labels=labels)
    octets = CounterMetricFamily("vpnmasq_octets", "Octets of data packets carried", labels=labels)
    for direction, counted in status.traffic.items():
        kernel = status.kernel_traffic.get(direction, _NOTHING)
        packets.add_metric([direction, USERSPACE], counted["packets"] - kernel["packets"])
        packets.add_metric([direction, KERNEL], kernel["packets"])
        octets.add_metric([direction, USERSPACE], counted["octets"] - kernel["octets"])
        octets.add_metric([direction, KERNEL], kernel["octets"])
    yield packets
    yield octets


def _fastpath(status: Status) -> Iterator[Metric]:
    fast = status.fastpath
    yield GaugeMetricFamily(
        "vpnmasq_fastpath_active", "1 while the kernel may carry flows", int(fast["active"])
    )
    yield GaugeMetricFamily("vpnmasq_fastpath_flows", "Flows that the kernel carries", fast["flows"])
    yield CounterMetricFamily(
        "vpnmasq_fastpath_refused", "Flows that the kernel had no room for", fast["refused"]
    )


def _sockets(status: Status) -> Iterator[Metric]:
    read = CounterMetricFamily("vpnmasq_socket_packets", "Packets read", labels=["socket"])
    lost = CounterMetricFamily(
        "vpnmasq_socket_kernel_drops", "Packets lost because they were read too slowly", labels=["socket"]
    )
    failed = CounterMetricFamily(
        "vpnmasq_socket_send_failures", "Packets the kernel refused to send", labels=["socket"]
    )
    for one in status.sockets:
        read.add_metric([one["name"]], one["packets"])
        lost.add_metric([one["name"]], one["kernel_drops"])
        failed.add_metric([one["name"]], one.get("send_failures", 0))
    yield from (read, lost, failed)


def _drops(status: Status) -> Metric:
    """Every reason, also at zero: a rate needs a first value to start from."""
    drops = CounterMetricFamily(
        "vpnmasq_drops", "Packets and messages refused", labels=["reason", "datapath"]
    )
    for reason in Reason:
        kernel = status.kernel_drops.get(reason)
        drops.add_metric([reason.value, USERSPACE], status.drops.get(reason, 0) - (kernel or 0))
        if kernel is not None:
            drops.add_metric([reason.value, KERNEL], kernel)
    return drops
