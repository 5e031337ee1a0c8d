"""The one map between our errors and the canonical status codes of gRPC and ttrpc (google.rpc.Code), both ways."""

from __future__ import annotations

from portside import errors

OK = 0

_CODES: dict[type[errors.PortsideError], int] = {
    errors.Cancelled: 1,
    errors.Unknown: 2,
    errors.InvalidArgument: 3,
    errors.DeadlineExceeded: 4,
    errors.NotFound: 5,
    errors.AlreadyExists: 6,
    errors.PermissionDenied: 7,
    errors.ResourceExhausted: 8,
    errors.FailedPrecondition: 9,
    errors.Aborted: 10,
    errors.OutOfRange: 11,
    errors.Unimplemented: 12,
    errors.Internal: 13,
    errors.Unavailable: 14,
    errors.DataLoss: 15,
    errors.Unauthenticated: 16,
}
_ERRORS = {code: kind for kind, code in _CODES.items()}


def code_of(error: BaseException) -> int:
    """The status code for ``error``; what is not ours is Unknown, as grpc-go has it."""
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return 2


def error_of(code: int, message: str) -> errors.PortsideError:
    """The error that a peer's status means; a code nobody defined is Unknown."""
    return _ERRORS.get(code, errors.Unknown)(message)
