"""Prior knowledge and evidence together, against every assignment written out."""

import random
from itertools import permutations
from math import exp, inf, log

import pytest

from protocols.addr import Ip4
from protocols.esp import posterior, prior
from protocols.esp.contacts import JOINT_AT_ONCE, Contact, Inbound, Opening, Peer
from protocols.esp.evidence import Evidence
from protocols.ike.rules import Relation
from protocols.sessions import Role
from tests.protocols.esp.house import ALICE, PEER


class Given(Evidence):
    """Evidence of a given strength."""

    __slots__ = ()

    def __init__(self, log_evidence: float) -> None:
        super().__init__()
        self._known = log_evidence


def arrangement(hosts: int, *, watched: bool = True) -> tuple[Peer, list[Contact]]:
    """A peer and hosts that have each just agreed on a pair with it."""
    peer = Peer(PEER)
    contacts: list[Contact] = []
    for number in range(hosts):
        host = Ip4(ALICE + number)
        contact = Contact(Relation("staff", Role.MASQUERADE, host, PEER, PEER), peer, float(number))
        contact.missed = -inf if watched else inf
        contact.openings.append(Opening(99.0))
        peer.contacts[host] = contact
        contacts.append(contact)
    return peer, contacts


def asked(peer: Peer, contacts: list[Contact], *strengths: float, fresh: bool = True) -> Inbound:
    """An open SPI with evidence of these strengths, as logarithms."""
    inbound = Inbound(0x900 + len(peer.open), peer, 100.0, fresh)
    peer.inbound[inbound.spi] = inbound
    peer.question(inbound)
    inbound.open(contacts)
    inbound.evidence = dict(zip(contacts, map(Given, strengths), strict=True))
    return inbound


def every_assignment(rows: list[Inbound], contacts: list[Contact]) -> dict[Contact, float]:
    """How likely each host owns the first SPI, by going through all ways to give each SPI one host."""
    likely = dict.fromkeys(contacts, 0.0)
    for owners in permutations(contacts, len(rows)):
        likely[owners[0]] += exp(sum(row.evidence[c].log for row, c in zip(rows, owners, strict=True)))
    total = sum(likely.values())
    return {contact: value / total for contact, value in likely.items()}


@pytest.mark.parametrize("seed", range(40))
def test_together_is_never_much_surer_than_every_assignment_says(seed: int) -> None:
    chance = random.Random(seed)
    hosts = chance.choice([2, 3, 4, 5])
    peer, contacts = arrangement(hosts)
    rows = [
        asked(peer, contacts, *(max(0.0, chance.gauss(6 * (i == j), 3)) for j in range(hosts)))
        for i in range(chance.randint(1, hosts))
    ]
    truth = every_assignment(rows, contacts)
    verdict = posterior.judge(rows[0], 1e-6)
    best = verdict.ranking[0]
    assert truth[best] > 0.5 * max(truth.values())
    # Odds within a factor of a few, in the cautious direction where they differ by more.
    wrong, claimed = 1 - truth[best], 1 - verdict.confidence
    assert claimed > wrong / 20 or claimed > 1e-3
    if verdict.owner is not None:
        assert wrong < 1e-4


def test_two_open_spis_help_each_other() -> None:
    peer, (alice, bob) = arrangement(2)
    first = asked(peer, [alice, bob], 10.0, 0.0)
    assert posterior.judge(first, 1e-6).owner is None
    asked(peer, [alice, bob], 0.0, 10.0)
    assert posterior.judge(first, 1e-6).owner is alice
    assert posterior.judge(first, 1e-6, together=False).owner is None


def test_for_judgements_together_there_is_so_much_time_and_one_alone_takes_none() -> None:
    peer, contacts = arrangement(2)
    asked(peer, contacts, 0.0, 0.0)
    assert all(peer.judged_together(now=0.0) for _ in range(2 * JOINT_AT_ONCE))
    asked(peer, contacts, 0.0, 0.0)
    assert sum(peer.judged_together(now=0.0) for _ in range(2 * JOINT_AT_ONCE)) == JOINT_AT_ONCE
    assert peer.judged_together(now=1.0)


def test_two_agreements_may_both_be_ones_own() -> None:
    peer, (alice, bob) = arrangement(2)
    alice.openings.append(Opening(99.5))
    first = asked(peer, [alice, bob], 10.0, 0.0)
    asked(peer, [alice, bob], 20.0, 0.0)
    assert posterior.judge(first, 1e-6).ranking[0] is alice
    assert posterior._spoken_for(first, 14.0).get(alice, 0.0) == 0.0


def test_a_silent_rival_is_not_ruled_out_by_its_silence() -> None:
    peer, (alice, bob) = arrangement(2)
    assert posterior.judge(asked(peer, [alice, bob], 9.0, -6.0), 1e-6).owner is None


def test_a_host_without_agreements_is_out_when_its_ike_is_seen_and_unlikely_when_it_is_not() -> None:
    peer, (alice, bob) = arrangement(2)
    bob.openings.clear()
    inbound = asked(peer, [alice, bob], 1.0, 0.0)
    assert prior.candidates(peer, inbound, 9)[0] == [alice]
    assert posterior.judge(inbound, 1e-6).owner is alice
    bob.missed = inf
    assert set(prior.candidates(peer, inbound, 9)[0]) == {alice, bob}
    lonely = prior.weight(inbound, bob)
    bob.inbound = (inbound,)
    assert 0 < prior.weight(inbound, bob) < lonely


def test_if_nobody_can_be_the_owner_anybody_may_be() -> None:
    peer, (alice, bob) = arrangement(2)
    alice.openings.clear()
    bob.openings.clear()
    inbound = asked(peer, [alice, bob], 1.0, 0.0)
    assert set(prior.candidates(peer, inbound, 9)[0]) == {alice, bob}
    assert posterior.judge(inbound, 1e-6).ranking == [alice, bob]


def test_an_agreement_is_the_less_likely_the_older_it_is_and_less_when_a_later_one_was_used() -> None:
    peer, (alice, bob) = arrangement(2)
    inbound = asked(peer, [alice, bob], 0.0, 0.0)
    young = prior.weight(inbound, alice)
    alice.openings[0].since = 50.0
    old = prior.weight(inbound, alice)
    used = Opening(60.0, inbound=inbound)
    alice.openings.append(used)
    assert young > old > prior.weight(inbound, alice) > 0


def test_an_old_spi_is_nobodys_for_certain_while_others_may_not_have_spoken_yet() -> None:
    peer, (alice,) = arrangement(1)
    inbound = asked(peer, [alice], 3.0, fresh=False)
    assert posterior.judge(inbound, 1e-6).owner is None
    inbound.evidence[alice] = Given(log(1e8))
    assert posterior.judge(inbound, 1e-6).owner is alice


def test_who_is_hopelessly_behind_is_out_before_the_others_are_told_apart() -> None:
    peer, (alice, bob, carol) = arrangement(3)
    verdict = posterior.judge(asked(peer, [alice, bob, carol], 20.0, 20.0, 0.0), 1e-6)
    assert verdict.owner is None
    assert set(verdict.ranking) == {alice, bob}


def test_hosts_whose_ike_is_unseen_are_spoken_for_only_so_far() -> None:
    peer, (alice, bob) = arrangement(2, watched=False)
    first = asked(peer, [alice, bob], 0.0, 0.0)
    asked(peer, [alice, bob], 60.0, 0.0)
    assert 0 < posterior._spoken_for(first, 14.0)[alice] < 4
