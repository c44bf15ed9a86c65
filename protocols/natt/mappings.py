"""All mappings of ports of inside hosts to ports of ours (RFC 4787 §4)."""

from collections.abc import Iterator

from protocols.addr import Ip4
from protocols.admission import Admission
from protocols.allocator import Random
from protocols.ike import rules
from protocols.ike.natt import PORT
from protocols.natt.mapping import Mapping, Talk
from protocols.natt.ports import Ports
from protocols.udp import Endpoint


class Mappings:
    """Mappings by the host's port, and by ours."""

    def __init__(self, admission: Admission, random: Random) -> None:
        ipsec = admission.policy.ipsec
        self._admission = admission
        self.ports = Ports(random, first=ipsec.ports[0], last=ipsec.ports[1], rest=ipsec.port_rest)
        self._by_host: dict[Endpoint, Mapping] = {}
        self._by_port: dict[int, Mapping] = {}
        #: The port that a host's port last stood behind, and whose each of ours was: a peer that waits for a
        #: silent host answers there, so the host gets it back while nobody else has it.
        self._former: dict[Endpoint, int] = {}
        self._last: dict[int, Endpoint] = {}
        #: Those of exposed servers, which have 4500 without taking it from the pool.
        self._servers: dict[Ip4, Mapping] = {}

    def __len__(self) -> int:
        return len(self._by_host) + len(self._servers)

    def __iter__(self) -> Iterator[Talk]:
        """Who talks with whom."""
        for mapping in self.all():
            yield from list(mapping.talks.values())

    def all(self) -> list[Mapping]:
        """All that are in use."""
        return [*self._by_host.values(), *self._servers.values()]

    def at(self, port: int) -> Mapping | None:
        """The mapping that one of our ports stands for; not those of exposed servers."""
        return self._by_port.get(port)

    def of(self, host: Endpoint, *, fixed: bool) -> Mapping | None:
        """The mapping of a host's port, if it is in use."""
        return self._servers.get(host[0]) if fixed else self._by_host.get(host)

    def make(self, host: Endpoint, *, fixed: bool) -> Mapping | None:
        """The mapping of a host's port, new if need be; None when no port of ours is free."""
        mapping = self.of(host, fixed=fixed)
        if mapping is None and fixed:
            return Mapping(host, PORT, fixed=True)
        if mapping is None:
            # An exposed server's 4500 is not for clients.
            also = None if rules.serves(self._admission) else PORT
            port = self.ports.take(host[0], self._former.get(host, host[1]), also=also)
            if port is None:
                return None
            mapping = Mapping(host, port)
        return mapping

    def enter(self, talk: Talk) -> None:
        """Somebody talks through a mapping; it is in use."""
        mapping = talk.mapping
        mapping.talks[talk.relation.peer] = talk
        if mapping.fixed:
            self._servers[mapping.host[0]] = mapping
        else:
            self._by_host[mapping.host] = mapping
            self._by_port[mapping.public_port] = mapping

    def readmit(self, mapping: Mapping) -> bool:
        """Take in a mapping of before a restart; False if its port has become another's."""
        if mapping.fixed:
            self._servers[mapping.host[0]] = mapping
            return True
        if mapping.public_port in self._by_port:
            return False
        self.ports.reserve(mapping.public_port, mapping.host[0])
        self._by_host[mapping.host] = mapping
        self._by_port[mapping.public_port] = mapping
        return True

    def leave(self, talk: Talk, *, now: float) -> None:
        """Nobody does any more; a mapping that nobody uses is gone."""
        mapping = talk.mapping
        del mapping.talks[talk.relation.peer]
        if mapping.talks:
            return
        if mapping.fixed:
            del self._servers[mapping.host[0]]
        else:
            del self._by_host[mapping.host]
            del self._by_port[mapping.public_port]
            self.ports.free(mapping.public_port, now=now)
            self._note(mapping)

    def former(self) -> dict[Endpoint, int]:
        """The ports that hosts' ports stood behind when they were last in use, to survive a restart."""
        return dict(sorted(self._former.items()))

    def remember(self, former: dict[Endpoint, int]) -> None:
        """Take in ``former`` of before a restart."""
        self._former, self._last = former, {port: host for host, port in former.items()}

    def _note(self, mapping: Mapping) -> None:
        """Remember whose port it was; there is one host's port for each of ours."""
        port = mapping.public_port
        before = self._last.get(port)
        if before is not None and self._former.get(before) == port:
            del self._former[before]
        self._last[port] = mapping.host
        self._former[mapping.host] = port
