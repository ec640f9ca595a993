/* SPDX-License-Identifier: MIT */
/*
 * The host's end of one operation on a guest's files. The layers above make it; machine/guest.c
 * lists it and passes it the frames of its channel.
 *
 * What must stay true: the guest is hostile, so every length, count, offset and name of its answer
 * is checked against the request, and an answer that cannot be true ends the connection; after a
 * reconnection the request is sent again under the same id, which the agent does not do twice; each
 * wait has a deadline; a write or an edit that may have been done is never reported as failed.
 */

#include "daemon/agent/file.h"

#include "daemon/log.h"
#include "proto/deadline.h"
#include "proto/utf8.h"

enum { PATH_SHOWN_MAX = 200 /* bytes */ };

struct file {
	LIST_ENTRY(file) entry;
	bool listed;
	struct file_callbacks cb;
	void *userdata;
	struct link *link;      /* borrowed: the machine's */
	sd_event_source *timer; /* owned: the deadline */
	bool still;             /* the guest is paused: the deadline does not run */
	uint64_t left_usec;     /* of the deadline, while still */

	struct msg_file m; /* owned */
	char *machine;     /* owned */
	uint32_t channel;
	bool sent;      /* on this connection */
	bool ever_sent; /* on any */
	bool over;      /* a callback was called */
};

const struct msg_file *file_request(const struct file *f)
{
	return &f->m;
}

void file_list_insert(struct file_list *list, struct file *f)
{
	LIST_INSERT_HEAD(list, f, entry);
	f->listed = true;
}

void file_list_remove(struct file *f)
{
	if (f->listed)
		LIST_REMOVE(f, entry);
	f->listed = false;
}

struct file *file_list_next(const struct file *f)
{
	return LIST_NEXT(f, entry);
}

struct file *file_list_find(const struct file_list *list, uint32_t channel)
{
	struct file *f;

	LIST_FOREACH (f, list, entry)
		if (f->channel == channel)
			return f;
	return NULL;
}

struct file *file_free(struct file *f)
{
	if (!f)
		return NULL;
	file_list_remove(f);
	sd_event_source_disable_unref(f->timer);
	msg_file_done(&f->m);
	free(f->machine);
	free(f);
	return NULL;
}

static bool changes(const struct file *f)
{
	return f->m.op == FILE_WRITE || f->m.op == FILE_EDIT;
}

static void set_deadline(struct file *f, uint64_t usec)
{
	(void)sd_event_source_set_time(f->timer, now_usec() + usec);
	(void)sd_event_source_set_enabled(f->timer, SD_EVENT_ONESHOT);
}

void file_hold(struct file *f, bool still)
{
	uint64_t at = 0, now = now_usec();

	if (still == f->still || f->over)
		return;
	f->still = still;
	if (!still) {
		set_deadline(f, f->left_usec);
		return;
	}
	(void)sd_event_source_get_time(f->timer, &at);
	f->left_usec = at > now ? at - now : 1;
	(void)sd_event_source_set_enabled(f->timer, SD_EVENT_OFF);
}

/* Errors */

static const char *verb(const struct file *f)
{
	static const char *const verbs[] = {
		[FILE_LIST] = "list",
		[FILE_READ] = "read",
		[FILE_WRITE] = "write",
		[FILE_EDIT] = "edit",
	};

	return verbs[f->m.op];
}

/* A command that shows what the path is now; NULL when out of memory. */
static char *look_fix(const struct file *f, const char *command, const char *words)
{
	/* No program takes it for an option. */
	_cleanup_free_ char *plain = str_printf("%s%s", f->m.path[0] == '-' ? "./" : "", f->m.path);
	_cleanup_free_ char *path = plain ? shell_quote(plain) : NULL;

	return path ? str_printf("%s %s %s%s", command, f->machine, words, path) : NULL;
}

static void end(struct file *f)
{
	f->over = true;
	f->link = NULL;
	f->left_usec = 0;
	(void)sd_event_source_set_enabled(f->timer, SD_EVENT_OFF);
}

static void fail(struct file *f, const struct error *err)
{
	end(f);
	f->cb.on_failed(f, err, f->userdata);
}

static void set_unknown(const struct file *f, const char *cause, struct error *err)
{
	_cleanup_free_ char *fix = look_fix(f, "pyro workspace file read", "");

	error_set(err, ERROR_OUTCOME_UNKNOWN, cause, fix ? fix : "read the file",
		"%.*s in %s may have been written", utf8_cut(f->m.path, PATH_SHOWN_MAX), f->m.path,
		f->machine);
}

void file_fail(struct file *f, const struct error *err)
{
	_cleanup_error_ struct error unknown = ERROR_INIT;

	if (f->over)
		return;
	if (changes(f) && f->ever_sent)
		set_unknown(f, err->message, &unknown);
	fail(f, unknown.set ? &unknown : err);
}

static int on_deadline(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct file *f = userdata;

	error_set(&err, ERROR_GUEST_UNRESPONSIVE, "its agent did not answer",
		"pyro doctor, then the same call again", "cannot %s a file in %s", verb(f),
		f->machine);
	file_fail(f, &err);
	return 0;
}

static void set_too_old(const struct file *f, struct error *err)
{
	_cleanup_free_ char *fix = str_printf(
		"pyro workspace stop %s && pyro workspace start %s", f->machine, f->machine);

	error_set(err, ERROR_UNSUPPORTED, "its guest runs an agent of an earlier version",
		fix ? fix : "stop and start it", "%s cannot %s files yet", f->machine, verb(f));
}

/* How often the old text of an edit occurs, when it is not once. */
static void set_found(const struct file *f, uint32_t found, struct error *err)
{
	int n = utf8_cut(f->m.path, PATH_SHOWN_MAX);

	if (found == 0)
		error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"read the file, and give the old text as it is there, white space included",
			"the old text does not occur in %.*s", n, f->m.path);
	else
		error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"give more of the text around it, or replace all (--all, replace_all=true)",
			"the old text occurs %u times in %.*s", found, n, f->m.path);
}

static enum error_code code_of(int error)
{
	switch (error) {
	case ENOSPC:
	case EDQUOT: return ERROR_NO_SPACE;
	case ENOMEM: return ERROR_NO_MEMORY;
	case EAGAIN: return ERROR_QUOTA_EXCEEDED;
	case EBUSY:
	case EIO:
	case EROFS: return ERROR_WRONG_STATE;
	case ETIMEDOUT: return ERROR_GUEST_UNRESPONSIVE;
	default: return ERROR_INVALID_ARGUMENT;
	}
}

static char *fix_of(const struct file *f, int error)
{
	switch (error) {
	case ENOSPC:
	case EDQUOT: return strdup("delete files in the guest");
	case ENOMEM: return strdup("end programs in the guest, or give it more memory (-m)");
	case EAGAIN: return strdup("the same call again, when others have ended");
	case EFBIG: return strdup("use a command in the guest: head, tail, sed");
	case EISDIR: return look_fix(f, "pyro workspace file list", "");
	case ENOENT:
	case ENOTDIR:
		return str_printf("pyro workspace file list %s %s --recursive", f->machine,
			f->m.path[0] == '/' && !startswith(f->m.path, "/workspace/")
				? "/"
				: "/workspace");
	default: return look_fix(f, "pyro workspace exec", "-- ls -la ");
	}
}

/* The error of an operation that the guest refused or failed to do. */
static void set_refused(const struct file *f, const struct msg_file_result *m, struct error *err)
{
	int error = (int)(m->error & 0xfff);
	_cleanup_free_ char *fix = NULL, *cause = NULL;
	char what[256] = "";

	if (f->m.op == FILE_EDIT && (error == ENODATA || error == ENOTUNIQ)) {
		set_found(f, error == ENODATA ? 0 : MAX_OF(m->found, 2U), err);
		return;
	}
	if (m->what)
		(void)log_escape(m->what, strlen(m->what), what, sizeof(what));
	cause = str_printf("%s%s%s", what, what[0] ? ": " : "", strerror(error));
	if (changes(f) && (m->flags & FILE_UNKNOWN)) {
		set_unknown(f, cause, err);
		return;
	}
	fix = fix_of(f, error);
	error_set(err, code_of(error), cause, fix ? fix : "look at it in the guest",
		"cannot %s %.*s in %s", verb(f), utf8_cut(f->m.path, PATH_SHOWN_MAX), f->m.path,
		f->machine);
}

/* The guest's answer */

uint64_t file_lines(const struct msg_blob *content)
{
	const uint8_t *p = content->data, *end = p + content->n;
	uint64_t n = content->n > 0 && end[-1] != '\n';

	while (p < end && (p = memchr(p, '\n', (size_t)(end - p)))) {
		p++;
		n++;
	}
	return n;
}

/* True for the path of an entry below the folder: no empty component, no "." or "..". */
static bool is_plain(const char *path, bool recursive)
{
	for (const char *p = path;; p++) {
		size_t n = strcspn(p, "/");

		if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += n;
		if (!*p)
			return true;
		if (!recursive)
			return false;
	}
}

/* True if the folder that contains the entry was listed before: it is an ancestor of the entry
 * before, or that entry itself. */
static bool has_parent(const struct msg_entry *before, const char *path)
{
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;

	if (n == 0)
		return true;
	if (!before || strncmp(before->path, path, n) != 0)
		return false;
	return before->path[n] == '/' ||
	       (before->path[n] == '\0' && before->type == ENTRY_DIRECTORY);
}

static bool entries_are_true(const struct file *f, const struct msg_file_result *m)
{
	for (uint32_t i = 0; i < m->n_entries; i++) {
		const struct msg_entry *e = &m->entries[i], *before = i > 0 ? e - 1 : NULL;

		if (!is_plain(e->path, f->m.flags & FILE_RECURSIVE) ||
			(before && msg_path_compare(before->path, e->path) >= 0) ||
			!has_parent(before, e->path))
			return false;
	}
	return true;
}

static bool read_is_true(const struct file *f, const struct msg_file_result *m)
{
	uint64_t first = MAX_OF(f->m.start_line, UINT64_C(1)), n = file_lines(&m->content);

	if (m->content.n > f->m.max_bytes || m->content.n > m->size ||
		(f->m.max_lines > 0 && n > f->m.max_lines))
		return false;
	return n == 0 || !(m->flags & FILE_LINES) || m->total_lines >= first - 1 + n;
}

/* True if the answer can be true. */
static bool is_true(const struct file *f, const struct msg_file_result *m)
{
	bool plain = m->content.n == 0 && m->n_entries == 0;

	if (memcmp(m->id, f->m.id, sizeof(m->id)) != 0)
		return false;
	if (m->error != 0)
		return plain;
	switch (f->m.op) {
	case FILE_LIST: return m->content.n == 0 && entries_are_true(f, m);
	case FILE_READ: return m->n_entries == 0 && read_is_true(f, m);
	case FILE_WRITE: return plain && m->size == f->m.text.n;
	default:
		return plain && m->found >= 1 && (m->found == 1 || (f->m.flags & FILE_REPLACE_ALL));
	}
}

int file_on_frame(struct file *f, const struct frame *frame)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct msg_file_result m = { 0 };
	int r;

	if (f->over || !f->sent || frame->type != FRAME_FILE_DONE)
		return 0;
	r = msg_file_result_get(frame, link_version(f->link), &m);
	if (r >= 0 && !is_true(f, &m))
		r = -EBADMSG;
	if (r >= 0 && m.error == 0) {
		end(f);
		f->cb.on_done(f, &m, f->userdata);
	} else if (r >= 0) {
		set_refused(f, &m, &err);
		fail(f, &err);
	}
	msg_file_result_done(&m);
	return r;
}

/* The request */

int file_new(sd_event *event, const char *machine, struct msg_file *m,
	const struct file_callbacks *cb, void *userdata, struct file **ret)
{
	_cleanup_(file_freep) struct file *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return -ENOMEM;
	f->cb = *cb;
	f->userdata = userdata;
	f->machine = strdup(machine);
	if (!f->machine)
		return -ENOMEM;
	r = sd_event_add_time(event, &f->timer, CLOCK_MONOTONIC, 0, 0, on_deadline, f);
	if (r >= 0)
		r = sd_event_source_set_enabled(f->timer, SD_EVENT_OFF);
	if (r < 0)
		return r;
	random_bytes(m->id, sizeof(m->id));
	f->m = *m;
	*m = (struct msg_file){ 0 };
	*ret = TAKE_PTR(f);
	return 0;
}

int file_start(struct file *f, struct link *link, uint32_t channel, struct error *err)
{
	if (link_is_up(link) && !agent_knows(link_version(link), FRAME_FILE)) {
		set_too_old(f, err);
		return -EOPNOTSUPP;
	}
	f->link = link;
	f->channel = channel;
	set_deadline(f, deadline_usec(DEADLINE_FILE));
	if (link_is_up(link))
		link_schedule(link); /* otherwise on_welcome does it */
	return 0;
}

void file_on_welcome(struct file *f)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (f->over || !f->link)
		return;
	f->sent = false;
	if (agent_knows(link_version(f->link), FRAME_FILE)) {
		link_schedule(f->link);
		return;
	}
	set_too_old(f, &err);
	file_fail(f, &err);
}

bool file_fill(struct file *f, struct buf *out)
{
	if (f->over || !f->link || f->sent || !link_is_up(f->link) ||
		msg_send(out, link_version(f->link), file, FRAME_FILE, f->channel, &f->m) < 0)
		return false;
	f->sent = f->ever_sent = true;
	return true;
}
