"""conf/: every file loads, the reference is complete, and the schema is that of the models."""

import json
from pathlib import Path

import pytest
import tomli

from relay.config import Layer, load
from relay.config.keys import leaves, show_path
from relay.config.models import RULE_KINDS, Config
from relay.config.schema import schema_text

CONF = Path(__file__).parents[3] / "conf"
REFERENCE = CONF / "vpnmasq.toml"
FILES = sorted(CONF.rglob("*.toml"))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in FILES])
def test_a_shipped_file_loads(path: Path) -> None:
    assert load(path).config.version == 1


def test_all_examples_are_there() -> None:
    examples = {"home", "office", "server", "relay", "forwards", "fwz"}
    assert {path.stem for path in FILES} >= {"vpnmasq", *examples}


def test_the_reference_holds_the_defaults_and_example_rules() -> None:
    config = load(REFERENCE).config
    assert config.model_copy(update=dict.fromkeys(RULE_KINDS, ())) == Config()
    assert [rule.name for rule in config.masquerade] == ["staff"]
    assert [rule.name for rule in config.expose] == ["office"]


def test_the_reference_writes_every_key_out() -> None:
    settings = load(REFERENCE)
    silent = {key for key, origin in settings.origins.items() if origin.layer is Layer.DEFAULT}
    # These two have no value that could be written; they stand there in a comment.
    assert silent == {"masquerade[0].listen", "api.token"}
    known = {show_path(path) for path, _, _ in leaves(settings.config)}
    assert known == set(settings.origins)


def test_what_the_reference_has_in_comments_is_right_as_well(tmp_path: Path) -> None:
    lines = REFERENCE.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("# [[forward]]"))
    end = next(number for number, line in enumerate(lines) if line.startswith("[ipsec]"))
    path = tmp_path / "vpnmasq.toml"
    path.write_text("\n".join(line.removeprefix("# ") for line in lines[start:end]), encoding="utf-8")
    config = load(path).config
    assert (len(config.forward), len(config.ddns)) == (1, 1)
    written = tomli.loads(path.read_text(encoding="utf-8"))
    assert set(written["forward"][0]) == set(type(config.forward[0]).model_fields)
    assert set(written["ddns"][0]) | {"password"} == set(type(config.ddns[0]).model_fields)


def test_the_schema_is_that_of_the_models() -> None:
    shipped = json.loads((CONF / "schema.json").read_text(encoding="utf-8"))
    assert shipped == json.loads(schema_text()), "run: python -m relay.config.schema > conf/schema.json"


def test_every_key_of_the_schema_is_described() -> None:
    schema = json.loads(schema_text())
    for name, table in schema["$defs"].items():
        undescribed = [key for key, value in table["properties"].items() if "description" not in value]
        assert not undescribed, name
