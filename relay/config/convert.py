"""From settings to the core's Policy."""

from typing import Any

from protocols import policy as core
from protocols.addr import Network, parse_ip
from relay.config.models import Expose, Forward, Ipsec, Masquerade, Pptp, Table
from relay.config.settings import Settings


def policy(settings: Settings, *, streams: int = core.MOST_STREAMS) -> core.Policy:
    """Return the rules and limits in the core's terms; ``streams`` is how many the shell can hold."""
    config = settings.config
    return core.Policy(
        refuse=core.Refuse(config.refuse),
        on_change=core.OnChange(config.dynamic.on_change),
        lan_networks=_networks(config.lan.networks),
        masquerade=tuple(_masquerade(rule) for rule in config.masquerade),
        expose=tuple(_expose(rule) for rule in config.expose),
        forward=tuple(_forward(rule) for rule in config.forward),
        limits=core.Limits(streams=streams, **_as_named(config.limits)),
        pptp=_pptp(config.pptp),
        forwarding=core.ForwardTimers(**_as_named(config.forwarding)),
        ipsec=_ipsec(config.ipsec),
    )


def _masquerade(rule: Masquerade) -> core.Masquerade:
    return core.Masquerade(
        name=rule.name,
        clients=_networks(rule.clients),
        servers=_networks(rule.servers),
        pptp="pptp" in rule.proto,
        ipsec="ipsec" in rule.proto,
        listen=None if rule.listen is None else parse_ip(rule.listen),
        fastpath=rule.fastpath,
    )


def _expose(rule: Expose) -> core.Expose:
    return core.Expose(
        name=rule.name,
        server=parse_ip(rule.server),
        allow=_networks(rule.allow),
        pptp="pptp" in rule.proto,
        ipsec="ipsec" in rule.proto,
        source=core.Source(rule.source),
        fastpath=rule.fastpath,
    )


def _forward(rule: Forward) -> core.Forward:
    kind, _, number = rule.listen.partition("/")
    server, _, server_port = rule.server.partition(":")
    protocol = {"tcp": core.TCP, "udp": core.UDP}.get(kind)
    port = 0 if protocol is None else int(number)
    return core.Forward(
        name=rule.name,
        protocol=int(number) if protocol is None else protocol,
        port=port,
        server=parse_ip(server),
        server_port=int(server_port or port),
        allow=_networks(rule.allow),
        source=core.Source(rule.source),
        fastpath=rule.fastpath,
    )


def _pptp(pptp: Pptp) -> core.PptpTimers:
    return core.PptpTimers(
        echo_after=pptp.echo_after,
        echo_timeout=pptp.echo_timeout,
        handshake=pptp.handshake_timeout,
        message=pptp.message_timeout,
        call_setup=pptp.call_setup_timeout,
        closing=pptp.closing_timeout,
        ghost=pptp.ghost,
    )


def _ipsec(ipsec: Ipsec) -> core.Ipsec:
    first, last = ipsec.ports.split("-")
    return core.Ipsec(
        pairing=core.Pairing(ipsec.pairing),
        change_port=_networks(ipsec.change_port),
        ports=(int(first), int(last)),
        **_as_named(ipsec, "pairing", "change_port", "ports"),
    )


def _as_named(table: Table, *but: str) -> dict[str, Any]:
    """The settings of a table by the names that the core has for them, too: none can be forgotten here.

    Raises:
        TypeError: by whoever is given them and has no such name.
    """
    return table.model_dump(exclude={*but})


def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(Network.parse(text) for text in texts)
