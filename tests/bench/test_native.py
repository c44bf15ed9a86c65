"""What the bench has carried by drivers is received."""

import os

import pytest

from tests.bench import contenders, native
from tests.bench.generator import generator
from tests.bench.lanes import Direction, Lane
from tests.bpf.kernel import built


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two cores")
@pytest.mark.parametrize("form", native.FORMS[:2], ids=lambda form: form.title)
def test_what_arrives_is_counted_and_received(form: native.Form) -> None:
    if reason := built():
        pytest.skip(reason)
    with (
        generator(contenders.GENERATOR_CORE) as load,
        native.carried(form, live=True) as standing,
    ):
        lane = Lane(load, standing.contender, standing.sessions["GRE"], Direction.INBOUND, 64, live=True)
        assert native.lost(standing, lane) >= 0
        lane.close()


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two cores")
def test_what_a_host_does_not_take_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := built():
        pytest.skip(reason)
    host = next(form for form in native.FORMS if form.xdp and not form.card)
    monkeypatch.setattr(native, "take_in", lambda *_: None)
    with (
        generator(contenders.GENERATOR_CORE) as load,
        native.carried(host, live=True) as standing,
    ):
        lane = Lane(load, standing.contender, standing.sessions["ESP"], Direction.OUTBOUND, 64, live=True)
        with pytest.raises(RuntimeError, match="carried"):
            native.lost(standing, lane)
        lane.close()
