"""Archives for tests, well-formed ones by tarfile, the others by hand."""

import io
import tarfile

from portside.layers.tar import BLOCK


def make(*members, format=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def body(*members, format=tarfile.PAX_FORMAT):
    """As ``make``, without the zeros at the end."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        return out.getvalue()


def info(name, **fields):
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def header(name=b"f", kind=b"0", size=b"0", **fields):
    """A ustar header by hand; ``fields`` are raw."""
    block = bytearray(BLOCK)
    values = {
        "name": (0, name), "mode": (100, b"0000644\0"), "uid": (108, b"0000000\0"), "gid": (116, b"0000000\0"),
        "size": (124, size), "mtime": (136, b"00000000000\0"), "kind": (156, kind), "magic": (257, b"ustar\x0000"),
    }  # fmt: skip
    places = {"link": 157, "major": 329, "minor": 337, "prefix": 345}
    values |= {key: (values[key][0] if key in values else places[key], value) for key, value in fields.items()}
    for at, value in values.values():
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records, kind=b"x"):
    data = b""
    for key, value in records:
        body = b" " + key + b"=" + value + b"\n"
        length = len(body) + 1
        while length != len(body) + len(str(length)):
            length = len(body) + len(str(length))
        data += str(length).encode() + body
    return header(b"pax", kind, b"%011o\0" % len(data)) + data + bytes(-len(data) % BLOCK)


END = bytes(2 * BLOCK)
