"""The library's doors: ``connect`` (a daemon) and ``Engine`` (no daemon), and their synchronous faces.

    async with portside.connect() as c:                 # a daemon: ours, or upstream containerd
    async with portside.Engine(root=...) as c:          # no daemon: the same verbs, in this process
        image = await c.pull("docker.io/library/python:3.12-slim")
        async with c.run(image, ["python", "-c", "print(6*7)"]) as task:
            print(await task.output())

``connect_sync`` and ``EngineSync`` are the same without ``async`` and ``await``.
"""

from __future__ import annotations

from portside.client.exec import ExecOptions
from portside.client.images import ImageSummary
from portside.client.list import ContainerSummary
from portside.client.log_lines import LogEntry
from portside.client.progress import Progress
from portside.client.run_options import RunOptions, Volume
from portside.client.stats import Stats
from portside.core.images import Image
from portside.core.tasks import Exit
from portside.sdk.client import Client
from portside.sdk.doors import Engine, EngineSync, connect, connect_sync
from portside.sdk.process import ExecProcess
from portside.sdk.sync import SyncClient, SyncExecProcess, SyncTask
from portside.sdk.task import Task

__all__ = [
    "Client",
    "ContainerSummary",
    "Engine",
    "EngineSync",
    "ExecOptions",
    "ExecProcess",
    "Exit",
    "Image",
    "ImageSummary",
    "LogEntry",
    "Progress",
    "RunOptions",
    "Stats",
    "SyncClient",
    "SyncExecProcess",
    "SyncTask",
    "Task",
    "Volume",
    "connect",
    "connect_sync",
]
