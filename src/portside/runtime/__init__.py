"""Our OCI runtime: a bundle becomes a running process."""
