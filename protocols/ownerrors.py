"""ICMP errors of our own to the senders of packets (RFC 1812 §4.3.2), within a rate."""

from protocols import icmp, ipv4
from protocols.actions import Action, Drop, Send
from protocols.addr import UNSPECIFIED, Ip4, show_ip
from protocols.admission import Admission
from protocols.bucket import TokenBucket
from protocols.drops import Reason


class Errors:
    """Drops that it returns are not counted yet."""

    def __init__(self, admission: Admission, per_second: float) -> None:
        self._admission = admission
        self.relimit(per_second)

    def relimit(self, per_second: float) -> None:
        """Use another rate from now on."""
        self._rate = TokenBucket(per_second, per_second)

    def expired(self, packet: bytes, now: float) -> list[Action]:
        """What becomes of a packet whose time ran out here."""
        return [Drop(Reason.TTL_EXPIRED), *self.answer(icmp.time_exceeded(packet), packet, now)]

    def answer(self, error: icmp.IcmpError, about: bytes, now: float) -> list[Action]:
        """An error to the sender of a packet, if there may be one."""
        if not icmp.may_answer(about, self._admission.addresses.broadcasts):
            return []
        sender = ipv4.Header.from_bytes(about, verify=False).src
        if not self._rate.take(now=now):
            return [Drop(Reason.ICMP_RATE, f"to {show_ip(sender)}")]
        # Source 0: the kernel fills in the address that faces the sender (raw(7)).
        packet = ipv4.build(src=UNSPECIFIED, dst=sender, protocol=ipv4.ICMP, payload=error.to_bytes())
        return [Send(packet, Ip4(sender))]
