"""Names in a zone that takes dynamic updates (RFC 2136), signed with a shared key (TSIG, RFC 8945)."""

from base64 import b64decode
from typing import Final

import dns.asyncquery
import dns.exception
import dns.rcode
import dns.tsig
import dns.update

from relay.config.models import Ddns
from relay.ddns.provider import NEVER, PATIENCE, SOON, UpdateError, password
from relay.ddns.published import DNS_FAILURES, absolute, no_answer, primary, zone_of

#: Answers that no repetition changes.
_FINAL: Final = frozenset(
    {
        dns.rcode.REFUSED,
        dns.rcode.NOTAUTH,
        dns.rcode.NOTZONE,
        dns.rcode.FORMERR,
        dns.rcode.NOTIMP,
        dns.rcode.BADKEY,
        dns.rcode.BADSIG,
    }
)


class Rfc2136:
    """Implements Provider."""

    def __init__(self, entry: Ddns) -> None:
        self._entry = entry

    async def update(self, address: str) -> None:
        """As Provider: all addresses of the name are replaced by this one, in one transaction."""
        entry = self._entry
        zone = entry.zone or await zone_of(entry.host)
        where, port = await primary(zone, entry.server)
        update = dns.update.UpdateMessage(absolute(zone))
        if entry.username:
            self._sign(update)
        update.replace(absolute(entry.host), int(entry.ttl), "A", address)
        try:
            answer = await dns.asyncquery.tcp(update, where, port=port, timeout=PATIENCE)
        except (dns.tsig.PeerError, dns.tsig.BadSignature) as error:
            raise UpdateError(f"{where} does not accept the TSIG key: {error}", NEVER) from error
        except DNS_FAILURES as error:
            raise no_answer(where, error) from error
        code = answer.rcode()
        if code != dns.rcode.NOERROR:
            again = NEVER if code in _FINAL else SOON
            raise UpdateError(f"{where} refuses the update: {dns.rcode.to_text(code)}", again)

    def _sign(self, update: dns.update.UpdateMessage) -> None:
        entry = self._entry
        try:
            secret = b64decode(password(entry), validate=True)
            key = dns.tsig.Key(absolute(entry.username), secret, entry.algorithm)
        except (ValueError, dns.exception.DNSException) as error:  # binascii.Error is a ValueError
            raise UpdateError(f"{entry.username} is no TSIG key: {error}", NEVER) from error
        update.use_tsig(key)
