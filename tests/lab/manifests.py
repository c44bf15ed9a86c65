"""contrib's compose.yaml and Kubernetes manifests, read for tests."""

from pathlib import Path
from typing import Any, Final

import yaml

_CONTRIB: Final = Path(__file__).parents[2] / "contrib"

COMPOSE: Final = _CONTRIB / "container" / "compose.yaml"
MANIFESTS: Final = sorted((_CONTRIB / "kubernetes").glob("*.yaml"))

Node = dict[str, Any]


def documents() -> list[Node]:
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


def pods() -> dict[str, Node]:
    """The pods of the manifests, by the name of what makes them."""
    found = {}
    for document in documents():
        if document["kind"] == "Pod":
            found[document["metadata"]["name"]] = document["spec"]
        elif document["kind"] == "Deployment":
            found[document["metadata"]["name"]] = document["spec"]["template"]["spec"]
    return found


def ours(pod: Node) -> Node:
    containers: list[Node] = [*pod.get("initContainers", ()), *pod["containers"]]
    return next(container for container in containers if container["name"] == "vpnmasq")


def as_options(container: Node) -> list[str]:
    """The options by which podman gives a container of a manifest what Kubernetes does."""
    rights = container["securityContext"]
    options = [f"--user={rights['runAsUser']}:{rights['runAsGroup']}"]
    options += [f"--cap-drop={name}" for name in rights["capabilities"]["drop"]]
    options += [f"--cap-add={name}" for name in rights["capabilities"]["add"]]
    options += ["--read-only"] * rights["readOnlyRootFilesystem"]
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    # a volume in memory, which fsGroup gives to the user
    return options + [f"--mount=type=tmpfs,destination={path},U=true" for path in writable]
