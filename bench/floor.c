/* The floor: what a container costs when nothing but system calls is left. The same control groups, namespaces, mounts,
 * devices and links as the bundle of runtime_inprocess.py asks for; no checks, no seccomp, no capabilities.
 * Answers each byte on standard input with a byte, after a container has lived. Usage: floor BUNDLE GROUP-DIRECTORY... */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *bundle;
static char groups[16][256];
static int group_count;

static void must(long result, const char *what) {
	if (result < 0) {
		perror(what);
		_exit(1);
	}
}

static void put(const char *path, const char *text) {
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	must(fd, path);
	must(write(fd, text, strlen(text)), path);
	close(fd);
}

static void mount_at(const char *type, const char *place, unsigned long flags, const char *data) {
	mkdir(place, 0755);
	must(mount(type, place, type, flags, data), place);
}

static void cover(const char *path) {
	struct stat found;
	if (stat(path, &found))
		return;
	if (S_ISDIR(found.st_mode))
		must(mount("tmpfs", path, "tmpfs", MS_RDONLY, 0), path);
	else
		must(mount("dev/null", path, 0, MS_BIND, 0), path);
}

static void read_only(const char *path) {
	if (access(path, F_OK))
		return;
	must(mount(path, path, 0, MS_BIND | MS_REC, 0), path);
	must(mount(0, path, 0, MS_BIND | MS_REMOUNT | MS_RDONLY, 0), path);
}

static void first_process(void) {
	static const struct { const char *path; int major, minor; } nodes[] = {
		{"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
	};
	static const char *covers[] = {"proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list",
		"proc/timer_stats", "proc/sched_debug", "sys/firmware", "sys/devices/virtual/powercap", "proc/scsi"};
	static const char *fixed[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
	char options[1024];

	setsid();
	must(mount(0, "/", 0, MS_SLAVE | MS_REC, 0), "/");
	must(chdir(bundle), bundle);
	snprintf(options, sizeof options, "lowerdir=%s/rootfs,upperdir=%s/u,workdir=%s/w", bundle, bundle, bundle);
	must(mount("overlay", "m", "overlay", 0, options), "overlay");
	must(chdir("m"), "m");
	mount_at("proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, 0);
	mount_at("tmpfs", "dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	mount_at("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	mount_at("tmpfs", "dev/shm", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k");
	mount_at("mqueue", "dev/mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, 0);
	mount_at("sysfs", "sys", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, 0);
	mount_at("tmpfs", "run", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	for (unsigned each = 0; each < sizeof nodes / sizeof *nodes; each++)
		must(mknod(nodes[each].path, S_IFCHR | 0666, makedev(nodes[each].major, nodes[each].minor)), nodes[each].path);
	must(symlink("/proc/self/fd", "dev/fd"), "dev/fd");
	must(symlink("/proc/self/fd/0", "dev/stdin"), "dev/stdin");
	must(symlink("/proc/self/fd/1", "dev/stdout"), "dev/stdout");
	must(symlink("/proc/self/fd/2", "dev/stderr"), "dev/stderr");
	must(symlink("pts/ptmx", "dev/ptmx"), "dev/ptmx");
	for (unsigned each = 0; each < sizeof covers / sizeof *covers; each++)
		cover(covers[each]);
	for (unsigned each = 0; each < sizeof fixed / sizeof *fixed; each++)
		read_only(fixed[each]);
	must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	must(umount2(".", MNT_DETACH), "umount");
	must(chdir("/"), "/");
	must(sethostname("bench", 5), "sethostname");
	char *const arguments[] = {"true", 0}, *const environment[] = {"PATH=/bin", 0};
	execve("/bin/true", arguments, environment);
	must(-1, "/bin/true");
}

static void one(void) {
	char path[512], text[16];
	for (int each = 0; each < group_count; each++) {
		must(mkdir(groups[each], 0755), groups[each]);
		if (strstr(groups[each], "/cpuset/"))
			for (int which = 0; which < 2; which++) {
				const char *name = which ? "cpuset.mems" : "cpuset.cpus";
				char above[600];
				snprintf(above, sizeof above, "%s/../%s", groups[each], name);
				snprintf(path, sizeof path, "%s/%s", groups[each], name);
				char value[256] = "";
				int fd = open(above, O_RDONLY | O_CLOEXEC);
				must(read(fd, value, sizeof value - 1), above);
				close(fd);
				put(path, value);
			}
	}
	struct clone_args arguments = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, .exit_signal = SIGCHLD};
	int waits[2];
	must(pipe2(waits, O_CLOEXEC), "pipe");
	long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
	must(pid, "clone3");
	if (!pid) {
		char byte;
		close(waits[1]);
		must(read(waits[0], &byte, 1), "read");
		first_process();
	}
	snprintf(text, sizeof text, "%ld", pid);
	for (int each = 0; each < group_count; each++) {
		snprintf(path, sizeof path, "%s/cgroup.procs", groups[each]);
		put(path, text);
	}
	must(write(waits[1], "g", 1), "write");
	close(waits[0]);
	close(waits[1]);
	int status;
	must(waitpid(pid, &status, 0), "waitpid");
	if (status)
		_exit(1);
	for (int each = 0; each < group_count; each++)
		must(rmdir(groups[each]), groups[each]);
}

int main(int count, char **words) {
	bundle = words[1];
	for (int each = 2; each < count && group_count < 16; each++)
		snprintf(groups[group_count++], sizeof *groups, "%s", words[each]);
	for (char byte; read(0, &byte, 1) == 1;) {
		one();
		must(write(1, ".", 1), "write");
	}
	return 0;
}
