"""Followers of events: in order, bounded, and never in the daemon's way."""

import asyncio
import http.client
import json
import socket
from contextlib import closing
from typing import Any

import pytest

from relay.control import routes
from relay.control.feed import FOLLOWER_LIMIT, Feed, TooManyFollowersError
from tests.relay.control.stand_in import Served, StandIn, connect, serving, session


def follow(served: Served) -> tuple[socket.socket, http.client.HTTPResponse]:
    """Open a stream and read its first line."""
    unix = connect(served.path)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = unix
    connection.request("GET", "/v1/events")
    response = connection.getresponse()
    assert response.status == 200
    assert read(response)["event"] == "following"
    return unix, response


def read(response: http.client.HTTPResponse) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(response.readline())
    return document


def read_all(response: http.client.HTTPResponse) -> None:
    """Read to the end and raise, as readline() does not, when the last chunk is missing."""
    while response.read1():
        pass
    raise ConnectionResetError("ended without its last chunk")


def test_events_come_as_they_were_published() -> None:
    with serving() as served:
        feed = served.daemon.feed
        unix, response = follow(served)
        with closing(unix), closing(response):
            served.on_loop(lambda: feed.session_opened(session(1)))
            served.on_loop(lambda: feed.session_changed(session(1)))
            served.on_loop(lambda: feed.session_closed(session(1), "the client hung up"))
            served.on_loop(lambda: feed.address_changed("ppp0", "198.51.100.1", None))
            served.on_loop(lambda: feed.refused("no-rule", detail="tcp/1723"))
            lines = [read(response) for _ in range(5)]
    assert {line["schema"] for line in lines} == {"vpnmasq.events/1"}
    assert [line["event"] for line in lines] == [
        "session-opened",
        "session-changed",
        "session-closed",
        "address-changed",
        "refused",
    ]
    assert lines[0]["session"]["id"] == "p1"
    assert lines[2]["why"] == "the client hung up"
    assert (lines[3]["old"], lines[3]["new"]) == ("198.51.100.1", None)
    assert lines[4]["reason"] == "no-rule"
    assert all(line["at"].endswith("Z") for line in lines)


def test_a_follower_that_leaves_is_forgotten_without_another_event() -> None:
    with serving() as served:
        unix, response = follow(served)
        assert served.on_loop(served.followers) == 1
        response.close()
        unix.close()
        served.until(lambda: served.followers() == 0)


def test_a_slow_follower_is_cut_off_and_told_so_while_another_misses_nothing() -> None:
    with serving(StandIn(limit=50)) as served:
        feed = served.daemon.feed
        slow, unread = follow(served)
        quick, response = follow(served)
        with closing(slow), closing(unread), closing(quick), closing(response):
            published = 0
            while served.on_loop(served.followers) == 2:
                served.on_loop(lambda: feed.publish("tick", text="x" * 4000))
                published += 1
                assert read(response)["event"] == "tick"
                assert published < 5000, "the slow follower is never cut off"
            lines = [json.loads(line) for line in unread]
    assert lines[-1]["event"] == "cut-off"
    assert "too slow" in lines[-1]["why"]
    assert [line["event"] for line in lines[:-1]] == ["tick"] * len(lines[:-1])
    assert len(lines) - 1 < published


def test_a_follower_that_never_reads_again_is_disconnected_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routes, "WRITE_TIMEOUT", 0.1)
    with serving(StandIn(limit=50)) as served:
        unix, response = follow(served)
        with closing(unix), closing(response):
            while served.on_loop(served.followers) == 1:
                served.on_loop(lambda: served.daemon.feed.publish("tick", text="x" * 4000))
            with pytest.raises((ConnectionError, http.client.IncompleteRead)):
                read_all(response)


def test_followers_are_told_that_the_daemon_stops() -> None:
    with serving() as served:
        unix, response = follow(served)
        with closing(unix), closing(response):
            served.stop()
            last = read(response)
            assert (last["event"], last["why"]) == ("cut-off", "the daemon stops")
            assert response.readline() == b""


def test_the_number_of_followers_is_bounded() -> None:
    with serving() as served:
        for _ in range(FOLLOWER_LIMIT):
            served.on_loop(served.daemon.subscribe)
        status, document = served.ask("GET", "/v1/events")
        assert status == 503
        assert "already" in document["error"]


def test_publishing_without_followers_builds_nothing() -> None:
    feed = Feed(lambda: 0.0)
    feed.publish("tick", unserialisable=object())
    assert len(feed) == 0


def test_what_was_queued_before_the_end_is_still_read() -> None:
    async def story() -> list[str]:
        feed = Feed(lambda: 0.0)
        with feed.subscribe() as subscription:
            feed.publish("one")
            feed.publish("two")
            feed.close("over")
            feed.publish("three")
            seen = [event["event"] async for event in subscription]
            assert subscription.why == "over"
            return seen

    assert asyncio.run(story()) == ["one", "two"]


def test_a_full_house_refuses_and_a_leaver_makes_room() -> None:
    feed = Feed(lambda: 0.0)
    subscriptions = [feed.subscribe() for _ in range(FOLLOWER_LIMIT)]
    with pytest.raises(TooManyFollowersError):
        feed.subscribe()
    subscriptions[0].end()
    feed.subscribe()
