"""Transfers, here: each pair of objects as a coroutine over the verbs of ``client/`` and the registries.

``service`` finds the pair and runs it; the other modules are the pairs. What does not belong here: how objects come
over a wire (``api/containerd/transfer.py``), and how an image is fetched, sent, read or written (``client/``).
"""
