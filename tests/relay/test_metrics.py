"""Metrics as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families

from protocols.drops import Reason
from tests.relay.control.stand_in import StandIn, serving, session


def scrape(daemon: StandIn) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with serving(daemon) as served:
        status, text = served.text("GET", "/v1/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_are_the_daemons() -> None:
    samples = scrape(StandIn([session(1), session(2)]))

    def value(name: str, /, **labels: str) -> float:
        return samples[f"vpnmasq_{name}", frozenset(labels.items())]

    assert value("ready") == 1
    assert value("sessions", protocol="pptp") == 2
    assert value("packets_total", direction="outbound", datapath="userspace") == 120
    assert value("octets_total", direction="inbound", datapath="userspace") == 12000
    assert value("drops_total", reason="unknown-call", datapath="userspace") == 7
    assert value("drops_total", reason="stranger", datapath="userspace") == 10
    assert value("drops_total", reason="stranger", datapath="kernel") == 40
    assert value("socket_kernel_drops_total", socket="gre@eth1") == 12
    assert value("rule_refused_total", rule="staff", role="masquerade") == 2
    assert value("wan_changes_total") == 1
    assert value("wan_change_served_seconds") == 0.0123
    assert ("vpnmasq_wan_change_first_packet_seconds", frozenset()) not in samples
    assert value("ddns_current", name="home") == 1
    assert value("ddns_updates_total", name="home") == 1
    assert value("uptime_seconds") == 200
    assert value("build_info", version="0.1.0", instance="vpnmasq") == 1


def test_every_reason_is_there_from_the_start() -> None:
    reasons = {
        dict(labels).get("reason") for name, labels in scrape(StandIn()) if name == "vpnmasq_drops_total"
    }
    assert reasons == {reason.value for reason in Reason}


def test_the_process_is_measured_too() -> None:
    assert ("process_open_fds", frozenset()) in scrape(StandIn())
