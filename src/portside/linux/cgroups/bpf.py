"""Loading a device filter into the kernel and putting it on a version 2 group, by bpf(2).

The program's body comes from ``devices``. It is kept alive by the group it is attached to, and goes with it.
Sources: bpf(2), linux/bpf.h (union bpf_attr), kernel: bpf/prog_cgroup_device.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from portside.linux.syscalls import declare

_bpf = declare("bpf", ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD, _PROG_QUERY = 5, 8, 9, 13, 15, 16
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI, _REPLACE = 2, 4
_NAME = b"portside_device"
"""By this name a program of ours is found again; other programs on the group, systemd's for one, are left alone."""
_LICENCE = b"Apache-2.0"
_MAX_PROGRAMS = 64  # BPF_CGROUP_MAX_PROGS


def replace_device_filter(group: int, body: bytes | None) -> None:
    """Put a filter on the group that the descriptor ``group`` is open on, in place of the one that we put there before.

    None takes ours away. All filters of a group and of those above it must agree to an access. OSError: EPERM without
    CAP_BPF or CAP_SYS_ADMIN.
    """
    old = _attached(group)
    try:
        if body is None:
            if old >= 0:
                _call(_PROG_DETACH, struct.pack("=IIII", group, old, _ATTACH_CGROUP_DEVICE, 0))
            return
        new = load_device_program(body)
        try:
            flags = _ALLOW_MULTI | (_REPLACE if old >= 0 else 0)
            _call(_PROG_ATTACH, struct.pack("=IIIII", group, new, _ATTACH_CGROUP_DEVICE, flags, max(old, 0)))
        finally:
            os.close(new)
    finally:
        if old >= 0:
            os.close(old)


def load_device_program(body: bytes) -> int:
    """Check and load a BPF_PROG_TYPE_CGROUP_DEVICE program; a descriptor that the caller closes."""
    try:
        return _load(body)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        # Before Linux 5.11 programs count as locked memory of the user; all containers' together pass the usual limit.
        _unlimit_locked_memory()
        return _load(body)


def _load(body: bytes) -> int:
    instructions, licence = ctypes.create_string_buffer(body, len(body)), ctypes.create_string_buffer(_LICENCE)
    return _call(
        _PROG_LOAD,
        struct.pack(
            "=IIQQIIQII16s",
            _TYPE_CGROUP_DEVICE,
            len(body) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(licence),
            0,  # log level: no log
            0,
            0,
            0,  # kernel version, not asked for by this type
            0,  # flags
            _NAME,
        ),
    )


def _unlimit_locked_memory() -> None:
    import resource  # only on old kernels

    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        return  # the second try will fail and tell


def _attached(group: int) -> int:
    """A descriptor of the program of ours on the group, or -1."""
    for program in attached_programs(group):
        fd = _call(_PROG_GET_FD_BY_ID, struct.pack("=III", program, 0, 0))
        if _name_of(fd) == _NAME:
            return fd
        os.close(fd)
    return -1


def attached_programs(group: int) -> list[int]:
    """The kernel's numbers of the device filters on the group itself."""
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    attributes = ctypes.create_string_buffer(
        struct.pack("=IIIIQI", group, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _MAX_PROGRAMS), 64
    )
    _call_with(_PROG_QUERY, attributes)
    (count,) = struct.unpack_from("=I", attributes, 24)
    return list(ids[:count])


def _name_of(program: int) -> bytes:
    info = ctypes.create_string_buffer(256)
    _call(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program, 80, ctypes.addressof(info)))
    # struct bpf_prog_info: type, id, tag[8], two lengths, two addresses, load_time, uid, number and list of maps, name.
    return info.raw[64:80].rstrip(b"\0")


def _call(command: int, attributes: bytes) -> int:
    return _call_with(command, ctypes.create_string_buffer(attributes, max(len(attributes), 64)))


def _call_with(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    return _bpf(command, ctypes.addressof(attributes), len(attributes))
