/* SPDX-License-Identifier: MIT */
/*
 * Starts a user's own daemon when none runs, as gpg-agent's clients do. Called by dial.c. A helper
 * process locks the run-time directory, so that only one of several clients starts a daemon. It
 * checks again whether a daemon answers, starts `pyrod --user` in a session of its own and waits
 * for READY=1 (sd_notify(3)), so that nothing polls for the socket. The helper makes only system
 * calls after fork, because the caller may have threads. The parent waits at most
 * START_TIMEOUT_SEC.
 */
#include "dial.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "proto/host.h"

extern char **environ;

#define LOG_TAIL 4096 /* bytes */

enum outcome { STARTED = 'R', ENDED = 'E', NOT_RUN = 'X' };

struct starter {
	const char *path; /* borrowed: the socket */
	char *program;    /* owned */
	int notify;       /* owned: receives READY=1 */
	int lock;         /* owned: the locked directory */
	int log;          /* owned: the daemon's stderr */
	off_t log_from;   /* offset in log where this daemon's output begins */
	char **env;       /* owned array of borrowed strings */
	char *notify_env; /* owned */
};

static void starter_done(struct starter *s)
{
	free(s->program);
	free(s->env);
	free(s->notify_env);
	s->notify = fd_close(s->notify);
	s->lock = fd_close(s->lock);
	s->log = fd_close(s->log);
}

static int make_directories(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	for (char *p = strchr(copy + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (mkdir(copy, 0700) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(copy, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

/* Opens a datagram socket at an address from the kernel, and makes the variable that names it. */
static int open_notify(struct starter *s)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	socklen_t size = sizeof(sa_family_t);
	int n;

	s->notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->notify < 0)
		return -errno;
	if (bind(s->notify, (struct sockaddr *)&addr, size) < 0)
		return -errno;
	size = sizeof(addr);
	if (getsockname(s->notify, (struct sockaddr *)&addr, &size) < 0)
		return -errno;
	n = (int)(size - offsetof(struct sockaddr_un, sun_path)) - 1;
	s->notify_env = str_printf("NOTIFY_SOCKET=@%.*s", n, addr.sun_path + 1);
	return s->notify_env ? 0 : -ENOMEM;
}

static int make_environment(struct starter *s)
{
	size_t n = 0, k = 0;

	while (environ && environ[n])
		n++;
	s->env = calloc(n + 2, sizeof(*s->env));
	if (!s->env)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (!startswith(environ[i], "NOTIFY_SOCKET=") && !startswith(environ[i], "LISTEN_"))
			s->env[k++] = environ[i];
	s->env[k] = s->notify_env;
	return 0;
}

/* Opens memory of a fixed size (LOG_TAIL) for the reason of a daemon that exits at once. */
static int open_memory(void)
{
	_cleanup_close_ int fd = memfd_create("pyrod.log", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, LOG_TAIL) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) < 0)
		return -errno;
	return TAKE_FD(fd);
}

/* Opens STATE/pyrod.log for the daemon's output, or memory for its first bytes if that fails. */
static int open_log(struct starter *s)
{
	const char *given = getenv("PYRO_STATE_DIR");
	_cleanup_free_ char *dir = given ? strdup(given) : NULL, *path = NULL;

	if (!dir && host_state_dir(false, &dir) < 0)
		dir = NULL;
	if (dir && host_is_ours(dir, strlen(dir)) && !host_has_foreign_link(dir) &&
		make_directories(dir) >= 0) {
		path = str_printf("%s/pyrod.log", dir);
		if (path)
			s->log = open(
				path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	}
	if (s->log >= 0)
		s->log_from = MAX_OF(lseek(s->log, 0, SEEK_END), (off_t)0);
	else
		s->log = open_memory();
	return s->log < 0 ? s->log : 0;
}

/* Opens the run-time directory, or its nearest ancestor that exists. */
static int open_lock(struct starter *s)
{
	_cleanup_free_ char *dir = strdup(s->path);

	if (!dir)
		return -ENOMEM;
	for (char *slash = strrchr(dir, '/'); slash && s->lock < 0; slash = strrchr(dir, '/')) {
		slash[slash == dir] = '\0';
		s->lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (slash == dir)
			break;
	}
	return s->lock < 0 ? -ENOENT : 0;
}

static _noreturn_ void run_daemon(const struct starter *s, char *const argv[])
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;
	int null = open("/dev/null", O_RDWR);

	sigemptyset(&none);
	for (int sig = 1; sig < NSIG; sig++)
		(void)sigaction(sig, &dfl, NULL);
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0 || chdir("/") < 0 || null < 0 ||
		dup2(null, 0) < 0 || dup2(s->log, 1) < 0 || dup2(s->log, 2) < 0 ||
		syscall(SYS_close_range, 3U, ~0U, 0U) < 0)
		_exit(126);
	execve(s->program, argv, s->env);
	_exit(127);
}

/* Waits for READY=1 or the daemon's exit. */
static enum outcome wait_ready(const struct starter *s, int pidfd)
{
	struct pollfd fds[2] = {
		{ .fd = s->notify, .events = POLLIN },
		{ .fd = pidfd, .events = POLLIN },
	};
	char message[512];

	while (poll(fds, 2, START_TIMEOUT_SEC * 1000) > 0) {
		ssize_t n = recv(s->notify, message, sizeof(message) - 1, 0);

		message[n > 0 ? n : 0] = '\0';
		if (n > 0 && (startswith(message, "READY=1") || strstr(message, "\nREADY=1")))
			return STARTED;
		if (n < 0 && fds[1].revents)
			return ENDED;
	}
	return NOT_RUN;
}

/* Runs the helper (see the top of this file). Never returns; writes its outcome as one byte. */
static _noreturn_ void helper(const struct starter *s, char *const argv[], int report)
{
	char outcome = NOT_RUN;
	int fd, pidfd;
	pid_t pid;

	(void)setsid();
	if (flock(s->lock, LOCK_EX) < 0)
		_exit(1);
	fd = dial_path(s->path);
	if (fd >= 0) {
		outcome = STARTED;
	} else {
		pid = fork();
		if (pid == 0)
			run_daemon(s, argv);
		pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0U) : -1;
		if (pidfd >= 0)
			outcome = (char)wait_ready(s, pidfd);
	}
	_exit(write(report, &outcome, 1) == 1 ? 0 : 1);
}

/* Returns the last line of this daemon's output, owned by the caller. NULL when there is none. */
static char *find_reason(const struct starter *s)
{
	char tail[LOG_TAIL + 1], *line, *at = tail, *last = NULL;
	off_t end = lseek(s->log, 0, SEEK_END), begin = end < s->log_from ? 0 : s->log_from;
	off_t from = MAX_OF(end - (off_t)LOG_TAIL, begin);
	ssize_t n = pread(s->log, tail, LOG_TAIL, from);

	if (n <= 0)
		return NULL;
	tail[n] = '\0';
	for (ssize_t i = 0; i < n; i++) /* unwritten memory reads as NUL */
		if (tail[i] == '\0')
			tail[i] = '\n';
	if (from > begin) /* the tail begins in mid-line */
		(void)strsep(&at, "\n");
	while ((line = strsep(&at, "\n")))
		last = line[0] ? line : last;
	if (last && startswith(last, "pyrod: "))
		last += strlen("pyrod: ");
	return last && last[0] ? strdup(last) : NULL;
}

/* Splits "what (fix: how)": cuts line to "what" and returns "how", owned. NULL: no fix in it. */
static char *split_fix(char *line)
{
	char *fix = line ? strstr(line, " (fix: ") : NULL;
	size_t n = fix ? strlen(fix) : 0;

	if (!fix || fix[n - 1] != ')')
		return NULL;
	fix[n - 1] = '\0';
	fix[0] = '\0';
	return strdup(fix + strlen(" (fix: "));
}

static int start_failed(const struct starter *s, char outcome, struct error *err)
{
	_cleanup_free_ char *said = find_reason(s), *fix = split_fix(said);
	const char *cause = said ? said : "it printed nothing";

	if (!fix) /* in the foreground it prints what is wrong */
		fix = str_printf("%s --user", s->program);
	if (outcome == ENDED)
		return error_set(err, ERROR_DAEMON_UNREACHABLE, cause, fix,
			"started %s --user, which ended before it was ready", s->program);
	return error_set(err, ERROR_DAEMON_UNREACHABLE, cause, fix,
		"started %s --user, which was not ready within %d s", s->program,
		START_TIMEOUT_SEC);
}

static int run_helper(const struct starter *s, struct error *err)
{
	char *argv[] = { s->program, (char[]){ "--user" }, NULL };
	_cleanup_close_ int report = -EBADF, theirs = -EBADF;
	struct pollfd pfd;
	char outcome = NOT_RUN;
	int pipe_fds[2], status, r;
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	report = pipe_fds[0];
	theirs = pipe_fds[1];
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		helper(s, argv, theirs);
	theirs = fd_close(theirs);
	pfd = (struct pollfd){ .fd = report, .events = POLLIN };
	do
		r = poll(&pfd, 1, START_TIMEOUT_SEC * 1000);
	while (r < 0 && errno == EINTR);
	if (r <= 0)
		(void)kill(pid, SIGKILL);
	else if (read(report, &outcome, 1) != 1)
		outcome = NOT_RUN;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return outcome == STARTED ? 0 : start_failed(s, outcome, err);
}

int autostart(const char *path, struct error *err)
{
	_cleanup_(starter_done) struct starter s = {
		.path = path, .notify = -EBADF, .lock = -EBADF, .log = -EBADF
	};
	const char *given = getenv("PYRO_DAEMON");
	int r;

	s.program = strdup(given && given[0] ? given : PYRO_BINDIR "/pyrod");
	if (!s.program)
		return -ENOMEM;
	if (access(s.program, X_OK) < 0)
		return error_set(err, ERROR_DAEMON_UNREACHABLE,
			"pyro found no pyrod that it could start",
			"install pyro (./quickstart), or name the daemon's socket with --socket",
			"pyrod does not run at %s, and %s cannot be started", path, s.program);
	r = open_lock(&s);
	if (r >= 0)
		r = open_notify(&s);
	if (r >= 0)
		r = make_environment(&s);
	if (r >= 0)
		r = open_log(&s);
	if (r >= 0)
		return run_helper(&s, err);
	return error_set_errno(err, ERROR_DAEMON_UNREACHABLE, r,
		error_errno_fix(r) ? NULL : "pyrod --user --detach", "cannot start %s --user",
		s.program);
}
