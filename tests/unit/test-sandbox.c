/* SPDX-License-Identifier: MIT */
/*
 * The image writer's sandbox, tested from inside by a program that links the same sandbox.c. Each
 * attempt succeeds outside and must fail inside: as root, as a plain user, and as root without
 * CAP_SYS_ADMIN. Then the test reads from outside what the kernel reports about the confined
 * process. Run by `meson test`.
 */
#include "daemon/import/sandbox.h"
#include <arpa/inet.h>
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PLAIN_UID  54321
#define MEMORY     (UINT64_C(1) << 30)
#define FILE_BYTES (UINT64_C(1) << 20)
#define REFUSED    0  /* the attempt failed */
#define SUCCEEDED  42 /* it did not */
#define BROKEN     43 /* the sandbox could not be set up */
#define WAIT_MS    30000

enum who { AS_WE_ARE, AS_USER, AS_ROOT_WITHOUT_ADMIN, WHO_MAX };

/* Opened before the sandbox, as a bug might leave them. */
static struct {
	int root, port, file;
	unsigned n_missing;
	pid_t above;
} given;

static void on_missing(const char *what _unused_, int r, void *userdata _unused_)
{
	ck_assert_int_lt(r, 0);
	given.n_missing++;
}

static int enter(unsigned cpu_seconds)
{
	const struct sandbox_spec spec = { .memory_bytes = MEMORY,
		.file_bytes = FILE_BYTES,
		.cpu_seconds = cpu_seconds,
		.open_files = 32,
		.note = on_missing };
	const char *what;
	return sandbox_enter(&spec, &what);
}

static int drop_admin(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];
	if (syscall(SYS_capget, &h, d) < 0)
		return -errno;
	d[0].effective &= ~(1U << CAP_SYS_ADMIN);
	d[0].permitted &= ~(1U << CAP_SYS_ADMIN);
	d[0].inheritable = d[1].inheritable = 0;
	return syscall(SYS_capset, &h, d) < 0 ? -errno : 0;
}

static void become(enum who who)
{
	int r = 0;
	if (who == AS_USER)
		r = setresgid(PLAIN_UID, PLAIN_UID, PLAIN_UID) < 0
			    ? -errno
			    : (setresuid(PLAIN_UID, PLAIN_UID, PLAIN_UID) < 0 ? -errno : 0);
	else if (who == AS_ROOT_WITHOUT_ADMIN)
		r = drop_admin();
	if (r < 0)
		_exit(BROKEN);
}

/* Each returns whether its attempt succeeded. */
static bool open_passwd(void)
{
	return open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0;
}

static bool open_below_leaked(void)
{
	return openat(given.root, "etc/passwd", O_RDONLY | O_CLOEXEC) >= 0;
}

static bool open_itself(void)
{
	return open("/proc/self/fd/0", O_RDONLY | O_CLOEXEC) >= 0 ||
	       open(".", O_RDONLY | O_CLOEXEC) >= 0;
}

static bool stat_passwd(void)
{
	struct stat st;
	return stat("/etc/passwd", &st) == 0;
}

static bool list_root(void)
{
	DIR *d = opendir("/");
	return d && closedir(d) == 0;
}

static bool make_file(void)
{
	if (mknod("/tmp/pyro-test-sandbox", S_IFREG | 0600, 0) < 0)
		return false;
	(void)unlink("/tmp/pyro-test-sandbox");
	return true;
}

static bool connect_tcp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)given.port) };
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

static bool make_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) >= 0;
}

static bool make_pair(void)
{
	int fds[2];
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0;
}

static bool exec_true(void)
{
	pid_t pid = vfork();
	int status;
	if (pid == 0) {
		(void)execl("/bin/true", "true", NULL);
		_exit(1);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* Not forked before; outside it fails in the same way, but only because of the path. */
static bool exec_in_place(void)
{
	(void)execl("/nonexistent/program", "program", NULL);
	return errno == ENOENT;
}

static bool fork_once(void)
{
	pid_t pid = fork();
	if (pid == 0)
		_exit(0);
	return pid > 0 && waitpid(pid, NULL, 0) == pid;
}

static void *nothing(void *arg)
{
	return arg;
}

static bool start_thread(void)
{
	pthread_t t;
	return pthread_create(&t, NULL, nothing, NULL) == 0 && pthread_join(t, NULL) == 0;
}

static bool signal_above(void)
{
	return kill(given.above, 0) == 0;
}

static bool run_memory(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
	       MAP_FAILED;
}

static bool make_code(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return p != MAP_FAILED && mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0;
}

static bool write_far(void)
{
	return pwrite(given.file, "x", 1, (off_t)FILE_BYTES) == 1;
}

static bool many_files(void)
{
	for (int i = 0; i < 40; i++)
		if (dup(given.file) < 0)
			return false;
	return true;
}

static bool change_user(void)
{
	return setresuid((uid_t)-1, getuid(), (uid_t)-1) == 0;
}

static bool listen_to_signals(void)
{
	return fcntl(given.file, F_SETOWN, getpid()) == 0;
}

static bool new_x32_call(void)
{
	errno = 0;
	(void)syscall(0x40000000 | SYS_getpid);
	return true; /* outside this is only an error */
}

static const struct {
	const char *name;
	bool (*try)(void);
} attempts[] = {
	{ "open a file", open_passwd },
	{ "open below a leaked folder", open_below_leaked },
	{ "open its own descriptors", open_itself },
	{ "look at a path", stat_passwd },
	{ "list a folder", list_root },
	{ "make a file", make_file },
	{ "connect", connect_tcp },
	{ "make a socket", make_socket },
	{ "make a pair of sockets", make_pair },
	{ "run a program", exec_true },
	{ "become a program", exec_in_place },
	{ "fork", fork_once },
	{ "start a thread", start_thread },
	{ "signal the process above", signal_above },
	{ "map code", run_memory },
	{ "turn memory into code", make_code },
	{ "write beyond its limit", write_far },
	{ "open many files", many_files },
	{ "change its user", change_user },
	{ "have signals sent", listen_to_signals },
	{ "use the other system call table", new_x32_call },
};

static void setup(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	ck_assert_int_eq(listen(fd, 64), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	given.port = ntohs(a.sin_port);
	given.root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	given.file = memfd_create("file", MFD_CLOEXEC);
	given.above = getpid();
	ck_assert(given.root >= 0 && given.file >= 0);
}

/* Runs one attempt in a child and returns its wait status. */
static int attempt(bool (*try)(void), bool inside, enum who who)
{
	int status;
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		become(who);
		if (inside && enter(20) < 0)
			_exit(BROKEN);
		_exit(try() ? SUCCEEDED : REFUSED);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

START_TEST(attempts_fail_inside)
{
	enum who who = (enum who)(_i / (int)ARRAY_SIZE(attempts));
	size_t i = (size_t)_i % ARRAY_SIZE(attempts);
	if (who != AS_WE_ARE && geteuid() != 0)
		return;
	int outside = attempt(attempts[i].try, false, AS_WE_ARE);
	ck_assert_msg(WIFEXITED(outside) && WEXITSTATUS(outside) == SUCCEEDED,
		"%s: outside the sandbox it ends with %#x", attempts[i].name, (unsigned)outside);
	int inside = attempt(attempts[i].try, true, who);
	ck_assert_msg((WIFEXITED(inside) && WEXITSTATUS(inside) == REFUSED) ||
			      (WIFSIGNALED(inside) && WTERMSIG(inside) == SIGSYS),
		"%s: inside the sandbox (%d) it ends with %#x", attempts[i].name, (int)who,
		(unsigned)inside);
}
END_TEST

/* Operations that the writer needs. */
static bool compute(void)
{
	char c = 0, *p = malloc(16 << 20);
	struct stat st;
	bool good = p && pwrite(given.file, "abc", 3, 0) == 3 && pread(given.file, &c, 1, 1) == 1 &&
		    c == 'b' && fstat(given.file, &st) == 0 && ftruncate(given.file, 4096) == 0;
	free(p);
	return good && dup(given.file) >= 0 && getuid() != 0;
}

START_TEST(computing_goes_on)
{
	if (_i != AS_WE_ARE && geteuid() != 0)
		return;
	int status = attempt(compute, true, (enum who)_i);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == SUCCEEDED);
}
END_TEST

static bool count_missing(void)
{
	return given.n_missing > 0;
}

START_TEST(missing_layers_are_noted)
{
	if (geteuid() != 0)
		return;
	int status = attempt(count_missing, true, AS_ROOT_WITHOUT_ADMIN);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == SUCCEEDED);
}
END_TEST

START_TEST(processor_time_ends)
{
	int status;
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (enter(1) < 0)
			_exit(BROKEN);
		for (;;)
			__asm__ volatile("" ::: "memory");
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));
	ck_assert(WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL);
}
END_TEST

#ifndef __SANITIZE_ADDRESS__
static bool much_memory(void)
{
	return mmap(NULL, 2 * MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
	       MAP_FAILED;
}

START_TEST(memory_ends)
{
	int outside = attempt(much_memory, false, AS_WE_ARE);
	int inside = attempt(much_memory, true, AS_WE_ARE);
	ck_assert(WIFEXITED(outside) && WEXITSTATUS(outside) == SUCCEEDED);
	ck_assert(WIFEXITED(inside) && WEXITSTATUS(inside) == REFUSED);
}
END_TEST
#endif

/* Starts a confined process that reports its start and then waits; *ret_alive ends with it. */
static pid_t start_waiting(int *ret_alive)
{
	int alive[2], hold[2];
	char c;
	ck_assert_int_eq(pipe2(alive, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(hold, O_CLOEXEC), 0);
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		(void)close(alive[0]);
		if (enter(20) < 0 || write(alive[1], "x", 1) != 1)
			_exit(BROKEN);
		_exit(read(hold[0], &c, 1) < 0); /* no writer: it waits for ever */
	}
	(void)close(alive[1]);
	ck_assert_int_eq(read(alive[0], &c, 1), 1);
	*ret_alive = alive[0];
	return pid;
}

START_TEST(ends_with_the_process_above)
{
	int alive, status;
	char c;
	pid_t pid = start_waiting(&alive);
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	struct pollfd p = { .fd = alive, .events = POLLIN };
	ck_assert_int_eq(poll(&p, 1, WAIT_MS), 1);
	ck_assert_int_eq(read(alive, &c, 1), 0);
}
END_TEST

static pid_t only_child_of(pid_t pid)
{
	_cleanup_free_ char *path = str_printf("/proc/%d/task/%d/children", pid, pid);
	_cleanup_free_ char *text = NULL;
	size_t n;
	if (read_file_at(AT_FDCWD, path, 4096, &text, &n) < 0)
		return 0; /* a kernel without that file */
	return (pid_t)strtol(text, NULL, 10);
}

static bool other_namespace(pid_t pid, const char *kind)
{
	_cleanup_free_ char *a = str_printf("/proc/%d/ns/%s", pid, kind),
			    *b = str_printf("/proc/self/ns/%s", kind);
	struct stat x, y;
	ck_assert_int_eq(stat(a, &x), 0);
	ck_assert_int_eq(stat(b, &y), 0);
	return x.st_ino != y.st_ino;
}

static unsigned count_names(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;
	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		n++;
	(void)closedir(d);
	return n;
}

START_TEST(what_the_kernel_says)
{
	const char *const kinds[] = { "net", "ipc", "uts", "mnt", "pid" };
	const char *const lines[] = { "\nNoNewPrivs:\t1\n", "\nSeccomp:\t2\n",
		"\nCapEff:\t0000000000000000\n", "\nCapPrm:\t0000000000000000\n" };
	int alive, status;
	pid_t above = start_waiting(&alive), pid = only_child_of(above);
	size_t n;
	if (pid > 0 && geteuid() == 0) {
		_cleanup_free_ char *root = str_printf("/proc/%d/root/", pid),
				    *file = str_printf("/proc/%d/status", pid), *text = NULL;
		for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
			ck_assert_msg(other_namespace(pid, kinds[i]), "%s", kinds[i]);
		ck_assert_uint_eq(count_names(root), 2); /* . and .. */
		ck_assert_int_eq(read_file_at(AT_FDCWD, file, 65536, &text, &n), 0);
		for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
			ck_assert_msg(strstr(text, lines[i]), "%s in %s", lines[i], text);
		ck_assert_ptr_null(strstr(text, "\nUid:\t0\t"));
	}
	ck_assert_int_eq(kill(above, SIGKILL), 0);
	ck_assert_int_eq(waitpid(above, &status, 0), above);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("sandbox");
	TCase *tc = tcase_create("sandbox");
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_loop_test(tc, attempts_fail_inside, 0, (int)ARRAY_SIZE(attempts) * (int)WHO_MAX);
	tcase_add_loop_test(tc, computing_goes_on, 0, WHO_MAX);
	tcase_add_test(tc, missing_layers_are_noted);
	tcase_add_test(tc, processor_time_ends);
#ifndef __SANITIZE_ADDRESS__
	tcase_add_test(tc, memory_ends);
#endif
	tcase_add_test(tc, ends_with_the_process_above);
	tcase_add_test(tc, what_the_kernel_says);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
