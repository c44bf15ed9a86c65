"""The configuration as loaded: validated, with the origin of each setting."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.config import keys
from relay.config.models import Config, Shown
from relay.config.origins import Origin, Origins


@dataclass(frozen=True, slots=True)
class Setting:
    """One key as it is in force, ready to be shown; secrets are hidden."""

    key: str
    value: Any
    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration without faults."""

    config: Config
    #: The file, or None when everything came from elsewhere.
    path: Path | None = None
    #: Of each key that is not a table: "wan.interface", "expose[0].server".
    origins: Mapping[str, Origin] = field(default_factory=dict)
    #: The API's token, from api.token or the file that api.token_file names; "" = none.
    token: str = field(default="", repr=False)
    sources: Origins = field(default_factory=Origins, repr=False)

    def effective(self) -> Iterator[Setting]:
        """Yield every key that is in force, in the order of the schema."""
        for path, value, info in keys.leaves(self.config):
            key = keys.show_path(path)
            shown: Any = value
            if keys.is_secret(path):
                shown = None if value is None else "(hidden)"
            for note in info.metadata:
                if isinstance(note, Shown):
                    shown = note.show(value)
            shown = list(shown) if isinstance(shown, tuple) else shown
            yield Setting(key, shown, show_value(shown), self.origins[key])


def show_value(value: object) -> str:
    """Write a value in TOML's way; "–" for what is not set."""
    if isinstance(value, list):
        return f"[{', '.join(show_value(item) for item in value)}]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return "–" if value is None else str(value)
