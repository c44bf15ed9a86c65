"""pydantic's errors in words for people, with advice."""

import difflib
import typing
from typing import Any

from pydantic_core import ErrorDetails

from relay.config import keys
from relay.config.locator import KeyPath
from relay.config.problems import InputError
from relay.config.values import show

_MISSING = {
    "proto": 'write proto = ["pptp"]',
    "clients": 'write clients = ["10.0.0.0/24"], the hosts inside that may',
    "servers": 'write servers = ["199.0.0.1"], or ["any"]',
    "server": 'write server = "10.0.0.2", the host inside',
    "listen": 'write listen = "tcp/80"',
}
_EMPTY = {
    "proto": 'write proto = ["pptp"]',
    "clients": "a rule without clients allows nobody: name them, or leave the rule out",
    "servers": 'name them, or write ["any"]',
    "interfaces": 'write ["eth0"], or ["auto"]',
    "networks": 'write ["10.0.0.0/8"], the addresses inside',
}


def explain(error: ErrorDetails) -> tuple[KeyPath, str, str]:
    """Return the key path, the message and the advice for one error of pydantic."""
    path: KeyPath = error["loc"]
    context: dict[str, Any] = error.get("ctx", {})
    value = error.get("input")
    kind = error["type"]
    if kind == "value_error" and isinstance(context.get("error"), InputError):
        bad = context["error"]
        return path, bad.message, bad.advice
    match kind:
        case "extra_forbidden":
            return path, "unknown key", keys.suggest(path)
        case "missing":
            return path, "is missing", _MISSING.get(str(path[-1]), "")
        case "literal_error":
            return path, *_not_a_choice(path, value)
        case "tuple_type":
            return path, *_not_a_list(path, value)
        case "too_short":
            return path, "is empty", _EMPTY.get(str(path[-1]), "")
        case "model_type":
            return path, f"must be a table, not {show(value)}", f"write [{path[0]}] and its keys below"
        case "greater_than_equal":
            return path, f"{show(value)} is too small", f"at least {context['ge']}"
        case "less_than_equal":
            return path, f"{show(value)} is too large", f"at most {context['le']}"
        case _:
            return path, *_not_the_type(kind, path, value, error["msg"])


def _not_the_type(kind: str, path: KeyPath, value: object, otherwise: str) -> tuple[str, str]:
    shown = "the value" if keys.is_secret(path) else show(value)
    if kind == "int_type":
        return f"{shown} is not a whole number", "write it without quotes"
    if kind == "string_type":
        return f"{shown} is not text", "write it in quotes"
    return otherwise.lower(), ""


def _not_a_choice(path: KeyPath, value: object) -> tuple[str, str]:
    choices = _choices(path)
    if path == ("version",):
        return f"{show(value)} is not a version that this program knows", "write version = 1"
    listed = ", ".join(show(choice) for choice in choices)
    near = difflib.get_close_matches(str(value).lower(), [str(choice) for choice in choices], n=1)
    advice = f'did you mean "{near[0]}"? known: {listed}' if near else f"known: {listed}"
    if "proto" in path and not near:
        advice += "; other protocols go into [[forward]]"
    return f"{show(value)} is not known here", advice


def _choices(path: KeyPath) -> tuple[Any, ...]:
    item = isinstance(path[-1], int)
    field = keys.field_at(path[:-1] if item else path)
    if field is None:
        return ()
    annotation = typing.get_args(field.annotation)[0] if item else field.annotation
    return typing.get_args(annotation)


def _not_a_list(path: KeyPath, value: object) -> tuple[str, str]:
    field = keys.field_at(path)
    if field is not None and keys.table_type(field.annotation) is not None:
        return "must be written with double brackets", f"write [[{path[-1]}]], once for each rule"
    if isinstance(value, str):
        return f"must be a list, not {show(value)}", f"write {path[-1]} = [{show(value)}]"
    return f"must be a list, not {show(value)}", 'write ["…", "…"]'
