"""The slots of all flows: memory that we and the kernel share."""

import mmap

from relay.fastpath import abi

#: Slots that are mapped first.
_FIRST = 4096


class Slots:
    """An array of the kernel's with ``most`` slots, mapped as far as it is used: that counts as our memory.

    Raises:
        OSError: the kernel refuses to map it.
    """

    def __init__(self, descriptor: int, most: int) -> None:
        self._descriptor = descriptor
        self._most = most
        self._map(min(most, _FIRST))

    def _map(self, count: int) -> None:
        self.memory = mmap.mmap(self._descriptor, count * abi.SLOT_SIZE)
        #: Of each slot, how many packets it has carried.
        self.carried = memoryview(self.memory).cast("Q")[abi.PACKETS]
        self._count = count

    def reach(self, count: int) -> bool:
        """Have at least so many mapped; whether the kernel lets us."""
        if count > self._count:
            memory, carried = self.memory, self.carried
            try:
                self._map(min(self._most, max(count, 2 * self._count)))
            except OSError:
                return False
            carried.release()
            memory.close()
        return True

    def close(self) -> None:
        """Give the memory back."""
        self.carried.release()
        self.memory.close()
