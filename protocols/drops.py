"""Why a packet, a message or a connection was refused: one closed set.

The value is the metric label, the log field and the key in ``status``; HELP says what an operator
should make of it.
"""

from enum import Enum


class Reason(Enum):
    """A reason to drop. Add a member and its line in HELP, nothing else."""

    # headers (RFC 1812 §5.2.2)
    BAD_HEADER = "bad-header"
    IP_OPTIONS = "ip-options"
    FRAGMENT = "fragment"
    TTL_EXPIRED = "ttl-expired"
    TOO_BIG = "too-big"
    CHECKSUM = "checksum"

    # sources (RFC 1812 §5.3.7)
    SPOOFED = "spoofed-source"
    OWN_ADDRESS = "own-address"
    MARTIAN = "martian"

    # GRE (RFC 2637 §4.1)
    GRE_VERSION = "gre-version"
    GRE_PROTOCOL = "gre-protocol"
    GRE_FLAGS = "gre-flags"
    GRE_LENGTH = "gre-length"
    UNKNOWN_CALL = "unknown-call"
    STRANGER = "stranger"
    CALL_ENDED = "call-ended"

    # PPTP control connections (RFC 2637 §2, §3)
    PPTP_LENGTH = "pptp-length"
    PPTP_TYPE = "pptp-type"
    PPTP_MAGIC = "pptp-magic"
    PPTP_CONTROL_TYPE = "pptp-control-type"
    PPTP_RESERVED = "pptp-reserved"
    PPTP_VALUE = "pptp-value"
    PPTP_STATE = "pptp-state"
    PPTP_UNKNOWN_CALL = "pptp-unknown-call"
    PPTP_SILENT = "pptp-silent"
    PPTP_STALLED = "pptp-stalled"

    # UDP, IKE (RFC 2408, RFC 7296) and IPsec in UDP (RFC 3948)
    UDP_LENGTH = "udp-length"
    UDP_STRANGER = "udp-stranger"
    UDP_FORGOTTEN = "udp-forgotten"
    NO_PORT = "no-port"
    IKE_LENGTH = "ike-length"
    IKE_VERSION = "ike-version"
    IKE_ZERO_COOKIE = "ike-zero-cookie"
    IKE_COLLISION = "ike-collision"
    IKE_UNKNOWN = "ike-unknown"
    IKE_FORGOTTEN = "ike-forgotten"
    NATT_LENGTH = "natt-length"

    # ESP (RFC 4303 §2), and whom it is for
    ESP_LENGTH = "esp-length"
    ESP_NO_SPI = "esp-no-spi"
    ESP_STRANGER = "esp-stranger"
    ESP_UNKNOWN = "esp-unknown"
    ESP_SPI_RATE = "esp-spi-rate"
    ESP_SPIS = "esp-spis"
    ESP_FORGOTTEN = "esp-forgotten"
    ESP_COPIES = "esp-copies"
    ESP_BLOCKED = "esp-blocked"
    ESP_SQUELCHED = "esp-squelched"
    ESP_REFUSED = "esp-refused"

    # what no gateway that changes addresses can carry
    AH = "ah"
    FWZ = "fwz"

    # policy and limits
    NO_RULE = "no-rule"
    FORWARD_SHARED = "forward-shared"
    LIMIT_SESSIONS = "limit-sessions"
    LIMIT_PER_HOST = "limit-per-host"
    LIMIT_RATE = "limit-rate"
    LIMIT_FILES = "limit-files"
    NO_CALL_ID = "no-call-id"
    NO_ADDRESS = "no-address"
    DRAINING = "draining"

    # ICMP errors (RFC 5508)
    ICMP_UNKNOWN = "icmp-unknown"
    ICMP_MALFORMED = "icmp-malformed"
    ICMP_RATE = "icmp-rate"
    ICMP_SHARED = "icmp-shared"

    # the shell
    NOT_SERVED = "not-served"
    UNREACHABLE = "unreachable"
    SEND_FAILED = "send-failed"
    TAKEOVER = "takeover"


HELP: dict[Reason, str] = {
    Reason.BAD_HEADER: "the IP header is malformed or disagrees with the packet's length",
    Reason.IP_OPTIONS: "the packet carries IP options, which a VPN gateway does not forward",
    Reason.FRAGMENT: "a fragment that the kernel did not reassemble",
    Reason.TTL_EXPIRED: "the packet's time to live ran out here: a routing loop, or a traceroute",
    Reason.TOO_BIG: "larger than the next link's MTU with Don't Fragment set; the sender was told the MTU",
    Reason.CHECKSUM: "the checksum does not match",
    Reason.SPOOFED: "a LAN address came from the WAN, or a foreign one from the LAN; check lan.networks",
    Reason.OWN_ADDRESS: "one of our own addresses came in as source",
    Reason.MARTIAN: "the source can never be a host's address (loopback, multicast, broadcast, 0/8, 240/4)",
    Reason.GRE_VERSION: "GRE that is not PPTP's (version 0): a tunnel that vpnmasq does not serve",
    Reason.GRE_PROTOCOL: "GRE version 1 that does not carry PPP (protocol type is not 0x880B)",
    Reason.GRE_FLAGS: "GRE flags that RFC 2637 §4.1 forbids",
    Reason.GRE_LENGTH: "GRE payload length and packet length disagree",
    Reason.UNKNOWN_CALL: "GRE from a host that has calls, but with a Call ID of none of them",
    Reason.STRANGER: "GRE from an address without a call: its tcp/1723 went elsewhere, or somebody guesses",
    Reason.CALL_ENDED: "GRE for a call that ended a short while ago",
    Reason.PPTP_LENGTH: "a PPTP message of the wrong length for its type",
    Reason.PPTP_TYPE: "a PPTP message that is not a control message",
    Reason.PPTP_MAGIC: "a PPTP message without the magic cookie: the stream is out of step, or not PPTP",
    Reason.PPTP_CONTROL_TYPE: "a PPTP control message of a type RFC 2637 does not have",
    Reason.PPTP_RESERVED: "a PPTP message with reserved fields that are not zero",
    Reason.PPTP_VALUE: "a PPTP field holds a value RFC 2637 does not allow",
    Reason.PPTP_STATE: "a PPTP message that must not come at this point of the conversation",
    Reason.PPTP_UNKNOWN_CALL: "a PPTP message about a call we do not know",
    Reason.PPTP_SILENT: "a control connection on which nothing useful came in time",
    Reason.PPTP_STALLED: "a peer that does not read what is sent to it",
    Reason.UDP_LENGTH: "UDP length and packet length disagree",
    Reason.UDP_STRANGER: "IPsec in UDP from an endpoint that the inside host has not talked to",
    Reason.UDP_FORGOTTEN: "answers to a port of a peer have no way back any more: it talks from more than "
    "ipsec.most_endpoints or forwarding.most_endpoints",
    Reason.NO_PORT: "no free UDP port of ours; see ipsec.ports",
    Reason.IKE_LENGTH: "an IKE message that is shorter than its header says",
    Reason.IKE_VERSION: "IKE of a version that is neither 1 nor 2, or not IKE at all",
    Reason.IKE_ZERO_COOKIE: "an IKE message with an initiator cookie of zero, which belongs to no session; "
    "if IPsec sessions die after a while, make ipsec.lifetime longer than the rekey interval",
    Reason.IKE_COLLISION: "two hosts began with the same IKE cookie, and the first was not answered in time",
    Reason.IKE_UNKNOWN: "IKE from a peer that no inside host talks to",
    Reason.IKE_FORGOTTEN: "an IKE SA was forgotten for a newer one of the same hosts, over "
    "ipsec.most_associations or most_unanswered",
    Reason.NATT_LENGTH: "too short for ESP in UDP, and no keepalive",
    Reason.ESP_LENGTH: "too short for an ESP packet",
    Reason.ESP_NO_SPI: "ESP with SPI 0, which must never be sent (RFC 4303 §2.1)",
    Reason.ESP_STRANGER: "ESP from an address that no inside host talks to",
    Reason.ESP_UNKNOWN: "ESP with an SPI that no inside host can be found for",
    Reason.ESP_SPI_RATE: "a peer shows new SPIs faster than ipsec.spis_per_second",
    Reason.ESP_SPIS: "a peer shows more SPIs than ipsec.most_spis",
    Reason.ESP_FORGOTTEN: "an outbound SPI was forgotten for a newer one of the same hosts, over "
    "ipsec.most_outbound",
    Reason.ESP_COPIES: "copies left out because of ipsec.copies_per_second or most_candidates",
    Reason.ESP_BLOCKED: "another host waits for this peer's first answer (ipsec.pairing is serialize)",
    Reason.ESP_SQUELCHED: "never answered by the peer while others waited (ipsec.pairing is serialize)",
    Reason.ESP_REFUSED: "another host has a session with this peer (ipsec.pairing is refuse)",
    Reason.AH: "IPsec AH (IP protocol 51) signs the addresses that a gateway has to change (RFC 3715 §2.1a), "
    "so that the receiver throws every packet away: use ESP, which can sign too, in the tunnel's settings",
    Reason.FWZ: "Check Point FWZ encapsulation (IP protocol 94) signs the addresses that a gateway has to "
    "change (HOWTO §4.6): set the firewall to IKE, or to FWZ in transport mode",
    Reason.NO_RULE: "no rule allows it; add a [[masquerade]] or [[expose]] rule if it should pass",
    Reason.LIMIT_SESSIONS: "limits.sessions is reached",
    Reason.LIMIT_PER_HOST: "limits.sessions_per_client is reached for this host",
    Reason.LIMIT_RATE: "limits.new_per_second is exceeded",
    Reason.LIMIT_FILES: "no more files may be open; raise LimitNOFILE= in the systemd unit, or ulimit -n",
    Reason.NO_CALL_ID: "no free Call ID towards this peer",
    Reason.NO_ADDRESS: "the WAN interface has no address, so there is nothing to answer from",
    Reason.FORWARD_SHARED: "a second neighbour of the server came by our public address with a protocol "
    "that has nothing to tell the two apart by: let it use the server's own address",
    Reason.DRAINING: "the gateway is shutting down and takes no new sessions",
    Reason.ICMP_UNKNOWN: "an ICMP error about a packet of no session",
    Reason.ICMP_MALFORMED: "an ICMP error that does not quote enough of a packet",
    Reason.ICMP_SHARED: "one host refuses what a peer sends; told so, the peer would end the others' calls",
    Reason.ICMP_RATE: "an ICMP error we did not send, to stay within limits.icmp_per_second",
    Reason.NOT_SERVED: "a protocol no rule here serves",
    Reason.UNREACHABLE: "no connection to the other side could be made",
    Reason.SEND_FAILED: "the kernel refused to send (queue full, no route, firewall)",
    Reason.TAKEOVER: "too much that needs more than forwarding came while another process took over",
}
