"""The image of contrib/container in a real engine: built, confined, restarted, replaced; with real peers."""

import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from tests.lab.images import CALLER, IMAGE, PEER, SERVER, Images
from tests.lab.machine import ROOT, missing, until
from tests.lab.manifests import Node, as_options, documents, ours, pods
from tests.lab.network import WAN_ADDRESS
from tests.lab.podman import BASE, traces, unprepared
from tests.lab.pptp import StubCall, StubClient, StubServer

pytestmark = pytest.mark.netns

#: The address of compose.yaml's containers outside; inside they keep what the file says.
GATEWAY: Final = "199.0.0.20"
INSIDE: Final = "172.31.0.2"

#: What compose.yaml leaves to its user, and where it stands here.
COMPOSE: Final = {
    "SERVER_IMAGE": PEER,
    "SERVER_PEERS": CALLER,
    "CLIENT_SERVER": SERVER,
    "OUTSIDE_NETWORK": "199.0.0.0/24",
    "OUTSIDE_ADDRESS": GATEWAY,
    "OUTSIDE_ROUTER": "199.0.0.254",
}
#: What becomes of its services.
OWNER: Final = "lab_network_1"
OURS: Final = "lab_vpnmasq_1"

#: One of another container that holds a network, and the smallest configuration in it.
HOLDER: Final = "holder"
ALONE: Final = "alone"
SETTINGS: Final = {
    "VPNMASQ_LAN__NETWORKS": '["172.31.1.0/24"]',
    "VPNMASQ_EXPOSE": f"172.31.1.10 pptp allow {CALLER} source gateway",
}

ECHOES: Final = 50

#: Octets that the image may have with its base, and KiB of memory that it may take at rest.
MOST_OCTETS: Final = 260_000_000
MOST_MEMORY: Final = 80 * 1024

#: Bits of sets of capabilities.
BIND, ADMIN, RAW = (1 << bit for bit in (10, 12, 13))

#: Answers every line with itself.
_ECHO: Final = """
import socket
connection, _ = socket.create_server(("0.0.0.0", 7)).accept()
while data := connection.recv(4096):
    connection.sendall(data)
"""
#: Says what it is told to the other end of a TCP connection, and then what that answers.
_TALK: Final = "exec 3<>/dev/tcp/{}/7; while read -r a; do echo $a >&3; read -r a <&3; echo $a; done"


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    """The images, built once; afterwards the machine is as it was."""
    if why := missing("podman", "ppp", guests=False) or unprepared():
        pytest.skip(why)
    before = traces()
    with ExitStack() as stack:
        yield Images(stack)
    assert traces() == before


@pytest.fixture(scope="module")
def holder(images: Images) -> Images:
    """A container that holds a network with two sides, for a container of ours alone."""
    images.engine.podman("network", "create", "--internal", "--subnet=172.31.1.0/24", "inside")
    images.engine.podman(
        "run", "--detach", f"--name={HOLDER}", "--network=podman,inside", BASE, "sleep", "inf"
    )
    return images


@pytest.fixture(scope="module")
def composed(images: Images) -> Images:
    """The services of compose.yaml."""
    images.engine.compose("up", "-d", **COMPOSE)
    images.ready(OURS)
    return images


# the image --------------------------------------------------------------------------------------------------


def test_the_programs_for_the_kernel_are_in_and_nothing_that_they_are_made_with(images: Images) -> None:
    tools = "for c in cc gcc clang c++ ld as make cpp pip pip3 setcap; do command -v $c; done"
    programs = "cd /opt/vpnmasq/lib/python3*/site-packages/relay/fastpath && ls *.o"
    found = images.run(
        {}, "--entrypoint=sh", command=("-c", f"{tools}; ls -d /usr/include/* /src; {programs}")
    )
    sources = (ROOT / "relay" / "fastpath" / "bpf").glob("*.bpf.c")
    assert found.output.split() == sorted(source.with_suffix(".o").name for source in sources)


def test_it_is_no_larger_than_it_says(images: Images) -> None:
    assert images.engine.inspect(IMAGE)["Size"] < MOST_OCTETS


def test_a_wrong_environment_is_told_whole_and_ends_with_78(images: Images) -> None:
    found = images.run({"VPNMASQ_WAN__INTERFAZE": "eth1", "VPNMASQ_EXPOSE": "172.31.1.10 pptp allow nobody"})
    assert found.status == 78
    assert "VPNMASQ_WAN__INTERFAZE" in found.output
    assert "nobody" in found.output
    assert "Traceback" not in found.output


def test_a_missing_privilege_is_named_and_ends_with_77(images: Images) -> None:
    found = images.run(SETTINGS, "--cap-drop=ALL")
    assert found.status == 77
    assert "CAP_NET_RAW is missing" in found.output


def test_where_a_file_may_give_no_privileges_it_says_so_too(images: Images) -> None:
    found = images.run(SETTINGS, "--security-opt=no-new-privileges")
    assert found.status == 77
    assert "CAP_NET_RAW is missing" in found.output


RELAY: Final = ("NET_RAW",)
ROUTER: Final = (*RELAY, "NET_ADMIN")

WAYS: Final = [
    pytest.param((), set(), id="nothing"),
    pytest.param(RELAY, {"relay style"}, id="relay"),
    pytest.param(ROUTER, {"relay style", "router style"}, id="router"),
    pytest.param((*ROUTER, "NET_BIND_SERVICE"), {"relay style", "router style", "IPsec"}, id="ipsec"),
    pytest.param((*ROUTER, "BPF"), {"relay style", "router style", "fast path"}, id="fast-path"),
]


@pytest.mark.parametrize(("given", "allowed"), WAYS)
def test_check_says_what_the_given_privileges_allow(
    images: Images, given: tuple[str, ...], allowed: set[str]
) -> None:
    privileges = ["--cap-drop=ALL", *(f"--cap-add={name}" for name in given)]
    found = images.run(SETTINGS, *privileges, command=("check", "--json"))
    ways = {way["way"]: way["allowed"] for way in json.loads(found.output)["allowed"]}
    assert {name for name, may in ways.items() if may} == allowed
    assert len(ways) == 4


# one container ----------------------------------------------------------------------------------------------

#: What podman adds it hands to a user's programs (ambient), what others add they only allow, as podman does
#: with its defaults: then the program's file gives it.
MODEST: Final = [
    pytest.param(("--cap-drop=ALL", "--cap-add=NET_RAW"), RAW, id="added"),
    pytest.param((), RAW | BIND, id="allowed"),
    pytest.param(("--cap-drop=ALL", "--cap-add=NET_RAW", "--user=0"), RAW, id="root"),
    pytest.param(
        ("--cap-drop=ALL", "--cap-add=NET_RAW", "--user=0", "--security-opt=no-new-privileges"),
        RAW,
        id="locked",
    ),
]


@pytest.mark.parametrize(("options", "capabilities"), MODEST)
def test_it_keeps_one_privilege_tells_where_settings_come_from_and_ends_when_told(
    holder: Images, options: tuple[str, ...], capabilities: int
) -> None:
    holder.start(ALONE, HOLDER, SETTINGS, *options)
    holder.ready(ALONE)
    init, daemon = holder.engine.processes(ALONE)
    assert (init["Name"], daemon["Name"]) == ("tini", "vpnmasq")
    assert daemon["Uid"].split() == ["0" if "--user=0" in options else "1723"] * 4
    assert {int(daemon[which], 16) for which in ("CapPrm", "CapEff")} == {capabilities}
    assert (daemon["NoNewPrivs"], daemon["Seccomp"]) == ("1", "2")

    said = holder.log(ALONE)
    origins = {entry["key"]: entry["origin"] for entry in said if entry["event"] == "setting"}
    assert origins["lan.networks"] == "VPNMASQ_LAN__NETWORKS"
    assert origins["expose[0].server"] == "VPNMASQ_EXPOSE"
    assert [entry["wan.interface"] for entry in said if entry["event"] == "defaults"] == ["auto"]

    status, seconds = holder.stop(ALONE)
    assert status == 0
    assert seconds < 8


def test_the_fast_path_is_active_where_that_is_allowed(holder: Images) -> None:
    added = [f"--cap-add={name}" for name in ("NET_RAW", "NET_ADMIN", "BPF")]
    # this podman's list of system calls has bpf(2) for CAP_SYS_ADMIN alone
    holder.start(ALONE, HOLDER, SETTINGS, "--cap-drop=ALL", *added, "--security-opt=seccomp=unconfined")
    holder.ready(ALONE)
    assert holder.ask(ALONE, "status")["fastpath"]["active"] is True
    # what loading its program took is given up afterwards
    _, daemon = holder.engine.processes(ALONE)
    assert int(daemon["CapPrm"], 16) == RAW | ADMIN


def test_orphans_of_its_programs_are_collected(holder: Images) -> None:
    command = shlex.join(["sh", "-c", "(sleep 0.5; echo >/run/vpnmasq/orphan) &"])
    holder.start(ALONE, HOLDER, SETTINGS | {"VPNMASQ_DYNAMIC__UP_COMMANDS": json.dumps([command])})

    def outlived_its_parent() -> bool:
        return holder.engine.podman("exec", ALONE, "test", "-e", "/run/vpnmasq/orphan", check=False).ok

    def left() -> list[str]:
        return [process["Name"] for process in holder.engine.processes(ALONE)]

    until(outlived_its_parent, "the orphan is done", within=20)
    until(lambda: left() == ["tini", "vpnmasq"], "nothing is left of it, not even a zombie", within=10)


def test_who_has_no_public_address_is_not_healthy(holder: Images) -> None:
    holder.start(ALONE, HOLDER, SETTINGS | {"VPNMASQ_WAN__INTERFACE": "absent"})

    def says_why() -> bool:
        return "absent" in holder.engine.podman("exec", ALONE, "vpnmasq", "health", check=False).output

    until(says_why, "it says what it waits for", within=10)
    assert not holder.healthy(ALONE)


# beside others ----------------------------------------------------------------------------------------------


def serves(call: StubCall, *, seen: str) -> None:
    """A call comes up; its echoes all come back, from one server that knows it by the address ``seen``."""
    assert call.hear(30) == "up"
    call.ask(ECHOES)
    score = json.loads(call.hear(30))
    assert (score["answers"], score["foreign"]) == (ECHOES, 0)
    assert [server.partition("@")[2] for server in score["servers"]] == [seen]


def test_callers_outside_reach_the_server_and_clients_inside_a_server_outside(composed: Images) -> None:
    engine = composed.engine
    stub = f"python3 /stub_ppp.py client inside {INSIDE}"
    inside = StubCall("inside", engine.start(f"exec podman run --rm -i --network=lab_private {PEER} {stub}"))
    outside = StubClient(composed.caller, GATEWAY)
    serves(outside, seen=INSIDE)
    serves(inside, seen=GATEWAY)
    sessions = composed.ask(OURS, "sessions")["sessions"]
    assert sorted(session["role"] for session in sessions) == ["expose", "masquerade"]
    assert inside.hang_up().ok
    assert outside.hang_up().ok


def test_what_shares_the_network_keeps_it_when_ours_is_restarted_and_replaced(composed: Images) -> None:
    engine = composed.engine
    neighbour = ["--name=neighbour", f"--network=container:{OWNER}", PEER, "python3", "-c", _ECHO]
    engine.podman("run", "--detach", *neighbour)
    talk = composed.caller.start(f"sleep 1; {_TALK.format(GATEWAY)}")
    said: list[str] = []

    def still_talks(word: str) -> None:
        talk.tell(word)
        said.append(word)
        until(lambda: talk.said() == said, f"the neighbour answers {word}", within=10)

    still_talks("before")
    first = engine.inspect(OURS)
    # with a call, which gets less time to end than the runtime gives
    call = StubClient(composed.caller, GATEWAY)
    serves(call, seen=INSIDE)
    status, seconds = composed.stop(OURS)
    assert (status, seconds < 10) == (0, True)
    call.hang_up()
    still_talks("while it is away")

    engine.podman("start", OURS)
    composed.ready(OURS)
    still_talks("restarted")
    call = StubClient(composed.caller, GATEWAY)
    serves(call, seen=INSIDE)
    assert call.hang_up().ok

    engine.compose("up", "-d", "--no-deps", "--force-recreate", "vpnmasq", **COMPOSE)
    composed.ready(OURS)
    assert engine.inspect(OURS)["Id"] != first["Id"]
    still_talks("replaced")
    call = StubClient(composed.caller, GATEWAY)
    serves(call, seen=INSIDE)
    assert call.hang_up().ok
    talk.hang_up()


def test_no_process_takes_over_from_what_a_container_ends_with(composed: Images) -> None:
    before = composed.engine.inspect(OURS)["State"]["StartedAt"]
    found = composed.engine.podman("exec", OURS, "vpnmasq", "run", "--takeover", check=False)
    assert found.status == 1
    assert "replace the container" in found.output
    assert composed.healthy(OURS)
    assert composed.engine.inspect(OURS)["State"]["StartedAt"] == before


def test_at_rest_it_takes_little_memory(composed: Images) -> None:
    until(lambda: composed.ask(OURS, "sessions")["sessions"] == [], "there are no sessions", within=15)
    resident = {one["Name"]: int(one["VmRSS"].split()[0]) for one in composed.engine.processes(OURS)}
    assert set(resident) == {"tini", "vpnmasq"}
    assert sum(resident.values()) <= MOST_MEMORY


# as Kubernetes runs it --------------------------------------------------------------------------------------


def answers_its_probes(images: Images, container: Node) -> None:
    """Wait for the startup probe; then the others must succeed."""

    def succeeds(probe: str) -> bool:
        return images.engine.podman("exec", ALONE, *container[probe]["exec"]["command"], check=False).ok

    until(lambda: succeeds("startupProbe"), "the startup probe succeeds", within=40, every=0.2)
    until(lambda: succeeds("readinessProbe"), "the readiness probe succeeds", within=40, every=0.2)
    assert succeeds("livenessProbe")


def test_the_sidecar_serves_hosts_on_the_bridge_of_a_pod(composed: Images) -> None:
    engine, pod = composed.engine, pods()["workbench"]
    address = "199.0.0.30"
    engine.podman(
        "run", "--detach", "--name=pod", f"--network=lab_outside:ip={address}", BASE, "sleep", "inf"
    )
    engine.podman("run", "--detach", "--name=host", "--network=none", PEER, "sleep", "inf")
    pids = {name: engine.inspect(name)["State"]["Pid"] for name in ("pod", "host")}
    pod_net, host_net = (f"nsenter --net=/proc/{pid}/ns/net" for pid in pids.values())
    (bridge,) = next(one for one in pod["initContainers"] if one["name"] == "bridge")["args"]
    engine.sh(f"{pod_net} sh -ec {shlex.quote(bridge)}", check=True)
    engine.sh(
        f"ip link add port netns {pids['pod']} type veth peer name eth0 netns {pids['host']};"
        f"{pod_net} ip link set port master br0 up;"
        f"{host_net} sh -ec 'ip address add 10.0.0.2/24 dev eth0; ip link set eth0 up;"
        "ip route add default via 10.0.0.1'",
        check=True,
    )
    container = ours(pod)
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    composed.start(ALONE, "pod", environment, *as_options(container))
    answers_its_probes(composed, container)
    stub = f"python3 /stub_ppp.py client host {SERVER}"
    host = StubCall("host", engine.start(f"exec podman exec -i host {stub}"))
    serves(host, seen=address)
    assert host.hang_up().ok


def test_the_gateway_publishes_and_masquerades_in_the_network_of_a_node(images: Images) -> None:
    (text,) = (one["data"]["vpnmasq.toml"] for one in documents() if one["kind"] == "ConfigMap")
    configuration = images.directory / "vpnmasq.toml"
    configuration.write_text(text)
    configuration.chmod(0o644)
    node, container = images.network.gw, ours(pods()["vpnmasq"])
    before = node.sh("ip rule; ip route show table all; nft list ruleset")
    mount = f"--volume={configuration}:/etc/vpnmasq/vpnmasq.toml:ro"
    words = ["--replace", f"--name={ALONE}", "--network=host", mount, *as_options(container)]
    images.engine.podman("run", "--detach", *words, IMAGE, net=node)
    answers_its_probes(images, container)
    StubServer(images.shelf("exposed", "10.0.0.2"))
    client = StubClient(images.shelf("client", "10.0.0.3"), SERVER)
    caller = StubClient(images.caller, WAN_ADDRESS)
    serves(client, seen=WAN_ADDRESS)
    serves(caller, seen=CALLER)
    assert client.hang_up().ok
    assert caller.hang_up().ok
    assert images.stop(ALONE)[0] == 0
    assert node.sh("ip rule; ip route show table all; nft list ruleset") == before
