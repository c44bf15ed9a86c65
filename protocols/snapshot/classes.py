"""What a snapshot holds: the classes of all that is to survive a restart.

The file names them by module and name. Whoever moves or renames one, or changes what a column means, raises
VERSION; a column more or less is no such change.
"""

from typing import Final

from protocols import ipv4, policy
from protocols.actions import Side
from protocols.addr import Network
from protocols.bucket import TokenBucket
from protocols.drops import Reason
from protocols.esp import contacts as esp
from protocols.esp import evidence
from protocols.esp import flows as esp_flows
from protocols.esp.memory import Remembered
from protocols.esp.told import Told
from protocols.esp.trial import Trial
from protocols.few import Few
from protocols.forward import flows as forward_flows
from protocols.forward import ip, tcp, ways
from protocols.forward import udp as forward_udp
from protocols.forward.session import ForwardSession
from protocols.gre import flows as gre_flows
from protocols.ike import association as ike
from protocols.ike.cookies import Claim, Held
from protocols.ike.exchanges import Exchanges
from protocols.ike.header import IkeHeader
from protocols.ike.rules import Relation
from protocols.natt import flows as natt_flows
from protocols.natt import mapping as natt
from protocols.pptp import call, connection, framing, leg
from protocols.sessions import Role, Session, State, Traffic
from protocols.snapshot.graph import Schema
from protocols.udp import Datagram

#: Of the form of a snapshot.
VERSION: Final = 1

SCHEMA: Final = Schema(
    classes=(
        Session, Traffic, TokenBucket, Few, Relation, Exchanges,
        connection.Connection, leg.Leg, framing.Framer, call.Call, call.End, gre_flows.Flow,
        esp.Peer, esp.Contact, esp.EspSession, esp.Opening, esp.Inbound, esp.Pending, esp_flows.Flow,
        evidence.Activity, evidence.Evidence, Remembered, Told, Trial,
        ike.IkeSession, ike.Conversation, ike.Association, Claim, Held, IkeHeader, ipv4.Header, Datagram,
        ForwardSession, tcp.Connection, forward_udp.Talk, ip.Talk, forward_flows.Flow, ways.Way,
        policy.Forward, Network,
        natt.NattSession, natt.Mapping, natt.Talk, natt_flows.Flow,
    ),
    enums=(Role, State, Side, Reason, policy.Source, connection.Phase, call.CallState, esp.PairState),
)  # fmt: skip
