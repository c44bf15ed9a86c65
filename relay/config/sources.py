"""Reading the sources and laying them over each other: file, environment, --set.

The result is plain data as TOML gives it, not yet validated, and the origin of each piece.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli
from pydantic.fields import FieldInfo

from relay.config import keys
from relay.config.locator import KeyPath, locate
from relay.config.origins import Layer, Origin, Origins
from relay.config.problems import InputError, Problem
from relay.config.ruletext import read_rules
from relay.config.values import printable
from relay.options import SOCKET_VARIABLE

PREFIX = "VPNMASQ_"
#: The command line's own variable, which names the control socket to talk to.
NOT_KEYS = frozenset({SOCKET_VARIABLE})
#: Octets; a configuration with thousands of rules has some hundred thousand.
LARGEST_FILE = 4 << 20
LARGEST_SECRET = 64 << 10
#: tomli's words about a position, which older versions give in the message alone.
_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(slots=True)
class Sources:
    """The sources, laid over each other."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: Origins = field(default_factory=Origins)
    problems: list[Problem] = field(default_factory=list)
    #: Whether there was a file that could not be read: much may be missing then.
    unreadable: bool = False


def read_sources(path: Path | None, sets: Sequence[str], environ: Mapping[str, str]) -> Sources:
    """Read everything; what is wrong is collected in ``problems``."""
    sources = Sources()
    if path is not None:
        _read_file(sources, path)
        sources.unreadable = bool(sources.problems)
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in NOT_KEYS:
            _read_variable(sources, variable, environ)
    for argument in sets:
        _read_set(sources, argument)
    return sources


def read_text(path: Path, largest: int) -> str:
    """Read a text file.

    Raises:
        InputError: it cannot be read, is too large or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except IsADirectoryError:
        raise InputError("is a directory", "name the file in it") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"cannot be read: {reason}", "check the name and the permissions") from None
    except ValueError:
        raise InputError("is not a file name") from None
    if len(data) > largest:
        raise InputError(f"is larger than {largest >> 10} KiB", "is it the right file?")
    try:
        return data.decode("utf-8-sig" if data.startswith(b"\xef\xbb\xbf") else "utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"is not UTF-8 text: line {line}", "save it as UTF-8") from None


def _read_file(sources: Sources, path: Path) -> None:
    name = sources.origins.file = printable(str(path))
    try:
        text = read_text(path, LARGEST_FILE)
    except InputError as wrong:
        sources.problems.append(Problem(name, "", wrong.message, wrong.advice))
        return
    try:
        sources.tree = tomli.loads(text)
        sources.origins.lines = locate(text)
    except tomli.TOMLDecodeError as error:
        message = str(error)
        match = _POSITION.search(message)
        line = int(match[1]) if match and match[1] else text.rstrip("\n").count("\n") + 1
        message = printable(_POSITION.sub("", message))
        advice = "this is not TOML; text needs quotes, lists need [ ]"
        sources.problems.append(Problem(f"{name}:{line}", "", message[:1].lower() + message[1:], advice))
    except (ValueError, RecursionError):
        sources.problems.append(Problem(name, "", "is nested too deeply or has a number too long to read"))


def _read_variable(sources: Sources, variable: str, environ: Mapping[str, str]) -> None:
    text, name = environ[variable], printable(variable)
    path = _variable_path(variable)
    if (
        not keys.field_at(path)
        and variable.endswith("_FILE")
        and keys.field_at(path_less := _without_file(path))
    ):
        if not text:
            return
        path = path_less
        if environ.get(variable.removesuffix("_FILE")):
            advice = "keep one of them"
            plain = variable.removesuffix("_FILE")
            sources.problems.append(Problem(name, keys.show_path(path), f"{plain} is set as well", advice))
            return
        try:
            text = read_text(Path(text), LARGEST_SECRET).rstrip("\r\n")
        except InputError as wrong:
            message = f"{printable(text)} {wrong.message}"
            sources.problems.append(Problem(name, keys.show_path(path), message, wrong.advice))
            return
    elif not text and path[0] in ("masquerade", "expose", "forward", "ddns"):
        # A compose file passes variables on that nobody set.
        return
    _override(sources, path, text, Origin(Layer.ENVIRONMENT, name))


def _variable_path(variable: str) -> KeyPath:
    parts = variable.removeprefix(PREFIX).lower().split("__")
    return tuple(
        int(part) if part.isascii() and part.isdigit() and len(part) <= 4 else part for part in parts
    )


def _without_file(path: KeyPath) -> KeyPath:
    return (*path[:-1], str(path[-1]).removesuffix("_file"))


def _read_set(sources: Sources, argument: str) -> None:
    name, equals, text = argument.partition("=")
    where = printable(f"--set {name.strip()}")
    path = keys.read_path(name.strip())
    if not equals or path is None:
        advice = "write --set wan.interface=ppp0"
        sources.problems.append(Problem(where, "", "is not KEY=VALUE", advice))
        return
    _override(sources, path, text, Origin(Layer.SET, where))


def _override(sources: Sources, path: KeyPath, text: str, origin: Origin) -> None:
    key = keys.show_path(path)
    field_info = keys.field_at(path)
    try:
        if field_info is None:
            raise InputError("unknown key", _suggest(path, origin))
        if keys.table_type(field_info.annotation) and not keys.is_list(field_info.annotation):
            inside = ", ".join(f"{key}.{name}" for name in field_info.annotation.model_fields)  # type: ignore[union-attr]
            raise InputError("is a table", f"set the keys in it: {inside}")
        value = _value(path, field_info, text)
        _store(sources.tree, path, value)
    except InputError as wrong:
        sources.problems.append(Problem(origin.where, key, wrong.message, wrong.advice))
    else:
        sources.origins.override(path, origin)


def _suggest(path: KeyPath, origin: Origin) -> str:
    advice = keys.suggest(path)
    if origin.layer is Layer.ENVIRONMENT and (match := re.search(r'"([a-z_.0-9\[\]]+)"', advice)):
        variable = PREFIX + re.sub(r"[.\[\]]+", "__", match[1]).upper()
        return f"did you mean {variable}?"
    return advice


def _value(path: KeyPath, field_info: FieldInfo, text: str) -> Any:
    """Turn text into what the file would have held."""
    annotation, text = field_info.annotation, text.strip()
    if keys.is_list(annotation):
        if text.startswith("["):
            return _toml(text)
        if keys.table_type(annotation) is None:
            return [part.strip() for part in text.split(",") if part.strip()]
        if path[0] == "ddns":
            raise InputError("is written as TOML here", '[{name = "home", provider = "dyndns2", host = "…"}]')
        return read_rules(str(path[0]), text)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and not keys.is_secret(path):
        return _toml(text)
    if keys.is_integer(annotation) and re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        return int(text)
    return text


def _toml(text: str) -> Any:
    try:
        document = tomli.loads(f"value = {text}")
    except (ValueError, RecursionError):
        document = {}
    if list(document) != ["value"]:
        raise InputError(f"{printable(text[:64])} cannot be read", "write TOML, or a list with commas")
    return document["value"]


def _store(tree: dict[str, Any], path: KeyPath, value: object) -> None:
    """Put a value into the tree; what the file has in its way, of another type, stays and is reported."""
    here: Any = tree
    for number, part in enumerate(path[:-1]):
        if isinstance(part, int):
            if part > len(here):
                raise InputError(f"there are {len(here)} entries before it", f"the next one is {len(here)}")
            if part == len(here):
                here.append({})
            here = here[part]
        else:
            here = here.setdefault(part, [] if isinstance(path[number + 1], int) else {})
        if not isinstance(here, list if isinstance(path[number + 1], int) else dict):
            raise InputError(
                f"cannot be set: {keys.show_path(path[: number + 1])} is not a table in the file"
            )
    here[path[-1]] = value
