"""contrib/hooks: each file, run as its caller runs it, with a vpnmasq that writes down what it was told."""

import subprocess
from pathlib import Path

import pytest

HOOKS = Path(__file__).parents[2] / "contrib" / "hooks"
PPPD = ("ppp0", "/dev/ttyS0", "115200", "200.200.200.200", "200.200.200.1", "office")
LEASE = {
    "interface": "eth1",
    "new_ip_address": "200.200.200.200",
    "new_routers": "200.200.200.1 200.200.200.2",
}


@pytest.mark.parametrize(
    ("file", "arguments", "environment", "told"),
    [
        ("ppp/ip-up.d/90-vpnmasq", PPPD, {}, ["ip-up", *PPPD]),
        ("ppp/ip-down.d/90-vpnmasq", (*PPPD[:5], ""), {}, ["ip-down", *PPPD[:5], ""]),
        (
            "NetworkManager/dispatcher.d/90-vpnmasq",
            ("eth1", "up"),
            {"IP4_ADDRESS_0": "200.200.200.200/24 200.200.200.1", "CONNECTION_ID": "home"},
            ["ip-up", "eth1", "", "", "200.200.200.200", "200.200.200.1", "home"],
        ),
        (
            "NetworkManager/dispatcher.d/90-vpnmasq",
            ("eth1", "down"),
            {},
            ["ip-down", "eth1", "", "", "", "", ""],
        ),
        ("NetworkManager/dispatcher.d/90-vpnmasq", ("eth1", "hostname"), {}, None),
        (
            "networkd-dispatcher/routable.d/90-vpnmasq",
            (),
            {"IFACE": "eth1", "ADDR": "200.200.200.200"},
            ["ip-up", "eth1", "", "", "200.200.200.200"],
        ),
        ("networkd-dispatcher/no-carrier.d/90-vpnmasq", (), {"IFACE": "eth1"}, ["ip-down", "eth1"]),
        *(
            (file, (), {"reason": reason} | LEASE, told)
            for file in ("dhclient-exit-hooks.d/vpnmasq", "dhcpcd-hooks/90-vpnmasq")
            for reason, told in (
                ("BOUND", ["ip-up", "eth1", "", "", "200.200.200.200", "200.200.200.1"]),
                ("RENEW", ["ip-up", "eth1", "", "", "200.200.200.200", "200.200.200.1"]),
                ("EXPIRE", ["ip-down", "eth1", "", "", ""]),
                ("PREINIT", None),
            )
        ),
    ],
)
def test_a_hook_tells_the_gateway_and_never_fails(
    tmp_path: Path, file: str, arguments: tuple[str, ...], environment: dict[str, str], told: list[str] | None
) -> None:
    said = tmp_path / "said"
    fake = tmp_path / "vpnmasq"
    fake.write_text(f'#!/bin/sh\nfor one; do echo "$one"; done > {said}\nexit 3\n')
    fake.chmod(0o755)
    hook = HOOKS / file
    # Those without a mode are read by their caller's shell, which stops at an unset variable or an error.
    argv = [str(hook), *arguments] if hook.stat().st_mode & 0o100 else ["/bin/sh", "-euc", f". {hook}"]
    done = subprocess.run(
        argv, env={"PATH": f"{tmp_path}:/usr/bin:/bin"} | environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    if told is None:
        assert not said.exists()
    else:
        assert said.read_text().splitlines() == ["wan", *told]


def test_the_readme_names_every_file() -> None:
    text = (HOOKS / "README.md").read_text()
    for path in HOOKS.rglob("*"):
        if path.is_file() and path.name != "README.md":
            name = str(path.relative_to(HOOKS))
            assert name in text or "networkd-dispatcher/*.d/90-vpnmasq" in text
