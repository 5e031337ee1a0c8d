"""The process itself: user, directory, environment, limits, capabilities, filter."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from portside.errors import InvalidArgument
from portside.linux import apparmor, capabilities, seccomp
from portside.runtime.failure import RuntimeFailure
from tests.runtime.box import Box, Change, finish


def setting(**fields: Any) -> Change:
    return lambda spec: spec["process"].update(fields)


def status(text: str, name: str) -> int:
    return next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith(name + ":"))


# User


def test_numbers(box: Box) -> None:
    user = {"uid": 1234, "gid": 5678, "additionalGids": [5, 6], "umask": 0o027}
    result = box.sh("id -u; id -g; id -G; umask; echo $HOME", setting(user=user))
    assert result.lines == ["1234", "5678", "5678 5 6", "0027", "/"]


def test_default_umask(box: Box) -> None:
    assert box.sh("umask").text == "0022\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("bob", "1000 1000 1000 2000 /home/bob"), ("bob:extra", "1000 2000 2000 /home/bob"),
     ("1000", "1000 1000 1000 2000 /home/bob"),
     ("4000", "4000 0 0 /"), ("4000:77", "4000 77 77 /"), ("root", "0 0 0 /root")],
)  # fmt: skip
def test_names(box: Box, name: str, expected: str) -> None:
    assert box.sh("echo $(id -u) $(id -g) $(id -G) $HOME", setting(user={"username": name})).text.strip() == expected


def test_an_unknown_user_fails_at_create(box: Box) -> None:
    with pytest.raises(RuntimeFailure, match=r"unable to find user alice: no matching entries in passwd file$"):
        box.sh("true", setting(user={"username": "alice"}))
    with pytest.raises(RuntimeFailure, match=r"unable to find group nobodies: no matching entries in group file$"):
        box.sh("true", setting(user={"username": "bob:nobodies"}))


@pytest.mark.parametrize("uid", [-1, 2**31, 2**32, "0", 1.5, True, None])
def test_wrong_numbers(box: Box, uid: object) -> None:
    if uid is None:
        assert box.sh("id -u", setting(user={"uid": None})).text == "0\n"
        return
    with pytest.raises(InvalidArgument, match=r"process\.user\.uid"):
        box.sh("true", setting(user={"uid": uid}))


# Environment


def test_environment(box: Box) -> None:
    env = ["PATH=/bin", "A=1", "B=x=y", "A=2", "LINES=one\ntwo", "EMPTY="]
    raw = box.run(box.spec("/bin/cat", "/proc/self/environ", change=setting(env=env))).text.split("\0")
    assert sorted(each for each in raw if each) == sorted(
        ["PATH=/bin", "A=2", "B=x=y", "LINES=one\ntwo", "EMPTY=", "HOME=/root"]
    )


@pytest.mark.parametrize(("given", "home"), [([], "/root"), (["HOME="], "/root"), (["HOME=/elsewhere"], "/elsewhere")])
def test_home(box: Box, given: list[str], home: str) -> None:
    assert box.sh("echo $HOME", setting(env=["PATH=/bin", *given])).text.strip() == home


@pytest.mark.parametrize("variable", ["NOVALUE", "=x", "", "A=\0"])
def test_wrong_variables(box: Box, variable: str) -> None:
    with pytest.raises(InvalidArgument, match=r"process\.env\[0\]"):
        box.sh("true", setting(env=[variable]))


def test_the_search_path_is_the_containers(box: Box) -> None:
    (box.root / "own").mkdir()
    (box.root / "own/tool").write_text("#!/bin/sh\necho mine $0\n")
    (box.root / "own/tool").chmod(0o755)
    assert box.run(box.spec("tool", change=setting(env=["PATH=/nothing:/own"]))).text == "mine /own/tool\n"


# Directory


def test_working_directory_is_made(box: Box) -> None:
    assert box.sh("pwd", setting(cwd="/made/for/us")).text == "/made/for/us\n"
    assert (box.root / "made/for/us").stat().st_mode & 0o777 == 0o755


def test_a_directory_that_only_the_user_or_only_root_can_enter(box: Box) -> None:
    for name, mode, owner in (("users", 0o700, 1000), ("roots", 0o700, 0)):
        (box.root / name).mkdir(mode=mode)
        os.chown(box.root / name, owner, owner)
    sets = ("bounding", "effective", "permitted")
    fields = {"user": {"uid": 1000, "gid": 1000}, "capabilities": {name: [] for name in sets}}
    assert box.sh("pwd", setting(cwd="/users", **fields)).text == "/users\n"
    assert box.sh("pwd", setting(cwd="/roots", **fields)).text == "/roots\n"


@pytest.mark.parametrize("cwd", ["relative", ""])
def test_wrong_directories(box: Box, cwd: str) -> None:
    with pytest.raises(InvalidArgument, match=r"process\.cwd"):
        box.sh("true", setting(cwd=cwd))


def test_a_directory_that_is_a_file(box: Box) -> None:
    with pytest.raises(RuntimeFailure, match="change to directory: /bin/busybox: not a directory"):
        box.sh("true", setting(cwd="/bin/busybox"))


def test_relative_program(box: Box) -> None:
    assert box.run(box.spec("./busybox", "echo", "hi", change=setting(cwd="/bin"))).text == "hi\n"


# Limits


def test_limits(box: Box) -> None:
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_AS", "soft": 1 << 26, "hard": 1 << 26},
    ]
    text = box.sh("cat /proc/self/limits", setting(rlimits=limits)).text
    values = {line[:25].strip(): line[25:].split()[:2] for line in text.splitlines()}
    assert values["Max open files"] == ["100", "200"]
    assert values["Max core file size"] == ["0", "0"]
    assert values["Max address space"] == [str(1 << 26)] * 2


def test_a_limit_that_is_not_ours_to_raise(box: Box) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if capabilities.capget()[0] >> 24 & 1:
        pytest.skip("this process has CAP_SYS_RESOURCE")
    with pytest.raises(RuntimeFailure, match=r"RLIMIT_NOFILE .* is above what this process may set"):
        box.sh("true", setting(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 10, "hard": hard + 1}]))


def test_oom_score(box: Box) -> None:
    with open("/proc/self/oom_score_adj") as file:
        own = int(file.read())
    assert box.sh("cat /proc/self/oom_score_adj", setting(oomScoreAdj=own)).text == f"{own}\n"
    assert box.sh("cat /proc/self/oom_score_adj", setting(oomScoreAdj=500)).text == "500\n"
    if not capabilities.capget()[0] >> 24 & 1 and own > -1000:
        with pytest.raises(RuntimeFailure, match="set oom_score_adj to -1000: permission denied"):
            box.sh("true", setting(oomScoreAdj=-1000))
    with pytest.raises(InvalidArgument, match=r"process\.oomScoreAdj"):
        box.sh("true", setting(oomScoreAdj=1001))


# Capabilities


def caps(**sets: list[str]) -> dict[str, list[str]]:
    return {"bounding": [], "effective": [], "permitted": [], **sets}


def test_capabilities_of_root(box: Box) -> None:
    mask, _ = capabilities.mask_of(["CAP_KILL", "CAP_CHOWN"])
    names = ["CAP_KILL", "CAP_CHOWN"]
    text = box.sh(
        "cat /proc/self/status", setting(capabilities=caps(bounding=names, effective=names, permitted=names))
    ).text
    assert [status(text, f"Cap{which}") for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0, mask, mask, mask, 0]
    assert status(text, "NoNewPrivs") == 1


def test_capabilities_of_others_are_gone_unless_ambient(box: Box) -> None:
    names = ["CAP_KILL"]
    user = {"uid": 1000, "gid": 1000}
    plain = caps(bounding=names, effective=names, permitted=names)
    text = box.sh("cat /proc/self/status", setting(user=user, capabilities=plain)).text
    assert [status(text, f"Cap{which}") for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0, 0, 0, 1 << 5, 0]
    ambient = caps(bounding=names, effective=names, permitted=names, inheritable=names, ambient=names)
    text = box.sh("cat /proc/self/status", setting(user=user, capabilities=ambient)).text
    assert [status(text, f"Cap{which}") for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [1 << 5] * 5


def test_no_capabilities_at_all(box: Box) -> None:
    text = box.sh("cat /proc/self/status", lambda spec: spec["process"].pop("capabilities")).text
    assert [status(text, f"Cap{which}") for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0] * 5


def test_unknown_capabilities_warn(box: Box) -> None:
    change = setting(capabilities=caps(bounding=["CAP_FLY"], ambient=["CAP_KILL"]))
    with box.created(box.spec("/bin/true", change=change)) as container:
        assert container.warnings == ["capability 'CAP_FLY' is not known", "capability CAP_KILL cannot be ambient"]
        container.start()
        assert finish(container.init) == 0


def test_ambient_capabilities_that_cannot_be_warn(box: Box) -> None:
    sets = caps(bounding=["CAP_KILL"], ambient=["CAP_KILL"])
    with box.created(box.spec("/bin/true", change=setting(capabilities=sets))) as container:
        assert container.warnings == ["capability CAP_KILL cannot be ambient"]


def test_new_privileges_may_be_allowed(box: Box) -> None:
    assert status(box.sh("cat /proc/self/status", setting(noNewPrivileges=False)).text, "NoNewPrivs") == 0


# Filter


def filtered(*names: str, default: str = "SCMP_ACT_ALLOW", action: str = "SCMP_ACT_ERRNO") -> dict[str, Any]:
    entry = {"names": list(names), "action": action, **({"errnoRet": 38} if action == "SCMP_ACT_ERRNO" else {})}
    return {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"], "syscalls": [entry]}


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize("uid", [0, 1000])
def test_seccomp(box: Box, tmp_path: Path, no_new_privileges: bool, uid: int) -> None:
    def change(spec: dict[str, Any]) -> None:
        setting(noNewPrivileges=no_new_privileges, user={"uid": uid, "gid": uid})(spec)
        spec["linux"]["seccomp"] = filtered("mkdir", "mkdirat")

    cache = tmp_path / "cache"
    result = box.sh("mkdir /tmp/x; grep -E 'Seccomp:|CapEff|CapPrm' /proc/self/status", change, cache_dir=str(cache))
    assert "Function not implemented" in result.text
    assert status(result.text, "Seccomp") == 2
    expected = 0 if uid else capabilities.mask_of(box.spec("x")["process"]["capabilities"]["effective"])[0]
    assert status(result.text, "CapEff") == status(result.text, "CapPrm") == expected
    assert os.listdir(cache)


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_filter_that_forbids_what_the_runtime_uses(box: Box, no_new_privileges: bool) -> None:
    names = [
        "close_range", "openat2", "fsopen", "fsmount", "fsconfig", "mount_setattr", "move_mount", "open_tree", "mount",
        "umount2", "pivot_root", "getcwd", "clone3", "setns", "unshare", "prlimit64", "setrlimit", "socket", "sendmsg",
        "recvmsg", "openat", "open", "keyctl", "sched_setaffinity", "chdir", "fchdir", "setuid", "setgroups", "prctl",
        "read", "dup2", "fcntl",
    ]  # fmt: skip

    def change(spec: dict[str, Any]) -> None:
        setting(noNewPrivileges=no_new_privileges, rlimits=[{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}])(spec)
        spec["linux"]["seccomp"] = filtered(*names)

    assert box.run(box.spec("/bin/echo", "ran", change=change)).text == "ran\n"


def test_exec_is_filtered_too(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"] = filtered("mkdir", "mkdirat")

    with box.running(change) as container:
        assert "Function not implemented" in box.exec(container, "/bin/mkdir", "/tmp/x").text


@pytest.mark.parametrize("profile", [{"defaultAction": "SCMP_ACT_FLY"}, {"defaultAction": 3}, {"syscalls": []}])
def test_wrong_profiles(box: Box, profile: dict[str, Any]) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"] = profile

    with pytest.raises(InvalidArgument, match="seccomp"):
        box.sh("true", change)


def test_filters_are_kept(tmp_path: Path) -> None:
    cache = seccomp.FilterCache(str(tmp_path))
    assert cache.get(filtered("mkdir")) is cache.get(filtered("mkdir"))


# Descriptors, signals, session


def test_only_the_standard_streams_are_open(box: Box) -> None:
    extra = [os.open("/etc", os.O_RDONLY) for _ in range(5)]
    for fd in extra:
        os.set_inheritable(fd, True)
    try:
        text = box.sh("ls /proc/self/fd; readlink /proc/self/fd/*; exec 0</dev/null; ls /proc/$$/fd").text
        assert text.split()[:3] == ["0", "1", "2"]
        assert "/etc" not in text
    finally:
        for fd in extra:
            os.close(fd)


def test_signals_are_as_for_a_new_program(box: Box) -> None:
    text = box.run(box.spec("/bin/cat", "/proc/self/status")).text
    assert status(text, "SigBlk") == status(text, "SigIgn") == status(text, "SigCgt") == 0


def test_it_leads_a_session(box: Box) -> None:
    fields = box.run(box.spec("/bin/cat", "/proc/self/stat")).text.rsplit(")", 1)[1].split()
    assert fields[2:4] == ["1", "1"]  # process group, session


def test_all_processors_may_be_used(box: Box) -> None:
    own = os.sched_getaffinity(0)
    if len(own) < 2:
        pytest.skip("this machine has one processor")
    os.sched_setaffinity(0, {min(own)})
    try:
        text = box.sh("grep Cpus_allowed: /proc/self/status").text
    finally:
        os.sched_setaffinity(0, own)
    assert status(text, "Cpus_allowed") == sum(1 << cpu for cpu in own)


def test_a_new_session_keyring(box: Box) -> None:
    if not os.path.exists("/proc/keys"):
        pytest.skip("this kernel has no keyrings")

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["maskedPaths"] = []

    def names(**named: Any) -> set[str]:
        return set(re.findall(r"_ses\.box\d+", box.sh("cat /proc/keys", change, **named).text))

    # Those of containers that have just gone may still be listed.
    first = names()
    assert first
    assert names(no_new_keyring=True) <= first


def test_personality(box: Box) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["personality"] = {"domain": "LINUX32"}

    assert box.sh("uname -m 2>/dev/null || busybox uname -m", change).text.strip() in ("i686", "armv8l")


_PROFILE = "profile portside-test flags=(attach_disconnected) { file, capability, signal, deny /secret r, }"


def test_apparmor(box: Box) -> None:
    if not apparmor.enabled() or not shutil.which("apparmor_parser"):
        pytest.skip("this host does not run AppArmor")
    subprocess.run(["apparmor_parser", "--replace", "--skip-cache"], input=_PROFILE, text=True, check=True)
    (box.root / "secret").write_text("secret")
    try:
        change = setting(apparmorProfile="portside-test")
        result = box.sh("cat /proc/self/attr/current; cat /secret", change)
        assert result.lines[0] == "portside-test (enforce)"
        assert "Permission denied" in result.text
        with box.running(change) as container:
            text = box.exec(container, "/bin/cat", "/proc/self/attr/current", apparmorProfile="portside-test").text
            assert text.startswith("portside-test (enforce)")
        with pytest.raises(RuntimeFailure, match=r"set AppArmor profile: .*no-such-profile"):
            box.sh("true", setting(apparmorProfile="no-such-profile"))
    finally:
        subprocess.run(["apparmor_parser", "--remove", "--skip-cache"], input=_PROFILE, text=True, check=True)


@pytest.mark.parametrize(("field", "value"), [("apparmorProfile", "strict"), ("selinuxLabel", "a:b:c:s0")])
def test_confinement_that_cannot_be_given_is_an_error(box: Box, field: str, value: str) -> None:
    if field == "apparmorProfile" and apparmor.enabled():
        pytest.skip("this host runs AppArmor")
    with pytest.raises(RuntimeFailure, match="this host does not run"):
        box.sh("true", setting(**{field: value}))
