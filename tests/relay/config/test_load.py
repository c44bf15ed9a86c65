"""Sources over each other: file, environment, --set; and rules in one line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.config import ConfigError, Layer, Problem, load
from relay.config.models import Config
from relay.config.ruletext import read_rules
from relay.config.values import duration, show_duration, show_size, size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "vpnmasq.toml"
    path.write_text(
        "[wan]\ninterface = 'file0'\n[lan]\ninterfaces = ['eth0']\n"
        "[[expose]]\nname = 'office'\nserver = '10.0.0.2'\nproto = ['pptp']\n",
        encoding="utf-8",
    )
    return path


def problems(
    path: Path | None = None, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path, sets, environ)
    return caught.value.problems


def test_nothing_at_all_gives_the_defaults() -> None:
    settings = load(None)
    assert settings.config == Config()
    assert {origin.layer for origin in settings.origins.values()} == {Layer.DEFAULT}


def test_set_beats_environment_beats_file_beats_default(path: Path) -> None:
    environ = {"VPNMASQ_WAN__INTERFACE": "env0", "VPNMASQ_LIMITS__SESSIONS": "7", "HOME": "/"}
    settings = load(path, ["wan.interface=set0"], environ)
    assert settings.config.wan.interface == "set0"
    assert load(path, [], environ).config.wan.interface == "env0"
    assert load(path).config.wan.interface == "file0"
    where = {key: (origin.layer.value, origin.where) for key, origin in settings.origins.items()}
    assert where["wan.interface"] == ("set", "--set wan.interface")
    assert where["limits.sessions"] == ("environment", "VPNMASQ_LIMITS__SESSIONS")
    assert where["lan.interfaces"] == ("file", f"{path}:4")
    assert where["expose[0].server"] == ("file", f"{path}:7")
    assert where["expose[0].source"] == ("default", "default")
    assert where["wan.address"] == ("default", "default")


def test_the_last_set_of_a_key_wins() -> None:
    assert load(None, ["log.level=debug", "log.level=error"]).config.log.level == "error"


SETS: list[Any] = [
    pytest.param("wan.interface=ppp0", lambda c: c.wan.interface, "ppp0", id="text"),
    pytest.param("wan.interface = 'ppp0' ", lambda c: c.wan.interface, "ppp0", id="text-in-quotes"),
    pytest.param(
        "lan.interfaces=eth0, eth1", lambda c: c.lan.interfaces, ("eth0", "eth1"), id="list-with-commas"
    ),
    pytest.param('lan.interfaces=["eth0"]', lambda c: c.lan.interfaces, ("eth0",), id="list-in-toml"),
    pytest.param("limits.sessions=12", lambda c: c.limits.sessions, 12, id="number"),
    pytest.param("version=1", lambda c: c.version, 1, id="version"),
    pytest.param("ipsec.lifetime=1h30m", lambda c: c.ipsec.lifetime, 5400.0, id="time"),
    pytest.param("ipsec.lifetime=90", lambda c: c.ipsec.lifetime, 90.0, id="time-in-seconds"),
    pytest.param("sockets.receive_buffer=1M", lambda c: c.sockets.receive_buffer, 1 << 20, id="size"),
    pytest.param("interception.mark=0x10", lambda c: c.interception.mark, 16, id="mark"),
    pytest.param("state.directory=", lambda c: c.state.directory, "", id="empty"),
    pytest.param("api.http=localhost:80", lambda c: c.api.http, "127.0.0.1:80", id="localhost"),
    pytest.param("expose[0].allow=any", lambda c: c.expose[0].allow, ("any",), id="key-of-a-rule"),
    pytest.param("expose.0.name=other", lambda c: c.expose[0].name, "other", id="key-of-a-rule-with-dots"),
    pytest.param("expose=10.0.0.9 pptp", lambda c: c.expose[0].server, "10.0.0.9", id="rule"),
    pytest.param(
        'expose=[{server = "10.0.0.9", proto = ["pptp"]}]',
        lambda c: c.expose[0].server,
        "10.0.0.9",
        id="rule-in-toml",
    ),
]


@pytest.mark.parametrize(("argument", "read", "value"), SETS)
def test_every_kind_of_value_can_be_set(path: Path, argument: str, read: Any, value: object) -> None:
    assert read(load(path, [argument]).config) == value


def test_a_rule_can_be_put_together_key_by_key() -> None:
    sets = ["expose[0].server=10.0.0.2", "expose[0].proto=pptp", "expose[0].allow=199.0.0.2,199.0.0.3"]
    (rule,) = load(None, sets).config.expose
    assert (rule.name, rule.allow) == ("expose-1", ("199.0.0.2", "199.0.0.3"))


def test_rules_from_the_environment_as_the_manual_has_them() -> None:
    environ = {
        "VPNMASQ_EXPOSE": "10.0.0.2 pptp+ipsec allow 199.0.0.2,199.0.0.3",
        "VPNMASQ_MASQUERADE": "10.0.0.0/24 -> 199.0.0.1 pptp+ipsec; 10.0.1.0/24->any pptp name guests ;",
        "VPNMASQ_FORWARD": "tcp/80 -> 10.0.0.2:8080 allow any name web",
    }
    config = load(None, (), environ).config
    (exposed,) = config.expose
    assert (exposed.name, exposed.server, exposed.proto) == ("expose-1", "10.0.0.2", ("pptp", "ipsec"))
    assert exposed.allow == ("199.0.0.2", "199.0.0.3")
    assert [(m.name, m.clients, m.servers, m.proto) for m in config.masquerade] == [
        ("masquerade-1", ("10.0.0.0/24",), ("199.0.0.1",), ("pptp", "ipsec")),
        ("guests", ("10.0.1.0/24",), ("any",), ("pptp",)),
    ]
    (forward,) = config.forward
    assert (forward.name, forward.listen, forward.server, forward.allow) == (
        "web",
        "tcp/80",
        "10.0.0.2:8080",
        ("any",),
    )


def test_rules_from_the_environment_replace_those_of_the_file(path: Path) -> None:
    settings = load(path, (), {"VPNMASQ_EXPOSE": "10.0.0.7 pptp source gateway allow any"})
    assert [rule.server for rule in settings.config.expose] == ["10.0.0.7"]
    assert settings.config.expose[0].source == "gateway"
    assert settings.origins["expose[0].server"].where == "VPNMASQ_EXPOSE"
    assert settings.origins["expose[0].fastpath"].where == "default"


def test_an_empty_rule_variable_is_as_none(path: Path) -> None:
    assert load(path, (), {"VPNMASQ_EXPOSE": ""}).config.expose == load(path).config.expose


RULES = [
    pytest.param("masquerade", "10.0.0.0/24 199.0.0.1 pptp", "is not a rule", id="no-arrow"),
    pytest.param("masquerade", "10.0.0.0/24 -> 199.0.0.1", "is not a rule", id="no-protocol"),
    pytest.param("expose", "10.0.0.2", "is not a rule", id="server-alone"),
    pytest.param("expose", "10.0.0.2 pptp from any", '"from" is not known', id="unknown-word"),
    pytest.param("expose", "10.0.0.2 pptp allow", 'nothing follows "allow"', id="no-value"),
    pytest.param("expose", "10.0.0.2 pptp allow any allow any", "said twice", id="said-twice"),
    pytest.param(
        "masquerade", "any -> any pptp source keep", '"source" is not known', id="word-of-another-kind"
    ),
    pytest.param("forward", "tcp/80 10.0.0.2", "is not a rule", id="forward-without-arrow"),
]


@pytest.mark.parametrize(("kind", "text", "message"), RULES)
def test_a_wrong_rule_names_its_variable_and_shows_the_form(kind: str, text: str, message: str) -> None:
    variable = f"VPNMASQ_{kind.upper()}"
    (problem,) = problems(environ={variable: text})
    assert (problem.where, problem.key) == (variable, kind)
    assert message in problem.message
    assert "write for example" in problem.advice


def test_spaces_in_lists_do_not_matter() -> None:
    assert read_rules("expose", "10.0.0.2  pptp + ipsec allow 199.0.0.2 , 199.0.0.3") == [
        {"server": "10.0.0.2", "proto": ["pptp", "ipsec"], "allow": ["199.0.0.2", "199.0.0.3"]}
    ]


OTHERS = [
    pytest.param(
        {"VPNMASQ_WAN__INTERFCE": "x"},
        "VPNMASQ_WAN__INTERFCE",
        "wan.interfce",
        "VPNMASQ_WAN__INTERFACE",
        id="misspelt",
    ),
    pytest.param(
        {"VPNMASQ_WAN_INTERFACE": "x"},
        "VPNMASQ_WAN_INTERFACE",
        "wan_interface",
        "VPNMASQ_WAN__INTERFACE",
        id="one-dash",
    ),
    pytest.param(
        {"VPNMASQ_EXPOSED": "x"}, "VPNMASQ_EXPOSED", "exposed", "VPNMASQ_EXPOSE?", id="misspelt-rule"
    ),
    pytest.param({"VPNMASQ_WAN": "x"}, "VPNMASQ_WAN", "wan", "wan.interface", id="table"),
    pytest.param({"VPNMASQ_": "x"}, "VPNMASQ_", '""', "", id="nothing"),
    pytest.param({"VPNMASQ_0__X": "x"}, "VPNMASQ_0__X", "[0].x", "", id="number"),
    pytest.param({"VPNMASQ_EXPOSE__0": "x"}, "VPNMASQ_EXPOSE__0", "expose[0]", "", id="rule-number"),
    pytest.param(
        {"VPNMASQ_EXPOSE__5__NAME": "x"},
        "VPNMASQ_EXPOSE__5__NAME",
        "expose[5].name",
        "next one is 0",
        id="gap",
    ),
    pytest.param(
        {"VPNMASQ_LIMITS__SESSIONS": "many"},
        "VPNMASQ_LIMITS__SESSIONS",
        "limits.sessions",
        "",
        id="no-number",
    ),
    pytest.param(
        {"VPNMASQ_LAN__INTERFACES": "["}, "VPNMASQ_LAN__INTERFACES", "lan.interfaces", "TOML", id="no-toml"
    ),
    pytest.param(
        {"VPNMASQ_API__TOKEN_FILE": "/nonexistent/t"},
        "VPNMASQ_API__TOKEN_FILE",
        "api.token_file",
        "check",
        id="no-file",
    ),
    pytest.param(
        {"VPNMASQ_NAME_FILE": "/nonexistent/t"}, "VPNMASQ_NAME_FILE", "name", "check", id="no-file-for-a-key"
    ),
]


@pytest.mark.parametrize(("environ", "where", "key", "advice"), OTHERS)
def test_a_wrong_variable_is_named(environ: dict[str, str], where: str, key: str, advice: str) -> None:
    (problem,) = problems(environ=environ)
    assert (problem.where, problem.key) == (where, key)
    assert advice in problem.advice


def test_the_variable_of_the_command_line_is_not_a_key() -> None:
    load(None, (), {"VPNMASQ_SOCKET": "/run/other.sock", "VPNMASQ": "x", "vpnmasq_x": "y"})


def test_a_wrong_set_is_named() -> None:
    found = problems(sets=["x", "wan.adress=192.0.2.1", "a..b=1", "lan=eth0"])
    assert [problem.where for problem in found] == ["--set x", "--set wan.adress", "--set a..b", "--set lan"]
    assert found[1].advice == 'did you mean "wan.address"?'


def test_errors_of_all_sources_come_together(path: Path) -> None:
    path.write_text("[wan]\nadress = '192.0.2.1'\n", encoding="utf-8")
    found = problems(path, ["log.level=loud"], {"VPNMASQ_NMAE": "x"})
    assert [problem.where for problem in found] == [f"{path}:2", "VPNMASQ_NMAE", "--set log.level"]


def test_secrets_come_from_files_and_are_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n", encoding="utf-8")
    by_key = load(None, (), {"VPNMASQ_API__TOKEN_FILE": str(secret)})
    direct = load(None, ["api.token=s3cret"])
    assert by_key.token == direct.token == "s3cret"
    shown = {setting.key: setting.text for setting in direct.effective()}
    assert shown["api.token"] == '"(hidden)"'
    assert "s3cret" not in repr(direct)


def test_any_key_can_come_from_a_file_of_its_own(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("10.0.0.2 pptp allow 199.0.0.2\n10.0.0.3 pptp allow 199.0.0.3\n", encoding="utf-8")
    settings = load(None, (), {"VPNMASQ_EXPOSE_FILE": str(rules)})
    assert [rule.server for rule in settings.config.expose] == ["10.0.0.2", "10.0.0.3"]
    (problem,) = problems(environ={"VPNMASQ_EXPOSE_FILE": str(rules), "VPNMASQ_EXPOSE": "10.0.0.2 pptp"})
    assert problem.message == "VPNMASQ_EXPOSE is set as well"


@given(st.floats(0.001, 30_000_000).map(lambda seconds: round(seconds, 1)).filter(bool))
@example(86400.0)
@example(5400.0)
def test_a_time_that_is_shown_reads_back(seconds: float) -> None:
    assert duration(show_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@given(st.integers(4096, 1 << 30))
def test_a_size_that_is_shown_reads_back(octets: int) -> None:
    assert size(show_size(octets)) == octets


TEXTS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            [
                "[wan]",
                "[[expose]]",
                "[expose]",
                "server",
                "proto",
                "=",
                '"10.0.0.2"',
                '["pptp"]',
                "[",
                "]",
                "{",
                "}",
                ",",
                "\n",
                "\n",
                " ",
                ".",
                "nan",
                "9" * 30,
                "1",
                "true",
                '"""',
                "'",
                "#",
                "allow",
                "[lan]",
                "networks",
                '"any"',
                "name",
                "interfaces",
                "1979-05-27",
                "\x00",
                "\x7f",
                "é",
            ]
        )
    ).map("".join),
)


@given(text=TEXTS)
def test_any_text_is_a_configuration_or_a_list_of_problems(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    found: tuple[Problem, ...] = ()
    try:
        load(path)
    except ConfigError as error:
        found = error.problems
        str(error).encode()
    assert all(problem.message for problem in found)


NAMES = st.one_of(
    st.text(), st.sampled_from(["wan.interface", "expose", "expose[0].server", "lan.networks", "api.token"])
)


@given(name=NAMES, value=st.text())
@example(name="expose", value="->")
@example(name="limits.sessions", value="9" * 20)
@example(name="ipsec.lifetime", value="1e999")
@example(name="wan.interface", value="'")
@example(name="\udcff", value="\udcff")
@example(name="expose", value="10.0.0.2 pptp allow \udcff")
def test_any_variable_and_set_is_accepted_or_a_list_of_problems(name: str, value: str) -> None:
    variable = "VPNMASQ_" + name.upper().replace(".", "__")
    for sets, environ in (([f"{name}={value}"], {}), ([], {variable: value})):
        try:
            load(None, sets, environ)
        except ConfigError as error:
            str(error).encode()
