"""The settings in the log, each with its origin."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from relay.announce import announce
from relay.config import load
from relay.logs import configure

FILE = """\
version = 1
[wan]
interface = "eth1"
"""


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(tmp_path: Path, environ: dict[str, str]) -> list[dict[str, Any]]:
    path, out = tmp_path / "vpnmasq.toml", io.StringIO()
    path.write_text(FILE)
    configure("info", "json", out)
    announce(load(path, ["log.level=debug"], environ))
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_setting_is_said_once_and_what_was_given_with_its_origin(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    environ = {
        "VPNMASQ_LAN__NETWORKS": "10.77.0.0/24",
        "VPNMASQ_EXPOSE": "10.77.0.10 pptp allow 199.0.0.2 source gateway",
        "VPNMASQ_API__TOKEN_FILE": str(secret),
    }
    said = lines(tmp_path, environ)
    given = {line["key"]: (line["value"], line["origin"]) for line in said if line["event"] == "setting"}
    assert given["wan.interface"] == ("eth1", f"{tmp_path}/vpnmasq.toml:3")
    assert given["lan.networks"] == (["10.77.0.0/24"], "VPNMASQ_LAN__NETWORKS")
    assert given["expose[0].server"] == ("10.77.0.10", "VPNMASQ_EXPOSE")
    assert given["log.level"] == ("debug", "--set log.level")
    assert given["api.token_file"] == (str(secret), "VPNMASQ_API__TOKEN_FILE")
    [rest] = [line for line in said if line["event"] == "defaults"]
    assert rest["limits.sessions"] == 65536
    assert not given.keys() & rest.keys()
    effective = {setting.key for setting in load(tmp_path / "vpnmasq.toml", [], environ).effective()}
    assert given.keys() | rest.keys() >= effective
    assert "s3cret" not in json.dumps(said)
