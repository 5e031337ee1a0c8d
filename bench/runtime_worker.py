"""The part of ``runtime_inprocess`` that is measured: a process as light as a shim, told what to do by bytes on stdin.

``r`` runs a container from its overlay to its removal, ``i`` starts one that idles, ``e`` runs a process in it, ``d``
removes it; each is answered by a byte. Usage: python -I -S bench/runtime_worker.py SOURCE_DIRECTORY BUNDLE
"""

from __future__ import annotations

import json
import os
import sys

sys.path.insert(0, sys.argv[1])

from portside.linux import mount
from portside.runtime.container import Container
from portside.runtime.process import Stdio


def run(bundle: str, spec: dict[str, object]) -> None:
    """Overlay made, container created, started, awaited, deleted, overlay gone."""
    layers = [(f"{name}dir", f"{bundle}/{path}") for name, path in (("lower", "rootfs"), ("upper", "u"), ("work", "w"))]
    rootfs = mount.new_mount("overlay", layers)
    container = Container.create("bench", bundle, spec, Stdio(), rootfs_fd=rootfs, cache_dir=f"{bundle}/cache")
    container.start()
    os.waitid(os.P_PIDFD, container.init.pidfd, os.WEXITED)
    os.close(container.init.pidfd)
    container.delete()
    os.close(rootfs)


def main() -> None:
    bundle = sys.argv[2]
    with open(f"{bundle}/config.json", "rb") as file:
        text = file.read()
    idle: Container | None = None
    while order := os.read(0, 1):
        spec = json.loads(text)
        if order == b"r":
            run(bundle, spec)
        elif order == b"i":
            spec["process"]["args"] = ["/bin/sleep", "1000"]
            idle = Container.create("idle", bundle, spec, Stdio(), cache_dir=f"{bundle}/cache")
            idle.start()
        elif order == b"e" and idle is not None:
            made = idle.exec(spec["process"], Stdio())
            os.waitid(os.P_PIDFD, made.pidfd, os.WEXITED)
            os.close(made.pidfd)
        elif order == b"d" and idle is not None:
            idle.delete(force=True)
            os.waitid(os.P_PIDFD, idle.init.pidfd, os.WEXITED)
        os.write(1, b".")


main()
