"""The demo's table, its JSON, and when it counts as passed."""

import contextlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from relay.demo.contest import CALLS_UP, CHECKS, HANG_UP, OWN_DATA, Result
from relay.demo.gateways import Gateway
from relay.demo.network import Network
from relay.demo.show import Column, PlainScreen, conclude, document, passed, remarks, screen


@asynccontextmanager
async def nowhere(_network: Network, _directory: Path) -> AsyncIterator[None]:
    yield


OURS = Gateway("vpnmasq", "vpnmasq", "rules of ours", nowhere)
KERNEL = Gateway("masquerade", "nft masquerade", "rules of nft", nowhere)
RIGHT = Result(3, 3)


def column(gateway: Gateway = OURS, *, reason: str = "", **found: Result) -> Column:
    """A column where all went right, but for what is said."""
    return Column(gateway, {check: found.get(check.key, RIGHT) for check in CHECKS}, reason)


def printed(columns: list[Column], width: int = 110) -> str:
    out = io.StringIO()
    conclude(Console(file=out, width=width), columns, 3, 19.6)
    return out.getvalue()


RESULTS = [
    pytest.param(Result(3, 3), True, id="all"),
    pytest.param(Result(2, 3), False, id="one-is-missing"),
    pytest.param(Result(3, 3, wrong=1), False, id="one-too-many"),
    pytest.param(Result(0, 0), False, id="nothing-was-tried"),
]


@pytest.mark.parametrize(("result", "ok"), RESULTS)
def test_a_result_is_right_when_everything_and_nothing_else_came(result: Result, ok: bool) -> None:
    assert result.ok is ok


VERDICTS = [
    pytest.param([column()], True, id="ours-alone"),
    pytest.param([column(), column(KERNEL, calls_up=Result(0, 3))], True, id="the-kernel-may-fail"),
    pytest.param([column(), Column(KERNEL, reason="no nft")], True, id="the-kernel-may-be-absent"),
    pytest.param([column(own_data=Result(299, 300)), column(KERNEL)], False, id="one-echo-lost"),
    pytest.param([column(own_data=replace(RIGHT, wrong=1))], False, id="one-echo-astray"),
    pytest.param([column(reason="it crashed at the end")], False, id="fell-after-the-last-check"),
    pytest.param([Column(OURS, {CALLS_UP: RIGHT})], False, id="did-not-finish"),
    pytest.param([column(KERNEL)], False, id="ours-is-not-there"),
    pytest.param([], False, id="nothing"),
]


@pytest.mark.parametrize(("columns", "ok"), VERDICTS)
def test_the_demo_passes_only_if_everything_of_ours_is_right(columns: list[Column], ok: bool) -> None:
    assert passed(columns) is ok
    assert document(columns, 3, 1.0)["ok"] is ok
    assert ("did everything right" in printed(columns)) is ok


def test_the_table_has_a_row_for_each_check_and_a_column_for_each_gateway() -> None:
    text = printed([column(calls_up=Result(3, 3)), column(KERNEL, calls_up=Result(1, 3))])
    assert "vpnmasq" in text
    assert "nft masquerade" in text
    (row,) = [line for line in text.splitlines() if "3 clients, all with Call ID 1" in line]
    assert "3/3 ✓" in row
    assert "1/3 ✗" in row
    assert sum("✓" in line for line in text.splitlines()) == len(CHECKS)


@pytest.mark.parametrize("width", [50, 60, 80, 110])
def test_numbers_and_words_stay_whole_on_a_narrow_terminal(width: int) -> None:
    helper = replace(KERNEL, key="helper", title="nft + PPTP helper")
    columns = [column(own_data=Result(300, 300)), column(KERNEL, own_data=Result(0, 300)), column(helper)]
    lines = printed(columns, width).splitlines()
    assert max(map(len, lines)) <= width
    (row,) = [line for line in lines if "300/300 ✓" in line]
    assert "0/300 ✗" in row
    words = {word for line in lines for word in line.split()}
    assert {"vpnmasq", "masquerade", "helper", "connection:", "segments:"} <= words


def test_a_gateway_that_cannot_stand_is_not_available_with_its_reason() -> None:
    columns = [column(), Column(KERNEL, reason="this kernel has no nft")]
    assert printed(columns).count("not available") == len(CHECKS)
    assert remarks(columns) == ["nft masquerade: this kernel has no nft"]


def test_remarks_tell_what_went_wrong_how() -> None:
    columns = [column(hang_up=Result(0, 3, note="it named call 1")), column(KERNEL, calls_up=Result(0, 3))]
    assert remarks(columns) == ["vpnmasq, hang_up: it named call 1"]


def test_the_document_holds_every_number() -> None:
    told = document([column(own_data=Result(298, 300, wrong=2, note="2 of others"))], 3, 19.64)
    assert (told["schema"], told["clients"], told["seconds"]) == ("vpnmasq.demo/1", 3, 19.6)
    (ours,) = told["gateways"]
    assert [one["check"] for one in ours["results"]] == [check.key for check in CHECKS]
    assert ours["results"][CHECKS.index(OWN_DATA)] == {
        "check": "own_data",
        "title": "their data came back, each to its owner",
        "ok": False,
        "good": 298,
        "wanted": 300,
        "wrong": 2,
        "note": "2 of others",
    }


def test_the_plain_screen_prints_one_line_a_result() -> None:
    out = io.StringIO()
    with screen(Console(file=out, width=110), 3, plain=False) as shown:
        assert type(shown) is PlainScreen
        shown.gateway(OURS)
        shown.doing(HANG_UP)
        shown.moved(1, 3)
        shown.found(HANG_UP, Result(2, 3, note="it named [1]"))
    assert out.getvalue().splitlines() == [
        "",
        "vpnmasq:",
        "    | rules of ours",
        "       NO 2/3  hang-up is confirmed for the right call  (it named [1])",
    ]


def test_the_live_screen_shows_bars_and_leaves_the_results() -> None:
    out = io.StringIO()
    console = Console(file=out, width=110, force_terminal=True, color_system=None)
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(screen(console, 3, plain=False))
        shown.doing(HANG_UP)
        shown.moved(1, 3)
        shown.found(HANG_UP, Result(2, 3, note="it named [1]"))
    assert "2/3" in out.getvalue()
    assert "(it named [1])" in out.getvalue()
