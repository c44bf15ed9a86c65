"""Who asks, and what that one may do.

On the Unix socket the kernel says who connected (SO_PEERCRED, unix(7)); on the TCP address a token does.

    NONE   everybody else: told which level is needed and how to get it
    READ   members of api.read_group; the TCP address on loopback
    ADMIN  root, the daemon's own user, members of api.admin_group; whoever shows the token
"""

import grp
import hmac
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

#: struct ucred: pid, uid, gid (unix(7)).
_UCRED = struct.Struct("3i")
#: asm-generic/socket.h; the socket module has no name for it.
_SO_PEERGROUPS = 59
#: What socket.getsockopt takes at most: room for 256 groups.
_GROUPS_ROOM = 1024


class ControlError(Exception):
    """The control API cannot be served as configured; the text says what to change."""


class Level(IntEnum):
    """What somebody may do; a higher level includes the lower ones."""

    NONE = 0
    READ = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """The credentials a process had when it connected."""

    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Access:
    """The groups with access; empty names mean no group has it."""

    read_group: str = ""
    admin_group: str = ""
    token: str = ""

    def check(self) -> None:
        """Make sure that the groups exist.

        Raises:
            ControlError: one does not.
        """
        for key, name in (("api.read_group", self.read_group), ("api.admin_group", self.admin_group)):
            if name and group_number(name) is None:
                raise ControlError(f"{key}: there is no group {name!r} here; create it with: groupadd {name}")

    def level_of(self, caller: Caller) -> Level:
        """Return what a process on the Unix socket may do."""
        if caller.uid in (0, os.geteuid()) or self._member(caller, self.admin_group):
            return Level.ADMIN
        return Level.READ if self._member(caller, self.read_group) else Level.NONE

    def level_of_bearer(self, authorization: str, *, loopback: bool) -> Level:
        """Return what a request over TCP may do, from its Authorization field (RFC 6750 §2.1)."""
        if not authorization:
            return Level.READ if loopback else Level.NONE
        scheme, _, token = authorization.partition(" ")
        # In constant time: the answer's delay must not tell how much of a guess was right.
        right = hmac.compare_digest(token.strip().encode(), self.token.encode())
        return Level.ADMIN if right and self.token and scheme.lower() == "bearer" else Level.NONE

    def remedy(self, needed: Level) -> str:
        """Say how somebody gets the level."""
        groups = [self.admin_group] if needed is Level.ADMIN else [self.read_group, self.admin_group]
        named = [name for name in groups if name]
        key = "api.admin_group" if needed is Level.ADMIN else "api.read_group"
        level = needed.name.lower()
        if named:
            return f"this needs the {level} level: be root, or a member of group {' or '.join(named)}"
        return (
            f"this needs the {level} level: be root, or name one of your groups as {key} in the configuration"
        )

    @staticmethod
    def _member(caller: Caller, group: str) -> bool:
        return bool(group) and group_number(group) in caller.groups


def group_number(name: str) -> int | None:
    """Return a group's number from its name, or from its number in text; None if there is none."""
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def process_of(connection: socket.socket) -> int:
    """Return the process that connected to the Unix socket.

    Raises:
        OSError: not a connected Unix socket.
    """
    pid, _, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(pid)


def caller_of(connection: socket.socket) -> Caller:
    """Return who connected to the Unix socket, as the kernel remembers it.

    Raises:
        OSError: not a connected Unix socket.
    """
    _, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Caller(uid, frozenset({gid, *_further_groups(connection, uid, gid)}))


def _further_groups(connection: socket.socket, uid: int, gid: int) -> list[int]:
    try:
        octets = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_ROOM)
    except OSError:
        # More groups than fit, or a kernel before 4.13: take those the user would get at login.
        try:
            return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:
            return []
    return [number for (number,) in struct.iter_unpack("I", octets[: len(octets) // 4 * 4])]
