"""The default seccomp profile: what a container may ask of the kernel unless its user says otherwise.

An allow-list with the effect of containerd's and Docker's: ordinary programs notice nothing, and calls that reach
rarely used or young parts of the kernel, or that speak to the host as a whole, fail with EPERM. Some open up with the
capability that guards them anyway. Never there: io_uring, userfaultfd, keyrings, module loading and its like without
their capability. Compiling the profile is the work of ``linux/libseccomp``. Pure and cheap.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Names of all architectures are listed together: compiling passes over what an architecture does not have.
_FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
    fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat ioctl lchown lchown32 lgetxattr
    link linkat listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir
    mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename renameat
    renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statmount statx
    symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat
    utimensat_time64 utimes vmsplice write writev
"""
_WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6
    pselect6_time64 select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64
"""
_MEMORY = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap
    mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
"""
_PROCESSES = """
    capget capset execve execveat exit exit_group fork getcpu getegid getegid32 geteuid geteuid32 getgid getgid32
    getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid getresuid32
    getrlimit getrusage getsid gettid getuid getuid32 get_robust_list get_thread_area ioprio_get ioprio_set
    landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_open pidfd_send_signal prctl prlimit64
    process_mrelease process_vm_readv process_vm_writev ptrace riscv_hwprobe rseq sched_getaffinity sched_getattr
    sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
    seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority
    setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid
    setuid32 set_robust_list set_thread_area set_tid_address sysinfo ugetrlimit uname uretprobe vfork wait4 waitid
    waitpid
"""
_SIGNALS_AND_TIME = """
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday kill nanosleep pause restart_syscall rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo setitimer sigaltstack sigprocmask sigreturn tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 times tkill
"""
_TALKING = """
    accept accept4 bind connect futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake getpeername
    getrandom getsockname getsockopt ipc listen mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd recv recvfrom
    recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send sendmmsg sendmsg sendto
    setsockopt shmat shmctl shmdt shmget shutdown socketcall socketpair
"""
_ALWAYS = sorted(" ".join((_FILES, _WAITING, _MEMORY, _PROCESSES, _SIGNALS_AND_TIME, _TALKING)).split())

_BY_ARCHITECTURE = {
    "amd64": ("arch_prctl", "modify_ldt"),
    "386": ("modify_ldt",),
    "arm64": ("arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"),
    "arm": ("arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"),
    "ppc64le": ("sync_file_range2", "swapcontext"),
    "s390x": ("s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"),
    "riscv64": ("riscv_flush_icache",),
}
"""Keys are the architectures of images (image-spec, image-index.md)."""

_BY_CAPABILITY = {
    "CAP_BPF": ("bpf",),
    "CAP_DAC_READ_SEARCH": ("open_by_handle_at",),
    "CAP_PERFMON": ("perf_event_open",),
    "CAP_SYSLOG": ("syslog",),
    "CAP_SYS_ADMIN": (
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount",
        "open_tree", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog",
        "umount", "umount2", "unshare",
    ),
    "CAP_SYS_BOOT": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise"),
    "CAP_SYS_RAWIO": ("ioperm", "iopl"),
    "CAP_SYS_TIME": ("clock_settime", "clock_settime64", "settimeofday", "stime"),
    "CAP_SYS_TTY_CONFIG": ("vhangup",),
}  # fmt: skip

_COMPATIBLE = {
    "amd64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "386": ("SCMP_ARCH_X86",),
    "arm64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "arm": ("SCMP_ARCH_ARM",),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
    "riscv64": ("SCMP_ARCH_RISCV64",),
}
"""A machine runs the calls of its smaller relatives too; what is not listed is killed at its first call."""

# AF_ALG (38, the kernel's cryptography) and AF_VSOCK (40, hosts and virtual machines whatever the network namespace)
# are left out. Only exact and upper bounds will do: a lower one compares 64 bits, of which the kernel drops half, so
# that 38 with a high bit set would pass. The 32-bit socketcall hides its arguments and stays open, since C libraries
# of that age know no other way to a socket.
_FIRST_FORBIDDEN_FAMILY = 38
_FAMILIES_ABOVE = (39, 41, 42, 43, 44, 45)  # NFC, KCM, QIPCRTR, SMC, XDP, MCTP

# PER_LINUX and PER_LINUX32, each with and without UNAME26 (linux/personality.h), and the question for the present one.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h).
_NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000


def default_profile(capabilities: Iterable[str], architecture: str) -> dict[str, Any]:
    """An OCI ``linux.seccomp`` object for a process with the bounding set ``capabilities`` (``CAP_…``).

    ``architecture`` is that of an image (``amd64``); an unknown one gets the common part.
    """
    held = set(capabilities)
    extra = {name for capability in held for name in _BY_CAPABILITY.get(capability, ())}
    extra.update(_BY_ARCHITECTURE.get(architecture, ()))
    syscalls = [_allow(_ALWAYS), *_sockets(), *_personalities()]
    if extra:
        syscalls.append(_allow(sorted(extra)))
    if "CAP_SYS_ADMIN" not in held:
        syscalls += _no_namespaces(architecture)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": list(_COMPATIBLE.get(architecture, ())),
        "syscalls": syscalls,
    }


def _allow(names: list[str], *conditions: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
    if conditions:
        entry["args"] = list(conditions)
    return entry


def _condition(index: int, operation: str, value: int, value_two: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": value_two, "op": f"SCMP_CMP_{operation}"}


def _sockets() -> list[dict[str, Any]]:
    conditions = [_condition(0, "LT", _FIRST_FORBIDDEN_FAMILY)]
    conditions += [_condition(0, "EQ", family) for family in _FAMILIES_ABOVE]
    return [_allow(["socket"], condition) for condition in conditions]


def _personalities() -> list[dict[str, Any]]:
    return [_allow(["personality"], _condition(0, "EQ", value)) for value in _PERSONALITIES]


def _no_namespaces(architecture: str) -> list[dict[str, Any]]:
    """Threads and processes, but no new namespaces: those open much of the kernel to whoever is root inside them.

    The flags of clone3 lie in memory, where a filter cannot look; ENOSYS makes C libraries use clone.
    """
    flags = 1 if architecture == "s390x" else 0  # there the stack comes first
    return [
        _allow(["clone"], _condition(flags, "MASKED_EQ", _NEW_NAMESPACES, 0)),
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]
