"""What containers that have died have left outside the root: bundles, sockets, mounts, control groups.

All of it is found by the bundles in the state directory, whose records name the processes and the group; nothing is
guessed from names, as other engines on the machine may use the same ones. A dead task whose container is recorded is no
leftover: the next daemon tells from its bundle how it ended, and cleans up. Reads only.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from portside.core.plugin import MOUNT_MANAGER, RUNTIME
from portside.doctor.mounted import mounted
from portside.doctor.report import Finding, Report
from portside.linux.cgroups import Cgroup
from portside.metadata.schema import CONTAINERS, MOUNTS, SANDBOXES
from portside.metadata.state import State
from portside.shim.sockets import connectable
from portside.supervisor.bundles import GONE, Bundle, Bundles
from portside.supervisor.leftovers import Record

TASKS = f"{RUNTIME}.task"


def examine(root: Path, state_directory: Path | None, state: State, report: Report) -> None:
    """Add what is found in ``state_directory`` to ``report``. A daemon looks after its own: nothing then.

    Without the directory, or with one that tasks of another root use, a note says that it was not looked at.
    """
    if report.running:
        return
    if state_directory is None:
        report.notes.append(
            "what dead containers left outside the root was not looked for: no state directory was given"
        )
        return
    if not (state_directory / TASKS).is_dir():
        return
    if strangers := [bundle for bundle in _bundles(root, state_directory) if is_strange(root, bundle)]:
        report.notes.append(f"state {state_directory}: not looked at; task {strangers[0].id} in it is of another root")
        return
    wanted: set[str] = set()
    points = [mount.point for mount in mounted()]
    for bundle in _bundles(root, state_directory):
        record = Record.read(bundle.path)
        alive = record is not None and (record.shim_alive() or any(map(record.alive, record.processes)))
        recorded = _is_recorded(state, bundle)
        if alive or recorded:
            wanted.add(bundle.address)
        if alive and not recorded and not bundle.id.startswith(GONE):
            _without_container(bundle, report)
        elif not alive and not recorded:
            _dead(bundle, record, points, report)
    _activations(state_directory, state, points, report)
    _sockets(state_directory, wanted, report)


def _activations(state_directory: Path, state: State, points: list[str], report: Report) -> None:
    """Mounts that the mount manager once made and that no record knows."""
    known = {str(each.number) for scope in state.scopes(MOUNTS) for each in state.rows(MOUNTS, scope).values()}
    prefix = f"{state_directory}/{MOUNT_MANAGER}."
    for point in points:
        if point.startswith(prefix):
            number = point.removeprefix(f"{state_directory}/").split("/")[2:3]
            if number and number[0] not in known:
                detail = "of an activation that is not recorded"
                report.findings.append(Finding("orphan mount", f"activation {number[0]}", detail, point))


def _bundles(root: Path, state_directory: Path) -> list[Bundle]:
    """All bundles, and those on their way out."""
    found = []
    for namespace in sorted(entry for entry in (state_directory / TASKS).iterdir() if entry.is_dir()):
        for path in sorted(entry for entry in namespace.iterdir() if entry.is_dir() and not entry.is_symlink()):
            work = root / TASKS / namespace.name / path.name
            found.append(Bundle(namespace.name, path.name, str(path), str(work)))
    return found


def is_strange(root: Path, bundle: Bundle) -> bool:
    """Whether its work directory is below another root."""
    try:
        return not os.readlink(f"{bundle.path}/work").startswith(f"{root}/")
    except OSError:
        return False


def _is_recorded(state: State, bundle: Bundle) -> bool:
    scope = (bundle.namespace,)
    return state.get(CONTAINERS, scope, bundle.id) is not None or state.get(SANDBOXES, scope, bundle.id) is not None


def _without_container(bundle: Bundle, report: Report) -> None:
    detail = "it runs, and its container is not recorded; kill it, or start the daemon and remove the task"
    report.findings.append(Finding("task without container", f"{bundle.namespace}/{bundle.id}", detail, bundle.path))


def _dead(bundle: Bundle, record: Record | None, points: list[str], report: Report) -> None:
    name = f"{bundle.namespace}/{bundle.id}"
    for point in points:
        if point.startswith(f"{bundle.path}/"):
            report.findings.append(Finding("orphan mount", name, "of a task that is dead", point, subject=bundle))
    if record is not None and record.cgroup:
        group = Cgroup.open(record.cgroup)
        if group.exists():
            where = next(iter(group.directories()), record.cgroup)
            report.findings.append(Finding("orphan cgroup", name, "of a task that is dead", where, subject=record))
    report.findings.append(Finding("orphan bundle", name, "of a task that is dead", bundle.path, subject=bundle))


def _sockets(state_directory: Path, wanted: set[str], report: Report) -> None:
    place = state_directory / "s"
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if str(path) not in wanted and path.is_socket() and not _accepts(path):
            detail = "a socket on which nobody listens"
            report.findings.append(Finding("orphan socket", path.name, detail, str(path)))


def _accepts(path: Path) -> bool:
    name, directory = connectable(str(path))
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(name)
            return True
        except OSError:
            return False
        finally:
            if directory >= 0:
                os.close(directory)


def bundles_of(root: Path, state_directory: Path) -> Bundles:
    """For a repair: what removes bundles."""
    return Bundles(str(state_directory), str(root))
