"""Loop devices: a file as a block device (loop(4), include/uapi/linux/loop.h).

What belongs here: attaching a file to a free device, asking a device what it is attached to, and detaching. What does
not: who needs the device and for how long.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16

_LOOP_SET_FD = 0x4C00
_LOOP_CLR_FD = 0x4C01
_LOOP_SET_STATUS64 = 0x4C04
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
# struct loop_info64: device, inode, rdevice, offset, sizelimit; number, encrypt type, key size, flags; names and key.
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
# struct loop_config: fd, block size, the above, reserved.
_CONFIG = struct.Struct(f"=II{_INFO.size}s64x")

_ATTEMPTS = 64
"""How often a free device is looked for: others take them too."""


def attach(path: str, flags: int = 0) -> tuple[str, int]:
    """Attach the file ``path`` to a free device: the device's path, and a descriptor of it that the caller closes.

    ``flags`` are LO_FLAGS_*; with AUTOCLEAR the device is free again when the last user closes it. OSError.
    """
    mode = os.O_RDONLY if flags & LO_FLAGS_READ_ONLY else os.O_RDWR
    file = os.open(path, mode | os.O_CLOEXEC)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_ATTEMPTS):
                device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
                fd = os.open(device, mode | os.O_CLOEXEC)
                try:
                    _configure(fd, file, path, flags)
                    return device, fd
                except OSError as error:
                    os.close(fd)
                    if error.errno != errno.EBUSY:
                        raise OSError(error.errno, f"attach {path} to {device}: {error.strerror}") from error
        finally:
            os.close(control)
    finally:
        os.close(file)
    raise OSError(errno.EBUSY, f"attach {path}: others took every free loop device")


def backing(device: str) -> tuple[int, int] | None:
    """Device number and inode of the file that ``device`` is attached to; None if it is attached to none."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _backing(fd)
    finally:
        os.close(fd)


def keep(fd: int) -> None:
    """Undo AUTOCLEAR on the device that ``fd`` is open on: it stays attached when nobody uses it."""
    fields = list(_INFO.unpack(fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_INFO.size))))
    fields[8] &= ~LO_FLAGS_AUTOCLEAR
    fcntl.ioctl(fd, _LOOP_SET_STATUS64, _INFO.pack(*fields))


def detach(device: str, owner: tuple[int, int]) -> None:
    """Free ``device`` if it is still attached to the file ``owner``; one in use is freed by its last user."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _backing(fd) == owner:
            fcntl.ioctl(fd, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)


def _configure(fd: int, file: int, path: str, flags: int) -> None:
    name = os.fsencode(path)[:63]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    try:
        fcntl.ioctl(fd, _LOOP_CONFIGURE, _CONFIG.pack(file, 0, info))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTTY):
            raise
        # Before Linux 5.8: in two steps.
        fcntl.ioctl(fd, _LOOP_SET_FD, file)
        try:
            fcntl.ioctl(fd, _LOOP_SET_STATUS64, info)
        except OSError:
            fcntl.ioctl(fd, _LOOP_CLR_FD)
            raise


def _backing(fd: int) -> tuple[int, int] | None:
    try:
        fields = _INFO.unpack(fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_INFO.size)))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    return fields[0], fields[1]
