"""How a container is to run: what people may ask for, checked, before it becomes a specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from portside.client.restart import RestartPolicy
from portside.errors import InvalidArgument

NETWORKS = ("none", "host")

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class Volume:
    """A bind of ``source`` on the server's machine at ``target`` in the container (mount(8) options, ``ro`` …)."""

    source: str
    target: str
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Volume:
        """``SOURCE:TARGET[:OPTION,…]``, both paths absolute; InvalidArgument."""
        source, colon, rest = text.partition(":")
        target, _, options = rest.partition(":")
        if not colon or not source.startswith("/") or not target.startswith("/"):
            raise InvalidArgument(f"volume {text!r}: want SOURCE:TARGET[:OPTION,...] with absolute paths")
        known = tuple(option for option in options.split(",") if option)
        return cls(source, target, known)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Everything has a default that is safe: no network, containerd's 14 capabilities, its seccomp profile."""

    args: Sequence[str] = ()
    """Arguments after the image's entrypoint; empty: the image's own command."""
    entrypoint: str | None = None
    """Replaces the image's entrypoint and drops its command."""
    name: str = ""
    """Unique in its namespace; empty: one is made up."""
    env: Sequence[str] = ()
    """``NAME=VALUE``; a bare ``NAME`` takes the image's variable away."""
    cwd: str = ""
    user: str = ""
    """``user[:group]``, numbers or names of the image; empty: the image's own."""
    groups: Sequence[str] = ()
    tty: bool = False
    console_size: tuple[int, int] = (0, 0)
    """Columns and rows that a terminal has from the beginning; zeros: what the kernel gives."""
    hostname: str = ""
    volumes: Sequence[Volume] = ()
    tmpfs: Sequence[str] = ()
    """``TARGET[:OPTION,…]``."""
    network: str = "none"
    privileged: bool = False
    read_only: bool = False
    cap_add: Sequence[str] = ()
    cap_drop: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    memory: int = 0
    """Bytes; 0: no limit."""
    cpus: float = 0.0
    pids: int = 0
    """Most processes; 0 or less: no limit."""
    seccomp: bool = True
    no_new_privileges: bool = True
    stop_signal: str = ""
    snapshotter: str = ""
    runtime: str = ""
    """Such as ``io.containerd.runc.v2``; empty: the namespace's or the server's default."""
    runtime_binary: str = ""
    """An OCI runtime to use instead of our own (runc's option ``BinaryName``)."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    rlimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Soft and hard by name: ``{"nofile": (1024, 4096)}``."""
    restart: str = ""
    """``no``, ``always``, ``on-failure[:COUNT]``, ``unless-stopped``; a daemon sees to it (``client.restart``)."""

    def check(self) -> None:
        """InvalidArgument for what can never work."""
        if self.network not in NETWORKS:
            raise InvalidArgument(f"network {self.network!r}: want one of {', '.join(NETWORKS)}")
        if self.memory < 0 or self.cpus < 0:
            raise InvalidArgument("memory and cpus cannot be negative")
        for variable in self.env:
            if not variable or variable.startswith("=") or "\0" in variable:
                raise InvalidArgument(f"environment variable {variable[:80]!r}: want NAME=VALUE")
        RestartPolicy.parse(self.restart)
        if any("\0" in argument for argument in self.args):
            raise InvalidArgument("arguments cannot contain a null character")


def parse_size(text: str) -> int:
    """``512m``, ``1.5g``, ``1073741824`` as bytes; InvalidArgument."""
    number = text.strip().lower().removesuffix("ib")
    number = number if not number.endswith("b") or number[:-1].replace(".", "", 1).isdigit() else number[:-1]
    unit = number[-1:] if number[-1:] in _UNITS and number[-1:] else ""
    digits = number[: len(number) - len(unit)]
    whole, dot, fraction = digits.partition(".")
    if not (whole.isascii() and whole.isdigit()) or (dot and not (fraction.isascii() and fraction.isdigit())):
        raise InvalidArgument(f"size {text!r}: want a number and b, k, m, g or t")
    return int(float(digits) * _UNITS[unit]) if dot else int(digits) * _UNITS[unit]


def security_options(texts: Sequence[str]) -> dict[str, bool]:
    """docker's ``--security-opt`` as fields of ``RunOptions``; InvalidArgument for one that we do not honour."""
    fields: dict[str, bool] = {}
    for text in texts:
        key, _, value = text.replace(":", "=", 1).partition("=")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            fields["no_new_privileges"] = value != "false"
        elif key == "seccomp" and value == "unconfined":
            fields["seccomp"] = False
        elif (key, value) not in (("apparmor", "unconfined"), ("label", "disable")):
            raise InvalidArgument(f"security option {text!r}: not supported")
    return fields
