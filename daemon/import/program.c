/* SPDX-License-Identifier: MIT */
/*
 * Owns one child process from start to end, with a deadline: reads its output until end-of-file,
 * keeps the end of it, then takes the exit status. Used by the verbs of pyro-import that need a
 * tool.
 *
 * The program is killed at the deadline, and 5 s after its exit the output is no longer awaited (a
 * process that it left behind holds the pipe), so that a hanging tool cannot hang the job.
 */

#include "daemon/import/program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/child.h"

#define LINGER_USEC (5 * USEC_PER_SEC)

struct output {
	char *data; /* owned */
	size_t n;
};

static void output_done(struct output *o)
{
	free(o->data);
}

/* Reads once; 0 at the end of file. */
static ssize_t output_read(struct output *o, int fd)
{
	ssize_t n;

	if (o->n == PROGRAM_OUTPUT_MAX) {
		memmove(o->data, o->data + PROGRAM_OUTPUT_MAX / 2, PROGRAM_OUTPUT_MAX / 2);
		o->n = PROGRAM_OUTPUT_MAX / 2;
	}
	do
		n = read(fd, o->data + o->n, PROGRAM_OUTPUT_MAX - o->n);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	o->n += (size_t)n;

	return n;
}

/* Reads until the end of the output; -ETIMEDOUT when the deadline of process or output passes. */
static int output_collect(struct output *o, int fd, int pidfd, uint64_t deadline)
{
	bool ended = false;

	for (;;) {
		struct pollfd pfd[] = {
			{ .fd = fd, .events = POLLIN },
			{ .fd = ended ? -1 : pidfd, .events = POLLIN },
		};
		uint64_t now = now_usec();
		ssize_t n;

		if (now >= deadline)
			return ended ? 0 : -ETIMEDOUT;
		if (poll(pfd, ARRAY_SIZE(pfd), (int)MIN_OF((deadline - now) / 1000 + 1, 600000U)) <
			0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (pfd[1].revents) {
			ended = true;
			deadline = MIN_OF(deadline, now_usec() + LINGER_USEC);
		}
		if (!pfd[0].revents)
			continue;
		n = output_read(o, fd);
		if (n <= 0)
			return (int)n;
	}
}

/* Waits for the end of a process whose output is complete; kills it at the deadline. */
static int program_wait(int pidfd, uint64_t deadline, bool kill)
{
	struct pollfd pfd = { .fd = pidfd, .events = POLLIN };
	uint64_t now = now_usec();
	siginfo_t si = { 0 };
	bool late = kill;
	int r;

	while (!late) {
		now = now_usec();
		r = now < deadline
			    ? poll(&pfd, 1, (int)MIN_OF((deadline - now) / 1000 + 1, 600000U))
			    : 0;
		if (r > 0)
			break;
		if (r < 0 && errno != EINTR)
			return -errno;
		late = now_usec() >= deadline;
	}
	if (late)
		(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	do
		r = waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	if (late)
		return -ETIMEDOUT;

	return si.si_code == CLD_EXITED ? si.si_status : -EINTR;
}

int program_run(const struct program *p, char **ret_output)
{
	_cleanup_(output_done) struct output o = { NULL, 0 };
	_cleanup_close_ int rd = -EBADF, wr = -EBADF, pidfd = -EBADF;
	uint64_t deadline = now_usec() + p->timeout_usec;
	struct child_spec spec;
	int pipe_fds[2], r, status;
	pid_t pid;

	o.data = malloc(PROGRAM_OUTPUT_MAX + 1);
	if (!o.data)
		return -ENOMEM;
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	rd = pipe_fds[0];
	wr = pipe_fds[1];

	spec = (struct child_spec){
		.argv = p->argv,
		.stdin_fd = p->stdin_fd,
		.stdout_fd = wr,
		.stderr_fd = wr,
		.cwd = p->cwd,
		.die_with_parent = true,
	};
	r = child_spawn(&spec, &pid, &pidfd);
	if (r < 0)
		return r;
	wr = fd_close(wr);

	r = output_collect(&o, rd, pidfd, deadline);
	status = program_wait(pidfd, deadline, r < 0);
	o.data[o.n] = '\0';
	*ret_output = TAKE_PTR(o.data);

	return r < 0 ? r : status;
}

int program_last_line(const char *output, const char *prefix, char **ret)
{
	const char *best = "", *last = "";
	size_t best_n = 0, last_n = 0;

	for (const char *p = output; *p;) {
		size_t n = strcspn(p, "\r\n");

		if (n > 0) {
			last = p;
			last_n = n;
		}
		if (n > 0 && strncmp(p, prefix, strlen(prefix)) == 0) {
			best = p + strlen(prefix);
			best_n = n - strlen(prefix);
		}
		p += n;
		p += strspn(p, "\r\n");
	}
	*ret = best_n ? strndup(best, MIN_OF(best_n, 500U)) : strndup(last, MIN_OF(last_n, 500U));

	return *ret ? 0 : -ENOMEM;
}
