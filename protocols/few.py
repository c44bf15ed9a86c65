"""A mapping that has one entry nearly always: a dictionary takes four times the room for one.

Of peers, hosts and cookies there are as many as tunnels, and nearly all have one of everything.
"""

from collections.abc import Iterator, MutableMapping, ValuesView
from typing import Generic, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class Few(MutableMapping[K, V], Generic[K, V]):
    """As a dictionary, in the order in which keys came. None is no key."""

    __slots__ = ("_key", "_more", "_value")

    def __init__(self) -> None:
        #: The only entry, as long as there is one at most.
        self._key: K | None = None
        self._value: V | None = None
        self._more: dict[K, V] | None = None

    def __getitem__(self, key: K) -> V:
        if self._more is not None:
            return self._more[key]
        if key != self._key:
            raise KeyError(key)
        return self._value  # type: ignore[return-value]  # which is V where there is a key

    @overload
    def get(self, key: K, default: None = None, /) -> V | None: ...
    @overload
    def get(self, key: K, default: V | D, /) -> V | D: ...
    def get(self, key: K, default: V | D | None = None, /) -> V | D | None:
        """As a dictionary's: asked for many packets."""
        if self._more is not None:
            return self._more.get(key, default)
        return self._value if key == self._key else default

    def __setitem__(self, key: K, value: V) -> None:
        if self._more is not None:
            self._more[key] = value
        elif self._key is None or key == self._key:
            self._key, self._value = key, value
        else:
            self._more = {self._key: self._value, key: value}  # type: ignore[dict-item]  # as above
            self._key = self._value = None

    def __delitem__(self, key: K) -> None:
        if self._more is None:
            if key != self._key:
                raise KeyError(key)
            self._key = self._value = None
            return
        del self._more[key]
        if len(self._more) == 1:
            ((self._key, self._value),) = self._more.items()
            self._more = None

    def __iter__(self) -> Iterator[K]:
        if self._more is not None:
            return iter(self._more)
        return iter(()) if self._key is None else iter((self._key,))

    def __reversed__(self) -> Iterator[K]:
        return iter(self) if self._more is None else reversed(self._more)

    def values(self) -> ValuesView[V]:
        """As a dictionary's."""
        return super().values() if self._more is None else self._more.values()

    def __len__(self) -> int:
        return (self._key is not None) if self._more is None else len(self._more)
