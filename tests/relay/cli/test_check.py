"""vpnmasq check, as it is run."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.cli.check import command, examine, show
from relay.config import load
from tests.relay.cli.program import ANSI, on_terminal

RIGHT = """\
version = 1
[wan]
interface = "wan-absent"
[lan]
interfaces = ["lan-absent"]
networks = ["10.0.0.0/8"]
[[expose]]
name = "office"
server = "10.0.0.2"
proto = ["pptp"]
allow = ["199.0.0.2"]
"""

WRONG = RIGHT.replace('"10.0.0.2"', '"192.0.2.2"').replace("[wan]", "[wan]\nadress = 1")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VPNMASQ_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "vpnmasq.toml"
    path.write_text(RIGHT, encoding="utf-8")
    return path


def check(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_right_file_prints_settings_privileges_and_firewall_lines(path: Path) -> None:
    result = check("-c", path, "--set", "log.level=debug")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert f'expose[0].server = "10.0.0.2"  # {path}:9' in lines
    assert 'log.level = "debug"  # --set log.level' in lines
    assert 'log.format = "auto"  # default' in lines
    assert any(line.startswith("  CAP_NET_ADMIN: ") and "office" in line for line in lines)
    assert 'iifname "wan-absent" ip saddr 199.0.0.2 tcp dport 1723 accept comment "office"' in lines
    assert lines[-1] == "The configuration is right."
    assert "warning: there is no interface wan-absent" in result.stderr
    assert "warning: there is no interface lan-absent" in result.stderr


def test_a_wrong_file_prints_every_problem_and_ends_with_78(path: Path) -> None:
    path.write_text(WRONG, encoding="utf-8")
    result = check("-c", path)
    assert result.exit_code == 78
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{path}:3: wan.adress: unknown key",
        '    did you mean "wan.address"?',
        f"{path}:10: expose[0].server: 192.0.2.2 is not inside lan.networks (10.0.0.0/8)",
        "    an exposed server is inside; add its network there",
        "2 problems: not usable",
    ]


def test_rules_from_the_environment_need_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPNMASQ_EXPOSE", "10.0.0.2 pptp allow 199.0.0.2")
    result = check("--set", "wan.interface=w0", "--set", "lan.interfaces=l0")
    assert result.exit_code == 0
    assert 'expose[0].server = "10.0.0.2"  # VPNMASQ_EXPOSE' in result.stdout


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_missing_file_or_a_directory_is_said_and_ends_with_78(tmp_path: Path, name: str) -> None:
    result = check("-c", tmp_path / name)
    assert result.exit_code == 78
    assert str(tmp_path) in result.stderr


def test_a_set_that_is_none_is_a_bad_argument(path: Path) -> None:
    result = check("-c", path, "--set", "wan.interface")
    assert result.exit_code == 2
    assert "KEY=VALUE" in result.stderr


def test_auto_that_finds_nothing_is_a_warning_and_no_failure(path: Path) -> None:
    sets = [
        "--set",
        "lan.networks=198.18.0.0/15",
        "--set",
        "lan.interfaces=auto",
        "--set",
        "expose[0].server=198.18.0.2",
    ]
    result = check("-c", path, *sets)
    assert result.exit_code == 0
    assert 'lan.interfaces is "auto", and no interface' in result.stderr
    assert 'iifname "LAN"' in result.stdout


def test_the_json_document_of_a_right_file(path: Path) -> None:
    result = check("-c", path, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["schema"] == "vpnmasq.check/1"
    assert (document["valid"], document["problems"]) == (True, [])
    assert {
        "key": "wan.interface",
        "value": "wan-absent",
        "origin": "file",
        "where": f"{path}:3",
    } in document["settings"]
    assert {"key": "pptp.ghost", "value": "4m", "origin": "default", "where": "default"} in document[
        "settings"
    ]
    assert [entry["capability"] for entry in document["privileges"]] == ["CAP_NET_RAW", "CAP_NET_ADMIN"]
    assert all(isinstance(entry["present"], bool) for entry in document["privileges"])
    assert len(document["firewall"]["input"]) > 3
    assert len(document["firewall"]["output"]) > 3


def test_the_json_document_of_a_wrong_file(path: Path) -> None:
    path.write_text(WRONG, encoding="utf-8")
    result = check("-c", path, "--json")
    assert result.exit_code == 78
    document = json.loads(result.stdout)
    assert (document["schema"], document["valid"], document["settings"]) == ("vpnmasq.check/1", False, [])
    assert document["problems"][0] == {
        "where": f"{path}:3",
        "key": "wan.adress",
        "message": "unknown key",
        "advice": 'did you mean "wan.address"?',
    }


def test_secrets_are_not_printed(path: Path) -> None:
    for form in ([], ["--json"]):
        result = check("-c", path, "--set", "api.token=s3cret", *form)
        assert "s3cret" not in result.output
        assert "(hidden)" in result.output


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_gets_a_table_of_its_width(path: Path, columns: int) -> None:
    interfaces = ",".join(f"eth{n}" for n in range(40))
    code, text = on_terminal(columns, "check", "-c", path, "--set", f"lan.interfaces={interfaces}")
    assert code == 0
    table = ANSI.sub("", text).partition("Privileges needed")[0].splitlines()
    assert table[0].split() == ["Key", "Value", "From"]
    assert max(len(line) for line in table) <= columns
    assert any("eth39" in line for line in table)


def test_missing_privileges_are_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = examine(load(path))
    lacking = tuple((way, way.takes[1:2]) for way, _ in report.ways)
    show(replace(report, missing=("CAP_NET_RAW",), ways=lacking))
    printed = capsys.readouterr().out
    assert "CAP_NET_RAW: GRE, ESP and IPsec's UDP by raw sockets (MISSING HERE)" in printed
    assert "Run the daemon as root" in printed
    assert 'relay style (masquerade with listen, expose with source = "gateway"): yes' in printed
    assert 'source = "keep"): no, it takes CAP_NET_ADMIN' in printed


@pytest.mark.skipif(os.geteuid() != 0, reason="giving up capabilities needs some to begin with: root")
@pytest.mark.parametrize(
    ("dropped", "allowed"),
    [
        pytest.param("-net_bind_service", ["relay style", "router style", "fast path"], id="bind"),
        pytest.param("-net_admin", ["relay style", "IPsec"], id="admin"),
        pytest.param("-net_raw", ["fast path"], id="raw"),
    ],
)
def test_what_the_privileges_of_the_process_allow(path: Path, dropped: str, allowed: list[str]) -> None:
    limited = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]
    argv = [*limited, sys.executable, "-m", "relay", "check", "-c", str(path), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [entry["way"] for entry in document["allowed"] if entry["allowed"]] == allowed
    name = f"CAP_{dropped.removeprefix('-').upper()}"
    assert all(name in entry["missing"] for entry in document["allowed"] if not entry["allowed"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param(["check"], "/run/environment", id="environment"),
        pytest.param(["check", "--set", "api.socket=/run/set"], "/run/set", id="set-before-environment"),
        pytest.param(["check", "--socket", "/run/option"], "/run/option", id="option"),
        pytest.param(
            ["--socket", "/run/option", "check", "--set", "api.socket=/run/set"],
            "/run/option",
            id="option-before-set",
        ),
    ],
)
def test_the_control_socket_is_the_one_that_run_would_use(
    path: Path, arguments: list[str], named: str
) -> None:
    environment = {"VPNMASQ_SOCKET": "/run/environment"}
    done = CliRunner().invoke(main, [*arguments, "-c", str(path), "--json"], env=environment)
    (shown,) = [row for row in json.loads(done.stdout)["settings"] if row["key"] == "api.socket"]
    assert shown["value"] == named
