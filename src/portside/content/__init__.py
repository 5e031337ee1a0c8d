"""Blobs and ingests on disk."""
