"""What can be used of a tree with faults, so that they hide no others: all but the keys that are wrong.

In the place of a wrong key stands its default, and where a rule's key has none, something that agrees with
everything. A rule keeps its place in what is found: see ``Salvage.place``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from relay.config.locator import KeyPath
from relay.config.models import RULE_KINDS, Config

#: Right values for keys of rules that must be there.
_SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "masquerade": {"clients": ["any"], "servers": ["any"], "proto": ["pptp"]},
    "expose": {"server": "192.0.2.1", "proto": ["pptp"]},
    "forward": {"listen": "tcp/1", "server": "192.0.2.1"},
    "ddns": {"provider": "rfc2136", "host": "host.example"},
}
#: By kind and wrong key, what then makes the rule agree with all others.
_HARMLESS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("masquerade", "proto"): {"proto": ()},
    ("expose", "proto"): {"proto": ()},
    ("expose", "server"): {"allow": ()},
    ("expose", "source"): {"allow": ()},
    ("forward", "listen"): {"listen": ""},
}


@dataclass(frozen=True, slots=True)
class Salvage:
    """A configuration of what is right, and what was wrong."""

    config: Config
    #: ("wan", "address"), ("expose", 0, "server"), or a whole ("lan",) or ("expose", 0).
    wrong: frozenset[KeyPath]
    #: By kind, the indices in the source of the rules in ``config``.
    _kept: Mapping[str, list[int]]

    def place(self, path: KeyPath) -> KeyPath:
        """Turn the index of a rule in ``config`` into its index in the source."""
        if len(path) > 1 and path[0] in self._kept and isinstance(path[1], int):
            return (path[0], self._kept[str(path[0])][path[1]], *path[2:])
        return path

    def is_wrong(self, path: KeyPath) -> bool:
        """Whether there is a fault already at a key of the source, or at what it is in."""
        return any(path[:length] in self.wrong for length in range(1, len(path) + 1))


def salvage(tree: Mapping[str, Any], faults: Iterable[KeyPath]) -> Salvage:
    """Keep what is right of a tree; ``faults`` are the places that pydantic named."""
    wrong = frozenset(path[: 3 if _is_rule(tree, path) else 2] for path in faults)
    sound: dict[str, Any] = {}
    kept: dict[str, list[int]] = {}
    for name, value in tree.items():
        if (name,) in wrong:
            continue
        if name in RULE_KINDS:
            kept[name] = [index for index in range(len(value)) if (name, index) not in wrong]
            sound[name] = [_rule(name, index, value[index], wrong) for index in kept[name]]
        elif isinstance(value, dict):
            sound[name] = {key: inner for key, inner in value.items() if (name, key) not in wrong}
        else:
            sound[name] = value
    config = Config.model_validate(sound)
    rules = {
        name: tuple(
            rule.model_copy(update=_harmless(name, index, wrong))
            for index, rule in zip(indices, getattr(config, name), strict=True)
        )
        for name, indices in kept.items()
    }
    return Salvage(config.model_copy(update=rules), wrong, kept)


def _is_rule(tree: Mapping[str, Any], path: KeyPath) -> bool:
    return path[0] in RULE_KINDS and isinstance(tree.get(str(path[0])), list)


def _rule(kind: str, index: int, rule: Mapping[str, Any], wrong: frozenset[KeyPath]) -> dict[str, Any]:
    right = {key: value for key, value in rule.items() if (kind, index, key) not in wrong}
    return {**{key: _SAMPLES[kind][key] for key in _SAMPLES[kind] if key not in right}, **right}


def _harmless(kind: str, index: int, wrong: frozenset[KeyPath]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for (known, key), values in _HARMLESS.items():
        if known == kind and (kind, index, key) in wrong:
            changes |= values
    return changes
