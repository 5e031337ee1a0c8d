"""Image verifiers: programs that are asked before an image is pulled (containerd's image verifier ``bindir``).

Each executable file of the directory is run, in the order of names::

    PROGRAM -name NAME -digest DIGEST -stdin-media-type application/vnd.oci.descriptor.v1+json

with the image's descriptor on its standard input. Status 0 allows the pull, any other denies it, with the reason that
it wrote to its standard output (``programs.KEPT`` bytes); all must allow it. One that does not end in time, is ended
by a signal or cannot be started has not allowed anything. What it writes to standard error is logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os

from portside.core.settings import ImageVerifiers
from portside.engine.programs import KEPT, read_all, start, words, write_all
from portside.errors import DeadlineExceeded, PermissionDenied, Unavailable, from_oserror
from portside.oci.descriptor import Descriptor

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/vnd.oci.descriptor.v1+json"


async def verify(settings: ImageVerifiers, name: str, target: Descriptor) -> None:
    """PermissionDenied with the first reason against; DeadlineExceeded or Unavailable if a verifier does not answer."""
    programs = _programs(settings)
    if 0 <= settings.max_verifiers < len(programs):
        log.warning(
            "image verifiers: %s has %d programs, only the first %d are asked",
            settings.bin_dir, len(programs), settings.max_verifiers,
        )  # fmt: skip
        programs = programs[: settings.max_verifiers]
    for program in programs:
        await _ask(settings, program, name, target)


def _programs(settings: ImageVerifiers) -> list[str]:
    try:
        return sorted(os.listdir(settings.bin_dir))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise from_oserror(error, f"image verifiers in {settings.bin_dir}: list") from error


async def _ask(settings: ImageVerifiers, program: str, name: str, target: Descriptor) -> None:
    what = f"image verifier {program}"
    try:
        async with asyncio.timeout(settings.per_verifier_timeout):
            status, reason, complaint = await _run(settings, what, program, name, target)
    except TimeoutError:
        raise DeadlineExceeded(
            f"pull {name}: {what} has not answered within {settings.per_verifier_timeout:g} s"
        ) from None
    if complaint:
        log.debug("%s: %s", what, complaint)
    if status < 0:
        raise Unavailable(f"pull {name}: {what} was ended by signal {-status}")
    if status:
        raise PermissionDenied(
            f"pull {name}: {what} does not allow {target.digest} (status {status}): {reason or 'no reason given'}"
        )
    log.info("pull %s: %s allows %s: %s", name, what, target.digest, reason or "no reason given")


async def _run(
    settings: ImageVerifiers, what: str, program: str, name: str, target: Descriptor
) -> tuple[int, str, str]:
    """Status, standard output and standard error of one program."""
    arguments = ["-name", name, "-digest", str(target.digest), "-stdin-media-type", MEDIA_TYPE]
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    (stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr) = pipes
    try:
        running = start(
            what, [str(settings.bin_dir / program), *arguments], os.environ, {0: stdin, 1: stdout, 2: stderr}
        )
    except BaseException:
        for fd in (to_stdin, from_stdout, from_stderr):
            os.close(fd)
        raise
    finally:
        for fd in (stdin, stdout, stderr):
            os.close(fd)
    tasks = [
        asyncio.create_task(write_all(to_stdin, json.dumps(target.to_json()).encode() + b"\n")),
        asyncio.create_task(read_all(from_stdout)),
        asyncio.create_task(read_all(from_stderr)),
    ]
    try:
        status = await running.wait()
        _, reason, complaint = await asyncio.gather(*tasks)
        return status, words(reason or b"", KEPT), words(complaint or b"", KEPT)
    finally:
        await running.end()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
