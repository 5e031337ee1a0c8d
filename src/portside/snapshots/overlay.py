"""Snapshots as overlayfs layers: each holds its own changes, the kernel stacks them (containerd's ``overlayfs``).

What is mounted, as containerd does it, so that clients that know its mounts know ours:

    =========  ==========  ===============================================================
    kind       parents     mount
    =========  ==========  ===============================================================
    active     none        bind, rw, of its own files
    view       none        bind, ro, of its own (empty) files
    view       one         bind, ro, of the parent's files
    otherwise              overlay: index=off[,userxattr],workdir,upperdir,lowerdir
    =========  ==========  ===============================================================

``lowerdir`` holds full paths, top first. mount(2) takes one page of options, so with about fifty layers of a usual
root whoever mounts must shorten them: ``fsconfig`` with one ``lowerdir+`` for each (Linux 6.5), or a common directory
as working directory and relative paths, as containerd's mount package does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from portside.core.mount import Mount
from portside.core.snapshots import Kind
from portside.linux.mount import new_mount
from portside.snapshots.directories import DirectoryDriver

_PARAMETERS = Path("/sys/module/overlay/parameters")


class OverlayDriver(DirectoryDriver):
    """``root`` belongs to this driver alone and is made if missing; ``mount_options`` go into every overlay mount.

    Nothing is mounted here, so opening works on a kernel without overlayfs, too.
    """

    name = "overlayfs"
    rebases = True

    def __init__(self, root: str | os.PathLike[str], mount_options: Sequence[str] = ()) -> None:
        super().__init__(root)
        self._options = (*default_options(), *mount_options)

    def mounts(self, number: int, kind: Kind, parents: Sequence[int]) -> tuple[Mount, ...]:
        """How to see it; see the table above."""
        if kind == Kind.VIEW and len(parents) <= 1:
            return (Mount("bind", str(self.files(parents[0] if parents else number)), options=("ro", "rbind")),)
        if not parents:
            return (Mount("bind", str(self.files(number)), options=("rw", "rbind")),)
        options = list(self._options)
        if kind == Kind.ACTIVE:
            options += [f"workdir={self._snapshots / str(number) / 'work'}", f"upperdir={self.files(number)}"]
        options.append("lowerdir=" + ":".join(str(self.files(parent)) for parent in parents))
        return (Mount("overlay", "overlay", options=tuple(options)),)

    def _fill(self, place: Path, kind: Kind, parents: Sequence[int]) -> None:
        files = place / "fs"
        files.mkdir()
        if parents:
            # The upper directory's own mode and owner are what the container sees at /.
            status = os.stat(self.files(parents[0]), follow_symlinks=False)
            os.chown(files, status.st_uid, status.st_gid, follow_symlinks=False)
            files.chmod(status.st_mode & 0o7777)
        else:
            files.chmod(0o755)
        if kind == Kind.ACTIVE:
            (place / "work").mkdir(mode=0o711)


def default_options(parameters: Path = _PARAMETERS, uid_map: str = "/proc/self/uid_map") -> tuple[str, ...]:
    """Options that this kernel and user namespace want in every overlay mount.

    ``index=off`` where the kernel knows it: an index ties an upper directory to its lower ones, and ours are put
    together anew each time. ``userxattr`` inside a user namespace, which may not write ``trusted.`` attributes.
    """
    options = []
    if (parameters / "index").exists():
        options.append("index=off")
    if in_user_namespace(uid_map):
        options.append("userxattr")
    return tuple(options)


def why_unsupported(root: str | os.PathLike[str]) -> str:
    """Why overlayfs cannot have its directories below ``root``, in words; empty if it can. ``root`` must exist.

    Tried out with a mount that nobody sees (fsmount(2)), as the file system below may lack what overlayfs needs of it
    (``d_type``, attributes); no mount is left, and no file.
    """
    with tempfile.TemporaryDirectory(prefix="probe-", dir=root) as place:
        names = ("lower", "upper", "work")
        for name in names:
            os.mkdir(os.path.join(place, name))
        try:
            paths = [os.path.join(place, name) for name in names]
            pairs = zip(("lowerdir", "upperdir", "workdir"), paths, strict=True)
            flags = [(option.partition("=")[0], option.partition("=")[2]) for option in default_options()]
            os.close(new_mount("overlay", [*flags, *pairs]))
        except OSError as error:
            return error.strerror or "overlayfs cannot be mounted"
    return ""


def in_user_namespace(uid_map: str = "/proc/self/uid_map") -> bool:
    """Whether this process is in a user namespace other than the first."""
    try:
        with open(uid_map) as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:
        return False
    return lines != [["0", "0", "4294967295"]]
