"""Classic BPF programs for sockets (socket(7), SO_ATTACH_FILTER): what a socket gets to see at all."""

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

# linux/bpf_common.h, linux/filter.h
LD_WORD: Final = 0x20
LD_HALF_X: Final = 0x48
LD_BYTE_X: Final = 0x50
LDX_IP_HEADER_LENGTH: Final = 0xB1
AND: Final = 0x54
JUMP_EQUAL: Final = 0x15
JUMP_GREATER: Final = 0x25
JUMP_AT_LEAST: Final = 0x35
RETURN: Final = 0x06
#: SKF_NET_OFF: loads from here on count from the IP header, wherever the socket's own view begins.
NETWORK_HEADER: Final = 0xFFF00000

#: What a program returns is how many octets of the packet the socket gets.
ALL: Final = 0xFFFFFFFF

_SO_ATTACH_FILTER: Final = 26
_MOST_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS

#: (code, jump if true, jump if false, operand)
Instruction = tuple[int, int, int, int]


def fits(program: Sequence[Instruction]) -> bool:
    """Whether it is short enough."""
    return len(program) <= _MOST_INSTRUCTIONS


def attach(sock: socket.socket, program: Sequence[Instruction]) -> bool:
    """Give a socket a filter, in place of the one it has; False when the kernel does not take it.

    That is when the program is too long, or when this kernel wants CAP_NET_ADMIN for it and we have none.

    Raises:
        OSError: the kernel refuses the program.
    """
    if not fits(program):
        return False
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    memory = ctypes.create_string_buffer(code, len(code))
    fprog = struct.pack("@HP", len(program), ctypes.addressof(memory))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
    except PermissionError:
        return False
    return True
