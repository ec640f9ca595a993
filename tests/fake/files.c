/* SPDX-License-Identifier: MIT */
/*
 * Files without a file system: replaces the guest's files.c behind serve.c. A file is a path and its
 * contents, in memory; list has all files below a path. The first component of a path selects
 * misbehaviour:
 *   /hostile/NAME  the answer is one of the kinds below
 *   /silent/...    no answer
 *   /lost/...      the first answer is lost: the connection ends instead
 *   /die/...       the VMM crashes before it answers; a write is done before that
 * Everything that is done is reported to the observer: "file OP PATH".
 *
 * What must stay true, as in files.c: an id is done once, and answered on each connection that asks.
 */

#include "tests/fake/fake.h"

#include "guest/files.h"

enum { KEPT_MAX = 64, FLOOD = 2000 };

struct kept {
	char *path;    /* owned */
	uint8_t *data; /* owned */
	uint32_t n;
};

struct files {
	struct kept kept[KEPT_MAX];
	size_t n;
	struct buf out;                              /* frames to send */
	struct msg_file_result *last_done[KEPT_MAX]; /* owned: the answers given last */
	size_t n_last;
	bool lost;
};

int files_new(_unused_ const struct files_params *p, struct files **ret)
{
	struct files *fs = calloc(1, sizeof(*fs));

	if (!fs)
		return -ENOMEM;
	buf_init(&fs->out, 16 * MIB);
	*ret = fs;
	return 0;
}

static void free_done(struct msg_file_result *d)
{
	if (d)
		msg_file_result_done(d);
	free(d);
}

struct files *files_free(struct files *fs)
{
	if (!fs)
		return NULL;
	for (size_t i = 0; i < fs->n; i++) {
		free(fs->kept[i].path);
		free(fs->kept[i].data);
	}
	for (size_t i = 0; i < KEPT_MAX; i++)
		free_done(fs->last_done[i]);
	buf_done(&fs->out);
	free(fs);
	return NULL;
}

void files_reconnected(struct files *fs)
{
	buf_clear(&fs->out);
}

bool files_send(struct files *fs, struct buf *out)
{
	size_t n = buf_len(&fs->out);

	if (n == 0 || buf_append(out, buf_head(&fs->out), n) < 0)
		return false;
	buf_consume(&fs->out, n);
	return true;
}

/* Well-behaved */

static struct kept *find(struct files *fs, const char *path)
{
	for (size_t i = 0; i < fs->n; i++)
		if (streq(fs->kept[i].path, path))
			return &fs->kept[i];
	return NULL;
}

static struct kept *find_or_make(struct files *fs, const char *path)
{
	struct kept *k = find(fs, path);

	if (k || fs->n == KEPT_MAX)
		return k;
	k = &fs->kept[fs->n++];
	k->path = strdup(path);
	return k;
}

static void copy(struct msg_blob *to, const void *p, size_t n)
{
	to->data = malloc(n + 1);
	if (!to->data)
		abort();
	memcpy(to->data, p, n);
	to->n = (uint32_t)n;
}

static void put_entry(struct msg_file_result *d, uint8_t type, const char *path)
{
	d->entries = reallocarray(d->entries, d->n_entries + 1, sizeof(*d->entries));
	if (!d->entries)
		abort();
	d->entries[d->n_entries++] = (struct msg_entry){
		.type = type,
		.size = 3,
		.path = strdup(path),
		.target = type == ENTRY_SYMLINK ? strdup("target") : NULL,
	};
}

static int by_path(const void *a, const void *b)
{
	return msg_path_compare(
		((const struct msg_entry *)a)->path, ((const struct msg_entry *)b)->path);
}

static void do_list(struct files *fs, const char *path, struct msg_file_result *d)
{
	size_t n = strlen(path);

	for (size_t i = 0; i < fs->n; i++) {
		const char *p = fs->kept[i].path;
		if (strncmp(p, path, n) == 0 && p[n] == '/' && !strchr(p + n + 1, '/'))
			put_entry(d, ENTRY_FILE, p + n + 1);
	}
	if (d->n_entries > 0)
		qsort(d->entries, d->n_entries, sizeof(*d->entries), by_path);
}

static void do_write(struct files *fs, const struct msg_file *m, struct msg_file_result *d)
{
	struct kept *k = find_or_make(fs, m->path);
	struct msg_blob b;

	if (!k) {
		d->error = ENOSPC;
		return;
	}
	copy(&b, m->text.n ? m->text.data : (const uint8_t *)"", m->text.n);
	free(k->data);
	k->data = b.data;
	k->n = b.n;
	d->size = b.n;
}

static void do_edit(struct files *fs, const struct msg_file *m, struct msg_file_result *d)
{
	struct kept *k = find(fs, m->path);
	uint8_t *at = k ? memmem(k->data, k->n, m->old_text.data, m->old_text.n) : NULL;
	struct buf b;

	d->error = !k ? ENOENT : !at ? ENODATA : 0;
	if (d->error)
		return;
	size_t before = (size_t)(at - k->data), after = k->n - before - m->old_text.n;
	buf_init(&b, LIMIT_FILE_BYTES);
	(void)buf_append(&b, k->data, before);
	(void)buf_append(&b, m->text.data, m->text.n);
	(void)buf_append(&b, at + m->old_text.n, after);
	free(k->data);
	k->n = (uint32_t)buf_len(&b);
	k->data = b.data;
	d->size = k->n;
	d->found = 1;
}

static void do_read(struct files *fs, const struct msg_file *m, struct msg_file_result *d)
{
	const struct kept *k = find(fs, m->path);

	d->error = k ? 0 : ENOENT;
	if (!k) {
		d->what = strdup("open");
		return;
	}
	copy(&d->content, k->data, MIN_OF(k->n, m->max_bytes));
	d->size = k->n;
	d->flags = k->n > m->max_bytes ? FILE_TRUNCATED : 0;
}

static void run(struct files *fs, const struct msg_file *m, struct msg_file_result *d)
{
	static const char *const names[] = { "list", "read", "write", "edit" };

	fake_tell("file %s %s", names[m->op], m->path);
	if (m->op == FILE_LIST)
		do_list(fs, m->path, d);
	else if (m->op == FILE_READ)
		do_read(fs, m, d);
	else if (m->op == FILE_WRITE)
		do_write(fs, m, d);
	else
		do_edit(fs, m, d);
}

static int send_done(
	struct files *fs, uint16_t version, uint32_t channel, const struct msg_file_result *d)
{
	return msg_send(&fs->out, version, file_result, FRAME_FILE_DONE, channel, d);
}

/* Hostile */

/* Appends the answer with one field of its payload overwritten by raw bytes: what no _put writes. */
static int put_patched(struct files *fs, uint32_t channel, const struct msg_file_result *d,
	size_t from_end, const void *p, size_t n, size_t cut)
{
	struct buf b;
	int r;

	buf_init(&b, LIMIT_FILE_MESSAGE_BYTES);
	r = msg_file_result_put(&b, AGENT_PROTOCOL_MAX, d);
	if (r >= 0 && n > 0)
		memcpy(b.data + b.end - from_end, p, n);
	if (r >= 0)
		r = frame_put_long(
			&fs->out, FRAME_FILE_DONE, channel, buf_head(&b), buf_len(&b) - cut);
	buf_done(&b);
	return r;
}

enum tail { TAIL_ENTRIES = 4, TAIL_CONTENT = 8, TAIL_FOUND = 12, TAIL_LINES = 20, TAIL_SIZE = 28 };

/* Each sends a complete answer to m, or several; d has its id and is otherwise empty. */
struct attack_file {
	const char *name;
	int (*put)(struct files *fs, uint32_t channel, const struct msg_file *m,
		struct msg_file_result *d);
};

#define ATTACK(name) \
	static int name(struct files *fs, uint32_t channel, _unused_ const struct msg_file *m, \
		struct msg_file_result *d)
#define GO send_done(fs, AGENT_PROTOCOL_MAX, channel, d)
static const uint8_t ones[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

ATTACK(other_id)
{
	d->id[3] ^= 1;
	return GO;
}

ATTACK(other_channel)
{
	return send_done(fs, AGENT_PROTOCOL_MAX, channel + 1, d);
}

ATTACK(twice)
{
	int r = GO;

	d->error = EIO;
	return r < 0 ? r : GO;
}

ATTACK(flood)
{
	int r = 0;

	for (int i = 0; r >= 0 && i < FLOOD; i++)
		r = GO;
	return r;
}

ATTACK(content_more)
{
	uint8_t big[4096] = { 'x' };

	copy(&d->content, big, sizeof(big));
	d->size = sizeof(big);
	return GO;
}

ATTACK(size_less)
{
	copy(&d->content, "abc", 3);
	d->size = 2;
	return GO;
}

ATTACK(lines_less)
{
	copy(&d->content, "a\nb\n", 4);
	d->size = 4;
	d->flags = FILE_LINES;
	d->total_lines = 1;
	return GO;
}

ATTACK(lines_more)
{
	copy(&d->content, "a\nb\nc\n", 6);
	d->size = 6;
	return GO;
}

ATTACK(entries_in_read)
{
	put_entry(d, ENTRY_FILE, "x");
	return GO;
}

ATTACK(content_in_list)
{
	copy(&d->content, "a", 1);
	d->size = 1;
	return GO;
}

ATTACK(entries_count)
{
	return put_patched(fs, channel, d, TAIL_ENTRIES, ones, 4, 0);
}

ATTACK(entries_owed)
{
	static const uint8_t n[4] = { 0x10, 0x27 }; /* 10,000, and none follows */

	return put_patched(fs, channel, d, TAIL_ENTRIES, n, 4, 0);
}

ATTACK(content_owed)
{
	static const uint8_t n[4] = { 0, 0, 0x10 }; /* 1 MiB */

	return put_patched(fs, channel, d, TAIL_CONTENT, n, 4, 0);
}

ATTACK(content_huge)
{
	return put_patched(fs, channel, d, TAIL_CONTENT, ones, 4, 0);
}

ATTACK(size_huge)
{
	return put_patched(fs, channel, d, TAIL_SIZE, ones, 8, 0);
}

ATTACK(lines_huge)
{
	return put_patched(fs, channel, d, TAIL_LINES, ones, 8, 0);
}

ATTACK(cut)
{
	return put_patched(fs, channel, d, 0, NULL, 0, 5);
}

ATTACK(empty)
{
	(void)d;
	return frame_put(&fs->out, FRAME_FILE_DONE, channel, NULL, 0);
}

#define NAMES(attack, ...) \
	ATTACK(attack) \
	{ \
		static const char *const paths[] = { __VA_ARGS__ }; \
		for (size_t i = 0; i < ARRAY_SIZE(paths); i++) \
			put_entry(d, ENTRY_FILE, paths[i]); \
		return GO; \
	}
NAMES(name_dotdot, "..")
NAMES(name_dot, ".")
NAMES(name_absolute, "/etc/passwd")
NAMES(name_up, "a/../b")
NAMES(name_double, "a//b")
NAMES(name_trailing, "a/")
NAMES(name_deep, "a", "a/b")
NAMES(unsorted, "b", "a")
NAMES(doubled, "a", "a")

ATTACK(orphan)
{
	put_entry(d, ENTRY_DIRECTORY, "a");
	put_entry(d, ENTRY_FILE, "b/c");
	return GO;
}

ATTACK(below_a_file)
{
	put_entry(d, ENTRY_FILE, "a");
	put_entry(d, ENTRY_FILE, "a/b");
	return GO;
}

ATTACK(size_wrong)
{
	d->size = 1;
	return GO;
}

ATTACK(found_none)
{
	return GO;
}

ATTACK(found_many)
{
	d->found = 4000000000U;
	return GO;
}

ATTACK(error_huge)
{
	static const uint8_t error[4] = { 0, 0x10 }; /* 4096 */

	/* id, error, what (none), flags, ... */
	return put_patched(fs, channel, d, TAIL_SIZE + 12, error, 4, 0);
}

ATTACK(error_with_content)
{
	d->error = EIO;
	copy(&d->content, "secret", 6);
	return GO;
}

/* True answers in which text is not what it seems: they must arrive, escaped. */

ATTACK(what_bytes)
{
	d->error = EIO;
	d->what = strdup("\033[2J\xff\n\xe2\x80\xae");
	return GO;
}

ATTACK(error_strange)
{
	d->error = 4095;
	d->flags = UINT32_MAX & ~(uint32_t)FILE_UNKNOWN;
	return GO;
}

ATTACK(name_bytes)
{
	put_entry(d, ENTRY_FILE, "\001\033[2J");
	put_entry(d, ENTRY_SYMLINK, "a\n\"b\\");
	put_entry(d, ENTRY_OTHER, "\xff\xfe");
	return GO;
}

ATTACK(content_bytes)
{
	copy(&d->content, "\0\033[2J\xff\xed\xa0\x80\n", 10);
	d->size = MSG_SIZE_MAX;
	d->flags = UINT32_MAX;
	d->total_lines = MSG_SIZE_MAX;
	return GO;
}

/* As much as the protocol allows, of bytes that need six times their size in JSON. */
ATTACK(content_control)
{
	d->content.data = malloc(m->max_bytes);
	if (!d->content.data)
		return -ENOMEM;
	memset(d->content.data, 1, m->max_bytes);
	d->content.n = m->max_bytes;
	d->size = m->max_bytes;
	return GO;
}

ATTACK(names_control)
{
	char name[90];

	for (unsigned i = 0; i < LIMIT_FILE_ENTRIES; i++) {
		memset(name, 1, sizeof(name));
		(void)snprintf(name, sizeof(name), "%05u", i);
		name[5] = '\x01';
		name[sizeof(name) - 1] = '\0';
		put_entry(d, ENTRY_FILE, name);
	}
	return GO;
}

static const struct attack_file attacks[] = {
#define X(name) \
	{ \
#name, name \
	}
	X(other_id),
	X(other_channel),
	X(twice),
	X(flood),
	X(content_more),
	X(size_less),
	X(lines_less),
	X(lines_more),
	X(entries_in_read),
	X(content_in_list),
	X(entries_count),
	X(entries_owed),
	X(content_owed),
	X(content_huge),
	X(size_huge),
	X(lines_huge),
	X(cut),
	X(empty),
	X(name_dotdot),
	X(name_dot),
	X(name_absolute),
	X(name_up),
	X(name_double),
	X(name_trailing),
	X(name_deep),
	X(unsorted),
	X(doubled),
	X(orphan),
	X(below_a_file),
	X(size_wrong),
	X(found_none),
	X(found_many),
	X(error_huge),
	X(error_with_content),
	X(what_bytes),
	X(error_strange),
	X(name_bytes),
	X(content_bytes),
	X(content_control),
	X(names_control),
#undef X
};

static int attack(struct files *fs, uint32_t channel, const struct msg_file *m, const char *name)
{
	struct msg_file_result d = { 0 };
	int r = 0;

	fake_tell("attack %s", name);
	memcpy(d.id, m->id, sizeof(d.id));
	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++)
		if (streq(attacks[i].name, name))
			r = attacks[i].put(fs, channel, m, &d);
	msg_file_result_done(&d);
	return r;
}

/* The host */

static struct msg_file_result *done_before(struct files *fs, const uint8_t id[16])
{
	for (size_t i = 0; i < KEPT_MAX; i++)
		if (fs->last_done[i] && memcmp(fs->last_done[i]->id, id, 16) == 0)
			return fs->last_done[i];
	return NULL;
}

static struct msg_file_result *do_once(struct files *fs, const struct msg_file *m)
{
	struct msg_file_result *d = done_before(fs, m->id);

	if (d)
		return d;
	d = calloc(1, sizeof(*d));
	if (!d)
		abort();
	memcpy(d->id, m->id, sizeof(d->id));
	free_done(fs->last_done[fs->n_last % KEPT_MAX]);
	fs->last_done[fs->n_last++ % KEPT_MAX] = d;
	run(fs, m, d);
	return d;
}

int files_take(struct files *fs, uint16_t version, uint32_t channel, const struct msg_file *asked)
{
	_cleanup_free_ char *path = asked->path[0] == '/'
					    ? strdup(asked->path)
					    : str_printf("/workspace/%s", asked->path);
	struct msg_file whole = *asked, *m = &whole;

	if (!path)
		return -ENOMEM;
	whole.path = path;
	if (startswith(m->path, "/hostile/"))
		return attack(fs, channel, m, m->path + strlen("/hostile/"));
	if (startswith(m->path, "/silent/")) {
		fake_tell("file silent %s", m->path);
		return 0;
	}
	const struct msg_file_result *d = do_once(fs, m);
	if (startswith(m->path, "/die/")) {
		fake_tell("end");
		__builtin_trap(); /* as for the step `die` */
	}
	if (startswith(m->path, "/lost/") && !fs->lost) {
		fs->lost = true;
		relay_cut(fake_relay(fake_self()), true, 0);
		return 0;
	}
	return send_done(fs, version, channel, d);
}
