"""What is required of each policy, on a few small networks; the full run is ``python -m tests.simulator``."""

import pytest

from tests.simulator.__main__ import main, row, run
from tests.simulator.cases import CASES, Story
from tests.simulator.conditions import Tally
from tests.simulator.gateways import gateway
from tests.simulator.kinds import KINDS


def several(policy: str, seeds: int, **conditions: object) -> Tally:
    total = Tally(clients=0)
    for seed in range(seeds):
        total.add(run(policy, seed, **conditions))
    return total


@pytest.mark.parametrize(
    ("clients", "seeds", "copies"),
    [(2, 6, 1.02), (4, 6, 1.02), (8, 8, 1.05), (16, 2, 1.2), (32, 2, 1.5)],
    ids=lambda value: str(value),
)
def test_fanout_delivers_all_and_copies_little(clients: int, seeds: int, copies: float) -> None:
    tally = several("fanout", seeds, clients=clients)
    assert (tally.up, tally.blocked, tally.misdelivered, tally.wrong) == (tally.clients, 0, 0, 0)
    assert tally.delivered == tally.inbound
    assert tally.copies / tally.inbound <= copies


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.replace(" ", "-").replace(",", ""))
def test_fanout_is_never_wrong_on_any_kind_of_network(kind: str) -> None:
    tally = several("fanout", 4, **{**KINDS[kind], "clients": 4})
    assert tally.wrong == 0
    assert tally.pairs > 0
    assert (tally.misdelivered, tally.blocked) == (0, 0)
    assert tally.delivered + tally.unknowable == tally.inbound


@pytest.mark.parametrize("name", CASES, ids=lambda name: name.replace(" ", "-"))
def test_fanout_survives_the_failure_cases_of_howto_6_2(name: str) -> None:
    story = Story(gateway("fanout", 1))
    CASES[name](story)
    assert story.delivered == story.inbound
    assert story.blocked == 0


@pytest.mark.parametrize(
    "name", ["late answer", "inbound first after a rekey"], ids=lambda name: name.replace(" ", "-")
)
def test_serialize_fails_where_the_howto_says_so(name: str) -> None:
    story = Story(gateway("serialize", 1))
    CASES[name](story)
    assert story.misdelivered > 0


def test_serialize_brings_all_up_one_after_the_other() -> None:
    tally = several("serialize", 3, clients=4, starts=0.02)
    assert tally.up == tally.clients
    assert tally.blocked > 0
    assert tally.delivered == tally.inbound


def test_netfilter_and_refuse_serve_one_of_several() -> None:
    for policy in ("netfilter", "refuse"):
        tally = several(policy, 2, clients=4, seconds=10.0)
        assert tally.up == 2
        assert tally.blocked > 0


def test_first_in_first_out_confirms_wrongly() -> None:
    tally = several("fifo", 6, clients=8, seconds=10.0, starts=0.1, loss=0.05)
    assert tally.wrong > 0
    assert row("fifo", "8 clients", tally)["wrong"] == tally.wrong


def test_the_same_seed_gives_the_same_day() -> None:
    days = [vars(run("fanout", 5, clients=3, seconds=5.0)) for _ in range(2)]
    assert days[0] == days[1]


def test_the_command_line_prints_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["simulator", "--policy", "netfilter", "--quick", "--seeds", "1"])
    assert main() == 0
    assert "HOWTO 6.2" in capsys.readouterr().out
