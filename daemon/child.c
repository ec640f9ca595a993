/* SPDX-License-Identifier: MIT */
/*
 * Starts child processes for jobs and services; nothing else forks. The daemon has a second thread,
 * so all allocation is done before fork, and between fork and exec (or fn) the child makes system
 * calls only. The child leads its own session and process group, so that the whole group can be
 * killed, and has only the descriptors that were named. A step that fails in the child, exec
 * included, is reported through a close-on-exec pipe and returned as -errno; then no child is left.
 * Without exec the parent does not wait for the report, since on a busy host the child may first
 * run after 10 ms; a failed step is then the exit status.
 */

#include "daemon/child.h"
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/userns.h"

extern char **environ;

#define DEFAULT_PATH  "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define EXIT_SETUP    127
#define CHILD_FDS_MAX 64

/* All data that the child needs, allocated before fork. */
struct plan {
	const struct child_spec *spec;
	const char *const *env;
	int *sources; /* descriptors that become 0, 1, 2, ..., then space for copies */
	int n;        /* number of sources */
	int report_fd;
	pid_t parent;
	int namespaces;       /* CLONE_NEW* */
	struct userns userns; /* with CLONE_NEWUSER */
};

static bool variable_is_passed(const char *v)
{
	static const char *const names[] = { "PATH=", "HOME=", "TMPDIR=" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (startswith(v, names[i]))
			return true;
	}
	const char *end = strchr(v, '=');
	size_t n = end ? (size_t)(end - v) : 0;
	return n >= 6 && strncasecmp(end - 6, "_proxy", 6) == 0;
}

/* The caller owns the array; its strings are borrowed. */
static int default_env(const char ***ret)
{
	size_t n = 0, k = 0;

	while (environ && environ[n])
		n++;
	const char **env = calloc(n + 3, sizeof(*env));
	if (!env)
		return -ENOMEM;
	env[k++] = "LANG=C.UTF-8";
	if (!getenv("PATH"))
		env[k++] = DEFAULT_PATH;
	for (size_t i = 0; i < n; i++) {
		if (variable_is_passed(environ[i]))
			env[k++] = environ[i];
	}
	*ret = env;
	return 0;
}

static int fill_sources(struct plan *plan, int null_fd)
{
	const struct child_spec *s = plan->spec;
	int first[] = { s->stdin_fd, s->stdout_fd, s->stderr_fd };

	if (s->n_fds > CHILD_FDS_MAX)
		return -EINVAL;
	plan->n = (int)(ARRAY_SIZE(first) + s->n_fds);
	plan->sources = calloc((size_t)plan->n * 2, sizeof(*plan->sources));
	if (!plan->sources)
		return -ENOMEM;
	for (int i = 0; i < plan->n; i++) {
		int fd = i < 3 ? first[i] : s->fds[i - 3];
		if (fd < 0 && i >= 3)
			return -EBADF;
		plan->sources[i] = fd < 0 ? null_fd : fd;
	}
	return 0;
}

/* Runs in the child: moves the sources to 0 .. n-1 and the report pipe to n, closes all others. */
static int child_fds(struct plan *plan)
{
	int n = plan->n, *copies = plan->sources + n;

	/* Copy above the targets first: the number of a source may be the target of another. */
	for (int i = 0; i < n; i++) {
		copies[i] = fcntl(plan->sources[i], F_DUPFD_CLOEXEC, n + 1);
		if (copies[i] < 0)
			return -errno;
	}
	int report = fcntl(plan->report_fd, F_DUPFD_CLOEXEC, n + 1);
	if (report < 0)
		return -errno;
	plan->report_fd = report;
	for (int i = 0; i < n; i++) {
		if (dup2(copies[i], i) < 0)
			return -errno;
	}
	if (dup3(report, n, O_CLOEXEC) < 0)
		return -errno;
	plan->report_fd = n;
	return close_range((unsigned)n + 1, ~0U, 0) < 0 ? -errno : 0;
}

/* Runs in the child. Plain system calls: glibc's wrappers lock to signal threads that do not exist
 * here. */
static int child_user(const struct child_spec *s)
{
	if (s->uid == 0)
		return 0;
	if (syscall(SYS_setgroups, 0, NULL) < 0 ||
		syscall(SYS_setresgid, s->gid, s->gid, s->gid) < 0 ||
		syscall(SYS_setresuid, s->uid, s->uid, s->uid) < 0)
		return -errno;
	return 0;
}

/* Runs in the child. All signals are blocked until here, so that no handler of the daemon runs. */
static int child_signals(void)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;

	/* Fails for KILL, STOP and libc's two internal signals, which need no reset. */
	for (int i = 1; i < NSIG; i++)
		(void)sigaction(i, &dfl, NULL);
	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL) < 0 ? -errno : 0;
}

/* Runs in the child: replaces the session keyring inherited from pyrod's login
 * (session-keyring(7)). If the kernel denies keyrings, the child cannot read one either. */
static int child_keyring(void)
{
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS &&
		errno != EPERM)
		return -errno;
	return 0;
}

static int child_setup(struct plan *plan)
{
	const struct child_spec *s = plan->spec;
	int r;

	if (setsid() < 0)
		return -errno;
	r = plan->namespaces & CLONE_NEWUSER ? userns_settle(&plan->userns) : 0;
	if (r < 0)
		return r;
	r = child_keyring();
	if (r < 0)
		return r;
	r = child_fds(plan);
	if (r < 0)
		return r;
	r = child_user(s);
	if (r < 0)
		return r;
	/* A change of user clears it, so set it after that. */
	if (s->die_with_parent) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
			return -errno;
		if (getppid() != plan->parent)
			return -ESRCH;
	}
	if (chdir(s->cwd ? s->cwd : "/") < 0)
		return -errno;
	return child_signals();
}

static _noreturn_ void child_main(struct plan *plan)
{
	const struct child_spec *s = plan->spec;

	int r = child_setup(plan);
	if (!s->argv) {
		(void)close(plan->report_fd);
		_exit(r < 0 ? -r : s->fn(s->arg));
	}
	if (r >= 0) {
		/* execve takes char * for historical reasons and does not modify the strings. */
		(void)execve(s->argv[0], (char *const *)s->argv, (char *const *)plan->env);
		r = -errno;
	}
	(void)write_all(plan->report_fd, &r, sizeof(r));
	_exit(EXIT_SETUP);
}

static void reap(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* Returns 0 if a successful exec closed the other end, else the child's -errno. */
static int read_report(int fd)
{
	int r = 0;
	ssize_t n;

	do
		n = read(fd, &r, sizeof(r));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n == 0)
		return 0;
	return n == sizeof(r) && r < 0 ? r : -EPROTO;
}

/* Forks with all signals blocked; returns the child's pid, or -errno. */
static pid_t fork_blocked(struct plan *plan)
{
	sigset_t all, before;

	sigfillset(&all);
	int r = pthread_sigmask(SIG_SETMASK, &all, &before);
	if (r != 0)
		return -r;
	/* After a raw clone(2), libc's state is not valid in the child, which makes system calls
	 * only. */
	pid_t pid = plan->namespaces ? (pid_t)syscall(SYS_clone, plan->namespaces | SIGCHLD, NULL,
					       NULL, NULL, 0)
				     : fork();
	if (pid == 0)
		child_main(plan);
	if (pid < 0)
		pid = -errno;
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	return pid;
}

/* Forks and waits for the report of a child that execs. The pid cannot be reused before it is
 * reaped here. */
static int spawn(struct plan *plan, pid_t *ret_pid, int *ret_pidfd)
{
	int report[2];

	if (pipe2(report, O_CLOEXEC) < 0)
		return -errno;
	_cleanup_close_ int read_end = report[0];
	_cleanup_close_ int write_end = report[1];
	plan->report_fd = write_end;
	pid_t pid = fork_blocked(plan);
	if (pid < 0)
		return pid;
	write_end = fd_close(write_end);
	int r = plan->spec->argv ? read_report(read_end) : 0;
	if (r >= 0) {
		int pidfd = pidfd_open(pid, 0);
		if (pidfd >= 0) {
			*ret_pid = pid;
			*ret_pidfd = pidfd;
			return 0;
		}
		r = -errno;
	}
	(void)kill(pid, SIGKILL);
	reap(pid);
	return r;
}

/* A plain user can create a PID namespace only together with a user namespace. */
static void plan_namespaces(struct plan *plan)
{
	plan->namespaces = CLONE_NEWPID;
	if (geteuid() == 0)
		return;
	plan->namespaces |= CLONE_NEWUSER;
	userns_plan(&plan->userns);
}

int child_spawn(const struct child_spec *spec, pid_t *ret_pid, int *ret_pidfd)
{
	_cleanup_free_ const char **env = NULL;
	struct plan plan = { .spec = spec, .env = spec->env, .parent = getpid() };

	if (!spec->argv == !spec->fn || (spec->argv && spec->argv[0][0] != '/'))
		return -EINVAL;
	if (!plan.env) {
		int r = default_env(&env);
		if (r < 0)
			return r;
		plan.env = env;
	}
	_cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0)
		return -errno;
	int r = fill_sources(&plan, null_fd);
	_cleanup_free_ int *sources = plan.sources;
	if (r < 0)
		return r;
	if (spec->pid_namespace && spec->argv) {
		plan_namespaces(&plan);
		if (spawn(&plan, ret_pid, ret_pidfd) >= 0)
			return 0;
		plan.namespaces = 0; /* try without; another error would occur again */
	}
	return spawn(&plan, ret_pid, ret_pidfd);
}
