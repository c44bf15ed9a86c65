"""The keys that exist: looking one up by path, listing leaves, and suggesting what was meant."""

import difflib
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relay.config.locator import KeyPath
from relay.config.models import Config, Table
from relay.config.values import printable

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PART = re.compile(r"([A-Za-z0-9_-]+)((?:\[\d{1,4}\])*)")


def show_path(path: KeyPath) -> str:
    """Write a path as people do: ("expose", 0, "server") is "expose[0].server"."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE.fullmatch(part) else printable(f'"{part[:64]}"')
            text += f".{name}" if text else name
    return text


def read_path(text: str) -> KeyPath | None:
    """Read "expose[0].server" or "expose.0.server"; None when the text is no path."""
    path: list[str | int] = []
    for part in text.split("."):
        if part.isascii() and part.isdigit() and path and len(part) <= 4:
            path.append(int(part))
            continue
        match = _PART.fullmatch(part)
        if match is None:
            return None
        path.append(match[1])
        path += [int(number) for number in re.findall(r"\d+", match[2])]
    return tuple(path)


def table_type(annotation: Any) -> type[Table] | None:
    """Return the model of a table or of an array of tables; None for plain values."""
    if is_list(annotation):
        annotation = typing.get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, Table) else None


def is_list(annotation: Any) -> bool:
    """Whether values of the type are lists."""
    return typing.get_origin(annotation) is tuple


def table_at(path: KeyPath) -> type[Table] | None:
    """Return the model of the table at a path, list indices included; None when there is none."""
    model: type[Table] = Config
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = table_type(field.annotation) if field else None
        if inner is None:
            return None
        model = inner
    return model


def field_at(path: KeyPath) -> FieldInfo | None:
    """Return the field at a path; None when there is no such key."""
    if not path or isinstance(path[-1], int):
        return None
    for number, part in enumerate(path):
        # Exactly one index stands behind the name of an array of tables, and nowhere else.
        if isinstance(part, int):
            field = field_at(path[:number])
            if field is None or not is_list(field.annotation) or table_type(field.annotation) is None:
                return None
        elif number and not isinstance(path[number - 1], int):
            field = field_at(path[:number])
            if field is None or is_list(field.annotation):
                return None
    model = table_at(path[:-1])
    return model.model_fields.get(path[-1]) if model else None


def is_secret(path: KeyPath) -> bool:
    """Whether the value at a path must not be shown."""
    field = field_at(path)
    return field is not None and "SecretStr" in str(field.annotation)


def leaves(model: BaseModel, start: KeyPath = ()) -> Iterator[tuple[KeyPath, Any, FieldInfo]]:
    """Yield (path, value, field) of every key that is not a table, in the order of the schema."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, (*start, name))
        elif table_type(field.annotation) is not None:
            for index, item in enumerate(value):
                yield from leaves(item, (*start, name, index))
        else:
            yield (*start, name), value, field


def suggest(path: KeyPath) -> str:
    """Say what may have been meant by a key that does not exist; "" when nothing is near."""
    table = table_at(path[:-1])
    name = str(path[-1])
    siblings = list(table.model_fields) if table else []
    normal = name.lower().replace("-", "_")
    near = [known for known in siblings if normal in (known, known + "s", known[:-1])]
    elsewhere = [key for key in known_keys() if key.rpartition(".")[2] == normal]
    if not near and elsewhere:
        return f'did you mean "{elsewhere[0]}"?'
    near = near or difflib.get_close_matches(normal, siblings, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{show_path((*path[:-1], near[0]))}"?'
    close = difflib.get_close_matches(show_path(path), known_keys(), n=1, cutoff=0.75)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known here: {', '.join(siblings)}" if len(siblings) <= 12 and siblings else ""


def known_keys() -> list[str]:
    """Return the names of all keys; inside arrays of tables as "expose.server"."""
    return list(_known(Config, ""))


def _known(model: type[Table], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = table_type(field.annotation)
        if inner is None or is_list(field.annotation):
            yield prefix + name
        if inner is not None:
            yield from _known(inner, f"{prefix}{name}.")


def is_integer(annotation: Any) -> bool:
    """Whether values of the type are whole numbers."""
    if isinstance(annotation, types.UnionType):
        return False
    return annotation is int or any(isinstance(choice, int) for choice in typing.get_args(annotation))
