"""What is done to a mount before it is made: transformers, named by prefixes of its type.

    format/   ``{{ … }}`` in source, target and options is replaced by what earlier mounts have:
              source N, target N, mount N (its mount point), overlay M N (mount points from M to N, joined by colons)
    mkdir/    directories are made: X-containerd.mkdir.path=DIR[:MODE[:UID:GID]]
    mkfs/     the source, a file, is made with a file system in it if it is not there:
              X-containerd.mkfs.size=SIZE, .fs=ext2|ext3|ext4|xfs, .uuid=UUID

Files and directories are only made below the engine's own directories, whatever a mount says. Blocking. Source:
containerd docs/mounts.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from portside.core.mount import Mount
from portside.core.mounts import ActiveMount, MountHandler
from portside.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Unimplemented, from_oserror
from portside.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2

Transformer: TypeAlias = Callable[[Mount, Sequence[ActiveMount], Sequence[str]], Mount]
"""The mount (its type already without the prefix), the mounts made before, the directories allowed; the new mount."""

MAX_MOUNTS = 255
"""Mounts in one activation."""
MKFS_TIMEOUT = 60.0
"""Seconds for mkfs."""
MAX_IMAGE = 1 << 44
"""Bytes of a file made by mkfs; it is sparse."""

_MKDIR, _MKFS = "X-containerd.mkdir.", "X-containerd.mkfs."
_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_SIZE = re.compile(r"(\d{1,15})\s?([kmgt]?)i?b?", re.IGNORECASE | re.ASCII)
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS


@dataclass(frozen=True, slots=True)
class ActivationPlan:
    """What has to be made of a list: the mounts before ``first_system``, by handlers or else by the kernel."""

    first_system: int
    transformers: tuple[tuple[tuple[str, Transformer], ...], ...]
    """For each mount: the type that remains, and what does it, in order."""
    handlers: tuple[MountHandler | None, ...]


def plan(mounts: Sequence[Mount], handlers: dict[str, MountHandler], temporary: bool) -> ActivationPlan:
    """Decide; Unimplemented if nothing has to be made."""
    if len(mounts) > MAX_MOUNTS:
        raise InvalidArgument(f"{len(mounts)} mounts, at most {MAX_MOUNTS} can be activated together")
    first, transformers, found = -1, [], []
    for index, mount in enumerate(mounts):
        chain: list[tuple[str, Transformer]] = []
        type = mount.type
        while (parts := type.partition("/"))[1] and parts[0] in TRANSFORMERS:
            type = parts[2]
            chain.append((type, TRANSFORMERS[parts[0]]))
        if chain:
            first = index
        handler = handlers.get(type)
        if handler is not None or temporary:
            first = index + 1
        transformers.append(tuple(chain))
        found.append(handler)
    if first < 0:
        raise Unimplemented("none of the mounts needs to be activated")
    return ActivationPlan(first, tuple(transformers), tuple(found))


def format_mount(mount: Mount, active: Sequence[ActiveMount], roots: Sequence[str]) -> Mount:
    """``format/``; InvalidArgument for what is no template, or names a mount that was not made before."""

    def fill(text: str) -> str:
        filled = _ACTION.sub(lambda match: _evaluate(match[1], active), text)
        if "{{" in _ACTION.sub("", text):
            raise InvalidArgument(f"format {text[:200]!r}: braces are left open")
        return filled

    return replace(mount, source=fill(mount.source), target=fill(mount.target), options=tuple(map(fill, mount.options)))


def _evaluate(action: str, active: Sequence[ActiveMount]) -> str:
    name, *words = action.split() or [""]
    fields: dict[str, Callable[[ActiveMount], str]] = {
        "source": lambda made: made.mount.source,
        "target": lambda made: made.mount.target,
        "mount": lambda made: made.mount_point,
    }
    if len(words) == 1 and name in fields:
        (number,) = _indices(action, words, active)
        return fields[name](active[number])
    if len(words) == 2 and name == "overlay":
        start, end = _indices(action, words, active)
        step = -1 if start > end else 1
        return ":".join(active[number].mount_point for number in range(start, end + step, step))
    raise InvalidArgument(f"format {{{{ {action[:200]} }}}}: want source N, target N, mount N or overlay M N")


def _indices(action: str, words: Sequence[str], active: Sequence[ActiveMount]) -> list[int]:
    if not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
        raise InvalidArgument(f"format {{{{ {action[:200]} }}}}: want numbers of mounts")
    numbers = [int(word) for word in words]
    if not all(number < len(active) for number in numbers):
        raise InvalidArgument(f"format {{{{ {action} }}}}: only {len(active)} mounts come before")
    return numbers


def make_directories(mount: Mount, active: Sequence[ActiveMount], roots: Sequence[str]) -> Mount:
    """``mkdir/``: the last directory of each path is made, or given its mode and owner if it is there."""
    rest = []
    for option in mount.options:
        if not option.startswith(_MKDIR):
            rest.append(option)
            continue
        key, _, value = option.removeprefix(_MKDIR).partition("=")
        words = value.split(":")
        if key != "path" or len(words) not in (1, 2, 4):
            raise InvalidArgument(f"mkdir option {option[:200]!r}: want path=DIR[:MODE[:UID:GID]]")
        try:
            mode = int(words[1], 8) if len(words) > 1 else 0o700
            uid, gid = (int(words[2]), int(words[3])) if len(words) == 4 else (os.geteuid(), os.getegid())
        except ValueError:
            raise InvalidArgument(f"mkdir option {option[:200]!r}: mode, uid or gid is not a number") from None
        if mode & ~0o777 or mode < 0 or not (0 <= uid < 1 << 32 and 0 <= gid < 1 << 32):
            raise InvalidArgument(f"mkdir option {option[:200]!r}: mode, uid or gid is out of range")
        _make_directory(words[0], mode, uid, gid, roots)
    return replace(mount, options=tuple(rest))


def _make_directory(path: str, mode: int, uid: int, gid: int, roots: Sequence[str]) -> None:
    try:
        parent, name = _open_parent(path, roots, "mkdir")
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=parent)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
        finally:
            os.close(parent)
    except NotADirectoryError as error:
        raise FailedPrecondition(f"mkdir {path}: it is there and no directory") from error
    except OSError as error:
        raise from_oserror(error, f"mkdir {path}") from error


def make_file_system(mount: Mount, active: Sequence[ActiveMount], roots: Sequence[str]) -> Mount:
    """``mkfs/``: a file that is there is taken as it is."""
    rest, settings = [], {"fs": "ext4", "uuid": "", "size": ""}
    for option in mount.options:
        if not option.startswith(_MKFS):
            rest.append(option)
            continue
        key, _, value = option.removeprefix(_MKFS).partition("=")
        if key not in settings:
            raise InvalidArgument(f"mkfs option {option[:200]!r}: want size, fs or uuid")
        settings[key] = value
    command = _mkfs_command(settings["fs"], settings["uuid"])
    size = parse_size(settings["size"])
    try:
        parent, name = _open_parent(mount.source, roots, "mkfs")
        try:
            _make_image(parent, name, size, command, mount.source)
        finally:
            os.close(parent)
    except OSError as error:
        raise from_oserror(error, f"mkfs {mount.source}") from error
    return replace(mount, options=tuple(rest))


def parse_size(text: str) -> int:
    """Bytes of ``64m``, ``1GiB``, ``4096`` (binary multiples); InvalidArgument, also for nothing and too much."""
    match = _SIZE.fullmatch(text)
    size = int(match[1]) << (10 * " kmgt".index(match[2].lower() or " ")) if match else 0
    if not 0 < size <= MAX_IMAGE:
        raise InvalidArgument(f"mkfs: size {text[:40]!r}: want a size such as 64MiB, at most {MAX_IMAGE} bytes")
    return size


def _mkfs_command(fs: str, uuid: str) -> list[str]:
    if uuid and not re.fullmatch(r"[0-9a-fA-F-]{32,36}", uuid):
        raise InvalidArgument(f"mkfs: {uuid[:60]!r} is not a UUID")
    if fs in ("ext2", "ext3", "ext4"):
        return [f"mkfs.{fs}", "-q", *(["-U", uuid] if uuid else [])]
    if fs == "xfs":
        return ["mkfs.xfs", "-q", *(["-m", f"uuid={uuid}"] if uuid else [])]
    raise InvalidArgument(f"mkfs: {fs[:40]!r}: want ext2, ext3, ext4 or xfs")


def _make_image(parent: int, name: str, size: int, command: list[str], path: str) -> None:
    """Under a private name, linked when it is complete: a crash leaves no half file system, and the first one wins."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISREG(status.st_mode):
            raise FailedPrecondition(f"mkfs {path}: it is there and no file")
        return
    private = f".{name[:200]}.{secrets.token_hex(4)}.mkfs"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(private, flags, 0o640, dir_fd=parent)
    try:
        os.ftruncate(fd, size)
        _run([*command, f"/proc/self/fd/{fd}"], fd, path)
        with contextlib.suppress(FileExistsError):
            os.link(private, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.close(fd)
        os.unlink(private, dir_fd=parent)


def _run(command: list[str], fd: int, path: str) -> None:
    try:
        done = subprocess.run(
            command, pass_fds=[fd], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            timeout=MKFS_TIMEOUT, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise Unimplemented(f"mkfs {path}: the program {command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(f"mkfs {path}: {command[0]} took more than {MKFS_TIMEOUT:.0f} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().replace("\n", "; ")[-500:]
        raise FailedPrecondition(f"mkfs {path}: {command[0]}: {said or f'status {done.returncode}'}")


def _open_parent(path: str, roots: Sequence[str], what: str) -> tuple[int, str]:
    """The directory of ``path`` (the caller's), resolved below the root it is in, and the last name of it."""
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"{what} {path[:200]!r}: want an absolute path")
    above, name = os.path.split(path)
    if name in ("", ".", ".."):
        raise InvalidArgument(f"{what} {path[:200]!r}: it names no entry of a directory")
    inside = [root for root in roots if above == root or above.startswith(f"{root}/")]
    if not inside:
        raise PermissionDenied(f"{what} {path}: it is not in a directory of this engine")
    root = max(inside, key=len)
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(fd, above[len(root) :].lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY, 0, _BENEATH), name
    finally:
        os.close(fd)


TRANSFORMERS: dict[str, Transformer] = {
    "format": format_mount,
    "mkdir": make_directories,
    "mkfs": make_file_system,
}
"""By prefix."""
