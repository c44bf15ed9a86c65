"""Two clients of one peer in transport mode (HOWTO §6.1): what is said, and when nothing is."""

from protocols.addr import Ip4, parse_ip
from protocols.collisions import Collisions
from protocols.sessions import Role, Session, State, Traffic

ALICE, BOB, PEER, OTHER, WAN = (
    parse_ip(text) for text in ("10.0.0.2", "10.0.0.3", "199.0.0.1", "199.0.0.2", "200.200.200.200")
)


def session(name: str, inside: Ip4, *, opened: float, peer: Ip4 = PEER, protocol: str = "natt") -> Session:
    return Session(
        id=name,
        protocol=protocol,
        role=Role.MASQUERADE,
        rule="staff",
        state=State.ESTABLISHED,
        inside=inside,
        gateway=WAN,
        peer=peer,
        opened=opened,
        last_seen=opened,
        outbound=Traffic(),
        inbound=Traffic(),
    )


def sends(one: Session, count: int, now: float) -> None:
    one.outbound.packets += count
    one.outbound.last_seen = now


def hears(one: Session, count: int, now: float) -> None:
    one.inbound.packets += count
    one.inbound.last_seen = now


class Story:
    """Alice has talked with the peer for a while when Bob's session begins."""

    def __init__(self, **bob: object) -> None:
        self.watch = Collisions()
        self.alice = session("a", ALICE, opened=0.0)
        self.bob = session("b", BOB, opened=100.0, **bob)  # type: ignore[arg-type]
        sends(self.alice, 50, 100.0)
        hears(self.alice, 50, 100.0)
        assert self.look(105.0) == []

    def look(self, now: float) -> list[str]:
        return self.watch.look([self.alice, self.bob], now=now)


def test_the_older_session_goes_dead_and_it_is_said_once() -> None:
    story = Story()
    sends(story.alice, 12, 170.0)
    hears(story.bob, 30, 170.0)
    assert story.look(150.0) == []  # not silent for long enough
    (text,) = story.look(170.0)
    assert "10.0.0.2 and 10.0.0.3 likely use IPsec in transport mode" in text
    assert "10.0.0.2 sends and has had no answer for 70 s" in text
    assert story.look(200.0) == []
    assert list(story.watch.warnings.values()) == [text]


def test_esp_is_looked_at_in_the_same_way() -> None:
    story = Story()
    story.alice.protocol = story.bob.protocol = "esp"
    sends(story.alice, 12, 170.0)
    hears(story.bob, 30, 170.0)
    assert len(story.look(170.0)) == 1


def test_a_client_that_is_answered_is_well() -> None:
    story = Story()
    sends(story.alice, 12, 170.0)
    hears(story.alice, 1, 169.0)
    hears(story.bob, 30, 170.0)
    assert story.look(170.0) == []
    sends(story.alice, 9, 240.0)  # a few packets that nobody answers
    assert story.look(240.0) == []


def test_copies_while_an_owner_is_unknown_count_as_answers() -> None:
    story = Story()
    sends(story.alice, 12, 170.0)
    story.alice.last_seen = 165.0
    hears(story.bob, 30, 170.0)
    assert story.look(170.0) == []


def test_nobody_is_accused_who_began_at_another_time_or_gets_no_answers() -> None:
    story = Story()
    sends(story.alice, 12, 170.0)
    assert story.look(170.0) == []  # Bob hears nothing either: the peer is down
    hears(story.bob, 30, 170.0)
    story.bob.opened = 20.0
    assert story.look(180.0) == []


def test_other_peers_other_protocols_and_single_clients_are_left_alone() -> None:
    for story in (Story(peer=OTHER), Story(protocol="isakmp")):
        sends(story.alice, 12, 170.0)
        hears(story.bob, 30, 170.0)
        assert story.look(170.0) == []


def test_a_session_that_was_never_answered_is_another_matter() -> None:
    watch = Collisions()
    alice, bob = session("a", ALICE, opened=100.0), session("b", BOB, opened=100.0)
    for now in (100.0, 200.0):
        sends(alice, 50, now)
        hears(bob, 1, now)
        assert watch.look([alice, bob], now=now) == []
