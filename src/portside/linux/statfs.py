"""Which file system a descriptor is on: the magic number of fstatfs(2), which ``os.fstatvfs`` leaves out."""

from __future__ import annotations

import ctypes
import struct

from portside.linux.syscalls import declare

PROC_SUPER_MAGIC = 0x9FA0
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP2_SUPER_MAGIC = 0x63677270
"""From linux/magic.h."""

_fstatfs = declare("fstatfs", ctypes.c_int, ctypes.c_char_p)


def filesystem_type(fd: int) -> int:
    """``f_type`` of the file system that ``fd`` is on; O_PATH descriptors will do."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs has 120 bytes, f_type first
    _fstatfs(fd, buffer)
    kind: int = struct.unpack_from("=Q", buffer)[0] & 0xFFFFFFFF
    return kind
