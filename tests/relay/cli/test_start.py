"""Starting: what is imported, what help costs, and arguments that make no sense."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from relay.cli import COMMANDS
from relay.cli.exits import Exit
from tests.relay.cli.program import ROOT, environment, vpnmasq
from tests.relay.control.stand_in import StandIn, serving, session

#: What a reading command must not wait for.
HEAVY = (
    "scapy",
    "aiohttp",
    "pydantic",
    "structlog",
    "uvloop",
    "pyroute2",
    "asyncio",
    "rich",
    "prometheus_client",
)

#: Seconds a reading command may take to start on a quiet machine.
START = 0.150


@pytest.mark.parametrize("command", ["status", "sessions", "events", "reload", "health"])
def test_reading_commands_import_nothing_heavy(command: str) -> None:
    script = (
        "import sys; from relay.cli import main\n"
        f"try: main(['--socket', '/nonexistent/s', {command!r}])\n"
        f"except SystemExit as end: print(end.code, *({HEAVY!r} & sys.modules.keys()))"
    ).replace(repr(HEAVY), repr(set(HEAVY)))
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3"]


def test_without_a_name_to_follow_the_daemon_does_not_read_dnspython() -> None:
    script = "import relay.app, sys; print('dns' in sys.modules, 'relay.ddns.names' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_help_imports_no_command() -> None:
    script = (
        "import sys; from relay.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted(name for name in sys.modules if name.startswith('relay.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert (
        done.stdout.splitlines()[-1]
        == "['relay.cli', 'relay.cli.everywhere', 'relay.cli.exits', 'relay.options']"
    )
    for name, text in COMMANDS.items():
        assert f"{name:<8}" in done.stdout
        assert text in done.stdout


def test_a_reading_command_starts_quickly() -> None:
    """The best of several, and processor time: other processes on the machine are not our fault."""
    best = 10.0
    for _ in range(20):
        before = processor_time()
        vpnmasq("--socket", "/nonexistent/s", "status")
        best = min(best, processor_time() - before)
        if best < START:
            break
    assert best < START


def processor_time() -> float:
    """Seconds that our ended children spent."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_every_command_has_its_own_help() -> None:
    for name in COMMANDS:
        done = vpnmasq(name, "--help")
        assert done.returncode == Exit.DONE, name
        assert f"Usage: vpnmasq {name}" in done.stdout


def test_the_version_is_the_distributions() -> None:
    assert vpnmasq("--version").stdout.startswith("vpnmasq ")


USAGE = [
    pytest.param(["sttus"], "did you mean 'status'?", id="misspelt-command"),
    pytest.param(["xyzzy"], "commands are run, check", id="unknown-command"),
    pytest.param(["status", "--jsn"], "--json", id="misspelt-option"),
    pytest.param(["status", "--timeout", "0"], "timeout", id="no-time"),
    pytest.param(["sessions", "show"], "ID", id="no-id"),
    pytest.param(["run", "--set", "wan.interface"], "is not KEY=VALUE", id="set-without-value"),
    pytest.param(["run", "--timeout", "-1"], "timeout", id="negative-drain"),
    pytest.param(["run", "--detach"], "--detach goes with --takeover", id="detach-alone"),
]


@pytest.mark.parametrize(("arguments", "text"), USAGE)
def test_bad_arguments_are_explained(arguments: list[str], text: str) -> None:
    done = vpnmasq(*arguments)
    assert done.returncode == Exit.USAGE
    assert text in done.stderr


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    done = vpnmasq("run", "-c", tmp_path / "nope.toml")
    assert done.returncode == Exit.BAD_CONFIGURATION
    assert "nope.toml: no such configuration file" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_files_complete(shell: str) -> None:
    """Not compared word by word: another version of click may write another script."""
    script = (ROOT / "contrib" / "completion" / f"vpnmasq.{shell}").read_text()
    assert f"_VPNMASQ_COMPLETE={shell}_complete" in script
    asked = environment(_VPNMASQ_COMPLETE=f"{shell}_complete", COMP_WORDS="vpnmasq he", COMP_CWORD="1")
    done = vpnmasq(env=asked if shell != "fish" else asked | {"COMP_CWORD": "he"})
    assert "health" in done.stdout


def test_session_ids_are_completed() -> None:
    with serving(StandIn([session(1), session(2)])) as served:
        asked = environment(
            _VPNMASQ_COMPLETE="bash_complete",
            COMP_WORDS=f"vpnmasq --socket {served.path} sessions kill p",
            COMP_CWORD="5",
        )
        assert vpnmasq(env=asked).stdout.split() == ["plain,p1", "plain,p2"]
