"""containerd's gRPC services, one module each."""
