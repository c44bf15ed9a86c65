"""All sockets of one gateway, opened for its interfaces and closed as one.

Per interface: ICMP errors; for PPTP GRE, a listener for control connections, and what that listener turned
away; for IPsec ESP and UDP, and what cannot be carried, to be explained; for each generic forward its
listener. A WAN without an exposed PPTP server
keeps its port 1723 to itself, so that another program may have it.
"""

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from protocols.actions import Side
from protocols.addr import show_ip
from protocols.policy import TCP, UDP
from protocols.pptp.codes import PORT
from relay import others
from relay.datapath import Datapath
from relay.fastpath.handover import Handover
from relay.intakes import Intakes
from relay.kernel import KernelError, refused
from relay.plan import ForwardPlan, Plan
from relay.sockets import datagrams, gatekeeper, raw
from relay.sockets.descriptors import Descriptors, place
from relay.sockets.gatekeeper import Opening
from relay.sockets.splices import Splices
from relay.sockets.strangers import Strangers, open_to_all
from relay.sockets.streams import Streams
from relay.sockets.tcp import listener, make_transparent

#: What is opened and closed together on an interface.
_ERRORS, _PPTP, _IPSEC = "errors", "pptp", "ipsec"

#: ICMP errors and turned-away SYNs are few, and whoever floods them shall not fill memory.
_SMALL_BUFFER = 262_144
_SMALL_BATCH = 8


@dataclass(slots=True)
class _Door:
    """A listener, and the socket that sees what it turns away."""

    port: int
    listening: socket.socket
    turned_away: socket.socket | None


@dataclass(slots=True)
class Station:
    """The sockets of the LAN interfaces and the WAN interface."""

    datapath: Datapath
    streams: Streams
    splices: Splices
    handover: Handover
    strangers: Strangers
    lan_interfaces: Sequence[str]
    wan_interface: str
    receive_buffer: int
    #: Data packets to take at once.
    batch: int
    descriptors: Descriptors = field(default_factory=Descriptors)
    intakes: Intakes = field(default_factory=Intakes)
    #: (name, interface, socket) of every raw socket, for ``status``.
    raw_sockets: list[tuple[str, str, socket.socket]] = field(default_factory=list)
    attention: list[str] = field(default_factory=list)
    #: Interfaces whose sockets are open, as far as there is a use for them.
    _open: set[str] = field(default_factory=set)
    _doors: dict[tuple[str, str], _Door] = field(default_factory=dict)
    #: Raw sockets for UDP, by interface.
    _datagrams: dict[str, socket.socket] = field(default_factory=dict)
    #: Those for what only peers send that somebody here knows, by the interface and the protocol.
    _selective: dict[tuple[str, int], socket.socket] = field(default_factory=dict)
    _stacks: dict[tuple[str, str], ExitStack] = field(default_factory=dict)
    #: Holds a port for what servers of forwarded UDP answer (see relay.rules.nft).
    _answers: socket.socket | None = None

    async def open(self, plan: Plan) -> None:
        """Open the LAN's sockets; on failure everything opened so far is closed again.

        The WAN interface may be missing as yet: ``reopen`` it when it is there.

        Raises:
            KernelError: an interface is missing, a port is taken, or a capability is missing.
        """
        try:
            self._hold_answers(wanted=bool(plan.forwarded_udp))
            for interface in self.lan_interfaces:
                await self.reopen(interface, plan)
        except BaseException:
            self.close()
            raise

    async def reopen(self, interface: str, plan: Plan) -> None:
        """Open the sockets of one interface anew: those bound to an interface that was replaced are deaf.

        Raises:
            KernelError: as ``open``.
        """
        self._leave(interface)
        await self._adapt(interface, plan)
        self.handover.attach(interface, self._side(interface))
        self._open.add(interface)
        self._guard(plan)

    def move_wan(self, interface: str) -> None:
        """The WAN is another interface from now on, or is not there: ``reopen`` it when it is."""
        self._leave(self.wan_interface)
        self.wan_interface = interface

    def _leave(self, interface: str) -> None:
        self._open.discard(interface)
        self.handover.detach(interface)
        for known, part in tuple(self._stacks):
            if known == interface:
                self._shut(interface, part)

    async def change(self, plan: Plan) -> None:
        """Serve another plan: what it needs now is opened, what it does not is closed, filters are changed.

        Raises:
            KernelError: a port is taken.
        """
        self._hold_answers(wanted=bool(plan.forwarded_udp))
        for interface in tuple(self._open):
            await self._adapt(interface, plan)
        if plan.transparent:
            for (interface, part), door in self._doors.items():
                if part == _PPTP and self._side(interface) is Side.LAN:
                    make_transparent(door.listening)
        self._guard(plan)

    async def _adapt(self, interface: str, plan: Plan) -> None:
        try:
            if (interface, _ERRORS) not in self._stacks:
                self._open_errors(interface)
            if not plan.pptp:
                self._shut(interface, _PPTP)
            elif (interface, _PPTP) not in self._stacks:
                self._open_gre(interface)
            if plan.pptp and (interface, _PPTP) not in self._doors:
                side = self._side(interface)
                if side is Side.LAN or plan.wan_openings:
                    self._pptp_door(interface, transparent=side is Side.LAN and plan.transparent)
            if plan.ipsec is None:
                self._shut(interface, _IPSEC)
            elif (interface, _IPSEC) not in self._stacks:
                self._open_ipsec(interface)
            self._adapt_hopeless(interface, plan)
            self._adapt_forwards(interface, plan)
        except OSError as error:
            raise refused(f"listen on interface {interface}", error.errno) from error

    def _open_errors(self, interface: str) -> None:
        self._stacks[interface, _ERRORS] = ExitStack()
        self._read("icmp", interface, _ERRORS, lambda: raw.icmp_receiver(interface, _SMALL_BUFFER))

    def _open_gre(self, interface: str) -> None:
        self._stacks[interface, _PPTP] = ExitStack()
        self._read_selectively("gre", interface, _PPTP, socket.IPPROTO_GRE)

    def _open_ipsec(self, interface: str) -> None:
        stack = self._stacks[interface, _IPSEC] = ExitStack()
        try:
            for port in datagrams.PORTS:
                stack.enter_context(self._hold(port, interface))
            self._read_selectively("esp", interface, _IPSEC, socket.IPPROTO_ESP)
            self._datagrams[interface] = self._read_protocol("udp", interface, _IPSEC, UDP)
        except BaseException:
            self._shut(interface, _IPSEC)
            raise

    def _adapt_hopeless(self, interface: str, plan: Plan) -> None:
        forwarded = {forward.protocol for forward in plan.forwards}
        for part, protocol in _HOPELESS:
            if plan.ipsec is None or protocol in forwarded:
                self._shut(interface, part)
            elif (interface, part) not in self._stacks:
                self._stacks[interface, part] = ExitStack()
                self._read(part, interface, part, partial(raw.receiver, protocol, interface, _SMALL_BUFFER))

    def close(self) -> None:
        """Close everything."""
        for interface, part in tuple(self._stacks):
            self._shut(interface, part)
        self._hold_answers(wanted=False)

    def _hold_answers(self, *, wanted: bool) -> None:
        if self._answers is not None and not wanted:
            self._answers.close()
            self._answers = None
        elif self._answers is None and wanted:
            self._answers = self.descriptors.have("answers", lambda: datagrams.hold(0))

    @property
    def answer_port(self) -> int:
        """Where netfilter is to give what servers of forwarded UDP answer; 0 without any such server."""
        return 0 if self._answers is None else int(self._answers.getsockname()[1])

    def _shut(self, interface: str, part: str) -> None:
        stack = self._stacks.pop((interface, part), None)
        if stack is not None:
            stack.close()
        self._doors.pop((interface, part), None)
        if part == _IPSEC:
            self._datagrams.pop(interface, None)
        self.raw_sockets = [row for row in self.raw_sockets if row[2].fileno() >= 0]
        self._selective = {key: sock for key, sock in self._selective.items() if sock.fileno() >= 0}

    def _side(self, interface: str) -> Side:
        return Side.WAN if interface == self.wan_interface else Side.LAN

    def _pptp_door(self, interface: str, *, transparent: bool) -> None:
        door = self._door(interface, _PPTP, "0.0.0.0", PORT, transparent=transparent)
        acceptor = self.streams.listen(door.listening, self._side(interface))
        self._stacks[interface, _PPTP].callback(self.intakes.accept(acceptor))

    def _adapt_forwards(self, interface: str, plan: Plan) -> None:
        # PPTP's socket brings all GRE by itself.
        foreign = {socket.IPPROTO_GRE} if plan.pptp else set()
        if self._side(interface) is Side.LAN:
            foreign |= {TCP}
        wanted = {
            forward.part: forward
            for forward in plan.forwards
            if forward.protocol not in foreign or (forward.protocol == TCP and forward.neighbours)
        }
        ours = {_ERRORS, _PPTP, _IPSEC, *(part for part, _ in _HOPELESS)}
        for known, part in tuple(self._stacks):
            if known == interface and part not in ours | wanted.keys():
                self._shut(interface, part)
        for part, forward in wanted.items():
            if (interface, part) in self._stacks:
                continue
            stack = self._stacks[interface, part] = ExitStack()
            try:
                self._open_forward(interface, forward, stack)
            except BaseException:
                self._shut(interface, part)
                raise

    def _open_forward(self, interface: str, forward: ForwardPlan, stack: ExitStack) -> None:
        """Open the sockets of a forward.

        Ports are taken at our public address alone: the router's own programs may have them at its others.
        """
        address = show_ip(forward.address)
        if forward.protocol == TCP:
            door = self._door(interface, forward.part, address, forward.port, transparent=False)
            acceptor = self.splices.listen(door.listening, self._side(interface))
            stack.callback(self.intakes.accept(acceptor))
        elif forward.protocol == UDP:
            outside = self._side(interface) is Side.WAN
            if outside or forward.neighbours:
                stack.enter_context(self._hold(forward.port, interface, address))
            udp = self._read_protocol(f"udp/{forward.port}", interface, forward.part, UDP)
            server = None if outside else (forward.server, forward.server_port)
            if not datagrams.choose_forwarded(udp, (forward.address, forward.port), server):
                raise KernelError(
                    f"the kernel takes no socket filter for udp/{forward.port}",
                    "give the daemon CAP_NET_ADMIN",
                )
        else:
            self._read_protocol(f"ip/{forward.protocol}", interface, forward.part, forward.protocol)

    def _door(self, interface: str, part: str, address: str, port: int, *, transparent: bool) -> _Door:
        stack, where = self._stacks[interface, part], place(interface)
        name = f"{part} listening at {where}"
        # Nobody until the rules are in: a filter without openings. One that is given has its rules.
        given = self.descriptors.given(name)
        listening = self.descriptors.have(
            name, lambda: _listener(interface, address, port, transparent=transparent)
        )
        stack.callback(listening.close)
        turned_away = None
        watched = self.descriptors.given(_name("refused", part, where))
        if watched or (not given and gatekeeper.admit(listening, ())):
            make = partial(gatekeeper.turned_away, interface, port, _SMALL_BUFFER)
            turned_away = self._read("refused", interface, part, make)
        door = self._doors[interface, part] = _Door(port, listening, turned_away)
        return door

    def _openings(self, interface: str, part: str, plan: Plan) -> Sequence[Opening]:
        """Who may come in by a door."""
        outside = self._side(interface) is Side.WAN
        if part == _PPTP:
            return plan.wan_openings if outside else plan.lan_openings
        for forward in plan.forwards:
            if forward.part == part:
                return forward.openings if outside else forward.neighbours
        return ()  # of another plan, and about to be closed

    def _guard(self, plan: Plan) -> None:
        self.attention.clear()
        for (interface, part), door in self._doors.items():
            openings = self._openings(interface, part, plan)
            if not gatekeeper.admit(door.listening, openings):
                why = "too many rules" if gatekeeper.too_many(openings) else _NO_FILTER
                gatekeeper.admit(door.listening, (_EVERYBODY,))
                openings = (_EVERYBODY,)
                self.attention.append(f"{interface}: strangers are refused only after a handshake: {why}")
            if door.turned_away is not None:
                gatekeeper.watch(door.turned_away, door.port, openings)
        self._select(plan)
        if plan.ipsec is None:
            return
        for interface, sock in self._datagrams.items():
            outside = self._side(interface) is Side.WAN
            if not datagrams.choose(sock, plan.ipsec.ports if outside else None):
                self.attention.append(f"{interface}: all UDP for this host passes the gateway: {_NO_FILTER}")

    def _select(self, plan: Plan) -> None:
        """Keep strangers' data packets out, but of protocols that are forwarded whole, by their own rules."""
        self.strangers.name(socket.IPPROTO_ESP, plan.ipsec.named if plan.ipsec is not None else ())
        forwarded = {forward.protocol for forward in plan.forwards}
        for (interface, protocol), sock in self._selective.items():
            if self._side(interface) is Side.LAN or protocol in forwarded:
                self.strangers.welcome(sock)
            else:
                self.strangers.guard(sock)

    def _hold(self, port: int, interface: str, address: str = "0.0.0.0") -> socket.socket:
        name = f"udp {address}:{port} held at {place(interface)}"
        with _explained("udp", port, interface):
            return self.descriptors.have(name, lambda: datagrams.hold(port, interface, address))

    def _read_selectively(self, name: str, interface: str, part: str, protocol: int) -> None:
        given = self.descriptors.given(_name(name, part, place(interface)))
        sock = self._selective[interface, protocol] = self._read_protocol(name, interface, part, protocol)
        if given:
            open_to_all(sock)  # whoever had it knows other peers than we will

    def _read_protocol(self, name: str, interface: str, part: str, protocol: int) -> socket.socket:
        make = partial(raw.receiver, protocol, interface, self.receive_buffer)
        return self._read(name, interface, part, make, self.batch)

    def _read(
        self,
        name: str,
        interface: str,
        part: str,
        make: Callable[[], socket.socket],
        batch: int = _SMALL_BATCH,
    ) -> socket.socket:
        sock = self.descriptors.have(_name(name, part, place(interface)), make)
        side = self._side(interface)
        label = f"{name} {side.value} {interface}"
        self.raw_sockets.append((label, interface, sock))
        stack = self._stacks[interface, part]
        stack.callback(self.datapath.released, label)
        stack.callback(sock.close)
        stack.callback(self.intakes.read(sock, self.datapath.reader(label, sock, side, batch=batch)))
        return sock

    def restore(self, plan: Plan) -> None:
        """Make good what another process may have changed of what it was given.

        Raises:
            KernelError: the fast path is required, and the kernel refuses it now.
        """
        self._guard(plan)
        for interface in self._open:
            self.handover.attach(interface, self._side(interface))


def _name(name: str, part: str, where: str) -> str:
    return f"{part} {name} at {where}"


def _listener(interface: str, address: str, port: int, *, transparent: bool) -> socket.socket:
    with _explained("tcp", port, interface):
        return listener(interface, address, port, transparent=transparent)


@contextlib.contextmanager
def _explained(kind: str, port: int, interface: str) -> Iterator[None]:
    """Say who has a port that is taken."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise others.port_taken(kind, port, interface) from error


_EVERYBODY = Opening(gatekeeper.ANY, gatekeeper.ANY)
_NO_FILTER = "socket filters take CAP_NET_ADMIN"
#: Protocols that come to us only to be counted and explained (see protocols.drops).
_HOPELESS = (("ah", 51), ("fwz", 94))
