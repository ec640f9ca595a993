/* SPDX-License-Identifier: MIT */
/*
 * Tests of daemon/child.c: what a child inherits and what it does not, and that every failure
 * before exec comes back as an errno with no child left behind.
 */

#include "daemon/child.h"
#include <check.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/filter.h"

#define NO_FDS .stdin_fd = -EBADF, .stdout_fd = -EBADF, .stderr_fd = -EBADF

static int finish(pid_t pid, int pidfd)
{
	int status;

	ck_assert_int_ge(pidfd, 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	close(pidfd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int run(const struct child_spec *spec)
{
	pid_t pid = 0;
	int pidfd = -EBADF;

	ck_assert_int_eq(child_spawn(spec, &pid, &pidfd), 0);
	ck_assert_int_gt(pid, 0);
	return finish(pid, pidfd);
}

/* Runs a shell line and returns its output. */
static char *output_of(const char *line, const struct child_spec *like)
{
	const char *argv[] = { "/bin/sh", "-c", line, NULL };
	static char text[65536];
	struct child_spec spec = *like;
	size_t n = 0;
	ssize_t got;
	pid_t pid;
	int p[2], pidfd;

	ck_assert_int_eq(pipe2(p, O_CLOEXEC), 0);
	spec.argv = argv;
	spec.stdout_fd = p[1];
	ck_assert_int_eq(child_spawn(&spec, &pid, &pidfd), 0);
	close(p[1]);
	while ((got = read(p[0], text + n, sizeof(text) - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = '\0';
	close(p[0]);
	ck_assert_int_eq(finish(pid, pidfd), 0);
	return text;
}

static const struct child_spec plain = { NO_FDS };

START_TEST(status_and_session)
{
	const char *argv[] = { "/bin/sh", "-c", "exit 7", NULL };
	ck_assert_int_eq(run(&(struct child_spec){ NO_FDS, .argv = argv }), 7);
	argv[2] = "kill -TERM $$";
	ck_assert_int_eq(run(&(struct child_spec){ NO_FDS, .argv = argv }), -SIGTERM);
	ck_assert_str_eq(
		output_of(
			"cut -d' ' -f1,5,6 /proc/$$/stat | tr ' ' '\\n' | sort -u | wc -l", &plain),
		"1\n"); /* pid = group = session */
}
END_TEST

START_TEST(only_named_descriptors)
{
	/* Left open and not close-on-exec on purpose. */
	int leak = open("/dev/zero", O_RDONLY);
	int fds[] = { leak, STDERR_FILENO, leak };
	struct child_spec spec = { NO_FDS, .fds = fds, .n_fds = 3 };

	ck_assert_int_gt(leak, 2);
	ck_assert_str_eq(output_of("cd /proc/$$/fd; echo *", &plain),
		"0 1 2 3\n"); /* 3 is the directory that is being listed */
	ck_assert_str_eq(output_of("cd /proc/$$/fd; echo *; readlink 3 5", &spec),
		"0 1 2 3 4 5 6\n/dev/zero\n/dev/zero\n");
	ck_assert_str_eq(
		output_of("cd /proc/$$/fd; readlink 0 2", &plain), "/dev/null\n/dev/null\n");
	close(leak);
}
END_TEST

/* Descriptors that swap their numbers. */
START_TEST(crossed_descriptors)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	int full = open("/dev/full", O_RDONLY | O_CLOEXEC);

	zero = fcntl(zero, F_DUPFD_CLOEXEC, 50);
	full = fcntl(full, F_DUPFD_CLOEXEC, 50);
	ck_assert_int_eq(dup3(zero, 4, O_CLOEXEC), 4);
	ck_assert_int_eq(dup3(full, 3, O_CLOEXEC), 3);
	int fds[] = { 4, 3 };
	struct child_spec spec = { NO_FDS, .fds = fds, .n_fds = 2 };
	ck_assert_str_eq(
		output_of("readlink /proc/$$/fd/3 /proc/$$/fd/4", &spec), "/dev/zero\n/dev/full\n");
}
END_TEST

START_TEST(closed_standard_descriptors)
{
	const char *argv[] = { "/bin/sh", "-c", "test -e /proc/$$/fd/0 -a -e /proc/$$/fd/2", NULL };

	close(0);
	ck_assert_int_eq(run(&(struct child_spec){ NO_FDS, .argv = argv }), 0);
}
END_TEST

START_TEST(failures_come_back)
{
	const char *argv[] = { "/nonexistent", NULL };
	pid_t pid = 1;
	int pidfd = 2, bad = -EBADF;

	struct child_spec spec = { NO_FDS, .argv = argv };
	ck_assert_int_eq(child_spawn(&spec, &pid, &pidfd), -ENOENT);
	argv[0] = "/etc/passwd";
	ck_assert_int_eq(child_spawn(&spec, &pid, &pidfd), -EACCES);
	argv[0] = "/bin/true";
	spec.cwd = "/nonexistent";
	ck_assert_int_eq(child_spawn(&spec, &pid, &pidfd), -ENOENT);
	spec.cwd = NULL;
	spec.fds = &bad;
	spec.n_fds = 1;
	ck_assert_int_eq(child_spawn(&spec, &pid, &pidfd), -EBADF);
	bad = 999;
	ck_assert_int_eq(child_spawn(&spec, &pid, &pidfd), -EBADF); /* detected in the child */
	spec.n_fds = 1000;
	ck_assert_int_eq(child_spawn(&spec, &pid, &pidfd), -EINVAL);
	spec.n_fds = 0;
	argv[0] = "true";
	ck_assert_int_eq(child_spawn(&spec, &pid, &pidfd), -EINVAL);
	ck_assert_int_eq(child_spawn(&(struct child_spec){ NO_FDS }, &pid, &pidfd), -EINVAL);
	ck_assert(pid == 1 && pidfd == 2);
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
	ck_assert_int_eq(errno, ECHILD);
}
END_TEST

START_TEST(signals_are_reset)
{
	sigset_t set;
	char *status;

	sigfillset(&set);
	ck_assert_int_eq(sigprocmask(SIG_BLOCK, &set, NULL), 0);
	ck_assert_ptr_ne(signal(SIGPIPE, SIG_IGN), SIG_ERR);
	ck_assert_ptr_ne(signal(SIGUSR1, SIG_IGN), SIG_ERR);
	status = output_of("exec grep -E '^Sig(Blk|Ign)' /proc/self/status", &plain);
	ck_assert_str_eq(status, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
	sigset_t now;
	ck_assert_int_eq(sigprocmask(SIG_BLOCK, NULL, &now), 0);
	ck_assert_int_eq(sigismember(&now, SIGUSR2), 1); /* the parent's mask is unchanged */
}
END_TEST

START_TEST(environment)
{
	static const char *const own[] = { "X=1", NULL };
	struct child_spec spec = { NO_FDS, .env = own };

	ck_assert_int_eq(clearenv(), 0);
	ck_assert_int_eq(setenv("HOME", "/h", 1), 0);
	ck_assert_int_eq(setenv("SECRET", "s", 1), 0);
	ck_assert_int_eq(setenv("https_proxy", "p", 1), 0);
	ck_assert_int_eq(setenv("NO_PROXY", "n", 1), 0);
	ck_assert_int_eq(setenv("LANG", "xx", 1), 0);
	ck_assert_int_eq(setenv("PATH", "/usr/bin:/bin", 1), 0);
	ck_assert_str_eq(output_of("env | grep -v ^PWD= | grep -v ^_= | sort", &plain),
		"HOME=/h\nLANG=C.UTF-8\nNO_PROXY=n\nPATH=/usr/bin:/bin\nhttps_proxy=p\n");
	ck_assert_int_eq(unsetenv("PATH"), 0);
	ck_assert_ptr_nonnull(strstr(output_of("/usr/bin/env", &plain), "PATH=/usr/local/sbin:"));
	ck_assert_ptr_nonnull(strstr(output_of("/usr/bin/env", &spec), "X=1\n"));
	ck_assert_ptr_null(strstr(output_of("/usr/bin/env", &spec), "HOME="));
}
END_TEST

START_TEST(another_user)
{
	struct child_spec spec = { NO_FDS, .uid = 65534, .gid = 65534, .die_with_parent = true };
	pid_t pid;
	int pidfd;

	if (geteuid() != 0) {
		const char *argv[] = { "/bin/true", NULL };
		spec.argv = argv;
		ck_assert_int_eq(child_spawn(&spec, &pid, &pidfd), -EPERM);
		return;
	}
	ck_assert_str_eq(output_of("id -u; id -g; id -G", &spec), "65534\n65534\n65534\n");
	ck_assert_ptr_nonnull(
		strstr(output_of("cat /proc/self/status", &spec), "CapEff:\t0000000000000000"));
}
END_TEST

static int report_self(void *arg)
{
	int sig = 0;

	if (prctl(PR_GET_PDEATHSIG, &sig) < 0 || sig != SIGKILL)
		return 1;
	return write(3, arg, 2) == 2 ? 42 : 2;
}

START_TEST(function_in_the_child)
{
	char text[3] = "";
	int p[2];

	ck_assert_int_eq(pipe2(p, O_CLOEXEC), 0);
	ck_assert_int_eq(run(&(struct child_spec){ NO_FDS, .fn = report_self,
				 .arg = (void *)(uintptr_t) "ok", .fds = &p[1], .n_fds = 1,
				 .die_with_parent = true }),
		42);
	ck_assert_int_eq(read(p[0], text, 2), 2);
	ck_assert_str_eq(text, "ok");
	close(p[0]);
	close(p[1]);
	ck_assert_int_eq(
		run(&(struct child_spec){ NO_FDS, .fn = report_self, .cwd = "/nonexistent" }),
		ENOENT);
}
END_TEST

/* Runs in the child: returns 0 when a key of the parent's session is found. */
static int finds_key(void *arg)
{
	return syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", arg, 0) < 0
		       ? errno
		       : 0;
}

START_TEST(no_keys_of_the_session)
{
	static char name[] = "pyro-test-secret";
	const struct child_spec spec = { .fn = finds_key, .arg = name, NO_FDS };

	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0)
		return; /* no keyrings here */
	ck_assert_int_ge(syscall(SYS_add_key, "user", name, "x", 1, KEY_SPEC_SESSION_KEYRING), 0);
	ck_assert_int_eq(finds_key(name), 0);
	ck_assert_int_eq(run(&spec), ENOKEY);
}
END_TEST

/* Simulates a host without PID namespaces, e.g. a container, by a filter. */
static void forbid_pid_namespaces(void)
{
	struct filter f;

	filter_begin(&f);
	filter_bits(&f, SYS_clone, 0, CLONE_NEWPID, 0, FILTER_ALLOW, FILTER_FAIL(EPERM));
	ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	ck_assert_int_eq(filter_install(&f, FILTER_ALLOW), 0);
}

enum { AS_WE_ARE, AS_PLAIN_USER, WHERE_IT_IS_DENIED, PID_CASES, PLAIN_UID = 61004 };

/* The child keeps its user, is process 1 of its namespace, and has the pid of child_spawn
 * outside. */
START_TEST(pid_namespace)
{
	const struct child_spec like = { NO_FDS, .pid_namespace = true };
	char want[64], *got;

	if (_i == AS_PLAIN_USER && geteuid() != 0)
		return;
	/* A change of user makes /proc/self unreadable, as an exec by that user does not. */
	if (_i == AS_PLAIN_USER)
		ck_assert_int_eq(setresgid(PLAIN_UID, PLAIN_UID, PLAIN_UID) |
					 setresuid(PLAIN_UID, PLAIN_UID, PLAIN_UID) |
					 prctl(PR_SET_DUMPABLE, 1),
			0);
	if (_i == WHERE_IT_IS_DENIED)
		forbid_pid_namespaces();
	(void)snprintf(want, sizeof(want), " %u %u\n", geteuid(), getegid());
	got = output_of("echo $$ $(id -u) $(id -g)", &like);
	ck_assert_msg(startswith(got, "1 ") == (_i != WHERE_IT_IS_DENIED), "%s", got);
	ck_assert_str_eq(strchr(got, ' '), want);
}
END_TEST

START_TEST(nothing_outlives_a_pid_namespace)
{
	const char *argv[] = { "/bin/sh", "-c", "sleep 1000 & echo; sleep 1000", NULL };
	struct child_spec spec = { NO_FDS, .argv = argv, .pid_namespace = true };
	int p[2], pidfd;
	pid_t pid;
	char c;

	ck_assert_int_eq(pipe2(p, O_CLOEXEC), 0);
	spec.stdout_fd = p[1];
	ck_assert_int_eq(child_spawn(&spec, &pid, &pidfd), 0);
	close(p[1]);
	ck_assert_int_eq(read(p[0], &c, 1), 1);
	ck_assert_int_eq(pidfd_send_signal(pidfd, SIGKILL, NULL, 0), 0);
	ck_assert_int_eq(finish(pid, pidfd), -SIGKILL);
	ck_assert_int_eq(read(p[0], &c, 1), 0); /* both have exited */
	close(p[0]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("child");
	TCase *tc = tcase_create("child");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, status_and_session);
	tcase_add_test(tc, no_keys_of_the_session);
	tcase_add_test(tc, only_named_descriptors);
	tcase_add_test(tc, crossed_descriptors);
	tcase_add_test(tc, closed_standard_descriptors);
	tcase_add_test(tc, failures_come_back);
	tcase_add_test(tc, signals_are_reset);
	tcase_add_test(tc, environment);
	tcase_add_test(tc, another_user);
	tcase_add_test(tc, function_in_the_child);
	tcase_add_loop_test(tc, pid_namespace, 0, PID_CASES);
	tcase_add_test(tc, nothing_outlives_a_pid_namespace);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
