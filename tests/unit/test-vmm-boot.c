/* SPDX-License-Identifier: MIT */
/*
 * The qemu driver with a real QEMU, emulated: from vmm_launch to the end of the process. Needs QEMU
 * and pyro-vmm (beside this program's build). The tests that boot a guest also need
 * PYRO_TEST_KERNEL, a directory with vmlinux and an initrd whose init resets when "floor=boot" is
 * absent or waits for a disk. Three groups, each a test of meson's: no argument, `qemu`, `guest`; a
 * group whose needs are missing is skipped as a whole, with the reason. Run it as root and as a
 * plain user: both take different paths.
 */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/service.h"
#include "daemon/sock.h"
#include "daemon/vmm/vmm.h"
#include "proto/agent.h"
#include "proto/base.h"

#define WAIT_USEC (60 * USEC_PER_SEC)

enum { KERNEL, INITRD, DISK, FILES };

struct fixture {
	struct manager m;
	struct config config;
	struct vmm *v;
	char dir[64], run_dir[128];
	int files[FILES];
	unsigned launched, started, failed, exited;
	uint64_t begun_usec, started_usec;
	struct error error;
	struct vmm_exit exit;
	char *reason;
	bool free_when_started, free_when_failed;
	int agent; /* owned: a stream from on_agent */
};

static char *libexec_dir(void)
{
	char path[512];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	ck_assert_int_gt(n, 0);
	path[n] = 0;
	*strrchr(path, '/') = 0;
	return str_printf("%s/../../daemon/vmm", path);
}

static void on_launched(_unused_ struct vmm *v, void *userdata)
{
	struct fixture *t = userdata;

	t->launched++;
}

static void on_started(struct vmm *v, void *userdata)
{
	struct fixture *t = userdata;

	t->started++;
	t->started_usec = now_usec();
	if (t->free_when_started)
		t->v = vmm_free(v);
}

static void on_failed(struct vmm *v, const struct error *err, void *userdata)
{
	struct fixture *t = userdata;

	t->failed++;
	ck_assert_int_eq(error_copy(&t->error, err), 0);
	if (t->free_when_failed)
		t->v = vmm_free(v);
}

static void on_exited(struct vmm *v, const struct vmm_exit *e, void *userdata)
{
	struct fixture *t = userdata;

	t->exited++;
	t->exit = *e;
	t->reason = e->reason ? strdup(e->reason) : NULL;
	t->v = vmm_free(v);
}

static void on_agent(_unused_ struct vmm *v, int fd, void *userdata)
{
	struct fixture *t = userdata;

	(void)fd_close(t->agent);
	t->agent = fd;
}

/* The caller owns the stream. */
static int dial_agent(struct fixture *t)
{
	ck_assert_int_eq(vmm_dial(t->v), 0);
	ck_assert_int_ge(t->agent, 0);
	return TAKE_FD(t->agent);
}

static const struct vmm_callbacks callbacks = {
	.on_agent = on_agent,
	.on_launched = on_launched,
	.on_started = on_started,
	.on_failed = on_failed,
	.on_exited = on_exited,
};

/* Makes a file in the fixture's directory, which is read back by its descriptor. */
static int make_file(struct fixture *t, const char *name, size_t size, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", t->dir, name);
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	int r;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write_all(fd, text, strlen(text)), 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
	r = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(r, 0);
	ck_assert_int_eq(unlink(path), 0);
	return r;
}

/* Makes an ext4 file system of 16 MiB. */
static int make_ext4(struct fixture *t, const char *name, int flags)
{
	_cleanup_free_ char *path = str_printf("%s/%s", t->dir, name);
	_cleanup_close_ int made = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	char program[] = "/sbin/mke2fs", quiet[] = "-q", type[] = "-text4";
	char *const argv[] = { program, quiet, type, path, NULL };
	int status, fd;
	pid_t pid;

	ck_assert_int_ge(made, 0);
	ck_assert_int_eq(ftruncate(made, 16 * MIB), 0);
	ck_assert_int_eq(posix_spawn(&pid, program, NULL, NULL, argv, NULL), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	fd = open(path, flags | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(unlink(path), 0);
	return fd;
}

static void begin(struct fixture *t)
{
	*t = (struct fixture){ .dir = "/tmp/test-vmm-boot-XXXXXX", .agent = -EBADF };
	ck_assert_ptr_nonnull(mkdtemp(t->dir));
	snprintf(t->run_dir, sizeof(t->run_dir), "%s/vm", t->dir);
	ck_assert_int_eq(mkdir(t->run_dir, 0700), 0);
	ck_assert_int_ge(sd_event_new(&t->m.event), 0);
	t->m.runtime_dir = t->dir;
	ck_assert_int_ge(launcher_new(t->m.event, t->dir, NULL, &t->m.launcher), 0);
	t->m.libexec_dir = libexec_dir();
	t->m.config = &t->config;
	t->files[KERNEL] = make_file(t, "vmlinux", 4096, "not a kernel");
	t->files[INITRD] = make_file(t, "initrd", 4096, "not an initramfs");
	t->files[DISK] = make_file(t, "disk", 16 * MIB, "a disk");
}

static void use_kernel(struct fixture *t)
{
	static const char *const names[] = { "vmlinux", "initrd" };
	const char *dir = getenv("PYRO_TEST_KERNEL");

	ck_assert_ptr_nonnull(dir);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", dir, names[i]);

		(void)fd_close(t->files[i]);
		t->files[i] = open(path, O_RDONLY | O_CLOEXEC);
		ck_assert_msg(t->files[i] >= 0, "%s: %s", path, strerror(errno));
	}
}

/* own: a second disk, writable, or -EBADF */
static int launch_with(struct fixture *t, unsigned vcpus, int own, struct error *err)
{
	const struct vmm_spec spec = {
		.driver = vmm_driver_find("qemu"),
		.id = "vm-0123456789ab",
		.uuid = { 1, 2, 3 },
		.vcpu_count = vcpus,
		.mem_mib = 256,
		.accelerator = ACCELERATOR_EMULATION,
		.vmlinux_fd = t->files[KERNEL],
		.initrd_fd = t->files[INITRD],
		.disks = { { VMM_DISK_ENVIRONMENT, t->files[DISK], true },
			{ VMM_DISK_OWN, own, false } },
		.n_disks = own >= 0 ? 2 : 1,
		.run_dir = t->run_dir,
	};

	t->begun_usec = now_usec();
	return vmm_launch(&t->m, &spec, &callbacks, t, &t->v, err);
}

static int start_with(struct fixture *t, unsigned vcpus, int own, struct error *err)
{
	int r = launch_with(t, vcpus, own, err);

	if (r >= 0)
		vmm_boot(t->v);
	return r;
}

static int start(struct fixture *t, unsigned vcpus, struct error *err)
{
	return start_with(t, vcpus, -EBADF, err);
}

static void run_until(struct fixture *t, const unsigned *counter)
{
	const uint64_t deadline = now_usec() + WAIT_USEC;

	while (!*counter) {
		ck_assert_uint_lt(now_usec(), deadline);
		ck_assert_int_ge(sd_event_run(t->m.event, WAIT_USEC), 0);
	}
}

/* No part of the machine is left: no child, no socket. */
static void end(struct fixture *t)
{
	const uint64_t deadline = now_usec() + WAIT_USEC;

	vmm_free(t->v);
	while (waitpid(-1, NULL, WNOHANG | __WNOTHREAD) == 0 && now_usec() < deadline)
		ck_assert_int_ge(sd_event_run(t->m.event, WAIT_USEC), 0);
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
	launcher_free(t->m.launcher);
	ck_assert_int_eq(rmdir(t->run_dir), 0);
	ck_assert_int_eq(rmdir(t->dir), 0);
	for (size_t i = 0; i < FILES; i++)
		(void)fd_close(t->files[i]);
	error_clear(&t->error);
	free(t->reason);
	free(t->m.libexec_dir);
	sd_event_unref(t->m.event);
}

/* Returns a field of /proc/PID/status as text. */
static void status_field(pid_t pid, const char *name, char *ret, size_t n)
{
	_cleanup_free_ char *path = str_printf("/proc/%d/status", pid), *text = NULL;
	char *p;

	ck_assert_int_ge(read_file_at(AT_FDCWD, path, 65536, &text, NULL), 0);
	p = strstr(text, name);
	ck_assert_ptr_nonnull(p);
	p += strlen(name);
	p += strspn(p, "\t ");
	p[strcspn(p, "\n")] = 0;
	snprintf(ret, n, "%s", p);
}

static void assert_contained(pid_t pid)
{
	char value[64];

	status_field(pid, "Seccomp:", value, sizeof(value));
	ck_assert_str_eq(value, "2");
	status_field(pid, "NoNewPrivs:", value, sizeof(value));
	ck_assert_str_eq(value, "1");
	status_field(pid, "CapEff:", value, sizeof(value));
	ck_assert_str_eq(value, "0000000000000000");
	status_field(pid, "CapPrm:", value, sizeof(value));
	ck_assert_str_eq(value, "0000000000000000");
	status_field(pid, "Uid:", value, sizeof(value));
	ck_assert_uint_ne(strtoul(value, NULL, 10), 0);
	if (geteuid() == 0)
		ck_assert_uint_ne(strtoul(value, NULL, 10), 65534);
	status_field(pid, "Groups:", value, sizeof(value));
	if (geteuid() == 0)
		ck_assert_str_eq(value, "");
}

/* QEMU inherits no other descriptors: it has only those that it opens, its sockets and the given
 * files. */
static void assert_descriptors(pid_t pid)
{
	_cleanup_free_ char *dir = str_printf("/proc/%d/fd", pid);
	DIR *d = opendir(dir);
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	for (struct dirent *e = readdir(d); e; e = readdir(d)) {
		char target[256];
		ssize_t len = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);

		if (len < 0)
			continue;
		target[len] = 0;
		n++;
		ck_assert_msg(startswith(target, "socket:") || startswith(target, "pipe:") ||
				      startswith(target, "anon_inode:") ||
				      startswith(target, "/memfd:") || streq(target, "/dev/null") ||
				      strstr(target, "vmlinux") || strstr(target, "initrd") ||
				      strstr(target, "/disk"),
			"unexpected descriptor %s: %s", e->d_name, target);
	}
	(void)closedir(d);
	ck_assert_uint_lt(n, 40);
}

/* Returns the namespaces that are available on this host, found in the launcher's way. */
static void assert_namespaces(pid_t pid)
{
	static const char *const kinds[] = { "pid", "net", "ipc", "uts", "mnt" };

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		_cleanup_free_ char *a = str_printf("/proc/self/ns/%s", kinds[i]);
		_cleanup_free_ char *b = str_printf("/proc/%d/ns/%s", pid, kinds[i]);
		char mine[64] = "", its[64] = "";

		if (readlink(a, mine, sizeof(mine) - 1) > 0 &&
			readlink(b, its, sizeof(its) - 1) > 0)
			printf("# %s namespace of its own: %s\n", kinds[i],
				streq(mine, its) ? "no" : "yes");
	}
}

/* The part of the host's file system that the VMM sees; only root may read it. */
static void assert_view(pid_t pid)
{
	static const char *const absent[] = { "etc/passwd", "tmp", "home", "root", "proc/1", "sys",
		"dev/kvm", "usr/bin/env", "usr/lib/os-release", "bin", "opt" };
	static const char *const present[] = { "usr/bin/qemu-system-x86_64", "proc/self/fd",
		"dev/null" };
	_cleanup_free_ char *root = str_printf("/proc/%d/root", pid);
	_cleanup_close_ int fd = -EBADF;

	if (geteuid() != 0)
		return;
	fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	for (size_t i = 0; i < ARRAY_SIZE(absent); i++)
		ck_assert_msg(faccessat(fd, absent[i], F_OK, 0) < 0, "%s is there", absent[i]);
	for (size_t i = 0; i < ARRAY_SIZE(present); i++)
		ck_assert_msg(
			faccessat(fd, present[i], F_OK, 0) == 0, "%s is not there", present[i]);
	ck_assert(mkdirat(fd, "new", 0700) < 0 && errno == EROFS);
	ck_assert(mkdirat(fd, "usr/new", 0700) < 0 && errno == EROFS);
}

START_TEST(boots)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *tail = NULL;
	_cleanup_close_ int agent = -EBADF;
	char version[256];
	struct fixture t;

	begin(&t);
	use_kernel(&t);
	ck_assert_int_eq(start(&t, (unsigned)_i, &err), 0);
	ck_assert_int_gt(vmm_pid(t.v), 1);
	ck_assert_uint_gt(vmm_start_time(t.v), 0);
	ck_assert_str_eq(vmm_execution_mode(t.v), "guest_serial");
	agent = dial_agent(&t);
	ck_assert_int_ge(agent, 0);
	run_until(&t, &t.started);
	(void)snprintf(version, sizeof(version), "%s", vmm_version(t.v));
	ck_assert(!vmm_guest_seen(t.v));
	printf("# started in %llu ms\n",
		(unsigned long long)(t.started_usec - t.begun_usec) / 1000);
	assert_contained(vmm_pid(t.v));
	assert_descriptors(vmm_pid(t.v));
	assert_namespaces(vmm_pid(t.v));
	assert_view(vmm_pid(t.v));
	/* The init finds no file system on its disk, prints that on the console, and resets. */
	while (!t.exited) {
		if (t.v) {
			free(TAKE_PTR(tail));
			ck_assert_int_eq(vmm_console_tail(t.v, 4096, &tail), 0);
		}
		ck_assert_int_ge(sd_event_run(t.m.event, WAIT_USEC), 0);
	}
	printf("# ended in %llu ms: %s\n", (unsigned long long)(now_usec() - t.begun_usec) / 1000,
		tail);
	ck_assert_int_eq(t.exit.status, 0);
	ck_assert(t.exit.guest_ended);
	ck_assert(startswith(version, "QEMU ") && strspn(version + 5, "0123456789.") >= 5);
	ck_assert_uint_eq(t.failed, 0);
	ck_assert_ptr_nonnull(strstr(tail, "FLOOR-FAIL"));
	end(&t);
}
END_TEST

/* Waits for one byte of the agent's stream while the loop runs. */
static void expect_byte(struct fixture *t, int fd, char want)
{
	const uint64_t deadline = now_usec() + WAIT_USEC;
	_cleanup_free_ char *tail = NULL;
	ssize_t n;
	char got;

	for (;;) {
		struct pollfd p[] = { { fd, POLLIN, 0 },
			{ sd_event_get_fd(t->m.event), POLLIN, 0 } };

		ck_assert_uint_lt(now_usec(), deadline);
		ck_assert_int_eq(t->exited, 0);
		n = recv(fd, &got, 1, MSG_DONTWAIT);
		if (n == 1)
			break;
		if (n == 0 || errno != EAGAIN)
			(void)vmm_console_tail(t->v, 4096, &tail);
		ck_assert_msg(!tail, "the port ended; console: %s", tail);
		ck_assert_int_ge(sd_event_run(t->m.event, 0), 0);
		ck_assert_int_ge(poll(p, 2, 1000), 0);
	}
	ck_assert_int_eq(got, want);
}

/* floor-init on real disks: it mounts one read-only and the other for writing, as requested over
 * the port. */
START_TEST(disks_and_port)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_close_ int agent = -EBADF, own = -EBADF;
	struct fixture t;
	struct stat before, after;

	begin(&t);
	use_kernel(&t);
	(void)fd_close(t.files[DISK]);
	t.files[DISK] = make_ext4(&t, "disk", O_RDONLY);
	own = make_ext4(&t, "disk2", O_RDWR);
	ck_assert_int_eq(fstat(own, &before), 0);
	ck_assert_int_eq(start_with(&t, 1, own, &err), 0);
	agent = dial_agent(&t);
	ck_assert_int_ge(agent, 0);
	expect_byte(&t, agent, 'r');
	ck_assert_int_eq(write_all(agent, "e", 1), 0);
	expect_byte(&t, agent, 'e');
	ck_assert_int_eq(write_all(agent, "s", 1), 0);
	expect_byte(&t, agent, 'k');
	ck_assert(vmm_guest_seen(t.v));
	assert_descriptors(vmm_pid(t.v));
	vmm_stop(t.v);
	run_until(&t, &t.exited);
	ck_assert_int_eq(fstat(own, &after), 0);
	ck_assert(memcmp(&before.st_mtim, &after.st_mtim, sizeof(before.st_mtim)) != 0);
	end(&t);
}
END_TEST

START_TEST(wrong_kernel)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct fixture t;

	begin(&t);
	ck_assert_int_eq(start(&t, 1, &err), 0);
	run_until(&t, &t.exited);
	ck_assert_uint_eq(t.started, 0);
	ck_assert_uint_eq(t.failed, 1);
	ck_assert_int_eq(t.error.code, ERROR_START_FAILED);
	printf("# %s: %s\n", t.error.message, t.error.cause);
	ck_assert_msg(strstr(t.error.cause, "kernel") != NULL, "%s", t.error.cause);
	ck_assert_int_eq(t.exit.status, 1);
	ck_assert(!t.exit.guest_ended);
	ck_assert_ptr_nonnull(t.reason);
	end(&t);
}
END_TEST

START_TEST(not_installed)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct vmm_probe p = {};
	char none[] = "/nonexistent/qemu";
	struct fixture t;

	begin(&t);
	t.config.qemu = none;
	ck_assert_int_lt(start(&t, 1, &err), 0);
	ck_assert_int_eq(err.code, ERROR_VM_UNAVAILABLE);
	ck_assert_str_eq(err.fix, "correct qemu= in pyrod.conf, or leave it out");
	ck_assert_int_eq(vmm_drivers[0]->probe(&t.m, false, &p), 0);
	ck_assert(!p.usable);
	ck_assert_ptr_nonnull(p.reason);
	vmm_probe_done(&p);
	end(&t);
}
END_TEST

START_TEST(no_launcher)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct fixture t;

	begin(&t);
	free(t.m.libexec_dir);
	t.m.libexec_dir = strdup("/nonexistent");
	ck_assert_int_lt(start(&t, 1, &err), 0);
	ck_assert_int_eq(err.code, ERROR_VM_UNAVAILABLE);
	end(&t);
}
END_TEST

/* A program that is not a VMM exits at once, and its last line is the reason. */
START_TEST(not_a_vmm)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	char other[] = "/usr/bin/basename";
	struct fixture t;

	begin(&t);
	t.config.qemu = other;
	ck_assert_int_eq(start(&t, 1, &err), 0);
	run_until(&t, &t.exited);
	ck_assert_uint_eq(t.failed, 1);
	ck_assert_ptr_nonnull(t.reason);
	printf("# %s\n", t.reason);
	end(&t);
}
END_TEST

/* Another process connects to the launch socket first: it gets nothing, and the launch goes on. */
START_TEST(impostor)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_close_ int fd = -EBADF;
	_cleanup_free_ char *path = NULL;
	struct fixture t;
	char c;

	begin(&t);
	ck_assert_int_eq(start(&t, 1, &err), 0);
	path = str_printf("%s/launch/launch.sock", t.dir);
	fd = sock_dial(path, SOCK_SEQPACKET);
	run_until(&t, &t.exited);
	if (fd >= 0)
		ck_assert_int_le(recv(fd, &c, 1, MSG_DONTWAIT), 0);
	ck_assert_ptr_nonnull(t.reason);
	ck_assert_ptr_nonnull(strstr(t.reason, "kernel"));
	end(&t);
}
END_TEST

START_TEST(freed_at_any_time)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct fixture t;

	begin(&t); /* before the launcher has connected */
	ck_assert_int_eq(start(&t, 1, &err), 0);
	end(&t);

	begin(&t); /* in on_failed */
	t.free_when_failed = true;
	ck_assert_int_eq(start(&t, 1, &err), 0);
	run_until(&t, &t.failed);
	ck_assert_ptr_null(t.v);
	ck_assert_uint_eq(t.exited, 0);
	end(&t);
}
END_TEST

START_TEST(freed_when_started)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct fixture t;

	begin(&t);
	t.free_when_started = true;
	use_kernel(&t);
	ck_assert_int_eq(start(&t, 1, &err), 0);
	run_until(&t, &t.started);
	ck_assert_ptr_null(t.v);
	end(&t);
}
END_TEST

START_TEST(stopped)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct fixture t;

	begin(&t);
	use_kernel(&t);
	ck_assert_int_eq(start(&t, 1, &err), 0);
	run_until(&t, &t.started);
	vmm_stop(t.v);
	run_until(&t, &t.exited);
	ck_assert_int_eq(t.exit.status, -9);
	ck_assert(!t.exit.guest_ended);
	ck_assert_uint_eq(t.failed, 0);
	end(&t);
}
END_TEST

/* Leaves the VMM, and adopts it as the next daemon does. */
static void adopt_again(struct fixture *t)
{
	struct vmm_adoption a = { .driver = vmm_driver_find("qemu"),
		.id = "vm-0123456789ab",
		.invocation = "",
		.run_dir = t->run_dir,
		.pid = vmm_pid(t->v),
		.start_time = vmm_start_time(t->v) };

	a.pidfd = pidfd_open(a.pid, 0);
	ck_assert_int_ge(a.pidfd, 0);
	t->v = vmm_detach(t->v);
	ck_assert_int_eq(vmm_adopt(&t->m, &a, &callbacks, t, &t->v, NULL), 0);
}

static void run_until_it_answers(struct fixture *t)
{
	const uint64_t deadline = now_usec() + WAIT_USEC;

	while (!startswith(vmm_version(t->v), "QEMU ")) {
		ck_assert_uint_lt(now_usec(), deadline);
		ck_assert_int_ge(sd_event_run(t->m.event, WAIT_USEC), 0);
	}
}

/* A VMM is launched without a guest, left to the next daemon, and its guest is booted there. */
START_TEST(booted_later)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *tail = NULL;
	struct fixture t;

	begin(&t);
	use_kernel(&t);
	ck_assert_int_eq(launch_with(&t, 1, -EBADF, &err), 0);
	run_until(&t, &t.launched);
	run_until_it_answers(&t);
	ck_assert_uint_eq(t.started, 0);
	ck_assert(!vmm_guest_seen(t.v));
	if (_i) {
		adopt_again(&t);
		run_until_it_answers(&t);
		ck_assert_uint_eq(t.started, 0);
	}
	vmm_boot(t.v);
	vmm_boot(t.v); /* once is enough */
	run_until(&t, &t.started);
	while (!t.exited) { /* the init finds no file system and resets */
		free(TAKE_PTR(tail));
		ck_assert_int_eq(vmm_console_tail(t.v, 4096, &tail), 0);
		ck_assert_int_ge(sd_event_run(t.m.event, WAIT_USEC), 0);
	}
	ck_assert_uint_eq(t.started, 1);
	ck_assert_uint_eq(t.failed, 0);
	ck_assert(t.exit.guest_ended);
	ck_assert_ptr_nonnull(strstr(tail, "FLOOR-FAIL"));
	end(&t);
}
END_TEST

START_TEST(version)
{
	struct vmm_probe p = {};
	struct fixture t;

	begin(&t);
	ck_assert_int_eq(vmm_drivers[0]->probe(&t.m, false, &p), 0);
	while (!p.version) {
		vmm_probe_done(&p);
		ck_assert_int_ge(sd_event_run(t.m.event, WAIT_USEC), 0);
		ck_assert_int_eq(vmm_drivers[0]->probe(&t.m, false, &p), 0);
	}
	ck_assert(p.usable);
	ck_assert_uint_gt(strtoul(p.version, NULL, 10), 1);
	printf("# %s %s\n", p.path, p.version);
	vmm_probe_done(&p);
	end(&t);
}
END_TEST

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define NO_ROOM \
	"{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"action\": \"stop\", \"nospace\": true}}\r\n"
#define GOES_ON "{\"event\": \"RESUME\"}\r\n"

/* A process that looks like a VMM only by its three sockets. */
struct pretence {
	struct fixture t; /* first: passed to callbacks */
	int listening[3], qmp;
	pid_t pid;
	char reports[64]; /* P: paused, R: resumed */
};

static void report(struct pretence *p, const char *what)
{
	ck_assert_uint_lt(strlen(p->reports) + 1, sizeof(p->reports));
	strcat(p->reports, what);
}

static void on_paused(_unused_ struct vmm *v, _unused_ const char *reason, void *userdata)
{
	report(userdata, "P");
}

static void on_resumed(_unused_ struct vmm *v, void *userdata)
{
	report(userdata, "R");
}

static void say(struct pretence *p, const char *text)
{
	ck_assert_int_eq(write_all(p->qmp, text, strlen(text)), 0);
}

/* Takes the command that was sent. */
static const char *answer(struct pretence *p, const char *text)
{
	struct pollfd f = { .fd = p->qmp, .events = POLLIN };
	static char command[256];
	ssize_t n;

	while (poll(&f, 1, 0) == 0)
		ck_assert_int_ge(sd_event_run(p->t.m.event, WAIT_USEC), 0);
	n = read(p->qmp, command, sizeof(command) - 1);
	ck_assert_int_gt(n, 0);
	command[n] = '\0';
	say(p, text);
	return command;
}

/* status: of its run state. */
static void pretend_to_be(struct pretence *p, const char *status)
{
	_cleanup_free_ char *reply =
		str_printf("{\"return\": {\"status\": \"%s\"}, \"id\": 2}\r\n", status);
	static const struct vmm_callbacks cb = {
		.on_started = on_started,
		.on_failed = on_failed,
		.on_exited = on_exited,
		.on_paused = on_paused,
		.on_resumed = on_resumed,
	};
	static const char *const names[] = { "qmp", "agent", "console" };
	char program[] = "/bin/sleep",
	     seconds[] = "1000", *const argv[] = { program, seconds, NULL };
	struct vmm_adoption a = {
		.driver = vmm_driver_find("qemu"), .id = "vm-0123456789ab", .invocation = ""
	};

	*p = (struct pretence){ 0 };
	begin(&p->t);
	a.run_dir = p->t.run_dir;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s.sock", p->t.run_dir, names[i]);

		p->listening[i] = sock_listen(path, SOCK_STREAM, 1);
		ck_assert_int_ge(p->listening[i], 0);
	}
	ck_assert_int_eq(posix_spawn(&p->pid, program, NULL, NULL, argv, NULL), 0);
	a.pid = p->pid;
	a.pidfd = pidfd_open(p->pid, 0);
	ck_assert_int_eq(vmm_adopt(&p->t.m, &a, &cb, p, &p->t.v, NULL), 0);
	p->qmp = accept4(p->listening[0], NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(p->qmp, 0);
	say(p, GREETING);
	answer(p, "{\"return\": {}, \"id\": 1}\r\n"); /* the request for the state came with it */
	say(p, reply);
}

static void pretend(struct pretence *p)
{
	pretend_to_be(p, "running");
}

static void exits(struct pretence *p)
{
	ck_assert_int_eq(kill(p->pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(p->pid, NULL, 0), p->pid);
	run_until(&p->t, &p->t.exited);
}

static void pretended(struct pretence *p)
{
	(void)fd_close(p->qmp);
	for (size_t i = 0; i < ARRAY_SIZE(p->listening); i++)
		(void)fd_close(p->listening[i]);
	end(&p->t);
}

/* Of several events at once, reports alternate, and the last one is the present state. Events that
 * one iteration handles are reported together. */
START_TEST(pauses)
{
	static const struct {
		const char *first, *then;
		char last; /* 0: there may be none */
	} cases[] = {
		{ NO_ROOM, GOES_ON NO_ROOM, 'P' },
		{ NO_ROOM, GOES_ON NO_ROOM GOES_ON, 'R' },
		{ "", NO_ROOM GOES_ON NO_ROOM, 'P' },
		{ "", NO_ROOM GOES_ON, 0 },
		{ "", NO_ROOM, 'P' },
	};
	const char last = cases[_i].last;
	struct pretence p;
	size_t n;

	pretend(&p);
	say(&p, cases[_i].first);
	while (strlen(p.reports) < (cases[_i].first[0] ? 1 : 0))
		ck_assert_int_ge(sd_event_run(p.t.m.event, WAIT_USEC), 0);
	say(&p, cases[_i].then);
	exits(&p); /* after all events */
	n = strlen(p.reports);
	for (size_t i = 0; i < n; i++)
		ck_assert_msg(p.reports[i] == (i % 2 ? 'R' : 'P'), "%s", p.reports);
	ck_assert_msg(n > 0 ? p.reports[n - 1] == (last ? last : 'R') : !last, "%s", p.reports);
	pretended(&p);
}
END_TEST

static void all(struct pretence *p)
{
	while (sd_event_run(p->t.m.event, 0) > 0)
		;
}

static void reported(struct pretence *p, const char *what)
{
	while (strlen(p->reports) < strlen(what))
		ck_assert_int_ge(sd_event_run(p->t.m.event, WAIT_USEC), 0);
	ck_assert_str_eq(p->reports, what);
}

/* A VMM that refuses to pause is asked again. If it pauses after all, however late, it can be
 * resumed. */
START_TEST(stops_late)
{
	struct pretence p;

	pretend(&p);
	say(&p, "{\"event\": \"STOP\"}\r\n"); /* not requested: not pyrod's pause */
	all(&p);
	for (int id = 3; id < 5; id++) {
		_cleanup_free_ char *refusal = str_printf(
			"{\"error\": {\"class\": \"GenericError\", \"desc\": \"busy\"}, \"id\": %d}\r\n",
			id);

		vmm_pause(p.t.v);
		vmm_pause(p.t.v); /* one is pending */
		ck_assert_str_eq(
			answer(&p, refusal), id == 3 ? "{\"execute\":\"stop\",\"id\":3}\n"
						     : "{\"execute\":\"stop\",\"id\":4}\n");
		all(&p);
	}
	ck_assert_str_eq(p.reports, "");
	say(&p, "{\"event\": \"STOP\"}\r\n");
	reported(&p, "P");
	vmm_resume(p.t.v);
	ck_assert_str_eq(answer(&p, "{\"return\": {}, \"id\": 5}\r\n" GOES_ON),
		"{\"execute\":\"cont\",\"id\":5}\n");
	reported(&p, "PR");
	exits(&p);
	pretended(&p);
}
END_TEST

/* `cont` may be answered at any time: it is asked for once, and the way to resume is never
 * closed. */
START_TEST(resumes_late)
{
	struct pretence p;

	ck_assert_int_eq(setenv("PYRO_DEADLINES", "vmm=1", 1), 0); /* if the build has them */
	pretend(&p);
	say(&p, NO_ROOM);
	reported(&p, "P");
	vmm_resume(p.t.v);
	all(&p);
	ck_assert_int_eq(sd_event_run(p.t.m.event, 100 * USEC_PER_MSEC), 0);
	vmm_resume(p.t.v); /* one is pending */
	ck_assert_str_eq(answer(&p, "{\"error\": {\"desc\": \"busy\"}, \"id\": 3}\r\n"),
		"{\"execute\":\"cont\",\"id\":3}\n");
	all(&p);
	vmm_resume(p.t.v);
	ck_assert_str_eq(answer(&p, "{\"return\": {}, \"id\": 4}\r\n" GOES_ON),
		"{\"execute\":\"cont\",\"id\":4}\n");
	reported(&p, "PR");
	exits(&p);
	pretended(&p);
}
END_TEST

/* The daemon before died between launch and boot: the guest runs when its owner wants it. */
START_TEST(adopted_before_its_boot)
{
	static const char *const answers[] = {
		"{\"return\": {}, \"id\": 3}\r\n",
		GOES_ON "{\"return\": {}, \"id\": 3}\r\n",
		GOES_ON,
		"{\"error\": {\"desc\": \"no\"}, \"id\": 3}\r\n",
	};
	const bool refused = _i == ARRAY_SIZE(answers) - 1;
	struct pretence p;

	pretend_to_be(&p, "prelaunch");
	all(&p);
	say(&p, NO_ROOM GOES_ON); /* lies: no guest runs */
	all(&p);
	ck_assert_str_eq(p.reports, "");
	ck_assert_uint_eq(p.t.started, 0);
	vmm_boot(p.t.v);
	vmm_boot(p.t.v);
	ck_assert_str_eq(answer(&p, answers[_i]), "{\"execute\":\"cont\",\"id\":3}\n");
	all(&p);
	ck_assert_uint_eq(p.t.started, refused ? 0 : 1);
	ck_assert_uint_eq(p.t.failed, 0); /* it is not killed on doubt */
	exits(&p);
	ck_assert_uint_eq(p.t.failed, 0);
	pretended(&p);
}
END_TEST

/* No guest is booted where one runs. */
START_TEST(adopted_after_its_boot)
{
	static const char *const states[] = { "running", "paused", "io-error", "shutdown", "?" };
	struct pretence p;

	pretend_to_be(&p, states[_i]);
	vmm_boot(p.t.v);
	all(&p);
	ck_assert_int_eq(recv(p.qmp, &(char){ 0 }, 1, MSG_DONTWAIT), -1);
	ck_assert_uint_eq(p.t.started, 0);
	ck_assert_str_eq(p.reports, _i == 1 || _i == 2 ? "P" : "");
	exits(&p);
	pretended(&p);
}
END_TEST

static unsigned count_pauses(const struct pretence *p)
{
	unsigned n = 0;

	for (const char *c = p->reports; *c; c++)
		n += *c == 'P';
	return n;
}

/* A VMM that pauses and resumes without end: few pauses are reported, and the last report is the
 * present state. */
START_TEST(pauses_without_end)
{
	struct pretence p;
	uint64_t begun;
	unsigned n;

	pretend(&p);
	begun = now_usec();
	for (int i = 0; i < 20; i++) {
		say(&p, NO_ROOM);
		all(&p);
		say(&p, GOES_ON);
		all(&p);
	}
	n = count_pauses(&p);
	ck_assert_uint_ge(n, 4);
	ck_assert_uint_le(
		n, 6 + (now_usec() - begun) / USEC_PER_SEC); /* four at once, then one a second */
	say(&p, NO_ROOM);
	while (count_pauses(&p) == n)
		ck_assert_int_ge(sd_event_run(p.t.m.event, WAIT_USEC), 0);
	ck_assert_int_eq(p.reports[strlen(p.reports) - 1], 'P');
	exits(&p);
	pretended(&p);
}
END_TEST

static void add_bare(TCase *tc)
{
	tcase_add_test(tc, not_installed);
	tcase_add_test(tc, no_launcher);
	tcase_add_test(tc, not_a_vmm);
	tcase_add_loop_test(tc, pauses, 0, 5);
	tcase_add_test(tc, stops_late);
	tcase_add_test(tc, resumes_late);
	tcase_add_loop_test(tc, adopted_before_its_boot, 0, 4);
	tcase_add_loop_test(tc, adopted_after_its_boot, 0, 5);
	tcase_add_test(tc, pauses_without_end);
}

static void add_qemu(TCase *tc)
{
	tcase_add_test(tc, version);
	tcase_add_test(tc, wrong_kernel);
	tcase_add_test(tc, impostor);
	tcase_add_test(tc, freed_at_any_time);
}

static void add_guest(TCase *tc)
{
	tcase_add_test(tc, freed_when_started);
	tcase_add_test(tc, stopped);
	tcase_add_loop_test(tc, booted_later, 0, 2);
	tcase_add_loop_test(tc, boots, 1, 3);
	tcase_add_test(tc, disks_and_port);
}

static const struct group {
	const char *name;
	void (*add)(TCase *tc);
	bool qemu, guest;
} groups[] = {
	{ "bare", add_bare, false, false },
	{ "qemu", add_qemu, true, false },
	{ "guest", add_guest, true, true },
};

/* Returns why the group cannot run here, or NULL. */
static const char *missing(const struct group *g)
{
	if (g->qemu && access("/usr/bin/qemu-system-x86_64", X_OK) < 0)
		return "qemu-system-x86_64 is not installed";
	if (g->guest && !getenv("PYRO_TEST_KERNEL"))
		return "PYRO_TEST_KERNEL is not set";
	if (g->guest && access("/sbin/mke2fs", X_OK) < 0)
		return "mke2fs is not installed";
	return NULL;
}

static int run_group(const struct group *g)
{
	Suite *s = suite_create("vmm-boot");
	TCase *tc = tcase_create(g->name);
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 100);
	g->add(tc);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : groups[0].name;

	for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
		if (!streq(groups[i].name, name))
			continue;
		const char *why = missing(&groups[i]);
		if (!why)
			return run_group(&groups[i]);
		printf("1..0 # SKIP %s\n", why); /* TAP: the whole test */
		return EXIT_SUCCESS;
	}
	return EXIT_FAILURE;
}
