"""``ctr run --cni``: the first network configuration of the machine, by its plugins (CNI specification, 1.0).

Works on the client's side as in ctr: it is the client that has the plugins called. What is asked for is noted in the
container's extensions, so that ``tasks kill`` can take the network away again.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from portside.core.anymessage import AnyMessage
from portside.core.containers import Container
from portside.errors import FailedPrecondition, InvalidArgument, NotFound

EXTENSION = "ctr.cni-containerd.metadata"
_TYPE = "github.com/containerd/containerd/v2/cmd/ctr/commands/NetworkMetaData"
_INTERFACE = "eth0"
_TIMEOUT = 60.0
_SUFFIXES = (".conf", ".conflist", ".json")
Configuration = dict[str, Any]
"""A network: its ``name``, ``cniVersion``, and a list of ``plugins``."""
_LOOPBACK: Configuration = {"name": "cni-loopback", "cniVersion": "0.3.1", "plugins": [{"type": "loopback"}]}


def extension() -> dict[str, AnyMessage]:
    """What a container with such a network carries."""
    return {EXTENSION: AnyMessage(_TYPE, b'{"EnableCni":true}')}


def has_network(container: Container) -> bool:
    """Whether the container was made with ``--cni``."""
    found = container.extensions.get(EXTENSION)
    return found is not None and b"true" in found.value


def set_up(found: Configuration, id: str, pid: int) -> None:
    """Connect the network namespace of process ``pid``; FailedPrecondition tells what a plugin said."""
    for network, interface in ((_LOOPBACK, "lo"), (found, _INTERFACE)):
        result: Any = None
        for plugin in network["plugins"]:
            result = _call("ADD", network, plugin, id, f"/proc/{pid}/ns/net", interface, result)


def tear_down(found: Configuration, id: str) -> None:
    """Give back what was taken for it; the namespace itself has gone, or goes."""
    for network, interface in ((found, _INTERFACE), (_LOOPBACK, "lo")):
        for plugin in reversed(network["plugins"]):
            _call("DEL", network, plugin, id, "", interface, None)


def configuration() -> Configuration:
    """The first one of the machine, by the names of the files; NotFound, InvalidArgument."""
    directory = os.environ.get("NETCONFPATH") or "/etc/cni/net.d"
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(_SUFFIXES))
    except FileNotFoundError:
        names = []
    if not names:
        raise NotFound(f"--cni: no network configuration in {directory}")
    path = os.path.join(directory, names[0])
    with open(path, "rb") as file:
        try:
            document = json.loads(file.read(1 << 20))
        except ValueError as error:
            raise InvalidArgument(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise InvalidArgument(f"{path}: a network configuration needs a name")
    if "plugins" not in document:
        document = {"name": document["name"], "cniVersion": document.get("cniVersion", "0.2.0"), "plugins": [document]}
    return document


def _call(
    verb: str,
    network: Mapping[str, Any],
    plugin: Mapping[str, Any],
    id: str,
    namespace: str,
    interface: str,
    result: Any,
) -> Any:
    paths = (os.environ.get("CNI_PATH") or "/opt/cni/bin:/usr/lib/cni").split(":")
    config = dict(plugin) | {"name": network["name"], "cniVersion": network.get("cniVersion", "0.2.0")}
    if result is not None:
        config["prevResult"] = result
    environment = os.environ | {
        "CNI_COMMAND": verb, "CNI_CONTAINERID": id, "CNI_NETNS": namespace, "CNI_IFNAME": interface,
        "CNI_PATH": ":".join(paths), "CNI_ARGS": "IgnoreUnknown=1",
    }  # fmt: skip
    kind = str(plugin.get("type", ""))
    done = subprocess.run(
        [_program(kind, paths)],
        input=json.dumps(config).encode(),
        capture_output=True,
        env=environment,
        timeout=_TIMEOUT,
    )
    if done.returncode:
        raise FailedPrecondition(
            f"network {network['name']}: plugin {kind} {verb}: {_reason(done.stdout, done.stderr)}"
        )
    return json.loads(done.stdout) if done.stdout.strip() else None


def _program(kind: str, paths: Sequence[str]) -> str:
    if not kind or "/" in kind:
        raise InvalidArgument(f"network plugin {kind!r}: not a name")
    for directory in paths:
        path = os.path.join(directory, kind)
        if os.access(path, os.X_OK):
            return path
    raise NotFound(f"network plugin {kind}: not in {':'.join(paths)}")


def _reason(output: bytes, errors: bytes) -> str:
    try:
        found = json.loads(output)
        return f"{found['msg']} {found.get('details', '')}".strip()
    except (ValueError, KeyError, TypeError):
        return (output + errors).decode("utf-8", "replace").strip()[:500]
