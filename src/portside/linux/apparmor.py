"""AppArmor: is it on, which profiles are loaded, and the profile for the next exec of the calling thread.

Writing and loading profiles does not belong here. Sources: apparmor(7), kernel: admin-guide/LSM/apparmor; the reason
for the checks on /proc: a container that can mount over it could have the write land elsewhere, and run unconfined.
"""

from __future__ import annotations

import errno
import os

from portside.errors import InvalidArgument
from portside.linux.mount import PROC_SUPER_MAGIC, filesystem_type
from portside.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, openat2

UNCONFINED = "unconfined"
_PROC_ROOT_INODE = 1


def enabled() -> bool:
    """Whether the kernel has AppArmor turned on."""
    try:
        with open("/sys/module/apparmor/parameters/enabled", "rb", 0) as file:
            return file.read(1) == b"Y"
    except OSError:
        return False


def loaded_profiles() -> dict[str, str]:
    """Loaded profiles with their mode (``enforce``, ``complain``, …); empty where securityfs is not mounted."""
    try:
        with open("/sys/kernel/security/apparmor/profiles", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    return {name: mode.rstrip(")") for name, _, mode in (line.rpartition(" (") for line in lines)}


def set_exec_profile(proc: int, profile: str) -> None:
    """Have the calling thread run under ``profile`` from its next exec on.

    ``proc`` is a descriptor of a procfs' root in which the thread is visible. OSError: ENOTDIR or EINVAL if it is no
    such thing, ENOENT if the profile is not loaded, EXDEV if something is mounted over the file.
    """
    if not profile or "\0" in profile or "\n" in profile:
        raise InvalidArgument(f"apparmor profile {profile[:80]!r}: not a name")
    check_proc(proc)
    resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
    try:
        # Where several security modules are stacked, this file is AppArmor's own.
        fd = openat2(proc, "thread-self/attr/apparmor/exec", os.O_WRONLY, 0, resolve)
    except FileNotFoundError:
        fd = openat2(proc, "thread-self/attr/exec", os.O_WRONLY, 0, resolve)
    try:
        os.write(fd, f"exec {profile}".encode())
    except OSError as error:
        number = error.errno or errno.EIO
        raise OSError(number, f"apparmor profile {profile!r}: {os.strerror(number)}") from None
    finally:
        os.close(fd)


def check_proc(proc: int) -> None:
    """OSError (EINVAL) unless ``proc`` is open on the root of a procfs."""
    if filesystem_type(proc) != PROC_SUPER_MAGIC or os.fstat(proc).st_ino != _PROC_ROOT_INODE:
        raise OSError(errno.EINVAL, "this is not the root of a procfs", "/proc")


def profile_of(pid: int | str = "self") -> str:
    """What ``pid`` runs under, with its mode: ``unconfined``, ``docker-default (enforce)``; empty without AppArmor."""
    for file in ("apparmor/current", "current"):
        try:
            with open(f"/proc/{pid}/attr/{file}", encoding="utf-8", errors="surrogateescape") as opened:
                return opened.read().rstrip("\n\0")
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EINVAL:  # another module, or none, owns the file
                raise
    return ""
