/* SPDX-License-Identifier: MIT */
/*
 * The operations on files: one process each, its deadline, and its answer through a pipe. Owned and
 * called by serve.c.
 *
 * What must stay true: nothing here touches a file of the guest, only the processes do, and they
 * hold no descriptor of the agent; an operation is answered once on a connection that requested it;
 * a write or an edit is not done again for a repeated id. The host has at most LIMIT_FILES
 * operations without an answer, and answers arrive in order, so remembering REMEMBERED_MAX answers
 * is enough.
 *
 * A process writes 'c' before its first lasting change, then 'd', the length of the payload of
 * FILE_DONE, and that payload.
 */

#include "guest/files.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum {
	REMEMBERED_MAX = 2 * LIMIT_FILES,
	PROCESSES_MAX = 4 * LIMIT_FILES, /* with those of hosts that have left */
	MARK_COMMIT = 'c',
	MARK_DONE = 'd',
	CHILD_PIPE = 3, /* descriptors of the process */
	CHILD_LOCK = 4,
};

struct file {
	TAILQ_ENTRY(file) entry;
	struct files *files; /* borrowed: the collection */
	uint32_t channel;
	uint16_t version;
	uint8_t id[16];
	uint8_t op;

	struct child child;
	struct timer timer;
	struct source source;
	int fd;         /* owned: the pipe; -EBADF after EOF */
	struct buf out; /* owned: what came through it */

	bool done;         /* answer is valid */
	struct buf answer; /* owned: the payload of FILE_DONE */
	bool asked;        /* requested on this connection, and not answered yet */
};

TAILQ_HEAD(file_list, file);

struct files {
	struct files_params p;
	int lock_fd;           /* owned: of files_op */
	struct file_list list; /* owned; in the order of their requests */
};

int files_new(const struct files_params *p, struct files **ret)
{
	struct files *fs = calloc(1, sizeof(*fs));
	int r;

	if (!fs)
		return -ENOMEM;
	fs->p = *p;
	if (fs->p.late_usec == 0)
		fs->p.late_usec = FILES_LATE_USEC;
	fs->lock_fd = memfd_create("pyro-files", MFD_CLOEXEC);
	if (fs->lock_fd < 0) {
		r = -errno;
		free(fs);
		return r;
	}
	TAILQ_INIT(&fs->list);
	*ret = fs;
	return 0;
}

static void close_pipe(struct file *f)
{
	loop_unwatch(f->files->p.loop, &f->source);
	f->fd = fd_close(f->fd);
}

static void file_free(struct file *f)
{
	struct loop *l = f->files->p.loop;

	TAILQ_REMOVE(&f->files->list, f, entry);
	if (f->child.pid > 0)
		(void)kill(f->child.pid, SIGKILL);
	loop_disown_child(l, &f->child);
	loop_disarm(l, &f->timer);
	close_pipe(f);
	buf_done(&f->out);
	buf_done(&f->answer);
	free(f);
}

struct files *files_free(struct files *fs)
{
	struct file *f;

	if (!fs)
		return NULL;
	while ((f = TAILQ_FIRST(&fs->list)))
		file_free(f);
	fd_close(fs->lock_fd);
	free(fs);
	return NULL;
}

static bool changes(const struct file *f)
{
	return f->op == FILE_WRITE || f->op == FILE_EDIT;
}

/* Frees answers that no host can request any more: all of reads, and the oldest of changes. */
static void forget(struct files *fs)
{
	struct file *f, *next;
	size_t n = 0;

	for (f = TAILQ_LAST(&fs->list, file_list); f; f = next) {
		next = TAILQ_PREV(f, file_list, entry);
		if (!f->done || f->asked || f->child.pid > 0)
			continue;
		if (!changes(f) || ++n > REMEMBERED_MAX)
			file_free(f);
	}
}

/* The process */

struct process {
	int fd;
	bool committed;
};

static void commit(void *userdata)
{
	static const char mark = MARK_COMMIT;
	struct process *p = userdata;

	if (!p->committed && write_all(p->fd, &mark, 1) < 0)
		_exit(EXIT_FAILURE);
	p->committed = true;
}

/* Leaves only the two descriptors and stdio: a process that hangs must not keep the port open. */
static int take_descriptors(int fd, int lock_fd)
{
	/* Copies above both numbers first, so that neither overwrites the other. */
	int high = fcntl(fd, F_DUPFD, CHILD_LOCK + 1),
	    lock = fcntl(lock_fd, F_DUPFD, CHILD_LOCK + 1);

	if (high < 0 || lock < 0 || dup2(high, CHILD_PIPE) < 0 || dup2(lock, CHILD_LOCK) < 0 ||
		close_range(CHILD_LOCK + 1, ~0U, 0) < 0)
		return -errno;
	return 0;
}

static void become_ordinary(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	sigset_t none;

	for (int n = 1; n < NSIG; n++)
		(void)signal(n, SIG_DFL); /* fails for KILL and STOP, as it should */
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)prctl(PR_SET_NAME, "pyro-file");
	(void)umask(022);
	if (fd >= 0)
		(void)write_all(fd, "0", 1); /* the agent itself is exempt from the OOM killer */
	fd_close(fd);
}

static _noreturn_ void process_main(const struct file *f, const struct msg_file *m, int fd)
{
	static const char mark = MARK_DONE;
	struct process p = { .fd = CHILD_PIPE };
	const struct files_op op = {
		.workspace = f->files->p.workspace,
		.lock_fd = CHILD_LOCK,
		.commit = commit,
		.userdata = &p,
	};
	struct msg_file_result done = { 0 };
	struct buf payload;
	uint32_t length;
	int r;

	if (take_descriptors(fd, f->files->lock_fd) < 0)
		_exit(EXIT_FAILURE);
	become_ordinary();
	files_run(&op, m, &done);
	memcpy(done.id, m->id, sizeof(done.id));
	buf_init(&payload, LIMIT_FILE_MESSAGE_BYTES);
	r = msg_file_result_put(&payload, f->version, &done);
	length = (uint32_t)buf_len(&payload);
	if (r >= 0)
		r = write_all(CHILD_PIPE, &mark, 1);
	if (r >= 0)
		r = write_all(CHILD_PIPE, &length, sizeof(length));
	if (r >= 0)
		r = write_all(CHILD_PIPE, buf_head(&payload), buf_len(&payload));
	_exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* The answer */

static void fail(struct file *f, int error, bool unknown, const char *what)
{
	struct msg_file_result m = {
		.error = (uint32_t)error,
		.what = (char *)(uintptr_t)what,
		.flags = unknown ? FILE_UNKNOWN : 0,
	};

	memcpy(m.id, f->id, sizeof(m.id));
	buf_clear(&f->answer);
	/* Without memory for it there is no answer: the host has a deadline. */
	if (msg_file_result_put(&f->answer, f->version, &m) >= 0)
		f->done = true;
}

/* Takes the answer from what the process has written; if that is not whole, fails with error. */
static void finish(struct file *f, int error, const char *what)
{
	const uint8_t *p = buf_head(&f->out);
	size_t n = buf_len(&f->out);
	bool committed = n > 0 && p[0] == MARK_COMMIT;
	uint32_t length;
	size_t head = committed + 1 + sizeof(length);

	if (n >= head && p[committed] == MARK_DONE) {
		memcpy(&length, p + committed + 1, sizeof(length));
		f->done = n - head == length && buf_append(&f->answer, p + head, length) >= 0;
	}
	if (!f->done)
		fail(f, error, committed && changes(f), what);
	buf_clear(&f->out);
}

static void read_out(struct file *f)
{
	ssize_t n;

	while (f->fd >= 0 && (n = buf_read_fd(&f->out, f->fd, 64 * 1024)) != -EAGAIN)
		if (n <= 0)
			close_pipe(f);
}

static void on_out(struct source *s, uint32_t events _unused_)
{
	read_out(s->userdata);
}

static void on_late(struct timer *t)
{
	struct file *f = t->userdata;

	/* First: a process that is killed here makes no change that it has not announced before. A
	 * process in state D stays until it can be killed; its caller gets the answer now. */
	(void)kill(f->child.pid, SIGKILL);
	read_out(f);
	close_pipe(f);
	finish(f, ETIMEDOUT, "the file system did not answer in time");
	loop_again(f->files->p.loop);
}

static void on_exit_(struct child *c, int status)
{
	struct file *f = c->userdata;

	loop_disarm(f->files->p.loop, &f->timer);
	read_out(f);
	close_pipe(f);
	if (!f->done) /* not at its deadline; SIGKILL is the OOM killer's */
		finish(f, WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? ENOMEM : EIO,
			"the operation's process was ended");
	forget(f->files);
}

static int begin(struct file *f, const struct msg_file *m)
{
	struct loop *l = f->files->p.loop;
	_cleanup_close_ int wr = -EBADF;
	int fds[2], r;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	f->fd = fds[0];
	wr = fds[1];
	if (fcntl(f->fd, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	f->source = (struct source){ .on_event = on_out, .userdata = f };
	r = loop_watch(l, &f->source, f->fd, EPOLLIN);
	if (r < 0)
		return r;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		process_main(f, m, wr);
	f->child = (struct child){ .on_exit = on_exit_, .userdata = f };
	loop_own_child(l, &f->child, pid);
	f->timer = (struct timer){ .on_timer = on_late, .userdata = f };
	loop_arm(l, &f->timer, now_usec() + f->files->p.late_usec);
	return 0;
}

/* The host */

static struct file *find_id(struct files *fs, const uint8_t id[16])
{
	struct file *f;

	TAILQ_FOREACH (f, &fs->list, entry)
		if (memcmp(f->id, id, sizeof(f->id)) == 0)
			return f;
	return NULL;
}

static struct file *file_new(
	struct files *fs, uint16_t version, uint32_t channel, const struct msg_file *m)
{
	struct file *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->files = fs;
	f->fd = -EBADF;
	f->version = version;
	f->channel = channel;
	f->op = m->op;
	f->asked = true;
	memcpy(f->id, m->id, sizeof(f->id));
	buf_init(&f->out, 2 + sizeof(uint32_t) + LIMIT_FILE_MESSAGE_BYTES);
	buf_init(&f->answer, LIMIT_FILE_MESSAGE_BYTES);
	TAILQ_INSERT_TAIL(&fs->list, f, entry);
	return f;
}

static void count(const struct files *fs, size_t *ret_asked, size_t *ret_processes)
{
	const struct file *f;

	*ret_asked = *ret_processes = 0;
	TAILQ_FOREACH (f, &fs->list, entry) {
		*ret_asked += f->asked;
		*ret_processes += f->child.pid > 0;
	}
}

int files_take(struct files *fs, uint16_t version, uint32_t channel, const struct msg_file *m)
{
	struct file *f = find_id(fs, m->id);
	size_t asked, processes;
	int r = 0;

	count(fs, &asked, &processes);
	/* Twice the limit: an operation refused below is kept until its answer is sent. */
	if (channel == AGENT_CHANNEL_NONE || asked >= (size_t)2 * LIMIT_FILES)
		return -EBADMSG;
	if (f && f->op != m->op)
		return -EBADMSG;
	if (f) {
		f->channel = channel;
		f->asked = true;
	} else {
		f = file_new(fs, version, channel, m);
		if (!f)
			return -ENOMEM;
		if (asked >= LIMIT_FILES)
			fail(f, EAGAIN, false, "too many operations at once");
		else if (processes >= PROCESSES_MAX)
			fail(f, EAGAIN, false, "too many operations hang");
		else
			r = begin(f, m);
		if (r < 0)
			fail(f, -r, false, "start the operation");
	}
	return 0;
}

void files_reconnected(struct files *fs)
{
	struct file *f;

	TAILQ_FOREACH (f, &fs->list, entry)
		f->asked = false;
	forget(fs);
}

bool files_send(struct files *fs, struct buf *out)
{
	struct file *f;

	TAILQ_FOREACH (f, &fs->list, entry) {
		if (!f->done || !f->asked)
			continue;
		if (frame_put_long(out, FRAME_FILE_DONE, f->channel, buf_head(&f->answer),
			    buf_len(&f->answer)) < 0)
			return false; /* no room yet */
		f->asked = false;
		forget(fs);
		return true;
	}
	return false;
}
