"""The interfaces of core/ over gRPC, to our daemon or to upstream containerd."""
