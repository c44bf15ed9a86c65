"""IPv4 addresses and networks as integers.

The packet path hashes and compares addresses a hundred thousand times a second, so an address is a
plain ``int`` in host order; text appears only at the edges.
"""

from dataclasses import dataclass
from typing import NewType, Self

Ip4 = NewType("Ip4", int)

#: "No address": on a source it asks the kernel to choose one.
UNSPECIFIED = Ip4(0)


def parse_ip(text: str) -> Ip4:
    """Read dotted-quad text.

    Raises:
        ValueError: the text is not four decimal octets.
    """
    octets = text.split(".")
    if len(octets) != 4 or not all(o.isascii() and o.isdigit() and len(o) <= 3 for o in octets):
        raise ValueError(f"{text!r} is not an IPv4 address")
    values = [int(o) for o in octets]
    if max(values) > 255:
        raise ValueError(f"{text!r} is not an IPv4 address")
    return Ip4(int.from_bytes(bytes(values)))


def show_ip(address: int) -> str:
    """Write an address as dotted-quad text."""
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


@dataclass(frozen=True, slots=True)
class Network:
    """An IPv4 prefix; ``address & mask == address``."""

    address: int
    mask: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``10.0.0.0/8``, a bare host address, or ``any``.

        Raises:
            ValueError: not a prefix, or bits are set to the right of it.
        """
        if text == "any":
            return cls(0, 0)
        address_text, slash, length_text = text.partition("/")
        address = parse_ip(address_text)
        length = 32
        if slash:
            if not (length_text.isascii() and length_text.isdigit() and int(length_text) <= 32):
                raise ValueError(f"{text!r}: the prefix length is a number from 0 to 32")
            length = int(length_text)
        mask = 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF
        if address & ~mask:
            raise ValueError(f"{text!r} has host bits set; did you mean {show_ip(address & mask)}/{length}?")
        return cls(address, mask)

    @property
    def is_any(self) -> bool:
        """Whether every address belongs to it."""
        return self.mask == 0

    def __contains__(self, address: int) -> bool:
        return address & self.mask == self.address

    def __str__(self) -> str:
        if self.is_any:
            return "any"
        return f"{show_ip(self.address)}/{self.mask.bit_count()}"


def contains(networks: tuple[Network, ...], address: int) -> bool:
    """Whether any of the networks holds the address."""
    for network in networks:  # noqa: SIM110  asked for every packet of the slow lanes, any() takes twice as long
        if address & network.mask == network.address:
            return True
    return False


#: Addresses no unicast packet may come from: "this" network, loopback, multicast, class E and
#: limited broadcast (RFC 1812 §5.3.7, RFC 6890).
MARTIANS = (
    Network(0x00000000, 0xFF000000),
    Network(0x7F000000, 0xFF000000),
    Network(0xE0000000, 0xF0000000),
    Network(0xF0000000, 0xF0000000),
)


def is_martian(address: int) -> bool:
    """Whether the address can never be a host's (RFC 1812 §5.3.7)."""
    return contains(MARTIANS, address)
