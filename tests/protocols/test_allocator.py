"""Call IDs are unique, random, and rest before they are used again."""

import random

from hypothesis import given
from hypothesis import strategies as st

from protocols.addr import Ip4
from protocols.allocator import CallIds

A, B, WAN = Ip4(1), Ip4(2), Ip4(9)
GHOST = 240.0


def call_ids(capacity: int = 1000, *picks: int) -> CallIds:
    """IDs in a fixed order of ``picks``, or at random from a fixed seed."""
    choice = iter(picks)
    rng = random.Random(1)
    return CallIds(lambda n: next(choice, None) or rng.randrange(n), ghost=GHOST, capacity=capacity)


def test_an_id_is_never_zero_and_may_be_the_highest() -> None:
    lowest = CallIds(lambda n: 0, ghost=GHOST, capacity=10)
    highest = CallIds(lambda n: n - 1, ghost=GHOST, capacity=10)
    assert lowest.take(A, WAN) == 1
    assert highest.take(A, WAN) == 0xFFFF


def test_ids_are_spread_over_the_whole_space() -> None:
    ids = call_ids()
    taken = [ids.take(A, WAN) for _ in range(400)]
    assert len(set(taken)) == 400
    assert min(i for i in taken if i) < 1000
    assert max(i for i in taken if i) > 64000


def test_different_receivers_may_be_shown_the_same_id() -> None:
    ids = call_ids(10, 6, 6, 6)
    assert (ids.take(A, WAN), ids.take(B, WAN), ids.take(A, B)) == (7, 7, 7)


def test_a_collision_is_solved_by_looking_further() -> None:
    ids = CallIds(lambda n: n - 1, ghost=GHOST, capacity=10)
    assert [ids.take(A, WAN) for _ in range(3)] == [0xFFFF, 1, 2]


def test_the_space_towards_one_receiver_can_be_used_up() -> None:
    ids = call_ids(100_000)
    taken = {ids.take(A, WAN) for _ in range(0xFFFF)}
    assert taken == set(range(1, 0x10000))
    assert ids.take(A, WAN) is None
    assert ids.take(B, WAN) is not None
    ids.free(A, WAN, 4711)
    assert ids.take(A, WAN) == 4711


def test_capacity_bounds_all_receivers_together_and_leaves_no_trace_of_a_refusal() -> None:
    ids = call_ids(2)
    first = ids.take(A, WAN)
    assert first is not None
    assert ids.take(A, WAN) is not None
    assert ids.take(B, WAN) is None
    assert ids.take(A, WAN) is None
    assert len(ids) == 2
    ids.free(A, WAN, first)
    assert ids.take(B, WAN) is not None


def test_an_id_that_rests_is_taken_until_its_time_is_over() -> None:
    ids = call_ids()
    call_id = ids.take(A, WAN)
    assert call_id is not None
    assert ids.next_deadline() is None
    ids.rest(A, WAN, call_id, now=10.0)
    assert ids.next_deadline() == 10.0 + GHOST
    ids.expire(now=9.9 + GHOST)
    assert ids.taken(A, WAN, call_id)
    ids.expire(now=10.0 + GHOST)
    assert not ids.taken(A, WAN, call_id)
    assert len(ids) == 0
    assert ids.next_deadline() is None


def test_an_id_that_is_freed_is_available_at_once() -> None:
    ids = call_ids(10, 6, 6)
    assert ids.take(A, WAN) == 7
    ids.free(A, WAN, 7)
    assert not ids.taken(A, WAN, 7)
    assert ids.take(A, WAN) == 7


STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "free", "rest", "wait"]), st.sampled_from([A, B]), st.integers(0, 9)),
    max_size=60,
)


@given(steps=STEPS, seed=st.integers(0, 9))
def test_behaves_like_a_list_of_who_has_what(steps: list[tuple[str, Ip4, int]], seed: int) -> None:
    ids = CallIds(lambda n: random.Random(seed).randrange(n), ghost=GHOST, capacity=20)
    model: list[tuple[Ip4, int, float | None]] = []  # receiver, ID, when its rest is over
    now = 0.0
    for step, receiver, number in steps:
        live = [m for m in model if m[2] is None]
        if step == "take":
            call_id = ids.take(receiver, WAN)
            assert (call_id is None) == (len(model) == 20)
            if call_id is not None:
                assert (receiver, call_id) not in [m[:2] for m in model]
                model.append((receiver, call_id, None))
        elif step == "wait":
            now += number * 60
            ids.expire(now=now)
            model = [m for m in model if m[2] is None or m[2] > now]
        elif live:
            entry = live[number % len(live)]
            model.remove(entry)
            if step == "free":
                ids.free(entry[0], WAN, entry[1])
            else:
                ids.rest(entry[0], WAN, entry[1], now=now)
                model.append((entry[0], entry[1], now + GHOST))
        assert len(ids) == len(model)
        assert all(ids.taken(r, WAN, i) for r, i, _ in model)
