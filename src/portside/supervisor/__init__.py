"""Starts, adopts and talks to shims (runtime v2 contract)."""
