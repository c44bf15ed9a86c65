"""Where a setting comes from: the default, a line of the file, an environment variable or --set."""

from dataclasses import dataclass, field
from enum import Enum

from relay.config.locator import KeyPath, nearest


class Layer(Enum):
    """The sources of settings, weakest first."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    SET = "set"


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of one setting; ``where`` is "FILE:LINE", a variable's name, "--set …" or "default"."""

    layer: Layer
    where: str


DEFAULT = Origin(Layer.DEFAULT, "default")


@dataclass(slots=True)
class Origins:
    """What is known about positions while the sources are put together."""

    #: The file's name as it was given; empty without a file.
    file: str = ""
    #: Lines of the file's keys.
    lines: dict[KeyPath, int] = field(default_factory=dict)
    #: Keys and whole tables that came from elsewhere.
    overrides: dict[KeyPath, Origin] = field(default_factory=dict)

    def override(self, path: KeyPath, origin: Origin) -> None:
        """Note that everything at and below the path now comes from ``origin``."""
        for known in [known for known in self.overrides if known[: len(path)] == path]:
            del self.overrides[known]
        self.overrides[path] = origin

    def of(self, path: KeyPath) -> Origin:
        """Return the origin of a value."""
        overridden = self._override(path)
        if overridden is not None:
            return overridden
        line = self.lines.get(path)
        return DEFAULT if line is None else Origin(Layer.FILE, f"{self.file}:{line}")

    def where(self, path: KeyPath) -> str:
        """Return where to look for a problem at the path, though the key itself may be missing."""
        overridden = self._override(path)
        if overridden is not None:
            return overridden.where
        line = nearest(self.lines, path)
        if line is not None:
            return f"{self.file}:{line}"
        below = [origin for known, origin in self.overrides.items() if known[: len(path)] == path]
        return below[0].where if below else self.file or "default"

    def _override(self, path: KeyPath) -> Origin | None:
        for length in range(len(path), 0, -1):
            origin = self.overrides.get(path[:length])
            if origin is not None:
                return origin
        return None
