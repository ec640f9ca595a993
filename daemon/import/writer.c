/* SPDX-License-Identifier: MIT */
/*
 * Owns the process of the confined image writer, and the image until it has its name. Called by the
 * environment, tar and sandbox verbs.
 *
 * Must stay true: image.ext4 exists only when the image is complete and synced, and no other file
 * stays in DIR. The writer parses untrusted data, so each of its lines is bounded and parsed
 * strictly, and size and digest are computed here.
 */
#include "daemon/import/writer.h"

#include "daemon/child.h"
#include "daemon/import/import.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#define LINES_MAX   1000
#define PACKAGE_MAX 600         /* bytes of "name=version" */
#define TEXT_MAX    (16 * 1024) /* an entry may have a path of 4096 bytes */
#define MISSING_MAX 16
#define PROBE_LIMIT (20 * USEC_PER_SEC)
#define GARBLED     "the image writer printed an unexpected line"
#define GARBLED_FIX "do not use this archive; if it is a distribution's, report it"
#define UNCONFINED  "unconfined"

static const struct json_limits line_limits = {
	.max_bytes = IMPORT_LINE_BYTES, .max_depth = 4, .max_values = IMPORT_LINE_VALUES
};

struct writer {
	const char *dir; /* borrowed */
	bool of_packages;
	char *path, *tmp;                 /* owned; NULL for a probe */
	int spool_fd, image_fd, lines_fd; /* owned */
	pid_t pid;                        /* 0 when there is none */
	int pidfd;                        /* owned */
	json_object *result, *unconfined; /* owned */
	struct error error;               /* owned; the error that it reported */
	bool garbled;
	unsigned n_lines;
	size_t n; /* bytes of an incomplete line */
	char line[IMPORT_LINE_BYTES + 1];
};

/* Opens a spool without a name; without O_TMPFILE it is unlinked at once. */
static int open_spool(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return -errno;
	_cleanup_free_ char *name = str_printf("%s/.spool-XXXXXX", dir);
	if (!name)
		return -ENOMEM;
	fd = mkostemp(name, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	(void)unlink(name);
	return fd;
}

static int open_files(struct writer *w, struct error *err)
{
	w->path = str_printf("%s/" IMPORT_IMAGE, w->dir);
	w->tmp = str_printf("%s/." IMPORT_IMAGE ".tmp", w->dir);
	if (!w->path || !w->tmp)
		return error_no_memory(err, "no memory for a path");
	w->spool_fd = open_spool(w->dir);
	if (w->spool_fd < 0)
		return error_set_errno(err, error_code_for_errno(w->spool_fd), w->spool_fd,
			"give --output a folder you can write to", "cannot write in \"%s\"",
			w->dir);
	import_undo_file(w->tmp);
	w->image_fd = open(w->tmp, O_CREAT | O_TRUNC | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0644);
	if (w->image_fd < 0)
		return error_set_errno(err, error_code_for_errno(-errno), -errno, NULL,
			"cannot create \"%s\"", w->tmp);
	return 0;
}

/* Limits spool and image so that together they leave a fifth of the free space. */
static int file_budget(const struct writer *w, uint64_t *ret)
{
	struct statvfs st;

	*ret = 0;
	if (!w->dir)
		return 0;
	if (fstatvfs(w->image_fd, &st) < 0)
		return -errno;
	*ret = MAX_OF((uint64_t)st.f_bavail * st.f_frsize / 5 * 2, UINT64_C(1));
	return 0;
}

static int spawn(struct writer *w, int input_fd, struct error *err)
{
	uint64_t budget;
	int r = file_budget(w, &budget);
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot read the free space of \"%s\"", w->dir);
	_cleanup_free_ char *number = str_printf("%" PRIu64, budget);
	if (!number)
		return error_no_memory(err, "no memory for the writer");
	const char *const argv[] = { "/proc/self/exe", "write", number,
		w->of_packages ? WRITER_OF_PACKAGES : NULL, NULL };
	const char *const env[] = { "LANG=C.UTF-8", NULL }; /* no proxy's password */
	int lines[2], fds[] = { w->spool_fd, w->image_fd };
	if (pipe2(lines, O_CLOEXEC) < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, -errno, NULL, "cannot make a pipe");
	w->lines_fd = lines[0];
	r = child_spawn(&(struct child_spec){ .argv = argv,
				.env = env,
				.stdin_fd = input_fd,
				.stdout_fd = lines[1],
				.stderr_fd = STDERR_FILENO,
				.fds = fds,
				.n_fds = w->dir ? ARRAY_SIZE(fds) : 0,
				.die_with_parent = true },
		&w->pid, &w->pidfd);
	(void)fd_close(lines[1]);
	if (r < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, r,
			"install pyro where its import helper can be executed",
			"cannot start the image writer");
	return 0;
}

static int start(
	const char *dir, int input_fd, bool of_packages, struct writer **ret, struct error *err)
{
	_cleanup_(writer_freep) struct writer *w = calloc(1, sizeof(*w));
	if (!w)
		return error_no_memory(err, "no memory for the writer");
	w->dir = dir;
	w->of_packages = of_packages;
	w->spool_fd = w->image_fd = w->lines_fd = w->pidfd = -EBADF;
	w->unconfined = json_object_new_array();
	if (!w->unconfined)
		return error_no_memory(err, "no memory for the writer");
	int r = dir ? open_files(w, err) : 0;
	if (r >= 0)
		r = spawn(w, input_fd, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(w);
	return 0;
}

int writer_start(
	const char *dir, int input_fd, bool of_packages, struct writer **ret, struct error *err)
{
	return start(dir, input_fd, of_packages, ret, err);
}

/* Returns a member that is a string without NUL, else NULL. */
static const char *text_of(json_object *v, size_t max)
{
	if (!json_object_is_type(v, json_type_string))
		return NULL;
	const char *s = json_object_get_string(v);
	size_t n = (size_t)json_object_get_string_len(v);
	return n <= max && strlen(s) == n ? s : NULL;
}

static const char *text_at(json_object *o, const char *key)
{
	return text_of(json_get(o, key), TEXT_MAX);
}

static int take_error(struct writer *w, json_object *o)
{
	const char *code = text_at(o, "code"), *message = text_at(o, "message");
	enum error_code c;
	if (!code || !message || error_code_from_name(code, &c) < 0)
		return -EBADMSG;
	(void)error_set(&w->error, c, text_at(o, "cause"), text_at(o, "fix"), "%s", message);
	return 0;
}

static int take_missing(struct writer *w, const char *what)
{
	json_object *s = json_object_new_string(what);
	if (json_object_array_length(w->unconfined) == MISSING_MAX || !s ||
		json_object_array_add(w->unconfined, s) < 0) {
		json_object_put(s);
		return -EBADMSG;
	}
	fprintf(stderr, "pyro-import: the image writer's sandbox lacks: %s\n", what);
	return 0;
}

static int take_line(struct writer *w, const char *line, size_t n)
{
	_cleanup_json_ json_object *o = NULL;
	const char *text;
	if (++w->n_lines > LINES_MAX || w->result || w->error.set ||
		json_parse(line, n, &line_limits, &o, NULL) < 0 ||
		!json_object_is_type(o, json_type_object))
		return -EBADMSG;
	text = text_at(o, "missing");
	if (text)
		return take_missing(w, text);
	text = text_at(o, "phase");
	if (text && streq(text, "write")) {
		import_progress("write", 0, NULL);
		return 0;
	}
	if (json_object_is_type(json_get(o, "error"), json_type_object))
		return take_error(w, json_get(o, "error"));
	if (!json_object_is_type(json_get(o, "result"), json_type_object))
		return -EBADMSG;
	w->result = json_object_get(json_get(o, "result"));
	return 0;
}

static int take_lines(struct writer *w)
{
	char *begin = w->line, *end;
	while ((end = memchr(begin, '\n', w->n))) {
		size_t n = (size_t)(end - begin);
		if (take_line(w, begin, n) < 0)
			return -EBADMSG;
		begin = end + 1;
		w->n -= n + 1;
	}
	memmove(w->line, begin, w->n);
	return w->n == IMPORT_LINE_BYTES ? -EBADMSG : 0;
}

/* Reads once; closes the pipe at its end. */
static int read_lines(struct writer *w)
{
	ssize_t n = read(w->lines_fd, w->line + w->n, IMPORT_LINE_BYTES - w->n);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (n == 0) {
		w->lines_fd = fd_close(w->lines_fd);
		return 0;
	}
	w->n += (size_t)n;
	return take_lines(w);
}

/* Returns 0 when the writer has closed its pipe, -errno when it must be killed. */
static int watch(struct writer *w, const struct writer_beside *beside, uint64_t deadline)
{
	while (w->lines_fd >= 0) {
		struct pollfd fds[] = { { .fd = w->lines_fd, .events = POLLIN },
			{ .fd = beside ? *beside->fd : -1, .events = POLLIN } };
		uint64_t now = now_usec();
		if (now >= deadline)
			return -ETIMEDOUT;
		int r = poll(fds, ARRAY_SIZE(fds), (int)((deadline - now) / USEC_PER_MSEC + 1));
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r <= 0)
			continue;
		r = fds[1].revents ? beside->on_ready(beside->userdata) : 0;
		if (r < 0)
			return r;
		r = fds[0].revents ? read_lines(w) : 0;
		w->garbled = r == -EBADMSG;
		if (r < 0)
			return r;
	}
	return 0;
}

static int reap(struct writer *w, bool end)
{
	siginfo_t si = { 0 };
	int r;
	if (end)
		(void)kill(-w->pid, SIGKILL);
	do
		r = waitid(P_PIDFD, (id_t)w->pidfd, &si, WEXITED);
	while (r < 0 && errno == EINTR);
	w->pid = 0;
	w->pidfd = fd_close(w->pidfd);
	if (r < 0)
		return -errno;
	return si.si_code == CLD_EXITED ? si.si_status : -si.si_status;
}

/* Sets the error for an exit without a result or an error line. */
static int explain(const struct writer *w, int status, struct error *err)
{
	_cleanup_free_ char *cause = NULL;
	if (w->garbled)
		return error_set(err, ERROR_PULL_FAILED, "the archive may have compromised it",
			GARBLED_FIX, GARBLED);
	if (status == -SIGXCPU || status == -SIGKILL)
		cause = strdup("it exceeded its limit of CPU time or memory");
	else if (status < 0)
		cause = str_printf("it was killed by signal %d (%s)", -status, strsignal(-status));
	else
		cause = str_printf("it exited with status %d without a result", status);
	return error_set(err, ERROR_PULL_FAILED, cause, "do not use this archive",
		"the image writer failed");
}

int writer_wait(
	struct writer *w, const struct writer_beside *beside, uint64_t deadline, struct error *err)
{
	int r = watch(w, beside, deadline), status = reap(w, r < 0);
	if (r < 0 && !w->garbled)
		return error_set_errno(
			err, ERROR_PULL_FAILED, r, NULL, "the image writer does not exit");
	if (!w->garbled && w->error.set && status == 1) {
		error_move(err, &w->error);
		return -error_code_errno(err->code);
	}
	if (w->garbled || !w->result || w->error.set || status != 0)
		return explain(w, status, err);
	return 0;
}

static int publish(struct writer *w, struct error *err)
{
	_cleanup_close_ int dir = open(w->dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	if (fsync(w->image_fd) < 0 || dir < 0 || rename(w->tmp, w->path) < 0 || fsync(dir) < 0)
		return error_set_errno(err, error_code_for_errno(-errno), -errno, NULL,
			"cannot put \"%s\" in place", w->path);
	import_undo_file(NULL);
	free(w->tmp);
	w->tmp = NULL;
	return 0;
}

static bool packages_valid(json_object *list)
{
	if (!json_object_is_type(list, json_type_array))
		return false;
	for (size_t i = 0; i < json_object_array_length(list); i++)
		if (!text_of(json_object_array_get_idx(list, i), PACKAGE_MAX))
			return false;
	return true;
}

static int make_result(struct writer *w, json_object **ret, struct error *err)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	json_object *entries = json_get(w->result, "entries"),
		    *packages = json_get(w->result, "packages");
	char digest[IMPORT_DIGEST_SIZE];
	struct stat st;
	if (!json_object_is_type(entries, json_type_int) || !packages_valid(packages))
		return error_set(err, ERROR_PULL_FAILED, NULL, GARBLED_FIX, GARBLED);
	import_progress("write", 80, NULL);
	int r = fstat(w->image_fd, &st) < 0 ? -errno : import_digest(w->image_fd, digest);
	if (r < 0)
		return error_set_errno(
			err, ERROR_PULL_FAILED, r, NULL, "cannot read \"%s\" back", w->tmp);
	if (!o || json_add_str(o, "digest", digest) < 0 ||
		json_add_int(o, "size_bytes", st.st_size) < 0 ||
		json_add(o, "entries", json_object_get(entries)) < 0 ||
		json_add(o, "packages", json_object_get(packages)) < 0 ||
		json_add(o, UNCONFINED, json_object_get(w->unconfined)) < 0)
		return error_no_memory(err, "no memory for the result");
	*ret = TAKE_PTR(o);
	return 0;
}

int writer_publish(struct writer *w, json_object **ret, struct error *err)
{
	_cleanup_json_ json_object *result = NULL;
	int r = make_result(w, &result, err);
	if (r >= 0)
		r = publish(w, err);
	if (r >= 0)
		*ret = TAKE_PTR(result);
	return r;
}

int writer_probe(json_object **ret, struct error *err)
{
	_cleanup_(writer_freep) struct writer *w = NULL;
	_cleanup_json_ json_object *o = json_object_new_object();
	int r = start(NULL, -EBADF, false, &w, err);
	if (r >= 0)
		r = writer_wait(w, NULL, now_usec() + PROBE_LIMIT, err);
	if (r < 0)
		return r;
	if (!o || json_add(o, UNCONFINED, json_object_get(w->unconfined)) < 0)
		return error_no_memory(err, "no memory for the result");
	*ret = TAKE_PTR(o);
	return 0;
}

struct writer *writer_free(struct writer *w)
{
	if (!w)
		return NULL;
	if (w->pid > 0)
		(void)reap(w, true);
	if (w->tmp) {
		(void)unlink(w->tmp);
		import_undo_file(NULL);
	}
	w->spool_fd = fd_close(w->spool_fd);
	w->image_fd = fd_close(w->image_fd);
	w->lines_fd = fd_close(w->lines_fd);
	w->pidfd = fd_close(w->pidfd);
	json_object_put(w->result);
	json_object_put(w->unconfined);
	error_clear(&w->error);
	free(w->path);
	free(w->tmp);
	free(w);
	return NULL;
}
