"""The one hierarchy of exceptions, with containerd's meanings (containerd/errdefs).

What belongs here: the classes, and the translation of a kernel failure into one of them. What does not: status
codes of gRPC and ttrpc (``wire/status.py``) and hints for people (``cli/``). Imported by shims: standard library only.
"""

from __future__ import annotations

import errno as _errno


class PortsideError(Exception):
    """Base of all errors raised on purpose; the message is one sentence naming the object and the step."""


class Cancelled(PortsideError):
    """The caller went away or asked to stop."""


class Unknown(PortsideError):
    """A peer failed without saying in which way."""


class InvalidArgument(PortsideError):
    """What was asked can never work, whatever the state of the system."""


class DeadlineExceeded(PortsideError):
    """The time allowed for the call ran out; the work may or may not have happened."""


class NotFound(PortsideError):
    """The named object does not exist."""


class CommandNotFound(NotFound):
    """The command is not in the container."""


class AlreadyExists(PortsideError):
    """The name is taken."""


class PermissionDenied(PortsideError):
    """The caller, or we, may not do this."""


class CommandNotExecutable(PermissionDenied):
    """The command is in the container and cannot be executed."""


class ResourceExhausted(PortsideError):
    """A limit was reached: message size, disk, quota."""


class FailedPrecondition(PortsideError):
    """The object is not in the state that the call needs; retrying alone does not help."""


class Aborted(PortsideError):
    """Lost a race; the caller may retry the whole."""


class OutOfRange(PortsideError):
    """An offset or a size lies beyond the object."""


class Unimplemented(PortsideError):
    """We do not do this (yet)."""


class Internal(PortsideError):
    """A rule of ours is broken: a defect."""


class Unavailable(PortsideError):
    """The peer cannot be reached now; retrying may help."""


class DataLoss(PortsideError):
    """Content on disk or on the wire is not what its digest or length says."""


class Unauthenticated(PortsideError):
    """Credentials are missing or wrong."""


_BY_ERRNO: dict[int, type[PortsideError]] = {
    _errno.ENOENT: NotFound,
    _errno.ESRCH: NotFound,
    _errno.EEXIST: AlreadyExists,
    _errno.EACCES: PermissionDenied,
    _errno.EPERM: PermissionDenied,
    _errno.EROFS: FailedPrecondition,
    _errno.EBUSY: FailedPrecondition,
    _errno.ENOTEMPTY: FailedPrecondition,
    _errno.EINVAL: InvalidArgument,
    _errno.ENAMETOOLONG: InvalidArgument,
    _errno.ELOOP: InvalidArgument,
    _errno.ENOSYS: Unimplemented,
    _errno.EOPNOTSUPP: Unimplemented,
    _errno.ENOSPC: ResourceExhausted,
    _errno.EDQUOT: ResourceExhausted,
    _errno.ENOMEM: ResourceExhausted,
    _errno.EMFILE: ResourceExhausted,
    _errno.ENFILE: ResourceExhausted,
    _errno.ETIMEDOUT: DeadlineExceeded,
    _errno.ECONNREFUSED: Unavailable,
    _errno.ECONNRESET: Unavailable,
    _errno.EPIPE: Unavailable,
}


def from_oserror(error: OSError, step: str) -> PortsideError:
    """Our error for a failure of the kernel while doing ``step`` ("write blob sha256:…"); chain it with ``from``."""
    kind = _BY_ERRNO.get(error.errno or 0, Unknown)
    return kind(f"{step}: {error.strerror or error}")
