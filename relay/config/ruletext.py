"""Rules in one line, for the environment and --set.

    masquerade   CLIENTS -> SERVERS PROTO [listen ADDRESS] [name NAME]
    expose       SERVER PROTO [allow PEERS] [source keep|gateway] [name NAME]
    forward      LISTEN -> SERVER [allow PEERS] [source keep|gateway] [name NAME]

Several rules are separated by ";"; lists by ","; protocols by "+". What is read here is the same
data that the TOML tables give, not yet checked.
"""

from typing import Any

from relay.config.problems import InputError

_OPTIONS = {
    "masquerade": ("listen", "name"),
    "expose": ("allow", "source", "name"),
    "forward": ("allow", "source", "name"),
}
_FORMS = {
    "masquerade": "10.0.0.0/24 -> 199.0.0.1 pptp",
    "expose": "10.0.0.2 pptp allow 199.0.0.2,199.0.0.3",
    "forward": "tcp/80 -> 10.0.0.2:8080 allow any",
}

Rule = dict[str, Any]


def read_rules(kind: str, text: str) -> list[Rule]:
    """Read the rules of one kind ("masquerade", "expose" or "forward").

    Raises:
        InputError: the text does not have the form of the kind.
    """
    return [_rule(kind, part) for part in text.replace("\n", ";").split(";") if part.strip()]


def _rule(kind: str, text: str) -> Rule:
    advice = f'write for example "{_FORMS[kind]}"'
    shown = " ".join(text.split())
    # Spaces after a comma or around "+" are how people write lists.
    for sign in (",", "+"):
        text = sign.join(part.strip() for part in text.split(sign))
    words = text.replace("->", " -> ").split()
    fixed = {"masquerade": 4, "expose": 2, "forward": 3}[kind]
    if len(words) < fixed or (kind != "expose") != (words[1] == "->"):
        raise InputError(f'"{shown}" is not a rule', advice)
    match kind:
        case "masquerade":
            rule: Rule = {
                "clients": _list(words[0]),
                "servers": _list(words[2]),
                "proto": _protocols(words[3]),
            }
        case "expose":
            rule = {"server": words[0], "proto": _protocols(words[1])}
        case _:
            rule = {"listen": words[0], "server": words[2]}
    return rule | _options(kind, words[fixed:], shown, advice)


def _options(kind: str, words: list[str], shown: str, advice: str) -> Rule:
    found: Rule = {}
    for at in range(0, len(words), 2):
        option = words[at]
        if option not in _OPTIONS[kind]:
            known = ", ".join(_OPTIONS[kind])
            raise InputError(f'"{shown}": "{option}" is not known here', f"may follow: {known}; {advice}")
        if option in found:
            raise InputError(f'"{shown}": "{option}" is said twice', advice)
        if at + 1 == len(words):
            raise InputError(f'"{shown}": nothing follows "{option}"', advice)
        found[option] = _list(words[at + 1]) if option == "allow" else words[at + 1]
    return found


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _protocols(text: str) -> list[str]:
    return [part for part in text.replace(",", "+").split("+") if part]
