"""Readers of single values: text of a configuration in, checked text or numbers out.

Every reader raises InputError with a message for people. Addresses and networks stay text here;
relay.config.convert turns them into the core's integers.
"""

import ipaddress
import math
import re
import shlex

from protocols.addr import Network, parse_ip, show_ip
from relay.config.problems import InputError

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_DURATION_UNITS = (86400, 3600, 60, 1)
_SIZE = re.compile(r"(\d+)\s*([KMG]?)(?:i?B)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
#: Seconds; longer waits are slips of the pen, and would overflow timers.
_LONGEST = 366 * 86400.0
#: IFNAMSIZ (linux/if.h) is 16 with the final zero.
_INTERFACE = re.compile(r"[^\s/:]{1,15}")
#: A component of nft's own identifiers: it becomes the name of our table.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_RULE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: IPsec's own ports, which never stand for others.
_LAST_RESERVED = 4500
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.))*")


def duration(value: object) -> float:
    """Read "30m", "1h30m", "45s" or a number of seconds; return seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if not isinstance(value, int) or abs(value) < 1 << 53 else math.inf
    elif isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        seconds = float(value)
    elif isinstance(value, str) and value and len(value) < 40 and (match := _DURATION.fullmatch(value)):
        parts = zip(match.groups(), _DURATION_UNITS, strict=True)
        seconds = sum(float(text) * unit for text, unit in parts if text)
    else:
        raise InputError(f"{show(value)} is not a time", 'write "30m", "1h30m", "45s" or seconds as a number')
    if math.isnan(seconds) or seconds <= 0:
        raise InputError(f"{show(value)} is not a time above zero", 'write for example "30s"')
    if seconds > _LONGEST:
        raise InputError(f"{show(value)} is too long", "the longest is 366d")
    return seconds


def show_duration(seconds: float) -> str:
    """Write seconds as ``duration`` reads them: 5400.0 is "1h30m"."""
    if seconds != int(seconds):
        return f"{seconds:.9f}".rstrip("0") + "s"
    rest, text = int(seconds), ""
    for letter, unit in zip("dhm", _DURATION_UNITS, strict=False):
        count, rest = divmod(rest, unit)
        text += f"{count}{letter}" if count else ""
    return text + (f"{rest}s" if rest or not text else "")


def size(value: object) -> int:
    """Read "4M", "512K" or a number of octets; return octets."""
    if isinstance(value, int) and not isinstance(value, bool):
        octets = value
    elif isinstance(value, str) and len(value) < 24 and (match := _SIZE.fullmatch(value.strip())):
        octets = int(match[1]) * _SIZE_UNITS[match[2].upper()]
    else:
        raise InputError(f"{show(value)} is not a size", 'write "4M", "512K" or octets as a number')
    if not 4096 <= octets <= 1 << 30:
        raise InputError(f"{show(value)} is out of range", "from 4K to 1G")
    return octets


def show_size(octets: int) -> str:
    """Write octets as ``size`` reads them: 4194304 is "4M"."""
    for letter in "GMK":
        if octets % _SIZE_UNITS[letter] == 0 and octets:
            return f"{octets // _SIZE_UNITS[letter]}{letter}"
    return str(octets)


def address(value: object) -> str:
    """Read one IPv4 host address."""
    text = _text(value, "an IPv4 address", '"10.0.0.2"')
    if "/" in text:
        raise InputError(
            f"{show(text)} is a network; one address is wanted here", f'write "{text.split("/")[0]}"'
        )
    return show_ip(_parse(text))


def host_address(value: object) -> str:
    """Read an IPv4 address that a single host can have."""
    text = address(value)
    number = parse_ip(text)
    if number >> 28 == 0xE or number >> 24 in (0, 127) or number == 0xFFFFFFFF:
        raise InputError(f"{text} is not the address of a host", "write the address that the host itself has")
    return text


def network(value: object) -> str:
    """Read "10.0.0.0/8", a bare address, or "any"; return it as protocols.addr.Network writes it."""
    text = _text(value, "an IPv4 address or network", '"10.0.0.0/8"')
    head, slash, length = text.partition("/")
    if text == "any":
        return text
    if text.lower() in ("any", "all", "*", "everyone", "0.0.0.0/0"):
        raise InputError(f"{show(text)} is not an address", 'everybody is written as "any"')
    number = _parse(head)
    if not slash:
        return show_ip(number)
    if not (length.isascii() and length.isdigit() and len(length) <= 2 and int(length) <= 32):
        raise InputError(f"{show(text)}: the prefix length is a number from 0 to 32", f'write "{head}/24"')
    mask = 0xFFFFFFFF << (32 - int(length)) & 0xFFFFFFFF
    if number & ~mask:
        meant = f"{show_ip(number & mask)}/{int(length)}"
        raise InputError(f"{text} has host bits set; did you mean {meant}?", f'write "{meant}" or "{head}"')
    if mask == 0:
        raise InputError(f"{show(text)} is everybody", 'everybody is written as "any"')
    return str(Network(number, mask)) if mask != 0xFFFFFFFF else show_ip(number)


def definite_network(value: object) -> str:
    """Read a network where "any" makes no sense."""
    text = network(value)
    if text == "any":
        raise InputError('"any" cannot stand here', "write the networks, such as 10.0.0.0/8")
    return text


def interface(value: object) -> str:
    """Read the name of a network interface, or "auto"."""
    text = _text(value, "the name of an interface", '"eth0"')
    if not _INTERFACE.fullmatch(text) or text in (".", ".."):
        raise InputError(
            f"{show(text)} is not the name of an interface", "names have 1 to 15 characters, see: ip link"
        )
    if text == "lo":
        raise InputError(
            "lo is the loopback interface", "write the interface that packets arrive on, see: ip link"
        )
    return text


def instance_name(value: object) -> str:
    """Read the name of this instance: it becomes part of the names of kernel objects."""
    text = _text(value, "a name", '"vpnmasq"')
    if not _NAME.fullmatch(text):
        raise InputError(f"{show(text)} is not a name", "a letter, then at most 31 letters, digits, - or _")
    return text


def rule_name(value: object) -> str:
    """Read the name of a rule."""
    text = _text(value, "a name", '"office"')
    # Rules without a name are given one when they are loaded.
    if text and not _RULE_NAME.fullmatch(text):
        raise InputError(f"{show(text)} is not a name", "at most 64 letters, digits, dots, - or _")
    return text


def socket_path(value: object) -> str:
    """Read the path of a Unix socket: absolute, and within sun_path (unix(7): 108 with the final zero)."""
    text = absolute_path(value)
    if not text:
        raise InputError("the control socket is needed", 'write "/run/vpnmasq/control.sock"')
    if len(text.encode(errors="replace")) > 107:
        raise InputError("the path of a socket has at most 107 octets", "use a shorter directory")
    return text


def absolute_path(value: object) -> str:
    """Read an absolute path, or nothing."""
    text = _text(value, "a path", '"/var/lib/vpnmasq"')
    if text and not text.startswith("/"):
        raise InputError(f"{show(text)} is not an absolute path", f'write it from the root: "/…/{text}"')
    if "\0" in text:
        raise InputError("a path has no zero octet", "")
    return text


def http_address(value: object) -> str:
    """Read "127.0.0.1:9470", or nothing."""
    text = _text(value, "an address and port", '"127.0.0.1:9470"')
    if not text:
        return text
    if text.startswith("http"):
        raise InputError(f"{show(text)} is a URL", 'write the address and port alone, "127.0.0.1:9470"')
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise InputError(
            f"{show(text)} has no port", f'write "{text}:9470"' if "." in text else 'write "127.0.0.1:9470"'
        )
    if host == "localhost":
        host = "127.0.0.1"
    return f"{show_ip(_parse(host))}:{port(port_text)}"


def listen(value: object) -> str:
    """Read what a forward rule listens on: tcp/PORT, udp/PORT or ip/PROTOCOL."""
    text = _text(value, "what to listen on", '"tcp/80"')
    kind, slash, number = text.lower().partition("/")
    if not slash or kind not in ("tcp", "udp", "ip"):
        advice = 'write "tcp/PORT", "udp/PORT" or "ip/PROTOCOL"'
        head, _, tail = text.lower().partition("/")
        if tail in ("tcp", "udp") and head.isdigit():
            advice = f'write "{tail}/{head}"'
        elif text.isdigit():
            advice = f'write "tcp/{text}" or "udp/{text}"'
        raise InputError(f"{show(text)} is not something to listen on", advice)
    if kind != "ip":
        return f"{kind}/{port(number)}"
    if not (number.isascii() and number.isdigit() and len(number) <= 3 and 1 <= int(number) <= 254):
        raise InputError(
            f"{show(text)}: an IP protocol is a number from 1 to 254", 'write for example "ip/94"'
        )
    if int(number) in (1, 6, 17):
        name = {1: "icmp", 6: "tcp", 17: "udp"}[int(number)]
        raise InputError(f"{show(text)}: {name} cannot be forwarded whole", 'write "tcp/PORT" or "udp/PORT"')
    return f"ip/{int(number)}"


def endpoint(value: object) -> str:
    """Read "10.0.0.2:8080", or "10.0.0.2" alone."""
    text = _text(value, "a server", '"10.0.0.2:8080"')
    if text.count(":") != 1:
        return host_address(text)
    host, _, port_text = text.partition(":")
    return f"{host_address(host)}:{port(port_text)}"


def host_name(value: object) -> str:
    """Read a DNS name."""
    text = _text(value, "a host name", '"vpn.example.org"')
    if not _HOST.fullmatch(text):
        raise InputError(f"{show(text)} is not a host name", 'write for example "vpn.example.org"')
    return text


def name_server(value: object) -> str:
    """Read the name or address of a server, with :PORT or without."""
    text = _text(value, "a server", '"ns.example.org"')
    name, colon, number = text.partition(":")
    return f"{host_name(name)}:{port(number)}" if colon else host_name(name)


def command(value: object) -> str:
    """Read a command line; it is split as a shell would, and no shell runs it."""
    text = _text(value, "a command", '"/etc/vpnmasq/up.sh"')
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{show(text)}: {str(error).lower()}", "close the quotation") from error
    if not words:
        raise InputError("is empty", 'write a program and its arguments, such as "/etc/vpnmasq/up.sh"')
    return text


def port(text: str) -> int:
    """Read a port number."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise InputError(f"{show(text)} is not a port", "a port is a number from 1 to 65535")
    return int(text)


def port_range(value: object) -> str:
    """Read a range of ports: FIRST-LAST."""
    text = _text(value, "a range of ports", '"61000-65095"')
    first, dash, last = (part.strip() for part in text.partition("-"))
    if not dash or port(first) > port(last):
        advice = 'write "FIRST-LAST", for example "61000-65095"'
        raise InputError(f"{show(text)} is not a range of ports", advice)
    if port(first) <= _LAST_RESERVED:
        message = f"{show(text)}: ports up to {_LAST_RESERVED} cannot be given out"
        raise InputError(message, 'write "61000-65095"')
    return f"{port(first)}-{port(last)}"


def mark(value: object) -> int:
    """Read a packet mark, as a number or as text such as "0x76706e01"."""
    number = value
    if isinstance(value, str) and re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}", value):
        number = int(value, 0) if value[:2].lower() == "0x" else int(value)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 0xFFFFFFFF:
        raise InputError(f"{show(value)} is not a packet mark", "write a number such as 0x76706e01")
    return number


def show(value: object) -> str:
    """Write a value as a message shows it: quoted and cut."""
    if isinstance(value, str):
        text = f'"{value[:64]}…"' if len(value) > 64 else f'"{value}"'
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, int) and value.bit_length() > 128:
        # Python refuses to write numbers of more than 4300 digits.
        text = "a huge number"
    else:
        text = "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else str(value)
    return printable(text)


def printable(text: str) -> str:
    """Return the text with everything that a terminal or an encoder could choke on replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _text(value: object, what: str, example: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{show(value)} is not {what}", f"write {example}, in quotes")
    return value


def _parse(text: str) -> int:
    try:
        return parse_ip(text)
    except ValueError:
        pass
    if ":" in text:
        try:
            ipaddress.IPv6Address(text.strip("[]").split("%")[0].split("/")[0])
        except ValueError:
            pass
        else:
            raise InputError(
                f"{show(text)} is an IPv6 address", "IPv4 only: the protocols served here have no IPv6 form"
            )
    advice = "write four numbers from 0 to 255, such as 10.0.0.2"
    if _HOST.fullmatch(text) and not text[-1].isdigit():
        advice = "names are not looked up here: write the address itself"
    raise InputError(f"{show(text)} is not an IPv4 address", advice)
