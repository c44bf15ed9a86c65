"""What a generator has offered."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """What was offered: packets, and the seconds it took."""

    packets: int
    seconds: float

    @property
    def rate(self) -> float:
        """Packets per second."""
        return self.packets / self.seconds
