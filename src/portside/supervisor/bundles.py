"""The directories of tasks: where containerd has them, so that tools which look there find what they know.

Those of sandboxes that are shims look the same, below ``io.containerd.sandbox.controller.v1.shim``.

    <state>/io.containerd.runtime.v2.task/<namespace>/<id>/     the bundle, 0700
        config.json        the runtime spec, the bytes that the client sent
        address            unix:///…  of the shim's socket
        bootstrap.json     the same as newer shims tell it: version, address, protocol
        sandbox            the sandbox whose shim it is, if it is not the task's own
        state.json         the shim's own record (``shim/record.py``)
        rootfs/            where the root file system is, if it has to be visible
        work               a link to the work directory
    <state>/io.containerd.runtime.v2.task/<namespace>/.gone-…   a bundle on its way out
    <root>/io.containerd.runtime.v2.task/<namespace>/<id>/      the work directory
    <state>/s/<token>      sockets of shims, 0700

A bundle is made before its shim and removed after it, by the daemon alone: first renamed, so that the id is free at
once, then emptied. Emptying never descends: what is mounted or was put in ``rootfs`` is not ours to delete.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from dataclasses import dataclass

from portside.errors import AlreadyExists, InvalidArgument, from_oserror
from portside.linux import mount
from portside.shim.sockets import connectable

PLUGIN = "io.containerd.runtime.v2.task"
GONE = ".gone-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Bundle:
    """One task's directories."""

    namespace: str
    id: str
    path: str
    work: str

    @property
    def address(self) -> str:
        """The path of its shim's socket, as recorded; empty if it is not (yet)."""
        return self._read("address").removeprefix("unix://")

    @property
    def sandbox(self) -> str:
        """The id of the sandbox in whose shim the task is; empty if it has a shim of its own."""
        return self._read("sandbox")

    def _read(self, name: str) -> str:
        try:
            with open(f"{self.path}/{name}", encoding="utf-8") as file:
                return file.read(4096).strip()
        except (OSError, UnicodeDecodeError):
            return ""


class Bundles:
    """All bundles below one ``state`` and ``root``. Blocking, though seldom for long: call it in a thread."""

    def __init__(self, state: str, root: str, plugin: str = PLUGIN) -> None:
        self._state = f"{os.path.abspath(state)}/{plugin}"
        self._root = f"{os.path.abspath(root)}/{plugin}"
        self._sockets = f"{os.path.abspath(state)}/s"

    def prepare(self) -> None:
        """Make the directories, and make them private if they are there already."""
        for path in (self._state, self._root, self._sockets):
            os.makedirs(path, 0o700, exist_ok=True)
            os.chmod(path, 0o700)

    def create(self, namespace: str, id: str, spec: bytes) -> tuple[Bundle, socket.socket, str]:
        """Make the bundle and its shim's listening socket (the caller's): bundle, socket, the socket's path.

        AlreadyExists; InvalidArgument for names that are not names. After a failure nothing is left.
        """
        bundle = self._make(namespace, id)
        address = f"{self._sockets}/{os.urandom(8).hex()}"
        listener = None
        try:
            _fill(bundle, spec)
            listener = _listen(address)
            _tell_address(bundle, address)
        except OSError as error:
            if listener is not None:
                listener.close()
            self.remove(bundle)
            raise from_oserror(error, f"make the bundle of task {id}") from error
        return bundle, listener, address

    def create_in(self, namespace: str, id: str, spec: bytes, sandbox: str, address: str) -> Bundle:
        """The same for a task in the shim of ``sandbox``, which listens at ``address`` and stays when the task goes."""
        bundle = self._make(namespace, id)
        try:
            _write(f"{bundle.path}/sandbox", sandbox.encode())
            _fill(bundle, spec)
            _tell_address(bundle, address)
        except OSError as error:
            self.remove(bundle)
            raise from_oserror(error, f"make the bundle of task {id}") from error
        return bundle

    def _make(self, namespace: str, id: str) -> Bundle:
        bundle = self._bundle(namespace, id)
        try:
            os.makedirs(os.path.dirname(bundle.path), 0o700, exist_ok=True)
            os.mkdir(bundle.path, 0o700)
        except FileExistsError:
            raise AlreadyExists(f"task {id}: already exists") from None
        except OSError as error:
            raise from_oserror(error, f"make the bundle of task {id}") from error
        return bundle

    def list(self) -> list[Bundle]:
        """All bundles there are; what is on its way out is removed on the way."""
        found: list[Bundle] = []
        for namespace in _names(self._state):
            for id in _names(f"{self._state}/{namespace}"):
                if id.startswith(GONE):
                    empty(f"{self._state}/{namespace}/{id}")
                elif _NAME.fullmatch(id) and _NAME.fullmatch(namespace):
                    found.append(self._bundle(namespace, id))
        self._sweep({(bundle.namespace, bundle.id) for bundle in found})
        return found

    def _sweep(self, known: set[tuple[str, str]]) -> None:
        """Remove work directories that have lost their bundle, in a crash or a reboot, if nothing is in them."""
        for namespace in _names(self._root):
            for id in _names(f"{self._root}/{namespace}"):
                if (namespace, id) not in known:
                    with contextlib.suppress(OSError):
                        os.rmdir(f"{self._root}/{namespace}/{id}")

    def set_aside(self, bundle: Bundle) -> str:
        """Free the bundle's id at once; the path to call ``empty`` with. Harmless if it is gone."""
        aside = f"{os.path.dirname(bundle.path)}/{GONE}{os.urandom(8).hex()}"
        try:
            os.rename(bundle.path, aside)
        except FileNotFoundError:
            pass
        except OSError:  # EBUSY: its rootfs is mounted.
            _unmount(f"{bundle.path}/rootfs")
            os.rename(bundle.path, aside)
        try:
            os.rmdir(bundle.work)
        except OSError:
            pass  # Not empty: a shim left something to be looked at.
        return aside

    def remove(self, bundle: Bundle) -> None:
        """Both at once, and the socket, if it is the task's own."""
        self.finish("" if bundle.sandbox else bundle.address, self.set_aside(bundle))

    def finish(self, address: str, aside: str) -> None:
        """The shim has ended: remove the bundle that was set aside, and the socket if the shim could not."""
        if address.startswith(f"{self._sockets}/"):
            try:
                os.unlink(address)
            except OSError:
                pass
        empty(aside)

    def _bundle(self, namespace: str, id: str) -> Bundle:
        for name in (namespace, id):
            if not _NAME.fullmatch(name):
                raise InvalidArgument(f"{name[:200]!r} cannot be the name of a task or a namespace")
        return Bundle(namespace, id, f"{self._state}/{namespace}/{id}", f"{self._root}/{namespace}/{id}")


def empty(path: str) -> None:
    """Remove a bundle that was set aside; what cannot be removed stays, recognisably garbage, for the next start."""
    _unmount(f"{path}/rootfs")
    try:
        with os.scandir(path) as entries:
            for entry in list(entries):
                try:
                    if entry.is_dir(follow_symlinks=False):
                        os.rmdir(entry.path)
                    else:
                        os.unlink(entry.path)
                except OSError:
                    pass
        os.rmdir(path)
    except OSError:
        pass


def _fill(bundle: Bundle, spec: bytes) -> None:
    os.makedirs(bundle.work, 0o700, exist_ok=True)
    os.symlink(bundle.work, f"{bundle.path}/work")
    os.mkdir(f"{bundle.path}/rootfs", 0o711)
    _write(f"{bundle.path}/config.json", spec)


def _tell_address(bundle: Bundle, address: str) -> None:
    _write(f"{bundle.path}/address", f"unix://{address}".encode())
    bootstrap = {"version": 3, "address": f"unix://{address}", "protocol": "ttrpc"}
    _write(f"{bundle.path}/bootstrap.json", json.dumps(bootstrap).encode())


def _listen(path: str) -> socket.socket:
    name, directory = connectable(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(name)
        os.chmod(path, 0o600)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    finally:
        if directory >= 0:
            os.close(directory)
    return listener


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _unmount(path: str) -> None:
    """Detach whatever is mounted at ``path``, layer by layer."""
    for _ in range(64):
        try:
            mount.umount2(path, mount.UMOUNT_NOFOLLOW | mount.MNT_DETACH)
        except OSError:
            return  # EINVAL: nothing is mounted there.


def _names(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
