"""libbpf, by ctypes: the only file that knows it.

libbpf loads an object file: it makes the maps, ties the programs to them and hands them to the verifier.
"""

import contextlib
import ctypes
import errno
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from relay.kernel import KernelError

_LIBRARY: Final = "libbpf.so.1"

#: What to do about a refusal.
_MAY: Final = "it takes CAP_BPF and CAP_NET_ADMIN, and in a container a seccomp profile that allows bpf(2)"

#: What to do about an object that does not belong to this version.
_REBUILD: Final = "run contrib/fastpath in the checkout, or install vpnmasq again"

#: Octets of a map's keys, and of its values.
Shape = tuple[int, int]
_ANY_SHAPE: Final[dict[str, Shape]] = {}

# linux/bpf.h
_BPF_ANY: Final = 0
_BPF_F_ANY_ALIGNMENT: Final = 2

# bpf/libbpf.h: enum bpf_tc_attach_point
_BPF_TC_INGRESS: Final = 1
_BPF_TC_EGRESS: Final = 2
_BPF_TC_F_REPLACE: Final = 1
_WARN: Final = 0
_NO: Final = ctypes.c_bool(False)  # noqa: FBT003  C's

#: Of our clsact filters: before most people's own.
_PRIORITY: Final = 0x4D51

#: Machines whose processors read words at any address.
_UNALIGNED: Final = frozenset({"x86_64", "i686", "aarch64", "ppc64le"})

#: What a verifier says is long, and the last of it is what matters; not what is said after that as a rule.
_LONGEST: Final = 1 << 20
_LAST_WORDS: Final = 3
_ALWAYS: Final = ("-- ", "processed ", "libbpf: prog ", "libbpf: failed to load object")

_Print = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _TcHook(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class _TcOpts(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class Libbpf:
    """The library, opened.

    Raises:
        KernelError: it is not there.
    """

    def __init__(self) -> None:
        try:
            self._lib = lib = ctypes.CDLL(_LIBRARY, use_errno=True)
        except OSError as error:
            raise KernelError(f"{_LIBRARY} is not there", "apt-get install libbpf1") from error
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._said: list[str] = []
        # Kept, for the library calls it for as long as it lives.
        self._print = _Print(self._listen)
        lib.libbpf_set_print(self._print)
        for name in ("open_file", "next_program", "find_map_by_name", "find_program_by_name"):
            getattr(lib, f"bpf_object__{name}").restype = ctypes.c_void_p

    def _listen(self, level: int, form: bytes, arguments: int) -> int:
        if level == _WARN:
            text = ctypes.create_string_buffer(_LONGEST)
            self._libc.vsnprintf(text, ctypes.c_size_t(_LONGEST), form, ctypes.c_void_p(arguments))
            self._said += [line.strip() for line in text.value.decode(errors="replace").splitlines()]
        return 0

    def _refused(self, doing: str, code: int, lacking: str = "") -> KernelError:
        """``lacking``: what helps where the kernel does not know what it is asked for."""
        code = abs(code)
        said = [line for line in self._said if line and not line.startswith(_ALWAYS)]
        self._said.clear()
        why = "; ".join([os.strerror(code), *said[-_LAST_WORDS:]])
        helps = {errno.EPERM: _MAY, errno.ENOENT: lacking}
        remedy = helps.get(code, "")
        return KernelError(f"{doing}: {why}", remedy)

    def _failed(self, doing: str) -> KernelError:
        return self._refused(doing, ctypes.get_errno())

    # -- objects ---------------------------------------------------------------------------------------

    def load(
        self,
        path: Path,
        sizes: dict[str, int],
        shapes: dict[str, Shape] = _ANY_SHAPE,
        without: Iterable[str] = (),
    ) -> "Object":
        """Load an object file; ``sizes`` are the most entries of its maps, where they differ.

        ``shapes``: octets of keys and values of its maps, as ``update`` and ``lookup`` are given them.
        ``without``: programs that the kernel is not to see.

        Raises:
            KernelError: the file is not one, or is another version's, or the kernel refuses it; with the
                verifier's last words.
        """
        self._said.clear()
        lib = self._lib
        handle = lib.bpf_object__open_file(os.fsencode(path), None)
        if not handle:
            raise self._failed(f"read {path.name}")
        loaded = Object(self, handle)
        try:
            for name, shape in shapes.items():
                self._check_shape(path, name, loaded.map(name), shape)
            for name, most in sizes.items():
                lib.bpf_map__set_max_entries(ctypes.c_void_p(loaded.map(name)), ctypes.c_uint32(most))
            for name in without:
                program = ctypes.c_void_p(self.find(handle, "program", name))
                lib.bpf_program__set_autoload(program, _NO)
            self._allow_any_alignment(handle)
            code = lib.bpf_object__load(ctypes.c_void_p(handle))
            if code:
                raise self._refused("load the program", code)
        except BaseException:
            loaded.close()
            raise
        return loaded

    def _check_shape(self, path: Path, name: str, address: int, expected: Shape) -> None:
        """The kernel copies what the map's sizes say, whatever it is given: ours must be the same."""
        at = ctypes.c_void_p(address)
        found = self._lib.bpf_map__key_size(at), self._lib.bpf_map__value_size(at)
        if found != expected:
            has = "its map {!r} has keys and values of {} and {} octets, not {} and {}"
            why = has.format(name, *found, *expected)
            raise KernelError(f"{path.name} is another version's: {why}", _REBUILD)

    def _allow_any_alignment(self, handle: int) -> None:
        """On processors that read at any address, also where the kernel was not built for them alone.

        Behind an Ethernet header the words of IP are aligned, without one (tun, ppp) they are not: some
        kernels refuse that (user-mode-linux does, whatever processor it runs on).
        """
        if os.uname().machine not in _UNALIGNED:
            return
        program = None
        while program := self._lib.bpf_object__next_program(
            ctypes.c_void_p(handle), ctypes.c_void_p(program)
        ):
            flags = ctypes.c_uint32(_BPF_F_ANY_ALIGNMENT)
            self._lib.bpf_program__set_flags(ctypes.c_void_p(program), flags)

    def close(self, handle: int) -> None:
        """Free an object: what nothing else holds is gone from the kernel."""
        self._lib.bpf_object__close(ctypes.c_void_p(handle))

    def find(self, handle: int, what: str, name: str) -> int:
        """The address of a map or program of an object.

        Raises:
            KernelError: it has none of this name: it was made for another version of ours.
        """
        found: int | None = getattr(self._lib, f"bpf_object__find_{what}_by_name")(
            ctypes.c_void_p(handle), name.encode()
        )
        if not found:
            raise KernelError(f"the object has no {what} {name!r}", _REBUILD)
        return found

    def fd(self, what: str, address: int) -> int:
        """The file descriptor of a loaded map or program; it is the object's."""
        number: int = getattr(self._lib, f"bpf_{what}__fd")(ctypes.c_void_p(address))
        return number

    # -- maps ------------------------------------------------------------------------------------------

    def update(self, map_fd: int, key: bytes, value: bytes) -> int:
        """Enter or replace an element; 0, or the errno: E2BIG, ENOMEM when there is no room."""
        done: int = self._lib.bpf_map_update_elem(map_fd, key, value, ctypes.c_uint64(_BPF_ANY))
        return -done

    def delete(self, map_fd: int, key: bytes) -> int:
        """Take an element out; 0, or the errno: ENOENT when there is none."""
        done: int = self._lib.bpf_map_delete_elem(map_fd, key)
        return -done

    def lookup(self, map_fd: int, key: bytes, size: int) -> bytes | None:
        """An element's value; None when there is none."""
        value = ctypes.create_string_buffer(size)
        return value.raw if self._lib.bpf_map_lookup_elem(map_fd, key, value) == 0 else None

    # -- attaching -------------------------------------------------------------------------------------

    def make_hook(self, interface: int) -> bool:
        """Give an interface a clsact qdisc; False when it has one.

        Raises:
            KernelError: the kernel refuses.
        """
        self._said.clear()
        code = self._lib.bpf_tc_hook_create(ctypes.byref(_hook(interface)))
        if code not in (0, -errno.EEXIST):
            raise self._refused("make a clsact qdisc", code, "modprobe sch_ingress cls_bpf")
        return bool(code == 0)

    def remove_hook(self, interface: int) -> None:
        """Take the qdisc away, with all filters that it has; none is no error."""
        hook = _hook(interface)
        hook.attach_point |= _BPF_TC_EGRESS
        self._lib.bpf_tc_hook_destroy(ctypes.byref(hook))

    def attach(self, program: int, interface: int, handle: int) -> int:
        """Attach a program to a clsact qdisc's ingress, in place of another with this handle; its number.

        Raises:
            KernelError: the kernel refuses.
        """
        self._said.clear()
        opts = _opts(handle, prog_fd=program, flags=_BPF_TC_F_REPLACE)
        code = self._lib.bpf_tc_attach(ctypes.byref(_hook(interface)), ctypes.byref(opts))
        if code:
            raise self._refused("attach the program", code, "modprobe cls_bpf")
        return int(opts.prog_id)

    def attached(self, interface: int, handle: int) -> int:
        """The number of the program that is attached with this handle; 0: none."""
        opts = _opts(handle)
        failed = self._lib.bpf_tc_query(ctypes.byref(_hook(interface)), ctypes.byref(opts))
        return 0 if failed else int(opts.prog_id)

    def detach(self, interface: int, handle: int) -> None:
        """Take what ``attach`` has put there away."""
        self._lib.bpf_tc_detach(ctypes.byref(_hook(interface)), ctypes.byref(_opts(handle)))


@functools.cache
def libbpf() -> Libbpf:
    """The library. It talks to one listener in a process, so it is opened once.

    Raises:
        KernelError: it is not there.
    """
    return Libbpf()


def _opts(handle: int, **fields: int) -> _TcOpts:
    return _TcOpts(size=ctypes.sizeof(_TcOpts), handle=handle, priority=_PRIORITY, **fields)


def _hook(interface: int) -> _TcHook:
    return _TcHook(size=ctypes.sizeof(_TcHook), ifindex=interface, attach_point=_BPF_TC_INGRESS)


class Object:
    """A loaded object file. Use as a context manager."""

    def __init__(self, library: Libbpf, handle: int) -> None:
        self.library = library
        self._handle: int | None = handle

    def map(self, name: str) -> int:
        """The address of a map.

        Raises:
            KernelError: there is none of this name.
        """
        assert self._handle is not None
        return self.library.find(self._handle, "map", name)

    def map_fd(self, name: str) -> int:
        """The file descriptor of a map. Raises: as ``map``."""
        return self.library.fd("map", self.map(name))

    def program_fd(self, name: str) -> int:
        """The file descriptor of a program. Raises: as ``map``."""
        assert self._handle is not None
        return self.library.fd("program", self.library.find(self._handle, "program", name))

    def close(self) -> None:
        """Close maps and programs; what is attached stays so."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self.library.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()
