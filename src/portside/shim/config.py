"""What a shim is told when it is made. A module of its own, since the daemon needs nothing else of a shim."""

from __future__ import annotations


class Config:
    """What a shim is told when it is made: texts, which travel joined by NUL bytes."""

    __slots__ = ("address", "bundle", "cache_dir", "events", "id", "namespace")

    def __init__(
        self, namespace: str, id: str, bundle: str, address: str, events: str = "", cache_dir: str = ""
    ) -> None:
        self.namespace = namespace
        self.id = id
        """Of its first container."""
        self.bundle = bundle
        self.address = address
        """The path of its socket, which it removes at its end."""
        self.events = events
        """Where to forward events to; empty for nowhere."""
        self.cache_dir = cache_dir

    def encode(self) -> bytes:
        """As it travels."""
        fields = (self.namespace, self.id, self.bundle, self.address, self.events, self.cache_dir)
        return "\0".join(fields).encode("utf-8", "surrogateescape")

    @classmethod
    def decode(cls, data: bytes) -> Config:
        """What ``encode`` gave."""
        return cls(*data.decode("utf-8", "surrogateescape").split("\0"))
