"""Ports of ours: one owner each."""

import random

from hypothesis import given
from hypothesis import strategies as st

from protocols.addr import Ip4
from protocols.natt.ports import Ports

ANN, BOB = Ip4(1), Ip4(2)


def ports(*, first: int = 61000, last: int = 61003, rest: float = 10.0) -> Ports:
    return Ports(random.Random(1).randrange, first=first, last=last, rest=rest)


def test_a_port_is_preserved_if_it_is_ours_to_give() -> None:
    pool = ports()
    assert pool.take(ANN, 61002) == 61002
    assert pool.take(ANN, 4500, also=4500) == 4500
    assert pool.take(BOB, 4500, also=4500) in {61000, 61001, 61003}
    assert pool.take(BOB, 5000, also=4500) in {61000, 61001, 61003}
    assert pool.take(BOB, 61002) in {61000, 61001, 61003}
    assert pool.take(BOB, 61002) is None
    assert len(pool) == 5


def test_the_last_free_port_is_found() -> None:
    pool = Ports(lambda _: 2, first=10, last=13, rest=0.0)
    assert [pool.take(ANN, 0) for _ in range(5)] == [12, 13, 10, 11, None]


def test_a_port_rests_before_another_host_gets_it() -> None:
    pool = ports(last=61000)
    assert pool.next_deadline() is None
    pool.take(ANN, 61000)
    pool.free(61000, now=100.0)
    assert pool.next_deadline() == 110.0
    assert pool.take(BOB, 61000) is None
    pool.expire(now=109.0)
    assert pool.take(BOB, 61000) is None
    pool.expire(now=110.0)
    assert pool.next_deadline() is None
    assert pool.take(BOB, 61000) == 61000


def test_its_old_owner_may_have_it_back_and_then_keeps_it() -> None:
    pool = ports(last=61000)
    pool.take(ANN, 61000)
    pool.free(61000, now=100.0)
    assert pool.take(ANN, 61000) == 61000
    assert pool.take(ANN, 61000) is None
    pool.expire(now=110.0)
    assert pool.take(BOB, 61000) is None


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([ANN, BOB]), st.integers(9, 16), st.sampled_from([0.0, 3.0]))
    )
)
def test_ports_agree_with_a_slow_model(steps: list[tuple[bool, Ip4, int, float]]) -> None:
    pool = Ports(random.Random(1).randrange, first=10, last=14, rest=10.0)
    held: dict[int, Ip4] = {}
    resting: dict[int, tuple[Ip4, float]] = {}
    now = 0.0
    for take, owner, port, wait in steps:
        now += wait
        pool.expire(now=now)
        resting = {p: (o, until) for p, (o, until) in resting.items() if until > now}
        if take:
            got = pool.take(owner, port, also=16)
            if got is None:
                assert set(range(10, 15)) <= set(held) | set(resting)
                continue
            assert got not in held
            assert got == port or 10 <= got <= 14
            if got in resting:
                assert resting.pop(got)[0] == owner
            held[got] = owner
        elif port in held:
            resting[port] = (held.pop(port), now + 10.0)
            pool.free(port, now=now)
        assert len(pool) == len(held) + len(resting)
