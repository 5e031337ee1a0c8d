"""The commands of ``ctr`` as a tree: what they are called, what they are for, and where their code is.

Data only: of a command line one module is imported, that of its own verb.
"""

from __future__ import annotations

from portside.cli.ctr.grammar import Flag
from portside.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Leaf:
    """A command: ``module:attribute`` of its ``Command``."""

    __slots__ = ("aliases", "place", "summary")

    def __init__(self, place: str, summary: str, *aliases: str) -> None:
        self.place, self.summary, self.aliases = place, summary, aliases


class Group:
    """Commands below a name; ``options`` stand before the command's name, or among its own."""

    __slots__ = ("aliases", "children", "options", "summary")

    def __init__(
        self, summary: str, children: Mapping[str, Leaf | Group], *aliases: str, options: tuple[Option, ...] = ()
    ) -> None:
        self.summary, self.children, self.aliases, self.options = summary, children, aliases, options


SNAPSHOTTER = Flag("--snapshotter", value="NAME", env="CONTAINERD_SNAPSHOTTER", help="which snapshotter")

_REMOVE = ("del", "remove", "rm")


def _profiles(module: str) -> dict[str, Leaf | Group]:
    return {
        "block": Leaf(f"{module}:block", "where threads wait for each other"),
        "goroutines": Leaf(f"{module}:goroutines", "the stacks of all threads and tasks"),
        "heap": Leaf(f"{module}:heap", "what memory is used for"),
        "profile": Leaf(f"{module}:profile", "where the time goes"),
        "threadcreate": Leaf(f"{module}:threadcreate", "what has started threads"),
        "trace": Leaf(f"{module}:trace", "a trace of the execution"),
    }


TREE = Group(
    "containerd's own command",
    {
        "plugins": Group(
            "what the server is made of",
            {
                "list": Leaf("plugins:list_plugins", "list plugins", "ls"),
                "inspect-runtime": Leaf("plugins:inspect_runtime", "show what a runtime tells of itself"),
            },
            "plugin",
        ),
        "version": Leaf("version:version", "print the client and server versions"),
        "containers": Group(
            "manage containers",
            {
                "create": Leaf("containers:create", "create a container"),
                "delete": Leaf("containers:delete", "delete containers without a running task", *_REMOVE),
                "info": Leaf("containers:info", "show a container as JSON"),
                "list": Leaf("containers:list_containers", "list containers", "ls"),
                "label": Leaf("containers:label", "set or, with an empty value, clear labels"),
                "checkpoint": Leaf("checkpoints:checkpoint", "save a container as an image"),
                "restore": Leaf("checkpoints:restore", "make and start a container from a checkpoint"),
            },
            "c", "container",
        ),
        "content": Group(
            "manage blobs",
            {
                "active": Leaf("content:active", "show ingests in progress"),
                "delete": Leaf("content:delete", "delete blobs", *_REMOVE),
                "edit": Leaf("content:edit", "edit a blob and store the result"),
                "fetch": Leaf("content_remote:fetch", "fetch all blobs of an image, without unpacking"),
                "fetch-object": Leaf("content_remote:fetch_object", "print a manifest or index of a registry"),
                "fetch-blob": Leaf("content_remote:fetch_blob", "print blobs of a registry"),
                "get": Leaf("content:get", "write a blob to standard output"),
                "ingest": Leaf("content:ingest", "write standard input as a blob"),
                "list": Leaf("content:list_content", "list blobs", "ls"),
                "push-object": Leaf("content_remote:push_object", "send one blob to a registry"),
                "label": Leaf("content:label", "set or, with an empty value, clear labels"),
                "prune": Group(
                    "let go of blobs",
                    {"references": Leaf("content:prune_references", "drop the labels that keep layers")},
                ),
            },
        ),
        "events": Leaf("events:events", "show events as they happen", "event"),
        "images": Group(
            "manage images",
            {
                "check": Leaf("images:check", "check that the content of images is all here"),
                "export": Leaf("archives:export", "write images as an archive"),
                "import": Leaf("archives:import_", "read images from an archive"),
                "inspect": Leaf("image_tree:inspect", "show an image and all it consists of", "i"),
                "list": Leaf("images:list_images", "list images", "ls"),
                "mount": Leaf("image_mounts:mount", "mount an image's root file system"),
                "unmount": Leaf("image_mounts:unmount", "undo mount"),
                "pull": Leaf("registries:pull", "fetch an image and unpack it"),
                "push": Leaf("registries:push", "send an image to a registry"),
                "prune": Leaf("images:prune", "remove images that no container uses"),
                "delete": Leaf("images:delete", "remove images by name", *_REMOVE),
                "tag": Leaf("images:tag", "give an image more names"),
                "label": Leaf("images:label", "set or, with an empty value, clear labels"),
                "convert": Leaf("convert:convert", "make another form of an image"),
                "usage": Leaf("images:usage", "show what the snapshots of an image take"),
            },
            "image", "i",
        ),
        "leases": Group(
            "manage leases",
            {
                "list": Leaf("leases:list_leases", "list leases", "ls"),
                "create": Leaf("leases:create", "create a lease"),
                "delete": Leaf("leases:delete", "delete leases", *_REMOVE),
            },
        ),
        "namespaces": Group(
            "manage namespaces",
            {
                "create": Leaf("namespaces:create", "create a namespace", "c"),
                "list": Leaf("namespaces:list_namespaces", "list namespaces", "ls"),
                "remove": Leaf("namespaces:remove", "remove empty namespaces", "rm"),
                "label": Leaf("namespaces:label", "set or, with an empty value, clear labels"),
            },
            "namespace", "ns",
        ),
        "pprof": Group(
            "profiles of the server, from its debug socket",
            _profiles("pprof"),
            options=(
                Flag(
                    "--debug-socket", "-d", value="PATH", default="/run/containerd/debug.sock",
                    help="the server's debug socket",
                ),
            ),
        ),
        "run": Leaf("run:run", "run a container"),
        "snapshots": Group(
            "manage snapshots",
            {
                "commit": Leaf("snapshots:commit", "make an active snapshot a committed one"),
                "diff": Leaf("snapshot_layers:diff", "print what a snapshot changes, as a layer"),
                "info": Leaf("snapshots:info", "show one snapshot as JSON"),
                "list": Leaf("snapshots:list_snapshots", "list snapshots", "ls"),
                "mounts": Leaf("snapshots:mounts", "print how to mount a snapshot", "m", "mount"),
                "prepare": Leaf("snapshots:prepare", "make a writable snapshot"),
                "delete": Leaf("snapshots:delete", "delete snapshots", *_REMOVE),
                "label": Leaf("snapshots:label", "set or, with an empty value, clear labels"),
                "tree": Leaf("snapshots:tree", "show snapshots as a tree"),
                "unpack": Leaf("snapshot_layers:unpack", "unpack the image of a manifest"),
                "usage": Leaf("snapshots:usage", "show what snapshots take"),
                "view": Leaf("snapshots:view", "make a read-only snapshot"),
            },
            "snapshot",
            options=(SNAPSHOTTER,),
        ),
        "tasks": Group(
            "manage tasks",
            {
                "attach": Leaf("task_start:attach", "stay with a running task"),
                "checkpoint": Leaf("checkpoints:checkpoint_task", "save the state of a task"),
                "delete": Leaf("tasks:delete", "delete tasks that have ended", *_REMOVE),
                "exec": Leaf("task_start:exec_", "run a further process in a task"),
                "list": Leaf("tasks:list_tasks", "list tasks", "ls"),
                "kill": Leaf("tasks:kill", "send a signal"),
                "metrics": Leaf("metrics:metrics", "show what a task uses", "metric"),
                "pause": Leaf("tasks:pause", "freeze a task"),
                "ps": Leaf("tasks:ps", "list the processes of a task"),
                "resume": Leaf("tasks:resume", "thaw a task"),
                "start": Leaf("task_start:start", "start the task of a container"),
            },
            "t", "task",
        ),
        "install": Leaf("install:install", "put the programs of an image into a directory"),
        "oci": Group("tools for OCI documents", {"spec": Leaf("oci:spec", "print the default specification")}),
        "sandboxes": Group(
            "manage sandboxes",
            {
                "run": Leaf("sandboxes:run", "create and start a sandbox", "create", "c", "r"),
                "list": Leaf("sandboxes:list_sandboxes", "list sandboxes", "ls"),
                "remove": Leaf("sandboxes:remove", "stop and remove sandboxes", "rm"),
                "info": Leaf("sandboxes:info", "show a sandbox as JSON", "i"),
            },
            "sandbox", "sb", "s",
        ),
        "info": Leaf("version:info", "print the server's identity"),
        "deprecations": Group(
            "what is used that will go away", {"list": Leaf("version:deprecations", "list the warnings of the server")}
        ),
        "shim": Group(
            "talk to a shim directly",
            {
                "delete": Leaf("shim:delete", "delete a container's task"),
                "exec": Leaf("shim:exec_", "run a further process"),
                "start": Leaf("shim:start", "start a container's task"),
                "state": Leaf("shim:state", "show the state of a task's first process"),
                "shutdown": Leaf("shim:shutdown", "end a shim that has nothing to do"),
                "pprof": Group("profiles of a shim, from its debug socket", _profiles("shim_pprof")),
            },
            options=(
                Flag("--id", value="ID", help="the shim's id"),
                Flag("--shim-address", value="ADDRESS", help="the shim's socket; default: found by the id"),
            ),
        ),
    },
)  # fmt: skip
