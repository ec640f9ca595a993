/* SPDX-License-Identifier: MIT */
/*
 * Owns the daemon's end of pyro-import: starts it, reads its JSON lines, turns its exit into a
 * result or an error. Used by pull.c, kernel.c and disk.c.
 *
 * When pyrod is root, pyro-import runs as a user of its own, which can reach neither STATE nor
 * CACHE: it works in a staging folder that it owns and gets as a descriptor. install.c takes
 * ownership of the files there.
 *
 * pyro-import parses data from the network, so it is not trusted: each line is bounded and parsed
 * strictly, and anything unexpected fails the job. When it exits without a result or an error, the
 * end of its stderr is the cause.
 */

#include "daemon/image/import-job.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <sys/stat.h>

#include "daemon/import/contract.h"
#include "daemon/job.h"
#include "daemon/log.h"
#include "proto/deadline.h"
#include "proto/json.h"

#define IMPORT_USER "pyro-import"
#define LINES_MAX   100000
#define PROXIES_MAX 8
#define ARGS_MAX    (24 + PROXIES_MAX)

#define FIX_INSTALLATION "Install pyro again: its pyro-import does not fit this pyrod."

static const struct json_limits line_limits = {
	.max_bytes = IMPORT_LINE_BYTES,
	.max_depth = 8,
	.max_values = IMPORT_LINE_VALUES,
};

struct import_job {
	struct job *job; /* owned */
	void (*on_progress)(const char *phase, int percent, const char *detail, void *userdata);
	void (*on_done)(json_object *result, const struct error *err, void *userdata);
	void *userdata;
	enum error_code failure;
	const char *again;   /* static */
	json_object *result; /* owned */
	struct error error;  /* owned; what it reported */
	bool garbled;        /* a line broke the format */
	bool busy, cancelled;
	unsigned n_lines;
	sd_event_source *again_timer; /* owned: repeats the last progress while no line comes */
	char phase[IMPORT_PHASE_MAX], detail[IMPORT_DETAIL_MAX];
	int percent; /* with phase and detail: the last progress */
};

void import_job_user(struct manager *m)
{
	const struct passwd *pw = geteuid() == 0 || m->units ? getpwnam(IMPORT_USER) : NULL;

	m->import_uid = pw ? pw->pw_uid : 0;
	m->import_gid = pw ? pw->pw_gid : 0;
}

/*
 * Makes pyro-import own the folder, or, without the right to change owners, its group, which pyrod
 * is in.
 */
static int give(const struct manager *m, int fd)
{
	if (!m->import_uid)
		return 0;
	if (geteuid() == 0)
		return fchown(fd, m->import_uid, m->import_gid) < 0 ? -errno : 0;
	if (fchown(fd, (uid_t)-1, m->import_gid) < 0 || fchmod(fd, 0770) < 0)
		return -errno;
	return 0;
}

static int staging_open(struct manager *m, const char *path, int *ret_fd)
{
	_cleanup_close_ int fd = -EBADF;
	int r;

	if (mkdir(path, 0755) < 0)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = fd < 0 ? -errno : give(m, fd);
	if (r < 0) {
		(void)rmdir(path);
		return r;
	}
	*ret_fd = TAKE_FD(fd);

	return 0;
}

int import_staging_make(struct manager *m, const char *parent, char ret_name[IMPORT_STAGING_SIZE],
	int *ret_fd, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	char name[IMPORT_STAGING_SIZE];
	uint64_t id;
	int r;

	random_bytes(&id, sizeof(id));
	(void)snprintf(name, sizeof(name), IMPORT_STAGING "%016" PRIx64, id);
	path = str_printf("%s/%s", parent, name);
	r = path ? staging_open(m, path, ret_fd) : -ENOMEM;
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r,
			r == -EACCES || r == -EROFS ? "Make that folder writable for pyrod." : NULL,
			"Cannot make a folder in %s", parent);
	memcpy(ret_name, name, sizeof(name));

	return 0;
}

const char *import_str(json_object *o, const char *key)
{
	json_object *v = NULL;

	if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string))
		return NULL;
	/* Refuses a NUL inside, which would cut the string in C. */
	if (strlen(json_object_get_string(v)) != (size_t)json_object_get_string_len(v))
		return NULL;

	return json_object_get_string(v);
}

int64_t import_int(json_object *o, const char *key)
{
	json_object *v = NULL;

	if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_int))
		return -1;

	return json_object_get_int64(v);
}

/* Copies at most n - 1 bytes; control bytes become spaces, a character that is cut is left out. */
static void copy_text(char *ret, size_t n, const char *s)
{
	size_t i = 0;

	for (; s[i] && i < n - 1; i++)
		ret[i] = iscntrl((unsigned char)s[i]) ? ' ' : s[i];
	if (s[i])
		while (i > 0 && ((unsigned char)s[i] & 0xc0) == 0x80)
			i--;
	ret[i] = '\0';
}

static void import_job_free(struct import_job *j)
{
	sd_event_source_disable_unref(j->again_timer);
	json_object_put(j->result);
	error_clear(&j->error);
	free(j);
}

static void report_progress(struct import_job *j)
{
	if (j->on_progress)
		j->on_progress(j->phase, j->percent, j->detail[0] ? j->detail : NULL, j->userdata);
}

/* Repeats the last progress: one step may take minutes, and callers see that the job still runs. */
static int on_again(sd_event_source *s, _unused_ uint64_t usec, void *userdata)
{
	struct import_job *j = userdata;
	int r = sd_event_source_set_time_relative(s, deadline_usec(DEADLINE_REPORT));

	if (r >= 0)
		r = sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
	if (r < 0)
		log_warning_errno(r, "cannot repeat the progress of an import");
	j->busy = true;
	if (j->phase[0])
		report_progress(j);
	j->busy = false;
	if (j->cancelled)
		import_job_free(j);
	return 0;
}

static int take_progress(struct import_job *j, json_object *o, const char *phase)
{
	const char *text = import_str(o, "detail");
	int64_t percent = import_int(o, "percent");

	if (strlen(phase) >= sizeof(j->phase) || percent < -1 || percent > 100)
		return -EBADMSG;
	copy_text(j->phase, sizeof(j->phase), phase);
	copy_text(j->detail, sizeof(j->detail), text ? text : "");
	j->percent = (int)percent;
	if (j->again_timer)
		(void)sd_event_source_set_time_relative(
			j->again_timer, deadline_usec(DEADLINE_REPORT));
	report_progress(j);

	return 0;
}

static int take_error(struct import_job *j, json_object *o)
{
	const char *code = import_str(o, "code"), *message = import_str(o, "message");
	char cause[512], fix[512], text[512];
	enum error_code c;

	if (!code || !message || error_code_from_name(code, &c) < 0)
		return -EBADMSG;
	copy_text(text, sizeof(text), message);
	copy_text(cause, sizeof(cause), import_str(o, "cause") ? import_str(o, "cause") : "");
	copy_text(fix, sizeof(fix), import_str(o, "fix") ? import_str(o, "fix") : "");
	(void)error_set(&j->error, c, *cause ? cause : NULL, *fix ? fix : NULL, "%s", text);

	return 0;
}

static int take_line(struct import_job *j, const char *line, size_t n)
{
	_cleanup_json_ json_object *o = NULL;
	json_object *v = NULL;
	const char *phase;

	if (++j->n_lines > LINES_MAX || j->result || j->error.set)
		return -EBADMSG;
	if (json_parse(line, n, &line_limits, &o, NULL) < 0 ||
		!json_object_is_type(o, json_type_object))
		return -EBADMSG;
	phase = import_str(o, "phase");
	if (phase)
		return take_progress(j, o, phase);
	if (json_object_object_get_ex(o, "error", &v) && json_object_is_type(v, json_type_object))
		return take_error(j, v);
	if (json_object_object_get_ex(o, "result", &v) &&
		json_object_is_type(v, json_type_object)) {
		j->result = json_object_get(v);
		return 0;
	}

	return -EBADMSG;
}

static void on_line(struct job *job _unused_, const char *line, size_t n, void *userdata)
{
	struct import_job *j = userdata;

	j->busy = true;
	if (take_line(j, line, n) < 0)
		j->garbled = true;
	j->busy = false;
	if (j->cancelled)
		import_job_free(j);
}

/* Writes the last line of stderr, escaped, as the cause of an exit without an error line. */
static void tail_cause(const char *tail, char *ret, size_t n)
{
	size_t end = strlen(tail), start;

	while (end > 0 && isspace((unsigned char)tail[end - 1]))
		end--;
	for (start = end; start > 0 && tail[start - 1] != '\n' && end - start < 400;)
		start--;
	(void)log_escape(tail + start, end - start, ret, n);
}

static void explain(struct import_job *j, int status, const char *tail)
{
	char cause[1700], *text = NULL;

	if (status == INT_MIN) {
		(void)error_set(&j->error, j->failure, "It took too long and was ended.", j->again,
			"pyro-import did not finish");
		return;
	}
	if (status == 0 || status == 1) {
		(void)error_set(&j->error, ERROR_INTERNAL,
			j->garbled ? "It printed a line that pyrod does not understand."
				   : "It ended without a result.",
			FIX_INSTALLATION, "pyro-import failed");
		return;
	}
	tail_cause(tail, cause, sizeof(cause));
	text = status < 0
		       ? str_printf("It was ended by signal %d (%s).", -status, strsignal(-status))
		       : NULL;
	(void)error_set(&j->error, j->failure, text ? text : cause, j->again, "pyro-import failed");
	free(text);
}

static void on_done(struct job *job, int status, const char *tail, void *userdata)
{
	struct import_job *j = userdata;
	bool good = status == 0 && j->result && !j->error.set && !j->garbled;

	j->job = NULL;
	j->again_timer = sd_event_source_disable_unref(j->again_timer);
	if (job_error(job))
		(void)error_copy(&j->error, job_error(job));
	else if (!good && (!j->error.set || status != 1)) {
		error_clear(&j->error);
		explain(j, status, tail);
	}
	error_default_fix(&j->error, j->again);
	j->busy = true;
	j->on_done(good ? j->result : NULL, good ? NULL : &j->error, j->userdata);
	import_job_free(j);
}

struct import_job *import_job_cancel(struct import_job *j)
{
	if (!j || j->cancelled)
		return NULL;
	j->cancelled = true;
	j->again_timer = sd_event_source_disable_unref(j->again_timer);
	j->job = job_cancel(j->job);
	if (!j->busy)
		import_job_free(j);

	return NULL;
}

static int spawn(struct manager *m, const struct import_job_spec *spec, const char *const *argv,
	struct import_job *j)
{
	const int fds[] = { spec->dir_fd, spec->input_fd };

	return job_start(m->event,
		&(struct job_spec){
			.name = "pyro-import",
			.child = { .argv = argv,
				.stdin_fd = -EBADF,
				.fds = fds,
				.n_fds = spec->input_fd >= 0 ? 2 : 1,
				.uid = geteuid() == 0 ? m->import_uid : 0,
				.gid = geteuid() == 0 ? m->import_gid : 0,
				.cwd = "/proc/self/fd/3",
				.die_with_parent = true },
			.launcher = spec->unit && m->units ? m->launcher : NULL,
			.template = "pyro-import",
			.timeout_usec = spec->timeout_usec,
			.on_line = on_line,
			.on_done = on_done,
			.userdata = j,
		},
		&j->job);
}

/* Puts the proxy variables before the verb: a unit does not inherit pyrod's environment. */
static void add_proxies(const char **argv, size_t *n, size_t max)
{
	for (char **e = environ; e && *e && *n < max; e++) {
		const char *equals = strchr(*e, '=');

		if (equals && equals - *e > 6 && strncasecmp(equals - 6, "_proxy", 6) == 0)
			argv[(*n)++] = *e;
	}
}

int import_job_start(struct manager *m, const struct import_job_spec *spec, struct import_job **ret,
	struct error *err)
{
	_cleanup_free_ char *program = str_printf("%s/pyro-import", m->libexec_dir);
	const char *argv[ARGS_MAX] = { program };
	struct import_job *j;
	size_t n = 1;
	int r;

	if (spec->unit && m->units)
		add_proxies(argv, &n, PROXIES_MAX + 1);
	for (const char *const *a = spec->args; *a; a++) {
		if (n == ARRAY_SIZE(argv) - 1)
			return error_set_errno(
				err, ERROR_INTERNAL, -E2BIG, NULL, "Cannot start pyro-import");
		argv[n++] = *a;
	}
	j = calloc(1, sizeof(*j));
	if (!program || !j) {
		free(j);
		return error_no_memory(err, "Cannot start pyro-import");
	}
	j->failure = spec->failure;
	j->again = spec->again;
	j->on_progress = spec->on_progress;
	j->on_done = spec->on_done;
	j->userdata = spec->userdata;
	r = j->on_progress ? sd_event_add_time_relative(m->event, &j->again_timer, CLOCK_MONOTONIC,
				     deadline_usec(DEADLINE_REPORT), USEC_PER_SEC, on_again, j)
			   : 0;
	if (r >= 0)
		r = spawn(m, spec, argv, j);
	if (r < 0) {
		import_job_free(j);
		return error_set_errno(err, ERROR_INTERNAL, r,
			r == -EACCES && m->import_uid
				? "Install pyro where user " IMPORT_USER
				  " can reach it: pyro-import runs as that user."
				: "Install pyro again: pyro-import must be in its libexec folder.",
			"Cannot start %s", program);
	}
	*ret = j;

	return 0;
}
