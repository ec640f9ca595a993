/* SPDX-License-Identifier: MIT */
/*
 * Forks and executes programs, for exec.c and login.c. clone3 puts the child into its cgroup, so it
 * can never fork outside of it. Between fork and execve the child makes system calls only; it
 * reports its first failure through a pipe that execve closes. The parent never waits for it: a
 * working directory on a hung file system must not block the agent.
 */

#include "guest/spawn.h"

#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { NOFILE_SOFT = 1024, NOFILE_HARD = 1024 * 1024 };

enum spawn_step { STEP_STDIO, STEP_SESSION, STEP_LIMITS, STEP_USER, STEP_CWD, STEP_EXEC, STEP_MAX };

static const char *const step_names[] = {
	[STEP_STDIO] = "set up stdio",
	[STEP_SESSION] = "setsid",
	[STEP_LIMITS] = "set limits",
	[STEP_USER] = "become user",
	[STEP_CWD] = "chdir",
	[STEP_EXEC] = "execute",
};
_Static_assert(ARRAY_SIZE(step_names) == STEP_MAX, "a name per step");

/* Sent through a pipe within the same program: not a wire format. */
struct failure {
	int step, error;
};

static void reset_signals(void)
{
	sigset_t none;

	for (int n = 1; n < NSIG; n++)
		(void)signal(n, SIG_DFL); /* fails for KILL and STOP, as it should */
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static int take_stdio(const int fds[3])
{
	_cleanup_close_ int null_fd = -EBADF;

	if (fds[0] < 0) {
		null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (null_fd < 0)
			return -errno;
	}
	if (dup2(fds[0] < 0 ? null_fd : fds[0], 0) < 0 || dup2(fds[1], 1) < 0 ||
		dup2(fds[2], 2) < 0)
		return -errno;
	return close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0 ? -errno : 0;
}

/* Gives the child ordinary limits: the agent is exempt from the OOM killer and may have many
 * descriptors. */
static int set_limits(void)
{
	struct rlimit lim;
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	r = write_all(fd, "0", 1);
	(void)close(fd);
	if (r < 0 && r != -EACCES)
		return r;
	if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return -errno;
	lim.rlim_max = geteuid() == 0 ? NOFILE_HARD : lim.rlim_max;
	lim.rlim_cur = MIN_OF((rlim_t)NOFILE_SOFT, lim.rlim_max);
	umask(022);
	return setrlimit(RLIMIT_NOFILE, &lim) < 0 && errno != EPERM ? -errno : 0;
}

static int become(const struct user *u)
{
	if (geteuid() != 0 && geteuid() == u->uid)
		return 0;
	if (setgroups(u->n_groups, u->groups) < 0 || setresgid(u->gid, u->gid, u->gid) < 0 ||
		setresuid(u->uid, u->uid, u->uid) < 0)
		return -errno;
	return 0;
}

/* Like execvpe, but with the command's own PATH. Returns the last error other than ENOENT. */
static int execute(const struct spawn_params *p)
{
	const char *dirs = p->path_dirs ? p->path_dirs : "";
	int r = -ENOENT;

	if (strchr(p->path, '/')) {
		execve(p->path, p->argv, p->env);
		return -errno;
	}
	while (*dirs) {
		size_t n = strcspn(dirs, ":");
		char full[PATH_MAX];
		if (snprintf(full, sizeof(full), "%.*s/%s", (int)MIN_OF(n, (size_t)PATH_MAX), dirs,
			    p->path) < (int)sizeof(full)) {
			execve(full, p->argv, p->env);
			if (errno != ENOENT && errno != ENOTDIR)
				r = -errno;
		}
		dirs += n + (dirs[n] == ':');
	}
	return r;
}

static _noreturn_ void child_main(const struct spawn_params *p, int status_fd)
{
	struct failure f = { .step = STEP_STDIO };
	int r;

	reset_signals();
	r = take_stdio(p->fds);
	if (r >= 0) {
		f.step = STEP_SESSION;
		r = setsid() < 0 ? -errno : 0;
	}
	if (r >= 0) {
		f.step = STEP_LIMITS;
		r = set_limits();
	}
	if (r >= 0) {
		f.step = STEP_USER;
		r = become(p->user);
	}
	if (r >= 0) {
		f.step = STEP_CWD;
		r = chdir(p->cwd) < 0 && !(p->cwd_or_root && chdir("/") == 0) ? -errno : 0;
	}
	if (r >= 0) {
		f.step = STEP_EXEC;
		r = execute(p);
	}
	f.error = -r;
	(void)write_all(status_fd, &f, sizeof(f));
	_exit(127);
}

static pid_t fork_into(int cgroup_fd)
{
	struct clone_args args = {
		.flags = CLONE_INTO_CGROUP,
		.exit_signal = SIGCHLD,
		.cgroup = (uint64_t)cgroup_fd,
	};

	if (cgroup_fd < 0)
		return fork();
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

int spawn(const struct spawn_params *p, pid_t *ret_pid, int *ret_status_fd)
{
	_cleanup_close_ int rd = -EBADF, wr = -EBADF;
	int pipe_fds[2];
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	rd = pipe_fds[0];
	wr = pipe_fds[1];
	/* Not 0-2, which the child overwrites. */
	if (wr < 3) {
		int high = fcntl(wr, F_DUPFD_CLOEXEC, 3);
		if (high < 0)
			return -errno;
		fd_close(wr);
		wr = high;
	}
	pid = fork_into(p->cgroup_fd);
	if (pid < 0)
		return -errno;
	if (pid == 0)
		child_main(p, wr);
	*ret_pid = pid;
	*ret_status_fd = TAKE_FD(rd);
	return 0;
}

int spawn_status(int status_fd, const struct spawn_params *p, char **ret_what)
{
	struct failure f;
	ssize_t n = read(status_fd, &f, sizeof(f));

	if (n == 0)
		return 0;
	if (n < 0)
		return -errno;
	if (n != (ssize_t)sizeof(f) || f.step < 0 || f.step >= STEP_MAX || f.error <= 0)
		return -EIO;
	switch (f.step) {
	case STEP_USER: *ret_what = str_printf("%s %s", step_names[f.step], p->user->name); break;
	case STEP_CWD: *ret_what = str_printf("%s %s", step_names[f.step], p->cwd); break;
	case STEP_EXEC: *ret_what = str_printf("%s %s", step_names[f.step], p->path); break;
	default: *ret_what = strdup(step_names[f.step]); break;
	}
	return -f.error;
}
