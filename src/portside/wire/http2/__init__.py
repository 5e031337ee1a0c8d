"""HTTP/2 and HPACK as state machines without IO (RFC 9113, RFC 7541)."""
