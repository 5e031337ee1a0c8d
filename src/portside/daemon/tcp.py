"""The API over TCP: who may connect. Whoever may is root on this machine, so clients show certificates of ours."""

from __future__ import annotations

import logging
import ssl

from portside.daemon.addresses import is_loopback
from portside.daemon.config import GrpcConfig
from portside.errors import InvalidArgument
from portside.wire.grpc.tls_link import server_context

log = logging.getLogger(__name__)


def tcp_context(config: GrpcConfig, host: str) -> ssl.SSLContext | None:
    """TLS as ``[grpc] tcp_tls_…`` say; None without a certificate. InvalidArgument names the key or the file.

    What containerd allows is allowed, and what is dangerous is said in the log: TCP without certificates of clients.
    """
    if not config.tcp_tls_cert:
        if config.tcp_tls_ca or config.tcp_tls_key:
            raise InvalidArgument("grpc: tcp_tls_ca and tcp_tls_key need a tcp_tls_cert")
        _warn(host, "without TLS")
        return None
    if not config.tcp_tls_ca:
        _warn(host, "without tcp_tls_ca, so clients need no certificate")
    return server_context(config.tcp_tls_cert, config.tcp_tls_key, config.tcp_tls_ca)


def _warn(host: str, what: str) -> None:
    who = "every user of this machine" if is_loopback(host) else "everybody who can reach the address"
    log.warning("grpc: tcp_address is served %s: %s can be root here", what, who)
