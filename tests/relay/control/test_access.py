"""Who may do what."""

import os
import socket
from contextlib import closing

import pytest

from relay.control.access import Access, Caller, ControlError, Level, caller_of
from tests.relay.control.credentials import ADMINS, READERS, STRANGER, as_other, as_root, forks
from tests.relay.control.stand_in import StandIn, connect, exchange, serving, session

LEVELS = [
    pytest.param(0, set(), Level.ADMIN, id="root"),
    pytest.param(os.geteuid(), set(), Level.ADMIN, id="ourselves"),
    pytest.param(STRANGER, {ADMINS}, Level.ADMIN, id="admin-group"),
    pytest.param(STRANGER, {READERS}, Level.READ, id="read-group"),
    pytest.param(STRANGER, {READERS, ADMINS}, Level.ADMIN, id="both-groups"),
    pytest.param(STRANGER, {STRANGER, 0}, Level.NONE, id="stranger"),
]


@pytest.mark.parametrize(("uid", "groups", "level"), LEVELS)
def test_level_by_credentials(uid: int, groups: set[int], level: Level) -> None:
    access = Access(read_group=str(READERS), admin_group=str(ADMINS))
    assert access.level_of(Caller(uid, frozenset(groups))) is level


def test_no_configured_group_means_no_group() -> None:
    assert Access().level_of(Caller(STRANGER, frozenset({0, STRANGER}))) is Level.NONE


BEARERS = [
    pytest.param("secret", "", True, Level.READ, id="loopback-without-token"),
    pytest.param("secret", "", False, Level.NONE, id="outside-without-token"),
    pytest.param("secret", "Bearer secret", True, Level.ADMIN, id="token"),
    pytest.param("secret", "bearer  secret", False, Level.ADMIN, id="token-from-outside"),
    pytest.param("secret", "Bearer Secret", True, Level.NONE, id="wrong-token"),
    pytest.param("secret", "Basic secret", True, Level.NONE, id="wrong-scheme"),
    pytest.param("secret", "Bearer", True, Level.NONE, id="no-token"),
    pytest.param("", "Bearer ", True, Level.NONE, id="empty-token-is-no-token"),
    pytest.param("", "Bearer", False, Level.NONE, id="no-token-anywhere"),
    pytest.param("secret", "Bearer sécret", True, Level.NONE, id="not-ascii"),
]


@pytest.mark.parametrize(("token", "field", "loopback", "level"), BEARERS)
def test_level_by_token(token: str, field: str, loopback: bool, level: Level) -> None:
    assert Access(token=token).level_of_bearer(field, loopback=loopback) is level


def test_a_group_that_does_not_exist_is_refused_at_start() -> None:
    with pytest.raises(ControlError, match=r"api\.admin_group: there is no group 'no-such-group'"):
        Access(admin_group="no-such-group").check()


def test_the_kernel_knows_our_groups() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        caller = caller_of(ours)
    assert caller.uid == os.geteuid()
    assert caller.groups >= {os.getegid(), *os.getgroups()}


@as_root
@forks
def test_levels_through_the_socket() -> None:
    with serving(
        StandIn([session(1), session(2)]), read_group=str(READERS), admin_group=str(ADMINS)
    ) as served:
        assert (served.path.stat().st_mode & 0o777, served.path.stat().st_gid) == (0o660, READERS)

        def status() -> int:
            with closing(connect(served.path)) as unix:
                return exchange(unix, "GET", "/v1/status")[0]

        def kill() -> tuple[int, str]:
            with closing(connect(served.path)) as unix:
                return exchange(unix, "POST", "/v1/sessions/kill", b'{"ids": ["p1"]}')

        assert as_other([READERS], status) == "200"
        refused = as_other([READERS], kill)
        assert "403" in refused
        assert f"admin level: be root, or a member of group {ADMINS}" in refused
        assert "PermissionError" in as_other([], status)
        assert "200" in as_other([READERS, ADMINS], kill)

        # However a stranger gets through the file's mode, the credentials still count.
        served.path.chmod(0o666)
        assert as_other([], status) == "403"
