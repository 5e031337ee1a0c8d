"""Digests, references, platforms, descriptors and the documents of the OCI specifications."""
