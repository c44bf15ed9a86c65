"""From sources to settings: everything that is wrong is found in one go."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from relay.config import keys
from relay.config.crosscheck import contradictions
from relay.config.explain import explain
from relay.config.locator import KeyPath
from relay.config.models import RULE_KINDS, Config
from relay.config.origins import DEFAULT
from relay.config.problems import ConfigError, InputError, Problem
from relay.config.salvage import Salvage, salvage
from relay.config.settings import Settings
from relay.config.sources import LARGEST_SECRET, Sources, read_sources, read_text


def load(path: Path | None, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Settings:
    """Read the configuration; strongest first: ``sets`` ("wan.interface=ppp0"), ``environ``, the file.

    Args:
        path: the TOML file, or None for none.
        sets: arguments of --set.
        environ: the environment; variables that do not begin with VPNMASQ_ are ignored.

    Raises:
        ConfigError: with every problem of every source.
    """
    sources = read_sources(path, sets, environ or {})
    problems = sources.problems
    _name_rules(sources.tree)
    found = _validate(sources, problems)
    config = found.config
    if not sources.unreadable:
        for key, message, advice in contradictions(config, found.wrong):
            place = found.place(key)
            if not found.is_wrong(place):
                problems.append(_problem(sources, place, message, advice))
    token = "" if found.is_wrong(("api", "token_file")) else _token(config, sources, problems)
    if problems:
        raise ConfigError(_sorted(problems, sources))
    origins = {
        keys.show_path(place): sources.origins.of(place) if _is_given(sources.tree, place) else DEFAULT
        for place, _, _ in keys.leaves(config)
    }
    return Settings(config, path, origins, token, sources.origins)


def _is_given(tree: Any, place: KeyPath) -> bool:
    """Whether any source has a value for a key: a rule in one line leaves some out."""
    for part in place:
        if isinstance(tree, dict) and part not in tree:
            return False
        tree = tree[part]
    return True


def _name_rules(tree: dict[str, Any]) -> None:
    """Give rules without a name one that tells where they are: "expose-1"."""
    for kind in RULE_KINDS:
        rules = tree.get(kind)
        for number, rule in enumerate(rules if isinstance(rules, list) else (), start=1):
            if isinstance(rule, dict) and rule.get("name", "") == "":
                rule["name"] = f"{kind}-{number}"


def _validate(sources: Sources, problems: list[Problem]) -> Salvage:
    """Return what is valid; what is not is added to the problems."""
    faults: list[KeyPath] = []
    try:
        Config.model_validate(sources.tree)
    except ValidationError as error:
        for details in _without_echoes(error.errors(include_url=False)):
            place, message, advice = explain(details)
            problems.append(_problem(sources, place, message, advice))
            faults.append(place)
    return salvage(sources.tree, faults)


def _without_echoes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out "too short" for lists whose items are wrong: pydantic counts the right ones alone."""
    inner = {details["loc"][:-1] for details in errors}
    return [details for details in errors if details["type"] != "too_short" or details["loc"] not in inner]


def _token(config: Config, sources: Sources, problems: list[Problem]) -> str:
    """Return the API's token."""
    token = (config.api.token or SecretStr("")).get_secret_value()
    if not config.api.token_file or token:
        return token
    try:
        token = read_text(Path(config.api.token_file), LARGEST_SECRET).strip()
        if not token:
            raise InputError("is empty", "write a token into it, such as the output of: openssl rand -hex 32")
    except InputError as wrong:
        message = f"{config.api.token_file} {wrong.message}"
        problems.append(_problem(sources, ("api", "token_file"), message, wrong.advice))
    return token


def _problem(sources: Sources, place: KeyPath, message: str, advice: str) -> Problem:
    return Problem(sources.origins.where(place), keys.show_path(place), message, advice)


def _sorted(problems: Sequence[Problem], sources: Sources) -> list[Problem]:
    """Order problems as somebody reads the file: by line; then what came from elsewhere."""
    file = f"{sources.origins.file}:"

    def place(problem: Problem) -> tuple[int, int]:
        line = problem.where.removeprefix(file)
        in_file = bool(sources.origins.file) and problem.where.startswith(file) and line.isdigit()
        return (0, int(line)) if in_file else (1, 0)

    return sorted(dict.fromkeys(problems), key=place)
