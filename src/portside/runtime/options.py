"""Mount options as people write them, sorted into what the kernel wants: attributes, propagation, data.

Pure. Source: runtime-spec config.md, *Linux mount options*; mount(8), mount_setattr(2).
"""

from __future__ import annotations

from portside.errors import InvalidArgument
from portside.linux import mount as m

# name: (attributes to set, attributes to clear)
_ATTRIBUTES = {
    "ro": (m.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, m.MOUNT_ATTR_RDONLY),
    "nosuid": (m.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, m.MOUNT_ATTR_NOSUID),
    "nodev": (m.MOUNT_ATTR_NODEV, 0),
    "dev": (0, m.MOUNT_ATTR_NODEV),
    "noexec": (m.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, m.MOUNT_ATTR_NOEXEC),
    "nodiratime": (m.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, m.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (m.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, m.MOUNT_ATTR_NOSYMFOLLOW),
    # The access time policy is one value in the mask MOUNT_ATTR__ATIME, so setting one clears the mask.
    "relatime": (m.MOUNT_ATTR_RELATIME, m.MOUNT_ATTR__ATIME),
    "norelatime": (m.MOUNT_ATTR_RELATIME, m.MOUNT_ATTR__ATIME),
    "noatime": (m.MOUNT_ATTR_NOATIME, m.MOUNT_ATTR__ATIME),
    "atime": (m.MOUNT_ATTR_RELATIME, m.MOUNT_ATTR__ATIME),
    "strictatime": (m.MOUNT_ATTR_STRICTATIME, m.MOUNT_ATTR__ATIME),
    "nostrictatime": (m.MOUNT_ATTR_RELATIME, m.MOUNT_ATTR__ATIME),
}
_PROPAGATION = {
    "private": m.MS_PRIVATE,
    "slave": m.MS_SLAVE,
    "shared": m.MS_SHARED,
    "unbindable": m.MS_UNBINDABLE,
}
_IGNORED = {
    "defaults",
    "loud",
    "silent",
    "acl",
    "noacl",
    "iversion",
    "noiversion",
    "remount",
    "_netdev",
    "auto",
    "nofail",
}


class Options:
    """The options of one mount.

    ``attr_set``/``attr_clear`` hold for the mount itself, ``recursive_set``/``recursive_clear`` for what is below too;
    ``propagation`` is a list of (MS_* flag, recursive); ``data`` goes to the file system as (name, value).
    """

    __slots__ = (
        "attr_clear", "attr_set", "bind", "copy_up", "data", "idmap", "idmap_recursive", "propagation", "recursive",
        "recursive_clear", "recursive_set", "touched",
    )  # fmt: skip

    def __init__(self) -> None:
        self.bind = False
        self.recursive = False
        self.touched = False  # any attribute option at all: a bind then gets exactly what was asked
        self.attr_set = 0
        self.attr_clear = 0
        self.recursive_set = 0
        self.recursive_clear = 0
        self.propagation: list[tuple[int, bool]] = []
        self.data: list[tuple[str, str]] = []
        self.copy_up = False
        self.idmap = False
        self.idmap_recursive = False


def propagation_flag(name: str) -> tuple[int, bool]:
    """MS_* and whether it is recursive, of a name such as "rslave"; KeyError if it is none."""
    if name in _PROPAGATION:
        return _PROPAGATION[name], False
    if not name.startswith("r"):
        raise KeyError(name)
    return _PROPAGATION[name[1:]], True


def parse(options: list[str], where: str) -> Options:
    """Sort ``options``; later ones win over earlier ones. Unknown ones are the file system's."""
    found = Options()
    for option in options:
        if option in ("bind", "rbind"):
            found.bind, found.recursive = True, found.recursive or option == "rbind"
        elif option in _ATTRIBUTES:
            found.attr_set, found.attr_clear = _apply(found.attr_set, found.attr_clear, option)
            found.touched = True
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            found.recursive_set, found.recursive_clear = _apply(found.recursive_set, found.recursive_clear, option[1:])
        elif option in _PROPAGATION or (option[:1] == "r" and option[1:] in _PROPAGATION):
            found.propagation.append(propagation_flag(option))
        elif option == "tmpcopyup":
            found.copy_up = True
        elif option in ("idmap", "ridmap"):
            found.idmap, found.idmap_recursive = True, option == "ridmap"
        elif option not in _IGNORED:
            _add_data(found, option, where)
    return found


def _apply(attr_set: int, attr_clear: int, option: str) -> tuple[int, int]:
    to_set, to_clear = _ATTRIBUTES[option]
    attr_set = (attr_set & ~to_clear) | to_set
    attr_clear = (attr_clear & ~to_set) | to_clear
    return attr_set, attr_clear


def _add_data(found: Options, option: str, where: str) -> None:
    name, _, value = option.partition("=")
    if not name:
        raise InvalidArgument(f"{where}.options: {option[:80]!r} is not an option")
    found.data.append((name, value))
