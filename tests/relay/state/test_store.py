"""What systemd is asked to keep: pairs of sockets, within a bound, and nothing that it does not know of."""

import socket
from collections.abc import Iterator

import pytest

from relay.state.store import DescriptorStore


class Manager:
    """Hears what is to be kept, unless it is busy."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.deaf_after = 1000

    def keep(self, name: str, _sock: socket.socket) -> bool:
        heard = self._hears()
        self.kept |= {name} if heard else set()
        return heard

    def forget(self, name: str) -> bool:
        heard = self._hears()
        self.kept -= {name} if heard else set()
        return heard

    def _hears(self) -> bool:
        self.deaf_after -= 1
        return self.deaf_after >= 0


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def store(manager: Manager, most: int = 4) -> DescriptorStore:
    return DescriptorStore(most, keep=manager.keep, forget=manager.forget)


def test_both_sockets_of_a_connection_are_kept_until_they_are_closed(
    manager: Manager, sock: socket.socket
) -> None:
    keeping = store(manager)
    keeping.keep((1, sock), (2, sock))
    assert manager.kept == {"1.2", "2.1"}
    assert keeping.forget(1)
    assert manager.kept == {"2.1"}
    assert not keeping.forget(1)
    assert not keeping.forget(3)


def test_no_more_are_kept_than_may_be_and_never_half_a_connection(
    manager: Manager, sock: socket.socket
) -> None:
    keeping = store(manager, 5)
    for number in (1, 3, 5):
        keeping.keep((number, sock), (number + 1, sock))
    assert manager.kept == {"1.2", "2.1", "3.4", "4.3"}
    keeping.forget(1)
    keeping.keep((7, sock), (8, sock))
    assert manager.kept == {"2.1", "3.4", "4.3", "7.8", "8.7"}


@pytest.mark.parametrize("heard", [0, 1])
def test_what_systemd_is_too_busy_for_is_told_later(
    manager: Manager, sock: socket.socket, heard: int
) -> None:
    keeping = store(manager)
    manager.deaf_after = heard
    keeping.keep((1, sock), (2, sock))
    manager.deaf_after = 1000
    keeping.keep((3, sock), (4, sock))
    assert manager.kept == {"3.4", "4.3"}
    manager.deaf_after = 0
    assert keeping.forget(3)
    assert len(keeping) == 2
    manager.deaf_after = 1000
    assert keeping.forget(4)
    assert (len(keeping), manager.kept) == (0, set())


def test_what_was_kept_and_is_no_stream_is_let_go(manager: Manager) -> None:
    given = {name: socket.socket() for name in ("5.6", "stored", "0.1", "5.6.7")}
    given["7.8"] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    given["9.10"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    manager.kept = set(given)
    (part,) = store(manager).kept(list(given.items()))
    assert (part.number, part.partner, part.sock) == (5, 6, given["5.6"])
    assert manager.kept == {"5.6"}
    assert [name for name, one in given.items() if one.fileno() >= 0] == ["5.6"]
    part.sock.close()
