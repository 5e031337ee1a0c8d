"""A container as ``ctr`` makes it: under the id that the caller chose, with the options of ``ctr run``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from portside.cli.ctr.command import LABELS, Session, complain, set_pairs
from portside.cli.ctr.grammar import Flag, Values, integer
from portside.cli.ctr.id_mapped import remapped_parent
from portside.cli.ctr.runtime import RUNTIME_OPTIONS, runtime_options
from portside.cli.ctr.spec import Spec, make_spec, spec_from_file
from portside.cli.ctr.tree import SNAPSHOTTER
from portside.cli.options import Option, UsageError
from portside.client.closure import config_of, manifest_of
from portside.client.image_user import image_user
from portside.client.labels import STOP_SIGNAL, inherited
from portside.client.leasing import leased
from portside.client.unpack import unpack
from portside.core.anymessage import SPEC, AnyMessage
from portside.core.containers import Container
from portside.core.images import Image
from portside.core.labels import check_labels
from portside.core.mount import Mount
from portside.core.services import Services
from portside.errors import InvalidArgument
from portside.oci.digest import chain_id
from portside.oci.image import ImageConfig
from portside.oci.platform import Platform

CONTAINER_OPTIONS = (
    *RUNTIME_OPTIONS,
    SNAPSHOTTER,
    Flag("--snapshotter-label", value="KEY=VALUE", many=True, help="a label of the container's snapshot"),
    Flag("--config", "-c", value="FILE", help="a whole specification instead of an image"),
    Flag("--cwd", value="DIR", help="working directory"),
    Flag("--env", value="NAME=VALUE", many=True, help="a variable"),
    Flag("--env-file", value="FILE", help="variables, one in a line"),
    LABELS,
    Flag("--annotation", value="KEY=VALUE", many=True, help="an annotation of the specification"),
    Flag("--mount", value="SPEC", many=True, help="type=bind,src=…,dst=…,options=rbind:ro"),
    Option("--net-host", help="the host's network"),
    Option("--privileged", help="all capabilities and devices"),
    Option("--read-only", help="read-only root"),
    Flag("--sandbox", value="ID", help="in that sandbox"),
    Option("-t", "--tty", help="with a terminal"),
    Flag("--with-ns", value="KIND:PATH", many=True, help="join a namespace"),
    Flag("--pid-file", value="FILE", help="write the task's pid there"),
    Flag("--gpus", value="NUMBER", many=True, help="a GPU"),
    Option("--allow-new-privs", help="without no-new-privileges"),
    integer("--memory-limit", "bytes"),
    Flag("--cap-add", value="CAP_NAME", many=True, help="add a capability"),
    Flag("--cap-drop", value="CAP_NAME", many=True, help="drop a capability"),
    Option("--seccomp", help="with the default seccomp profile"),
    Flag("--seccomp-profile", value="FILE", help="with --seccomp: another profile"),
    Flag("--apparmor-default-profile", value="NAME", help="an AppArmor profile that must be loaded"),
    Flag("--apparmor-profile", value="NAME", help="an AppArmor profile"),
    Flag("--blockio-config-file", value="FILE", help="classes of block I/O"),
    Flag("--blockio-class", value="NAME", help="a class of block I/O"),
    Flag("--rdt-class", value="NAME", help="a class of service (resctrl)"),
    Flag("--hostname", value="NAME", help="host name"),
    Flag("--user", "-u", value="USER[:GROUP]", help="who it runs as"),
    Option("--rootfs", help="IMAGE is a directory"),
    Option("--no-pivot", help="without pivot_root, for a root that is a ramdisk"),
    integer("--cpu-quota", "microseconds in a period", -1),
    integer("--cpu-period", "microseconds"),
    Flag("--rootfs-propagation", value="KIND", help="propagation of the root mount"),
    Flag("--device", value="PATH", many=True, help="a device node, or a directory of such"),
)
"""What ``containers create`` and ``run`` have in common."""

_REFUSED = ("gpus", "blockio_config_file", "blockio_class")
"""Options for devices of CDI and for classes that goresctrl knows; we have neither."""


async def make(session: Session, values: Values, words: Sequence[str]) -> tuple[Container, tuple[Mount, ...]]:
    """Record and snapshot of ``IMAGE CONTAINER [COMMAND...]`` (with ``--config``: ``CONTAINER``); how to see the root.

    InvalidArgument for options that contradict each other, before anything is made.
    """
    for key in _REFUSED:
        if values[key]:
            raise InvalidArgument(f"--{key.replace('_', '-')}: not supported")
    async with leased(session.services) as services:  # until the record holds it, nothing else holds the snapshot
        if values["config"]:
            if len(words) != 1:
                raise UsageError("with --config, only the container's id is wanted")
            labels = set_pairs(values["label"])
            spec = spec_from_file(values["config"], labels)
            return await _record(services, values, words[0], spec, labels), ()
        if len(words) < 2:
            raise UsageError("want IMAGE CONTAINER [COMMAND] [ARG...]")
        reference, id, *args = words
        if values["rootfs"]:
            spec = make_spec(id, session.namespace, values, args, rootfs=_absolute(reference))
            return await _record(services, values, id, spec, set_pairs(values["label"])), ()
        return await _from_image(services, session.namespace, values, reference, id, args)


def _absolute(path: str) -> str:
    return os.path.abspath(path)


async def _record(services: Services, values: Values, id: str, spec: Spec, labels: Mapping[str, str],
                  image: str = "", snapshotter: str = "") -> Container:  # fmt: skip
    value = json.dumps(spec).encode("utf-8", "surrogateescape")
    container = Container(
        id, values["runtime"], AnyMessage(SPEC, value), labels, image, runtime_options(values),
        snapshotter, id if snapshotter else "", extensions=_extensions(values), sandbox_id=values["sandbox"],
    )  # fmt: skip
    return await services.containers.create(container)


def _extensions(values: Values) -> dict[str, AnyMessage]:
    if not values.get("cni"):
        return {}
    from portside.cli.ctr.cni import extension

    return extension()


async def _from_image(
    services: Services, namespace: str, values: Values, reference: str, id: str, args: Sequence[str]
) -> tuple[Container, tuple[Mount, ...]]:
    image = await services.images.get(reference)
    platform = Platform.parse(values["platform"]) if values.get("platform") else None
    _, manifest = await manifest_of(services, image.target, platform)
    config = await config_of(services, manifest)
    snapshotter = values["snapshotter"] or services.default_snapshotter
    await unpack(services, manifest, config, snapshotter)
    store = services.snapshotter(snapshotter)
    labels = set_pairs(values["snapshotter_label"])
    parent, more = await remapped_parent(store, chain_id(list(config.diff_ids)), values)
    mounts = await store.prepare(id, parent, labels | more)
    try:
        user = await image_user(mounts, values["user"] or config.user, ())
        spec = make_spec(id, namespace, values, args, config=config, user=user)
        labels = _labels(image, config, values)
        return await _record(services, values, id, spec, labels, image.name, snapshotter), mounts
    except BaseException:
        await store.remove(id)
        raise


def _labels(image: Image, config: ImageConfig, values: Values) -> dict[str, str]:
    """The configuration's, then the image's, then those of the command line, and how the image wants to be stopped."""
    labels = inherited(config.labels)
    for key, value in image.labels.items():
        try:
            check_labels({key: value})
        except InvalidArgument as error:
            complain(f"image {image.name}: label {key[:80]!r} is left out: {error}")
        else:
            labels[key] = value
    return labels | set_pairs(values["label"]) | {STOP_SIGNAL: config.stop_signal or "SIGTERM"}
