"""The little that a runtime does in a new network namespace: its loopback interface comes up (netdevice(7)).

Everything else that makes a network is the work of ``network``.
"""

from __future__ import annotations

import _socket
import fcntl
import struct

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_IFREQ = "=16sh22x"


def loopback_up() -> None:
    """Turn ``lo`` on in the calling thread's network namespace; needs CAP_NET_ADMIN there. It gets its addresses."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        answer = fcntl.ioctl(sock.fileno(), _SIOCGIFFLAGS, struct.pack(_IFREQ, b"lo", 0))
        _name, flags = struct.unpack(_IFREQ, answer)
        fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack(_IFREQ, b"lo", flags | _IFF_UP))
    finally:
        sock.close()
