"""Files that hold no configuration at all: a problem each, and never a traceback."""

from pathlib import Path

import pytest

from relay.config import ConfigError, Problem, load


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value.problems


FILES = [
    pytest.param(b"\xff\xfe[\x00w\x00", "not UTF-8 text: line 1", id="utf-16"),
    pytest.param(b"# ok\nname = '\xe9'", "not UTF-8 text: line 2", id="latin-1"),
    pytest.param(b"#" * (5 << 20), "larger than", id="huge"),
    pytest.param(b"a = " + b"[" * 100_000, "nested too deeply", id="deep"),
    pytest.param(b"a = " + b"9" * 5000, "number too long", id="long-number"),
    pytest.param(b"a = 0x" + b"f" * 5000, "unknown key", id="huge-number"),
    pytest.param(b"\x00", "", id="zero-octet"),
]


@pytest.mark.parametrize(("data", "message"), FILES)
def test_an_unusable_file_is_a_problem_and_no_traceback(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_bytes(data)
    assert message in problems(path)[0].message


def test_what_is_no_file_is_a_problem(tmp_path: Path) -> None:
    assert "is a directory" in problems(tmp_path)[0].message
    assert "no such file" in problems(tmp_path / "absent.toml")[0].message
    assert "not a file name" in problems(Path("a\0b"))[0].message
    assert "not a directory" in problems(Path("/dev/null/x"))[0].message
    assert "larger than" in problems(Path("/dev/zero"))[0].message


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "vpnmasq.toml"
    path.write_bytes(b'\xef\xbb\xbfversion = 1\r\n\r\n[wan]\r\ninterface = "ppp0"\r\n')
    settings = load(path)
    assert settings.config.wan.interface == "ppp0"
    assert settings.origins["wan.interface"].where == f"{path}:4"
