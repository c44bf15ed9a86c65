"""Few is a dictionary to whoever uses it."""

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.few import Few

KEYS = st.integers(1, 4)
DEEDS = st.lists(st.tuples(st.sampled_from(["set", "del", "pop"]), KEYS, st.integers()), max_size=30)


def same(few: Few[int, int], model: dict[int, int]) -> None:
    assert list(few) == list(model)
    assert list(reversed(few)) == list(reversed(model))
    assert list(few.values()) == list(model.values())
    assert list(few.items()) == list(model.items())
    assert (len(few), bool(few)) == (len(model), bool(model))
    for key in range(6):
        assert (key in few) == (key in model)
        assert few.get(key) == model.get(key)
        assert few.get(key, "none") == model.get(key, "none")


@given(DEEDS)
def test_it_does_what_a_dictionary_does(deeds: list[tuple[str, int, int]]) -> None:
    few, model = Few[int, int](), dict[int, int]()
    for deed, key, value in deeds:
        for mapping in (few, model):
            if deed == "set":
                mapping[key] = value
            elif deed == "pop":
                mapping.pop(key, None)
            elif key in model or key in few:
                del mapping[key]
        same(few, model)
        for key in model:
            assert few[key] == model[key]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_what_is_not_there_is_missed(number: int) -> None:
    few = Few[int, Any]()
    for key in range(number):
        few[key + 1] = None
    with pytest.raises(KeyError):
        few[9]
    with pytest.raises(KeyError):
        del few[9]
    assert few.get(1, "none") is (None if number else "none")


def test_one_entry_takes_a_fraction_of_a_dictionarys_room() -> None:
    few = Few[int, int]()
    few[1] = 1
    plain = {1: 1}
    plain[2] = 2
    del plain[2]
    assert sys.getsizeof(few) * 3 < sys.getsizeof(plain)
