"""Several things wrong at once: all are said, and one does not hide or cause another."""

from pathlib import Path

import pytest

from relay.config import ConfigError, Problem, load


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value.problems


def test_all_errors_of_a_file_are_reported_at_once_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_text(
        "version = 1\n"
        "nmae = 'x'\n"
        "[wan]\n"
        "address = '10.0.0.5/8'\n"
        "[lan]\n"
        "networks = ['10.0.0.0/8']\n"
        "[[expose]]\n"
        "server = '300.0.0.2'\n"
        "allow = ['any', '::1']\n"
        "[[expose]]\n"
        "server = '192.0.2.2'\n"
        "proto = ['pptp']\n"
        "[[masquerade]]\n"
        "clients = ['172.16.0.1']\n"
        "servers = ['any']\n"
        "proto = ['pptp']\n"
        "[limits]\n"
        "sessions = -1\n",
        encoding="utf-8",
    )
    found = [(int(p.where.rpartition(":")[2]), p.key) for p in problems(path)]
    assert found == [
        (2, "nmae"),
        (4, "wan.address"),
        (7, "expose[0].proto"),
        (8, "expose[0].server"),
        (9, "expose[0].allow[1]"),
        (11, "expose[1].server"),
        (14, "masquerade[0].clients[0]"),
        (18, "limits.sessions"),
    ]


def test_a_wrong_lan_does_not_make_every_rule_wrong(tmp_path: Path) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_text(
        "[lan]\nnetworks = ['200.0.0.5/8']\n[[expose]]\nserver = '200.0.0.2'\nproto = ['pptp']\n",
        encoding="utf-8",
    )
    assert [problem.key for problem in problems(path)] == ["lan.networks[0]"]


def test_a_file_that_cannot_be_read_does_not_make_rules_from_elsewhere_wrong(tmp_path: Path) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_text("[lan]\nnetworks = [200.0.0.0/8]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, (), {"VPNMASQ_EXPOSE": "200.0.0.2 pptp"})
    assert [problem.where for problem in caught.value.problems] == [f"{path}:2"]
