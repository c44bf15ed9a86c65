"""What is allowed and yet worth a second look."""

from collections.abc import Iterator

from protocols.addr import Network, contains, show_ip
from relay.config.models import Config


def cautions(config: Config) -> Iterator[str]:
    """Yield warnings about a valid configuration, each with what to do."""
    if not (config.masquerade or config.expose or config.forward):
        yield "there is no rule, so everything is refused: write a [[masquerade]] or [[expose]]"
    for index, rule in enumerate(config.expose):
        where = f'expose[{index}] ("{rule.name}")'
        if not rule.allow:
            yield f"{where}: allow is empty, so nobody may reach {rule.server}: name its peers"
        if "any" in rule.allow and "pptp" in rule.proto:
            yield (
                f"{where}: everybody may try to log in at {rule.server}, and PPTP's MS-CHAPv2 can be broken: "
                "name its peers if you can"
            )
    for index, forward in enumerate(config.forward):
        if not forward.allow:
            yield f'forward[{index}] ("{forward.name}"): allow is empty, so nobody may reach {forward.server}'
    if config.api.http and config.api.token is None and not config.api.token_file:
        yield f"api.http: every user of this host can read the state at {config.api.http}; a token stops that"


def address_cautions(config: Config, wan: int | None) -> Iterator[str]:
    """Yield warnings about the public address that the WAN interface has now; None = it has none."""
    networks = tuple(Network.parse(text) for text in config.lan.networks)
    if wan is None:
        yield "the WAN interface has no address now: nothing works until it has one"
    elif contains(networks, wan):
        yield (
            f"the WAN interface's address {show_ip(wan)} is inside lan.networks, so its neighbours "
            "would be dropped as spoofed: make lan.networks smaller"
        )
