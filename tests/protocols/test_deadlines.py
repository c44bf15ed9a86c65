"""The index of deadlines wakes early enough, and stays small."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.deadlines import Deadlines


def test_keys_come_out_in_the_order_of_their_times() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.file("late", 30.0)
    deadlines.file("early", 10.0)
    deadlines.file("between", 20.0)
    assert deadlines.next() == 10.0
    assert deadlines.due(9.9) == []
    assert deadlines.due(20.0) == ["early", "between"]
    assert len(deadlines) == 1
    assert deadlines.due(99.0) == ["late"]
    assert deadlines.next() is None


def test_an_earlier_time_moves_a_key_and_a_later_one_does_not() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.file("key", 20.0)
    deadlines.file("key", 30.0)
    assert deadlines.next() == 20.0
    deadlines.file("key", 10.0)
    assert deadlines.due(15.0) == ["key"]
    assert deadlines.due(99.0) == []


def test_a_discarded_key_does_not_come_out() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.file("key", 10.0)
    deadlines.discard("key")
    deadlines.discard("never filed")
    assert deadlines.next() is None
    assert deadlines.due(99.0) == []


def test_a_key_filed_again_at_the_same_time_comes_out_once() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.file("key", 10.0)
    deadlines.discard("key")
    deadlines.file("key", 10.0)
    assert deadlines.due(10.0) == ["key"]
    assert deadlines.due(10.0) == []


def test_refreshing_one_key_forever_costs_no_memory() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for step in range(10_000):
        deadlines.file("later and later", 100.0 + step)
        deadlines.file("earlier and earlier", 99_999.0 - step)
    assert len(deadlines._heap) < 100


def test_coming_and_going_costs_no_memory() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for key in range(10_000):
        deadlines.file(key, float(key))
        deadlines.discard(key)
    assert len(deadlines._heap) < 100


@given(
    st.lists(st.tuples(st.sampled_from(["file", "discard", "due"]), st.integers(0, 5), st.integers(0, 50)))
)
def test_behaves_like_a_dictionary(steps: list[tuple[str, int, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, float] = {}
    for step, key, number in steps:
        if step == "file":
            deadlines.file(key, float(number))
            model[key] = min(model.get(key, 99.0), float(number))
        elif step == "discard":
            deadlines.discard(key)
            model.pop(key, None)
        else:
            due = {k for k, when in model.items() if when <= number}
            out = deadlines.due(float(number))
            assert set(out) == due
            assert [model[k] for k in out] == sorted(model[k] for k in due)
            model = {k: when for k, when in model.items() if k not in due}
        assert deadlines.next() == min(model.values(), default=None)
        assert len(deadlines) == len(model)
