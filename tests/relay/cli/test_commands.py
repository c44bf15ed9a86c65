"""The reading commands against a real server: exit status, JSON, and what people see."""

import io
import json
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from protocols.addr import parse_ip
from protocols.sessions import Role
from relay.cli import main, sessions, status
from relay.cli.exits import Exit
from relay.control.daemon import Link, ReloadRefused
from tests.relay.cli.program import ANSI, BOUND, environment, on_terminal, started, vpnmasq
from tests.relay.control.credentials import READERS, as_other, as_root, forks
from tests.relay.control.stand_in import Served, StandIn, serving, session


@pytest.fixture
def served() -> Iterator[Served]:
    exposed = session(2, role=Role.EXPOSE, rule="office", inside=parse_ip("10.0.0.9"))
    with serving(StandIn([session(1), exposed])) as it:
        yield it


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        pytest.param(["status"], "/v1/status", id="status"),
        pytest.param(["sessions"], "/v1/sessions", id="sessions"),
        pytest.param(["sessions", "show", "p1"], "/v1/sessions/p1", id="show"),
        pytest.param(["pair", "list"], "/v1/pairs", id="pairs"),
        pytest.param(["health"], "/v1/health", id="health"),
    ],
)
def test_json_is_the_document_as_the_daemon_sends_it(served: Served, arguments: list[str], path: str) -> None:
    done = vpnmasq("--socket", served.path, *arguments, "--json")
    assert (done.returncode, done.stderr) == (Exit.DONE, "")
    assert done.stdout == served.text("GET", path)[1]


PAGES = [["status"], ["sessions"], ["sessions", "show", "p1"]]
LONG = "a-rule-whose-name-" + "goes-on-and-on-" * 8 + "and-ends-here"


@pytest.mark.parametrize("arguments", PAGES)
@pytest.mark.parametrize("columns", [60, 80, 132])
def test_people_see_no_more_columns_than_their_terminal_has(
    served: Served, arguments: list[str], columns: int
) -> None:
    served.daemon.table["p3"] = session(3, rule=LONG, inside=parse_ip("10.0.0.3"))
    code, text = on_terminal(columns, "--socket", served.path, *arguments)
    assert code == Exit.DONE
    plain = ANSI.sub("", text)
    assert max(map(len, plain.splitlines())) <= columns
    assert (plain != text) == (arguments[-1] != "p1")  # a terminal has colours, where there is a heading


def test_a_wide_terminal_is_used(served: Served) -> None:
    served.daemon.attention = ["word " * 60]
    narrow, wide = (on_terminal(columns, "--socket", served.path)[1] for columns in (80, 200))
    assert max(map(len, wide.splitlines())) > 100
    assert len(wide.splitlines()) < len(narrow.splitlines())


@pytest.mark.parametrize("arguments", PAGES)
def test_a_pipe_gets_no_colours_and_whole_words(served: Served, arguments: list[str]) -> None:
    served.daemon.table["p1"] = session(1, rule=LONG)
    served.daemon.rule = LONG
    done = vpnmasq("--socket", served.path, *arguments)
    assert done.returncode == Exit.DONE
    assert "\x1b" not in done.stdout
    assert "…" not in done.stdout
    assert (LONG in done.stdout) == (arguments != ["sessions"])  # that table has no rules


def test_no_command_is_status_and_the_socket_may_come_from_the_environment(served: Served) -> None:
    done = vpnmasq(env=environment(VPNMASQ_SOCKET=str(served.path)))
    assert done.returncode == Exit.DONE
    for text in ("ready", "200.200.200.200 on eth1", "staff", "7  unknown-call: GRE"):
        assert text in done.stdout
    assert "gre@eth1" in done.stdout
    assert "! the kernel dropped 12 packets" in done.stdout


def test_sessions_are_a_table(served: Served) -> None:
    lines = vpnmasq("--socket", served.path, "sessions").stdout.splitlines()
    assert lines[0].split() == ["ID", "PROTO", "STATE", "INSIDE", "PEER", "AGE", "OUT", "IN"]
    assert lines[1].split() == [
        "p1",
        "pptp",
        "established",
        "10.0.0.2",
        "199.0.0.1",
        "2m",
        "14s",
        "9.0k",
        "12k",
    ]
    assert "10.0.0.9" in lines[2]


def test_no_sessions_is_no_failure() -> None:
    with serving() as served:
        done = vpnmasq("--socket", served.path, "sessions")
    assert (done.returncode, done.stdout) == (Exit.DONE, "no sessions\n")


def test_showing_an_unknown_session_matches_nothing(served: Served) -> None:
    done = vpnmasq("--socket", served.path, "sessions", "show", "../status")
    assert done.returncode == Exit.NOTHING_MATCHED
    assert "there is no session '../status'" in done.stderr


KILLS = [
    pytest.param(["p1"], Exit.DONE, id="known"),
    pytest.param(["p1", "p2"], Exit.DONE, id="both"),
    pytest.param(["nope"], Exit.NOTHING_MATCHED, id="unknown"),
    pytest.param(["p1", "nope"], Exit.FAILED, id="some"),
    pytest.param([], Exit.USAGE, id="none-named"),
]


@pytest.mark.parametrize(("ids", "expected"), KILLS)
def test_kill(served: Served, ids: list[str], expected: Exit) -> None:
    done = vpnmasq("--socket", served.path, "sessions", "kill", *ids)
    assert done.returncode == expected
    assert done.stdout == "".join(f"ended {one}\n" for one in ids if one != "nope")
    assert ("no session nope" in done.stderr) == ("nope" in ids)


def test_health_is_an_exit_status(served: Served) -> None:
    assert vpnmasq("--socket", served.path, "health").stdout == "ready\n"
    served.daemon.state = "draining"
    done = vpnmasq("--socket", served.path, "health")
    assert (done.returncode, done.stdout) == (Exit.FAILED, "draining\n")


def test_reload_says_what_changed_or_every_problem(served: Served) -> None:
    served.daemon.reloads = [["limits.sessions", "log.level"], [], ReloadRefused(["f:1: a", "f:2: b"])]
    assert vpnmasq("--socket", served.path, "reload").stdout == "changed: limits.sessions, log.level\n"
    assert vpnmasq("--socket", served.path, "reload").stdout == "nothing differs\n"
    refused = vpnmasq("--socket", served.path, "reload")
    assert refused.returncode == Exit.BAD_CONFIGURATION
    assert "f:1: a" in refused.stderr
    assert "f:2: b" in refused.stderr


# -- options before and after a command ------------------------------------------------------------------

TALKING = [
    *(pytest.param([name], id=name) for name in ("status", "sessions", "events", "reload", "health")),
    pytest.param(["sessions", "show", "p1"], id="sessions-show"),
    pytest.param(["sessions", "kill", "p1"], id="sessions-kill"),
    pytest.param(["pair", "list"], id="pair-list"),
    pytest.param(["pair", "add", "199.0.0.1", "0xc0de", "10.0.0.3"], id="pair-add"),
    pytest.param(["pair", "del", "199.0.0.1", "0xc0de"], id="pair-del"),
]


@pytest.mark.parametrize("command", TALKING)
def test_the_socket_may_be_named_before_a_command_after_it_or_in_between(
    tmp_path: Path, command: list[str]
) -> None:
    named, environment = (str(tmp_path / f"{name}.sock") for name in ("named", "environment"))

    def asks(*arguments: str) -> str:
        done = CliRunner().invoke(main, arguments, env={"VPNMASQ_SOCKET": environment})
        assert done.exit_code == Exit.NOT_REACHABLE
        return done.output

    for at in range(len(command[:2]) + 1):
        assert f"Nobody answers at {named}." in asks(*command[:at], "--socket", named, *command[at:])
    assert f"Nobody answers at {environment}." in asks(*command)


def test_every_command_takes_the_socket(tmp_path: Path) -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        nested = command.commands.values() if isinstance(command, click.Group) else ()
        for one in (command, *nested):
            assert [p.opts for p in one.params].count(["--socket"]) == 1, (name, one.name)
    # Also those that ask no daemon, for scripts that name it to all.
    assert "no such configuration file" in vpnmasq("check", "--socket", "/s", "-c", tmp_path / "f").stderr


def test_the_last_socket_on_the_line_holds(served: Served) -> None:
    done = vpnmasq("--socket", "/nonexistent/s", "status", "--socket", served.path)
    assert done.returncode == Exit.DONE


@pytest.mark.parametrize("command", [["sessions", "show", "p1"], ["sessions", "kill", "p1"]])
def test_options_of_a_group_hold_for_its_commands(served: Served, command: list[str]) -> None:
    group, *rest = command
    done = vpnmasq("--socket", served.path, group, "--json", *rest)
    assert json.loads(done.stdout)["schema"].startswith("vpnmasq.")
    served.daemon.hang = 2.0
    done = vpnmasq("--socket", served.path, "sessions", "--timeout", "0.2", "show", "p1", "--timeout", "9")
    assert done.returncode != Exit.TIMED_OUT


def test_nobody_there(tmp_path: Path) -> None:
    for command in ("status", "sessions", "events", "reload", "health"):
        done = vpnmasq("--socket", tmp_path / "none.sock", command)
        assert done.returncode == Exit.NOT_REACHABLE
        assert "is vpnmasq running?" in done.stderr


def test_a_daemon_that_does_not_answer_times_out(served: Served) -> None:
    served.daemon.hang = 2.0
    done = vpnmasq("--socket", served.path, "status", "--timeout", "0.2")
    assert done.returncode == Exit.TIMED_OUT
    assert "no answer within 0.2 s" in done.stderr


@as_root
@forks
def test_permissions_are_explained() -> None:
    assert {"status", "sessions"} <= {status.command.name, sessions.command.name}
    with serving(StandIn([session(1)]), read_group=str(READERS)) as served:

        def run(*command: str) -> str:
            errors = io.StringIO()
            with redirect_stdout(io.StringIO()), redirect_stderr(errors):
                try:
                    main(["--socket", str(served.path), *command])
                except SystemExit as end:
                    return f"{end.code} {errors.getvalue()}"
            return "no exit"

        refused = as_other([], lambda: run("status"))
        assert refused.startswith(f"{Exit.NO_PRIVILEGE:d} vpnmasq: no permission to connect")
        assert as_other([READERS], lambda: run("status")) == "0 "
        refused = as_other([READERS], lambda: run("sessions", "kill", "p1"))
        assert refused.startswith(f"{Exit.NO_PRIVILEGE:d} vpnmasq: this needs the admin level")


@pytest.mark.parametrize("as_json", [False, True])
def test_events_follow_until_ctrl_c_and_leave_quietly(served: Served, as_json: bool) -> None:
    running = started("--socket", served.path, "events", *(["--json"] if as_json else []))
    assert running.stdout is not None
    assert "following" in running.stdout.readline()
    served.on_loop(lambda: served.daemon.feed.session_closed(session(1), "the client hung up"))
    line = running.stdout.readline()
    if as_json:
        assert json.loads(line)["event"] == "session-closed"
    else:
        assert "session-closed" in line
        assert "10.0.0.2 - 199.0.0.1" in line
        assert "why=the client hung up" in line
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=BOUND)[1].strip() == ""
    assert running.returncode == Exit.INTERRUPTED
    served.until(lambda: served.followers() == 0)


def test_events_end_with_the_daemon(served: Served) -> None:
    running = started("--socket", served.path, "events")
    assert running.stdout is not None
    running.stdout.readline()
    served.stop()
    assert "the daemon stops" in running.communicate(timeout=BOUND)[1]
    assert running.returncode == Exit.NOT_REACHABLE


def test_a_reader_that_leaves_is_no_failure() -> None:
    with serving(StandIn(session(number) for number in range(3000))) as served:
        running = started("--socket", served.path, "sessions")
        assert running.stdout is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr is not None
        with running.stderr as errors:
            assert errors.read() == ""
        assert running.wait(BOUND) == Exit.DONE


# -- told pairs of ESP ------------------------------------------------------------------------------------


def test_a_pair_is_told_listed_and_taken_back(served: Served) -> None:
    def pair(*arguments: str) -> str:
        return vpnmasq("--socket", served.path, "pair", *arguments).stdout

    assert pair("list") == "no pairs\n"
    told = pair("add", "199.0.0.1", "0xC0DE0002", "10.0.0.3", "--lifetime", "1h")
    assert told == "0xc0de0002 of 199.0.0.1 is 10.0.0.3's for 1h 0m\n"
    lines = pair("list").splitlines()
    assert [line.split() for line in lines] == [
        ["PEER", "SPI", "CLIENT", "FOR"],
        ["199.0.0.1", "0xc0de0002", "10.0.0.3", "1h", "0m"],
    ]
    assert pair("del", "199.0.0.1", "0xc0de0002") == "0xc0de0002 of 199.0.0.1 is no longer told\n"
    assert pair("list") == "no pairs\n"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        pytest.param(["add", "199.0.0.1", "c0de", "10.0.0.3"], Exit.USAGE, "not an SPI", id="spi"),
        pytest.param(["add", "199.0.0.1", "0xc0de", "10.9.9.9"], Exit.FAILED, "no-rule", id="no-rule"),
        pytest.param(
            ["del", "199.0.0.1", "0xc0de"], Exit.NOTHING_MATCHED, "nobody has told us", id="unknown"
        ),
    ],
)
def test_a_pair_that_makes_no_sense_is_explained(
    served: Served, arguments: list[str], status: Exit, text: str
) -> None:
    done = vpnmasq("--socket", served.path, "pair", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr


def test_told_pairs_are_completed(served: Served) -> None:
    vpnmasq("--socket", served.path, "pair", "add", "199.0.0.1", "0xc0de", "10.0.0.3")
    vpnmasq("--socket", served.path, "pair", "add", "199.0.0.9", "0x77", "10.0.0.3")

    def completed(typed: str) -> list[str]:
        words = f"vpnmasq --socket {served.path} pair del {typed}"
        asked = environment(
            _VPNMASQ_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1)
        )
        return vpnmasq(env=asked).stdout.split()

    assert completed("199") == ["plain,199.0.0.1", "plain,199.0.0.9"]
    assert completed("199.0.0.9 0x") == ["plain,0x00000077"]


# -- hooks -----------------------------------------------------------------------------------------------


def test_wan_ip_up_takes_pppds_arguments_as_they_are(served: Served) -> None:
    pppd = ("eth1", "/dev/ttyS0", "115200", "200.200.200.200", "200.200.200.1", "office")
    done = vpnmasq("--socket", served.path, "wan", "ip-up", *pppd)
    assert (done.returncode, done.stdout) == (Exit.DONE, "eth1: 200.200.200.200\n")
    done = vpnmasq("--socket", served.path, "wan", "ip-down", "ppp3", "", "", "")
    assert (done.returncode, done.stdout) == (Exit.DONE, "ppp3: not the public link, or not up yet\n")
    assert served.daemon.links == [("up", Link(*pppd)), ("down", Link("ppp3"))]
    assert vpnmasq("--socket", served.path, "wan", "ip-up").returncode == Exit.USAGE
    assert vpnmasq("--socket", served.path, "wan", "ip-up", *pppd, "more").returncode == Exit.USAGE
    done = vpnmasq("--socket", served.path, "wan", "ip-up", "eth1", "", "", "300.1.1.1")
    assert done.returncode == Exit.USAGE
    assert "300.1.1.1" in done.stderr
