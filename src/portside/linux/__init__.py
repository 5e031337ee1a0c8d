"""The kernel as typed functions; knows nothing of containers."""
