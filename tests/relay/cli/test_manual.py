"""The manual page: complete, and without a warning of the formatter."""

import re
import shutil
import subprocess

import pytest

from relay.cli import COMMANDS
from relay.cli.exits import Exit
from relay.config.models import Config, Table
from tests.relay.cli.program import ROOT

PAGE = ROOT / "contrib" / "man" / "vpnmasq.8"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_formatter_has_nothing_to_complain_about() -> None:
    done = subprocess.run(
        ["groff", "-t", "-man", "-Tutf8", "-ww", "-z", PAGE], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def words() -> set[str]:
    return set(re.findall(r"[\w]+", PAGE.read_text().replace("\\-", "-").replace("\\fB", " ")))


def test_every_command_is_there() -> None:
    assert set(COMMANDS) <= words()


def test_every_exit_status_is_there() -> None:
    listed = re.findall(r"^\.B (\d+)$", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number in listed] == list(Exit)


def test_every_key_of_the_configuration_is_there() -> None:
    assert {name for table in tables(Config) for name in table.model_fields} <= words()


def tables(table: type[Table]) -> list[type[Table]]:
    """Return the table and every table in it."""
    found = [table]
    for field in table.model_fields.values():
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, Table):
                found += tables(inner)
    return found
