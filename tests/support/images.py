"""Images made on the spot: a layer from busybox and files of the test's, as OCI blobs, and their way to a registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
_APPLETS = """
    sh cat echo ls id env sleep true false kill ps mount hostname pwd touch rm mkdir stat wc seq head tail dd nc grep
    sed awk sort tr cut date test printf chmod chown ln cp mv find readlink tty stty md5sum sha256sum yes ip wget httpd
"""


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar_layer(files: dict[str, bytes | str], modes: dict[str, int] | None = None) -> bytes:
    """A tar of ``files`` (path to content); a text value is a symbolic link, a path ending in ``/`` a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mtime = 1_700_000_000
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
                continue
            entry.mode = (modes or {}).get(name, 0o755)
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def busybox_files() -> dict[str, bytes | str]:
    """A root that a shell runs in."""
    files: dict[str, bytes | str] = {name + "/": b"" for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp")}
    files["bin/busybox"] = BUSYBOX.read_bytes()
    files |= {f"bin/{applet}": "busybox" for applet in _APPLETS.split()}
    files["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000:bob:/home/bob:/bin/sh\n"
    files["etc/group"] = b"root:x:0:\nbob:x:1000:\nextra:x:2000:bob\n"
    return files


@dataclass
class TestImage:
    """Blobs by digest and the manifest that ties them."""

    __test__ = False
    manifest: bytes
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return sha256(self.manifest)


def make_image(layers: list[bytes], *, config: dict[str, object] | None = None, compress: bool = True) -> TestImage:
    """An OCI image of uncompressed tar ``layers``, gzipped on the way unless told otherwise."""
    blobs, descriptors, diff_ids = {}, [], []
    for layer in layers:
        blob = gzip.compress(layer, 1, mtime=0) if compress else layer
        suffix = "+gzip" if compress else ""
        media_type = "application/vnd.oci.image.layer.v1.tar" + suffix
        blobs[sha256(blob)] = blob
        diff_ids.append(sha256(layer))
        descriptors.append({"mediaType": media_type, "digest": sha256(blob), "size": len(blob)})
    document = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_700_000_000)),
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]} | (config or {}),
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()
    blobs[sha256(document)] = document
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256(document),
                "size": len(document),
            },
            "layers": descriptors,
        }
    ).encode()
    return TestImage(manifest, blobs)


def busybox_image(**config: object) -> TestImage:
    return make_image([tar_layer(busybox_files())], config=config)


def push(host: str, name: str, tag: str, image: TestImage) -> str:
    """Upload to the plain-HTTP registry at ``host``; the full reference."""
    for digest, blob in image.blobs.items():
        start = _request(f"http://{host}/v2/{name}/blobs/uploads/", "POST", b"")
        location = start.headers["Location"]
        location = location if location.startswith("http") else f"http://{host}{location}"
        location += ("&" if "?" in location else "?") + f"digest={digest}"
        _request(location, "PUT", blob, "application/octet-stream")
    media_type = json.loads(image.manifest)["mediaType"]
    _request(f"http://{host}/v2/{name}/manifests/{tag}", "PUT", image.manifest, media_type)
    return f"{host}/{name}:{tag}"


def _request(url: str, method: str, data: bytes, content_type: str = "") -> urllib.response.addinfourl:
    request = urllib.request.Request(url, data=data, method=method)
    if content_type:
        request.add_header("Content-Type", content_type)
    return urllib.request.urlopen(request, timeout=30)


def write_layout(image: TestImage, directory: Path, name: str) -> None:
    """An OCI image layout of ``image`` under ``directory``."""
    for digest, blob in (image.blobs | {image.digest: image.manifest}).items():
        path = directory / "blobs/sha256" / digest.removeprefix("sha256:")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    descriptor = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]},
    }
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
