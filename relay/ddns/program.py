"""Names that a program of the user's own updates."""

from relay import programs
from relay.config.models import Ddns
from relay.ddns.provider import PATIENCE, UpdateError, password


class Program:
    """Implements Provider."""

    def __init__(self, entry: Ddns) -> None:
        self._entry = entry

    async def update(self, address: str) -> None:
        """As Provider; exit status 0 is good. The account is in the environment."""
        entry = self._entry
        argv = [word.replace("{host}", entry.host).replace("{address}", address) for word in entry.command]
        more = {
            "DDNS_HOST": entry.host,
            "DDNS_ADDRESS": address,
            "DDNS_USERNAME": entry.username,
            "DDNS_PASSWORD": password(entry),
        }
        outcome = await programs.run(argv, seconds=PATIENCE, more=more)
        if outcome.failure:
            lines = outcome.output.strip().splitlines()
            said = f", and says {lines[-1][:100]!r}" if lines else ""
            raise UpdateError(f"{argv[0]} {outcome.failure}{said}")
