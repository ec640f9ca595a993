/* SPDX-License-Identifier: MIT */
/*
 * The parts of the VMM layer that need no VM: the launch messages against hostile bytes, QEMU's
 * command line, the console's ring, sockets with long paths, the choice of accelerator.
 */
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/vmm/console.h"
#include "daemon/launch-msg.h"
#include "daemon/vmm/qemu-args.h"
#include "daemon/sock.h"
#include "daemon/vmm/confine.h"
#include "daemon/vmm/vmm.h"
#include "proto/agent.h"
#include "proto/host.h"
#include "proto/limits.h"

static const char *const some_args[] = { "/usr/bin/vmm", "-a", "", "b c", NULL };

static void encode(struct buf *b)
{
	buf_init(b, LAUNCH_BYTES);
	ck_assert_int_eq(launch_msg_put(b, LAUNCH_KVM, 3, some_args), 0);
}

START_TEST(launch_round_trip)
{
	struct launch_msg m;
	struct buf b;

	encode(&b);
	ck_assert_int_eq(launch_msg_get(buf_head(&b), buf_len(&b), &m), 0);
	ck_assert_uint_eq(m.flags, LAUNCH_KVM);
	ck_assert_uint_eq(m.n_fds, 3);
	ck_assert_uint_eq(m.n_args, 4);
	for (size_t i = 0; i < 4; i++)
		ck_assert_str_eq(m.args[i], some_args[i]);
	ck_assert_ptr_null(m.args[4]);
	launch_msg_done(&m);
	buf_done(&b);
}
END_TEST

/* Every truncation and every flipped byte is refused, or decodes to values within bounds. */
START_TEST(launch_hostile)
{
	struct launch_msg m;
	uint8_t copy[512];
	struct buf b;

	encode(&b);
	ck_assert_uint_lt(buf_len(&b), sizeof(copy));
	for (size_t n = 0; n < buf_len(&b); n++)
		ck_assert_int_eq(launch_msg_get(buf_head(&b), n, &m), -EBADMSG);
	for (size_t i = 0; i < buf_len(&b); i++) {
		memcpy(copy, buf_head(&b), buf_len(&b));
		copy[i] ^= 0x85;
		if (launch_msg_get(copy, buf_len(&b), &m) < 0)
			continue;
		ck_assert_uint_le(m.n_fds, LAUNCH_FDS_MAX);
		ck_assert_uint_le(m.n_args, LAUNCH_ARGS_MAX);
		launch_msg_done(&m);
	}
	memcpy(copy, buf_head(&b), buf_len(&b));
	copy[buf_len(&b)] = 0;
	ck_assert_int_eq(launch_msg_get(copy, buf_len(&b) + 1, &m), -EBADMSG);
	buf_done(&b);
}
END_TEST

START_TEST(launch_limits)
{
	const char *many[LAUNCH_ARGS_MAX + 2] = { NULL }, *relative[] = { "vmm", NULL };
	_cleanup_free_ char *big = calloc(1, LAUNCH_ARG_BYTES + 2);
	const char *const one[] = { "/vmm", big, NULL };
	struct launch_msg m;
	struct buf b;

	ck_assert_ptr_nonnull(big);
	memset(big, 'x', LAUNCH_ARG_BYTES + 1);
	for (size_t i = 0; i < LAUNCH_ARGS_MAX + 1; i++)
		many[i] = "/x";
	buf_init(&b, LAUNCH_BYTES);
	ck_assert_int_eq(launch_msg_put(&b, 0, 1, many), -E2BIG);
	ck_assert_int_eq(launch_msg_put(&b, 0, 1, one), -E2BIG);
	ck_assert_int_eq(launch_msg_put(&b, 0, LAUNCH_FDS_MAX + 1, some_args), -E2BIG);
	ck_assert_int_eq(launch_msg_put(&b, 0, 0, some_args), -EINVAL);
	ck_assert_uint_eq(buf_len(&b), 0);
	ck_assert_int_eq(launch_msg_put(&b, 0, 1, relative), 0);
	ck_assert_int_eq(launch_msg_get(buf_head(&b), buf_len(&b), &m), -EBADMSG);
	buf_done(&b);
}
END_TEST

START_TEST(launch_replies)
{
	char p[LAUNCH_REPLY_BYTES], big[2 * LAUNCH_REPLY_BYTES];
	enum launch_reply_type type;
	const char *text;
	size_t n;

	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = 0;
	ck_assert_uint_eq(launch_reply_put(p, LAUNCH_NOTE, big), sizeof(p));
	ck_assert_int_eq(launch_reply_get(p, sizeof(p), &type, &text, &n), 0);
	ck_assert_int_eq(type, LAUNCH_NOTE);
	ck_assert_uint_eq(n, sizeof(p) - 1);
	ck_assert_int_eq(launch_reply_get(p, 1, &type, &text, &n), -EBADMSG);
	ck_assert_int_eq(launch_reply_get(p, 0, &type, &text, &n), -EBADMSG);
	ck_assert_int_eq(launch_reply_get(p, sizeof(p) + 1, &type, &text, &n), -EBADMSG);
	p[0] = LAUNCH_REPLY_MAX;
	ck_assert_int_eq(launch_reply_get(p, 5, &type, &text, &n), -EBADMSG);
}
END_TEST

static struct vmm_spec base_spec(void)
{
	return (struct vmm_spec){
		.driver = vmm_driver_find("qemu"),
		.id = "vm-0123456789ab",
		.uuid = { 0xde, 0xad, 0xbe, 0xef },
		.vcpu_count = 1,
		.mem_mib = 1024,
		.accelerator = ACCELERATOR_EMULATION,
		.vmlinux_fd = 50,
		.initrd_fd = 51,
		.disks = { { VMM_DISK_ENVIRONMENT, 52, true }, { VMM_DISK_OWN, 53, false },
			{ VMM_DISK_MODULES, 54, true } },
		.n_disks = 3,
	};
}

/* Returns the whole line, joined by newlines with one at each end. */
static char *join(const struct vmm_command *a)
{
	size_t n = 2;
	char *s, *p;

	for (size_t i = 0; i < a->n_args; i++)
		n += strlen(a->args[i]) + 1;
	s = p = malloc(n);
	ck_assert_ptr_nonnull(s);
	*p++ = '\n';
	for (size_t i = 0; i < a->n_args; i++)
		p += sprintf(p, "%s\n", a->args[i]);
	return s;
}

static void assert_has(const char *line, const char *what)
{
	ck_assert_msg(strstr(line, what) != NULL, "no %s in:%s", what, line);
}

START_TEST(args_emulation)
{
	struct vmm_spec spec = base_spec();
	_cleanup_free_ char *line = NULL;
	struct vmm_command a = { .n_args = 0 };

	ck_assert_int_eq(qemu_args_make(&spec, "/usr/bin/qemu", 2100000, &a), 0);
	line = join(&a);
	ck_assert(startswith(line, "\n/usr/bin/qemu\n-name\nvm-0123456789ab\n"));
	assert_has(line, "\n-uuid\ndeadbeef-0000-0000-0000-000000000000\n");
	assert_has(line, ",x-option-roms=off,");
	assert_has(line, "\n-bios\nqboot.rom\n");
	assert_has(line, "\n-m\n1024M\n");
	assert_has(line, "\ntcg,tb-size=64,thread=multi\n-cpu\nmax\n");
	assert_has(line, "\n-smp\n1,maxcpus=2\n");
	assert_has(line, " possible_cpus=1 tsc=reliable tsc_early_khz=2100000\n");
	assert_has(line, "\n-sandbox\non,obsolete=deny,elevateprivileges=deny,spawn=deny,"
			 "resourcecontrol=deny\n");
	assert_has(line, ",name=" AGENT_PORT_NAME "\n");
	/* qmp 3, agent 4, console 5, vmlinux 6, initrd 7, disks from 8 */
	assert_has(line, "\n-kernel\n/proc/self/fd/6\n-initrd\n/proc/self/fd/7\n");
	assert_has(line, "\nfd=8,set=8\n");
	assert_has(line, "read-only=on,file.driver=file,file.filename=/dev/fdset/8,"
			 "file.locking=off\n");
	assert_has(line, "read-only=off,discard=unmap,detect-zeroes=unmap,file.driver=file,"
			 "file.filename=/dev/fdset/9");
	assert_has(line, "serial=pyro-env,bus=virtio-mmio-bus.21\n");
	assert_has(line, "serial=pyro-own,bus=virtio-mmio-bus.20,");
	assert_has(line, "serial=pyro-modules,bus=virtio-mmio-bus.19\n");
	assert_has(line, "\n-S\n");
	vmm_command_done(&a);
}
END_TEST

START_TEST(args_kvm)
{
	struct vmm_spec spec = base_spec();
	_cleanup_free_ char *line = NULL;
	struct vmm_command a = { .n_args = 0 };

	spec.accelerator = ACCELERATOR_KVM;
	spec.vcpu_count = 4;
	ck_assert_int_eq(qemu_args_make(&spec, "/usr/bin/qemu", 2100000, &a), 0);
	line = join(&a);
	assert_has(line, "\n-smp\n4\n-accel\nkvm\n-cpu\nhost\n");
	ck_assert_ptr_null(strstr(line, "tsc_early_khz"));
	ck_assert_ptr_null(strstr(line, "possible_cpus"));
	vmm_command_done(&a);
	spec.accelerator = ACCELERATOR_EMULATION;
	ck_assert_int_eq(qemu_args_make(&spec, "/usr/bin/qemu", 0, &a), 0);
	free(line);
	line = join(&a);
	ck_assert_ptr_null(strstr(line, "tsc_early_khz"));
	vmm_command_done(&a);
}
END_TEST

static void assert_refused(const struct vmm_spec *spec)
{
	struct vmm_command a = { .n_args = 0 };

	ck_assert_int_eq(qemu_args_make(spec, "/usr/bin/qemu", 0, &a), -EINVAL);
	ck_assert_uint_eq(a.n_args, 0);
}

START_TEST(args_refused)
{
	struct vmm_spec s;

	s = base_spec(), s.vcpu_count = 0, assert_refused(&s);
	s = base_spec(), s.vcpu_count = VCPU_MAX + 1, assert_refused(&s);
	s = base_spec(), s.mem_mib = MEM_MIB_MIN - 1, assert_refused(&s);
	s = base_spec(), s.mem_mib = MEM_MIB_MAX + 1, assert_refused(&s);
	s = base_spec(), s.n_disks = VMM_DISK_MAX + 1, assert_refused(&s);
	s = base_spec(), s.id = "vm,debug-threads=on", assert_refused(&s);
	s = base_spec(), s.id = "", assert_refused(&s);
	s = base_spec(), s.disks[0].what = VMM_DISK_MAX, assert_refused(&s);
	s = base_spec(), s.disks[1].fd = -EBADF, assert_refused(&s);
	s = base_spec(), s.initrd_fd = -EBADF, assert_refused(&s);
	s = base_spec(), s.accelerator = ACCELERATOR_AUTO, assert_refused(&s);
}
END_TEST

struct ring {
	sd_event *event;
	struct console *console;
	int writer;
};

static void ring_open(struct ring *t, size_t keep)
{
	int p[2];

	ck_assert_int_eq(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
	ck_assert_int_ge(sd_event_new(&t->event), 0);
	ck_assert_int_eq(console_new(t->event, p[0], keep, &t->console), 0);
	t->writer = p[1];
}

static void ring_close(struct ring *t)
{
	console_free(t->console);
	(void)fd_close(t->writer);
	sd_event_unref(t->event);
}

START_TEST(console_keeps_the_end)
{
	_cleanup_free_ char *text = NULL, *line = NULL, *empty = NULL;
	struct ring t;

	ring_open(&t, 16);
	ck_assert_int_eq(console_last_line(t.console, &line), 0);
	ck_assert_ptr_null(line);
	ck_assert_int_eq(console_cause(t.console, &line), 0);
	ck_assert_ptr_null(line);
	ck_assert_int_eq(console_tail(t.console, 4, &empty), 0);
	ck_assert_str_eq(empty, "");
	ck_assert_int_eq(write_all(t.writer, "0123456789abcdefghij\n\x1b[31mend\r\n\n", 32), 0);
	console_drain(t.console);
	ck_assert_int_eq(console_tail(t.console, 16, &text), 0);
	ck_assert_str_eq(text, "ghij\nend");
	ck_assert_int_eq(console_last_line(t.console, &line), 0);
	ck_assert_str_eq(line, "end");
	ring_close(&t);
}
END_TEST

static const struct {
	const char *written, *tail, *cause;
} consoles[] = {
	{ "\r\n \n", "", NULL },
	{ "one\r\ntwo\rthree\n", "one\ntwo\nthree", "three" },
	{ "a\tb\x1b[2J\x1b[1;31mred\x1b[0m\x1b]0;title\a\x1b(B\x01\x7f\n", "a bred", "a bred" },
	{ "bad \xff, \xe2\x80\xae turned\x1b", "bad \\xff, \\xe2\\x80\\xae turned",
		"bad \\xff, \\xe2\\x80\\xae turned" },
	{ "cut\x1b[12\nnext\x1b]0;no end\nlast", "cut\nnext\nlast", "last" },
	{ "[    0.5] pyro-agent: disk: No such device\n[    1.000001] reboot: Restarting system\r\n",
		NULL, "pyro-agent: disk: No such device" },
	{ "[    1.000000] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[    1.1] CPU: 0\r\n"
	  "[    1.2] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---\r\n",
		NULL, "Kernel panic - not syncing: VFS: Unable to mount root fs" },
	{ "[    3.0] Out of memory: Killed process 9 (cc1)\n[    4.0] Kernel panic - not syncing: System is "
	  "deadlocked on memory\n",
		NULL,
		"Out of memory: Killed process 9 (cc1); Kernel panic - not syncing: System is deadlocked "
		"on memory" },
};

START_TEST(console_tells_why)
{
	_cleanup_free_ char *tail = NULL, *cause = NULL;
	const char *written = consoles[_i].written;
	struct ring t;

	ring_open(&t, 1000);
	ck_assert_int_eq(write_all(t.writer, written, strlen(written)), 0);
	console_drain(t.console);
	ck_assert_int_eq(console_tail(t.console, SIZE_MAX, &tail), 0);
	if (consoles[_i].tail)
		ck_assert_str_eq(tail, consoles[_i].tail);
	ck_assert_int_eq(console_cause(t.console, &cause), 0);
	ck_assert_pstr_eq(cause, consoles[_i].cause);
	ring_close(&t);
}
END_TEST

START_TEST(console_cause_is_short)
{
	static const char panic[] = "\nKernel panic - not syncing: ";
	_cleanup_free_ char *cause = NULL;
	char chunk[4096];
	struct ring t;

	ring_open(&t, 64 * 1024);
	memset(chunk, 'a', sizeof(chunk));
	ck_assert_int_eq(write_all(t.writer, panic, strlen(panic)), 0);
	ck_assert_int_eq(write_all(t.writer, chunk, sizeof(chunk)), 0);
	console_drain(t.console);
	ck_assert_int_eq(console_cause(t.console, &cause), 0);
	ck_assert_uint_eq(strlen(cause), 203);
	ck_assert_str_eq(cause + 200, "...");
	ring_close(&t);
}
END_TEST

START_TEST(console_survives_a_flood)
{
	char chunk[4096];
	_cleanup_free_ char *text = NULL;
	struct ring t;

	ring_open(&t, 1000);
	memset(chunk, 'a', sizeof(chunk));
	for (size_t i = 0; i < 64; i++) {
		ck_assert_int_eq(write_all(t.writer, chunk, sizeof(chunk)), 0);
		ck_assert_int_ge(sd_event_run(t.event, 0), 0);
	}
	ck_assert_int_eq(console_tail(t.console, SIZE_MAX, &text), 0);
	ck_assert_uint_eq(strlen(text), 1000);
	t.writer = fd_close(t.writer);
	ck_assert_int_ge(
		sd_event_run(t.event, 0), 0); /* at the end the source is freed, the text is kept */
	ck_assert_int_eq(sd_event_run(t.event, 0), 0);
	console_drain(t.console);
	ring_close(&t);
}
END_TEST

START_TEST(sock_long_path)
{
	char path[256] = "/tmp/test-vmm-XXXXXX";
	_cleanup_close_ int listener = -EBADF, a = -EBADF, b = -EBADF;
	struct stat st;
	size_t n;

	ck_assert_ptr_nonnull(mkdtemp(path));
	n = strlen(path);
	memset(path + n, 'd', 130);
	path[n] = '/';
	path[n + 130] = 0;
	ck_assert_int_eq(mkdir(path, 0700), 0);
	strcat(path, "/s");
	ck_assert_int_eq(sock_dial(path, SOCK_STREAM), -ENOENT);
	for (int i = 0; i < 2; i++) { /* the second replaces the socket that the first left */
		listener = fd_close(listener);
		listener = sock_listen(path, SOCK_STREAM, 1);
		ck_assert_int_ge(listener, 0);
	}
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	a = sock_dial(path, SOCK_STREAM);
	ck_assert_int_ge(a, 0);
	b = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(b, 0);
	ck_assert_int_eq(unlink(path), 0);
	*strrchr(path, '/') = 0;
	ck_assert_int_eq(rmdir(path), 0);
	*strrchr(path, '/') = 0;
	ck_assert_int_eq(rmdir(path), 0);
}
END_TEST

/* A driver is found by the name in a machine's row; names are unique. */
START_TEST(drivers)
{
	ck_assert_ptr_null(vmm_driver_find(""));
	ck_assert_ptr_null(vmm_driver_find("no-driver"));
	ck_assert_str_eq(vmm_drivers[0]->name, "qemu");
	for (size_t i = 0; vmm_drivers[i]; i++) {
		const struct vmm_driver *d = vmm_drivers[i];

		ck_assert_ptr_eq(vmm_driver_find(d->name), d);
		ck_assert_uint_lt(strlen(d->name), VMM_DRIVER_NAME);
		ck_assert_uint_ne(d->can & (VMM_KVM | VMM_EMULATION), 0);
		ck_assert(d->probe && d->program && d->command && d->connect && d->boot &&
			  d->pause && d->resume && d->dial && d->exited && d->free);
		ck_assert(d->title && d->sockets && d->size >= sizeof(struct vmm));
		ck_assert_ptr_nonnull(
			strstr("guest_vsock guest_serial host_compat", d->execution_mode));
		for (size_t j = 0; j < i; j++)
			ck_assert_str_ne(vmm_drivers[j]->id_option, d->id_option);
	}
}
END_TEST

START_TEST(choice)
{
	struct manager m = { .event = NULL };
	struct vmm_choice c = { .driver = NULL };

	ck_assert_int_eq(vmm_choose(&m, ACCELERATOR_EMULATION, &c, NULL), 0);
	ck_assert_str_eq(c.driver, "qemu");
	ck_assert_int_eq(c.accelerator, ACCELERATOR_EMULATION);
	ck_assert_str_eq(c.reason, "asked for");
#ifdef PYRO_CRASH_POINTS
	ck_assert_int_eq(setenv("PYRO_TEST_DRIVER", "fake", 1), 0);
	ck_assert_int_eq(vmm_choose(&m, ACCELERATOR_AUTO, &c, NULL), 0);
	ck_assert_str_eq(c.driver, "fake");
	ck_assert_int_eq(c.accelerator, ACCELERATOR_EMULATION); /* the driver has no KVM */
	ck_assert_ptr_nonnull(c.reason);
	_cleanup_error_ struct error err = ERROR_INIT;
	ck_assert_int_eq(setenv("PYRO_TEST_DRIVER", "none-of-these", 1), 0);
	ck_assert_int_lt(vmm_choose(&m, ACCELERATOR_EMULATION, &c, &err), 0);
	ck_assert_int_eq(err.code, ERROR_VM_UNAVAILABLE);
	ck_assert_int_eq(unsetenv("PYRO_TEST_DRIVER"), 0);
#endif
}
END_TEST

/* Starts a process with this command line, which only waits, with the uid that a VMM has or with
 * another user's. */
static pid_t spawn_words(const char *option, const uint8_t uuid[16], bool as_vmm)
{
	char text[VMM_UUID_TEXT], sh[] = "/bin/sh", c[] = "-c", stop[] = "kill -STOP $$", word[32];
	char *const argv[] = { sh, c, stop, sh, word, text, NULL };
	siginfo_t info;
	pid_t pid;

	vmm_uuid_text(uuid, text);
	(void)snprintf(word, sizeof(word), "%s", option);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		uid_t uid = as_vmm ? CONFINE_UID(getpid()) : 1234;

		if (geteuid() != 0 || setresuid(uid, uid, uid) == 0)
			(void)execv(sh, argv);
		_exit(127);
	}
	ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WSTOPPED), 0);
	return pid;
}

/* Every user may start a process with the words of another's VMM. */
START_TEST(identity_of_another_user)
{
	const uint8_t uuid[16] = { 0xde, 0xad, 0xbe, 0xef, 2 };
	const struct vmm_driver *qemu = vmm_driver_find("qemu");
	pid_t other, pid;

	if (geteuid() != 0)
		return;
	other = spawn_words("-uuid", uuid, false);
	ck_assert_int_eq(vmm_process_is(qemu, other, uuid), 0);
	ck_assert_int_eq(vmm_process_find(qemu, uuid), 0);
	pid = spawn_words("-uuid", uuid, true);
	ck_assert_int_eq(vmm_process_find(qemu, uuid), pid);
	ck_assert_int_eq(kill(other, SIGKILL), 0);
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(other, NULL, 0), other);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}
END_TEST

START_TEST(identity)
{
	const uint8_t uuid[16] = { 0xde, 0xad, 0xbe, 0xef, 1 }, other[16] = { 0xde, 0xad, 0xbe };
	pid_t pid = spawn_words("-uuid", uuid, true);
	const struct vmm_driver *qemu = vmm_driver_find("qemu");
	uint64_t begun = 0, again = 0;

	ck_assert_int_eq(vmm_process_is(qemu, pid, uuid), 1);
	ck_assert_int_eq(vmm_process_is(qemu, pid, other), 0);
	ck_assert_int_eq(vmm_process_is(NULL, pid, uuid), -ENODEV);
	ck_assert_int_eq(vmm_process_find(qemu, uuid), pid);
	ck_assert_int_eq(vmm_process_find(qemu, other), 0);
	ck_assert_int_eq(vmm_process_find(NULL, uuid), 0);
#ifdef PYRO_CRASH_POINTS
	ck_assert_int_eq(vmm_process_is(vmm_driver_find("fake"), pid, uuid), 0);
	ck_assert_int_eq(vmm_process_find(vmm_driver_find("fake"), uuid), 0);
#endif
	ck_assert_int_eq(vmm_process_start_time(pid, &begun), 0);
	ck_assert_int_eq(vmm_process_start_time(pid, &again), 0);
	ck_assert_uint_gt(begun, 0);
	ck_assert_uint_eq(begun, again);
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(vmm_process_is(qemu, getpid(), uuid), 0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	ck_assert_int_lt(vmm_process_is(qemu, pid, uuid), 0);
}
END_TEST

START_TEST(accelerator)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	enum accelerator a = ACCELERATOR_MAX;
	const char *reason = NULL;
	struct host_kvm kvm = {};

	host_kvm_probe(&kvm);
	ck_assert_int_eq(vmm_resolve_accelerator(ACCELERATOR_EMULATION, &a, &reason, &err), 0);
	ck_assert_int_eq(a, ACCELERATOR_EMULATION);
	ck_assert_int_eq(vmm_resolve_accelerator(ACCELERATOR_AUTO, &a, &reason, &err), 0);
	ck_assert_int_eq(reason == NULL, a == ACCELERATOR_KVM);
	if (a == ACCELERATOR_KVM) {
		ck_assert(kvm.usable);
	} else {
		ck_assert_int_lt(vmm_resolve_accelerator(ACCELERATOR_KVM, &a, &reason, &err), 0);
		ck_assert_int_eq(err.code, ERROR_VM_UNAVAILABLE);
		ck_assert_ptr_nonnull(err.cause);
		ck_assert_ptr_nonnull(err.fix);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vmm");
	TCase *tc = tcase_create("all");
	SRunner *sr;
	int failed;

	tcase_add_test(tc, launch_round_trip);
	tcase_add_test(tc, launch_hostile);
	tcase_add_test(tc, launch_limits);
	tcase_add_test(tc, launch_replies);
	tcase_add_test(tc, args_emulation);
	tcase_add_test(tc, args_kvm);
	tcase_add_test(tc, args_refused);
	tcase_add_test(tc, console_keeps_the_end);
	tcase_add_loop_test(tc, console_tells_why, 0, ARRAY_SIZE(consoles));
	tcase_add_test(tc, console_cause_is_short);
	tcase_add_test(tc, console_survives_a_flood);
	tcase_add_test(tc, sock_long_path);
	tcase_add_test(tc, accelerator);
	tcase_add_test(tc, drivers);
	tcase_add_test(tc, choice);
	tcase_add_test(tc, identity);
	tcase_add_test(tc, identity_of_another_user);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
