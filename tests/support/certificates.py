"""Certificates made by openssl for one test run: an authority, and what it has signed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.peers import need_program


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


class Authority:
    """``NAME.crt`` and ``NAME.key`` in ``directory``, its own and those that it signs."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        need_program("openssl")
        self.directory, self.name = directory, name
        openssl(directory, "req", "-x509", *_NEW_KEY, "-days", "2", *_files(name, "crt"), "-subj", f"/CN={name}")

    def sign(self, name: str, days: int = 2) -> None:
        """A certificate for 127.0.0.1 and localhost; one with -1 days has expired."""
        openssl(self.directory, "req", "-new", *_NEW_KEY, *_files(name, "csr"), "-subj", f"/CN={name}")
        extensions = self.directory / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=critical,CA:FALSE\n")
        openssl(
            self.directory, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{self.name}.crt", "-CAkey",
            f"{self.name}.key", "-CAcreateserial", "-days", str(days), "-extfile", str(extensions),
            "-out", f"{name}.crt",
        )  # fmt: skip

    def pem(self, file: str) -> bytes:
        """The contents of a file."""
        return (self.directory / file).read_bytes()


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _files(name: str, kind: str) -> tuple[str, ...]:
    return ("-keyout", f"{name}.key", "-out", f"{name}.{kind}")
