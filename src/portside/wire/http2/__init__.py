"""HTTP/2 (RFC 9113) and HPACK (RFC 7541) as a gRPC server and client must speak them, without IO: bytes in, events out.

Nothing here imports a socket, asyncio or a clock of its own; the shells in ``wire/grpc`` do. Only cheap parts of the
standard library are imported, since the command line starts a client of this on every call.
"""
