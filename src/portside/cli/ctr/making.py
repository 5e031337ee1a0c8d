"""A container as ``ctr`` makes it: under the id that the caller chose, with the options of ``ctr run``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace

from portside.cli.ctr.command import Session, Values, pairs
from portside.cli.options import Option
from portside.client.closure import config_of, manifest_of
from portside.client.image_user import image_user
from portside.client.leasing import leased
from portside.client.lookup import find_image
from portside.client.run_options import RunOptions, Volume
from portside.client.spec import make_spec
from portside.client.unpack import unpack
from portside.client.users import User
from portside.core.anymessage import RUNC_OPTIONS, SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.mount import Mount
from portside.core.services import Services
from portside.errors import InvalidArgument
from portside.oci.digest import chain_id

OPTIONS = (
    Option("--snapshotter", value="NAME", help="which snapshotter"),
    Option("--runtime", value="NAME", help="runtime name", default="io.containerd.runc.v2"),
    Option("--runc-binary", value="PATH", help="an OCI runtime instead of our own"),
    Option("--label", value="KEY=VALUE", many=True, help="a label"),
    Option("--env", value="NAME=VALUE", many=True, help="a variable"),
    Option("--cwd", value="DIR", help="working directory"),
    Option("-u", "--user", value="USER", help="who it runs as"),
    Option("-t", "--tty", help="with a terminal"),
    Option("--mount", value="SPEC", many=True, help="type=bind,src=…,dst=…,options=rbind:ro"),
    Option("--net-host", help="the host's network"),
    Option("--privileged", help="all capabilities and devices"),
    Option("--read-only", help="read-only root"),
    Option("--hostname", value="NAME", help="host name"),
    Option("--memory-limit", value="BYTES", help="memory limit", default="0"),
    Option("--cpus", value="NUMBER", help="processors' time", default="0"),
    Option("--cap-add", value="CAP", many=True, help="add a capability"),
    Option("--cap-drop", value="CAP", many=True, help="drop a capability"),
    Option("--seccomp", help="with the default seccomp profile"),
    Option("--allow-new-privs", help="without no-new-privileges"),
    Option("--config", "-c", value="FILE", help="a whole specification instead"),
)


async def make(
    session: Session, values: Values, image_name: str, id: str, args: Sequence[str]
) -> tuple[Container, tuple[Mount, ...]]:
    """Record and snapshot; how to see the root."""
    async with leased(session.services) as services:  # until the record holds it, nothing else holds the snapshot
        return await _make(services, session.namespace, values, image_name, id, args)


async def _make(
    services: Services, namespace: str, values: Values, image_name: str, id: str, args: Sequence[str]
) -> tuple[Container, tuple[Mount, ...]]:
    image = await find_image(services, image_name)
    _, manifest = await manifest_of(services, image.target)
    config = await config_of(services, manifest)
    snapshotter = values["snapshotter"] or services.default_snapshotter
    await unpack(services, manifest, config, snapshotter)
    mounts = await services.snapshotter(snapshotter).prepare(id, chain_id(list(config.diff_ids)))
    try:
        user = await image_user(mounts, values["user"] or config.user, ())
        spec = _spec(id, namespace, config, _options(values, args), user, values)
        container = Container(
            id, values["runtime"], spec, pairs(values["label"]), image.name, _runtime_options(values), snapshotter, id
        )
        return await services.containers.create(container), mounts
    except BaseException:
        await services.snapshotter(snapshotter).remove(id)
        raise


def _spec(id: str, namespace: str, config: object, options: RunOptions, user: User, values: Values) -> AnyMessage:
    if values["config"]:
        with open(values["config"], "rb") as file:
            return AnyMessage(SPEC, file.read())
    document = make_spec(id, namespace, config, options, user)  # type: ignore[arg-type]
    return AnyMessage(SPEC, json.dumps(document).encode("utf-8", "surrogateescape"))


def _options(values: Values, args: Sequence[str]) -> RunOptions:
    options = RunOptions(
        args=tuple(args), env=tuple(values["env"]), cwd=values["cwd"], user=values["user"], tty=values["tty"],
        hostname=values["hostname"], volumes=tuple(_volume(text) for text in values["mount"]),
        network="host" if values["net_host"] else "none", privileged=values["privileged"],
        read_only=values["read_only"], cap_add=tuple(values["cap_add"]), cap_drop=tuple(values["cap_drop"]),
        memory=int(values["memory_limit"]), cpus=float(values["cpus"]), seccomp=values["seccomp"],
        no_new_privileges=not values["allow_new_privs"],
    )  # fmt: skip
    options.check()
    # ctr replaces the image's entrypoint by what it is given, docker keeps it.
    return replace(options, entrypoint=args[0], args=tuple(args[1:])) if args else options


def _volume(text: str) -> Volume:
    """``type=bind,src=/a,dst=/b,options=rbind:ro``."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    source = fields.get("src") or fields.get("source", "")
    target = fields.get("dst") or fields.get("destination") or fields.get("target", "")
    if fields.get("type", "bind") != "bind" or not os.path.isabs(source) or not os.path.isabs(target):
        raise InvalidArgument(f"mount {text!r}: want type=bind,src=/…,dst=/…")
    options = [option for option in fields.get("options", "").split(":") if option not in ("", "rbind", "bind")]
    return Volume(source, target, tuple(options))


def _runtime_options(values: Values) -> AnyMessage | None:
    if not values["runc_binary"]:
        return None
    from portside.wire.pb.containerd.types.runc.options import oci_pb2

    return AnyMessage(RUNC_OPTIONS, oci_pb2.Options(binary_name=values["runc_binary"]).SerializeToString())
