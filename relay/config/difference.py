"""What changed between two configurations, and what of it cannot change while the daemon runs."""

from relay.config import keys
from relay.config.models import Config
from relay.config.settings import Settings

#: Keys, and tables with a final dot, whose sockets and kernel rules stand from start to stop.
FIXED = (
    "version",
    "name",
    "wan.interface",
    "lan.interfaces",
    "interception.",
    "sockets.",
    "fastpath.",
    "api.socket",
)


def differences(old: Settings, new: Settings) -> list[str]:
    """Return the keys whose values differ; rules are compared one by one, by their position."""
    before, after = _flat(old.config), _flat(new.config)
    changed = [
        key
        for key in (*before, *(key for key in after if key not in before))
        if before.get(key) != after.get(key)
    ]
    if old.token != new.token and not {"api.token", "api.token_file"} & set(changed):
        changed.append("api.token_file")
    return changed


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """Return the changed keys that a reload cannot change: it is to be refused whole."""
    return [key for key in differences(old, new) if any(_is_at(key, fixed) for fixed in FIXED)]


def _is_at(key: str, fixed: str) -> bool:
    return key.startswith(fixed) if fixed.endswith(".") else key == fixed


def _flat(config: Config) -> dict[str, object]:
    return {keys.show_path(path): value for path, value, _ in keys.leaves(config)}
