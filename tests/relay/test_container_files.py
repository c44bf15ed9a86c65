"""compose.yaml and the Kubernetes manifests: valid by the published schemas, no privilege too many."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import click
import kubernetes_validate
import pytest
import yaml

from relay.cli import main
from relay.config import Settings, load
from relay.config.capabilities import needed_capabilities
from tests.lab.manifests import COMPOSE, MANIFESTS, Node, documents, ours, pods

#: Where initContainers with restartPolicy came to be on by default.
KUBERNETES: Final = "1.29"

#: What compose.yaml leaves to its user.
ENVIRONMENT: Final = {
    "SERVER_IMAGE": "server",
    "SERVER_PEERS": "199.0.0.2,199.0.0.3",
    "CLIENT_SERVER": "199.0.0.1",
}
_VARIABLE: Final = re.compile(r"\$\{(\w+):([-?])([^}]*)\}")


def interpolated() -> Node:
    """compose.yaml as a runtime reads it."""

    def value(match: re.Match[str]) -> str:
        name, kind, text = match.groups()
        return ENVIRONMENT[name] if kind == "?" else text

    found: Node = yaml.safe_load(_VARIABLE.sub(value, COMPOSE.read_text()))
    return found


def settings(container: Node, tmp_path: Path) -> Settings:
    """The configuration that a container of the manifests has: from the ConfigMap, if it takes one."""
    environment = {entry["name"]: entry["value"] for entry in container.get("env", ())}
    if environment:
        return load(None, environ=environment)
    (text,) = (
        document["data"]["vpnmasq.toml"] for document in documents() if document["kind"] == "ConfigMap"
    )
    path = tmp_path / "vpnmasq.toml"
    path.write_text(text)
    return load(path)


def required(of: Settings) -> set[str]:
    """The capabilities a configuration needs, as runtimes name them."""
    return {name.removeprefix("CAP_") for name in needed_capabilities(of.config)}


def schema_check(path: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


# compose ----------------------------------------------------------------------------------------------------


def test_compose_yaml_is_valid() -> None:
    found = schema_check(COMPOSE)
    assert found.returncode == 0, found.stdout


def test_a_wrong_key_would_be_noticed(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("network_mode:", "networkmode:"))
    assert "networkmode" in schema_check(wrong).stdout


def test_the_network_is_held_by_another_image_than_ours_and_by_nobody_else() -> None:
    services = interpolated()["services"]
    owner, gateway = services["network"], services["vpnmasq"]
    assert gateway["network_mode"] == "service:network"
    assert "networks" not in gateway
    assert set(owner["networks"]) == {"outside", "private"}
    assert owner["image"] != gateway["image"]
    assert owner["cap_drop"] == ["ALL"]


def test_the_server_has_the_private_network_only() -> None:
    compose = interpolated()
    assert set(compose["services"]["server"]["networks"]) == {"private"}
    assert compose["networks"]["private"]["internal"] is True


def test_compose_yaml_gives_what_its_rules_need_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.config.capabilities.first_unprivileged_port", lambda: 1024)
    gateway = interpolated()["services"]["vpnmasq"]
    found = load(None, environ=gateway["environment"])
    assert [rule.listen for rule in found.config.masquerade] == ["172.31.0.2"]
    assert [rule.server for rule in found.config.expose] == ["172.31.0.10"]
    assert gateway["cap_drop"] == ["ALL"]
    assert set(gateway["cap_add"]) == required(found) == {"NET_RAW"}


# Kubernetes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in MANIFESTS])
def test_a_manifest_is_valid(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_wrong_field_would_be_noticed() -> None:
    (pod,) = (document for document in documents() if document["kind"] == "Pod")
    pod["spec"]["initContainers"][0]["restartpolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="restartpolicy"):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_both_arrangements_are_there() -> None:
    assert set(pods()) == {"workbench", "vpnmasq"}
    sidecar = next(c for c in pods()["workbench"]["initContainers"] if c["name"] == "vpnmasq")
    assert sidecar["restartPolicy"] == "Always"
    assert pods()["vpnmasq"]["hostNetwork"] is True


@pytest.mark.parametrize("name", ["workbench", "vpnmasq"])
def test_a_container_may_do_what_its_rules_need_and_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # not every runtime frees the low ports of a pod, and nobody those of a node
    monkeypatch.setattr("relay.config.capabilities.first_unprivileged_port", lambda: 1024)
    container = ours(pods()[name])
    found = settings(container, tmp_path)
    rights = container["securityContext"]
    assert rights["capabilities"]["drop"] == ["ALL"]
    assert set(rights["capabilities"]["add"]) == required(found)
    assert (rights["runAsNonRoot"], rights["readOnlyRootFilesystem"]) == (True, True)
    # no_new_privs takes a program's capabilities away
    assert rights["allowPrivilegeEscalation"] is True


@pytest.mark.parametrize("name", ["workbench", "vpnmasq"])
def test_probes_ask_what_there_is_to_ask(name: str) -> None:
    container = ours(pods()[name])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        program, command, *options = container[probe]["exec"]["command"]
        assert program == "vpnmasq"
        found = main.get_command(click.Context(main), command)
        assert found is not None
        assert set(options) <= {opt for parameter in found.params for opt in parameter.opts}
    # whoever is not ready is not restarted for it
    assert container["livenessProbe"]["exec"]["command"][1] == "status"
    assert container["readinessProbe"]["exec"]["command"][1] == "health"
