"""gRPC over our HTTP/2: server, asyncio client, blocking client (gRPC over HTTP2 specification)."""
