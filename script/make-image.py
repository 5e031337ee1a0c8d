"""Makes a small image from Debian's static busybox and pushes it to a registry on loopback, for the demo.

Usage: make-image.py HOST:PORT NAME:TAG. Prints the reference. The image is made by the code that the tests use.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.images import busybox_image, push


def main() -> None:
    """Push, and print the full reference."""
    host, (name, _, tag) = sys.argv[1], sys.argv[2].partition(":")
    print(push(host, name, tag or "latest", busybox_image(Labels={"org.opencontainers.image.title": "busybox"})))


if __name__ == "__main__":
    main()
