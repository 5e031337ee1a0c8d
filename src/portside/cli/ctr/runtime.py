"""Which runtime a container has, from the command line."""

from __future__ import annotations

from portside.cli.ctr.grammar import Flag
from portside.cli.options import Option
from portside.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.ctr.grammar import Values
    from portside.core.anymessage import AnyMessage

RUNTIME = "io.containerd.runc.v2"
RUNTIME_OPTIONS = (
    Flag("--runtime", value="NAME", default=RUNTIME, help="the runtime, or the path of its shim"),
    Flag("--runtime-config-path", value="PATH", help="configuration of the runtime"),
    Flag("--runc-binary", value="PATH", help="an OCI runtime that is called like runc"),
    Flag("--runc-root", value="PATH", help="where that keeps its state"),
    Option("--runc-systemd-cgroup", help="control groups are made by systemd; wants --cgroup slice:prefix:name"),
)
_PATH_OPTIONS = "runtimeoptions.v1.Options"


def runtime_options(values: Values) -> AnyMessage | None:
    """The options of the runtime as its protobuf message; None for a runtime that gets none."""
    from portside.core.anymessage import RUNC_OPTIONS, AnyMessage

    if values["runtime"] == RUNTIME:
        if values["runc_systemd_cgroup"] and not values.get("cgroup"):
            raise InvalidArgument("--runc-systemd-cgroup wants --cgroup, as in machine.slice:prefix:name")
        from portside.wire.pb.containerd.types.runc.options import oci_pb2

        options = oci_pb2.Options(
            binary_name=values["runc_binary"], root=values["runc_root"], systemd_cgroup=values["runc_systemd_cgroup"]
        )
        return AnyMessage(RUNC_OPTIONS, options.SerializeToString())
    if values["runc_binary"] or values["runc_systemd_cgroup"]:
        raise InvalidArgument(f"--runc-binary and --runc-systemd-cgroup are for the runtime {RUNTIME} alone")
    if values["runtime_config_path"]:
        from portside.wire.pb.containerd.types.runtimeoptions.v1 import api_pb2

        path = api_pb2.Options(config_path=values["runtime_config_path"])
        return AnyMessage(_PATH_OPTIONS, path.SerializeToString())
    return None
