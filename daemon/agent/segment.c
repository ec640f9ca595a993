/* SPDX-License-Identifier: MIT */
/*
 * The files of transcripts: their format, and every operation on them. Called by transcript-op.c on
 * the writer thread, and for records in memory by transcript.c.
 *
 * What must stay true: whatever a file holds, nothing beyond SEGMENT_BYTES of it is read, and no
 * length of it is believed before it was compared with the file's size; no symbolic link, device or
 * FIFO is opened; a write that fails leaves whole records.
 */

#include "daemon/agent/segment.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/crash.h"

enum {
	VERSION = 1,
	NAME_SIZE = 300,
	SEGMENTS_MAX = 1000 * 1000, /* of one command, that are listed */
	WALK_CHUNK = 64 * 1024,
};

static const uint8_t magic[8] = { 'p', 'y', 'r', 'o', 't', 'r', 'a', 'n' };

/* Format */

int record_put(struct buf *out, const struct record *rec, const void *bytes)
{
	int r = 0;

	if (!buf_reserve(out, record_size(rec)))
		return -errno;
	put_u8(out, rec->stream, &r);
	put_u32(out, rec->length, &r);
	put_u64(out, rec->usec, &r);
	put_bytes(out, bytes, rec->length, &r);
	return r;
}

/* left: bytes of the file or buffer from the record's first on. */
static int get_record_head(const uint8_t *p, size_t n, uint64_t left, struct record *ret)
{
	struct rd rd = { .p = p, .n = n };
	struct record rec = { .stream = get_u8(&rd) };

	rec.length = get_u32(&rd);
	rec.usec = get_u64(&rd);
	if (rd.failed || rec.stream == STREAM_STDIN || rec.stream >= STREAM_MAX ||
		rec.length == 0 || rec.length > RECORD_BYTES_MAX || record_size(&rec) > left)
		return -EBADMSG;
	*ret = rec;
	return 0;
}

int record_get(const uint8_t *p, size_t n, struct record *ret)
{
	return get_record_head(p, n, n, ret);
}

/* FNV-1a: the head is written once, so it needs to tell a torn one from a whole one. */
static uint32_t checksum(const uint8_t *p, size_t n)
{
	uint32_t sum = UINT32_C(2166136261);

	for (size_t i = 0; i < n; i++)
		sum = (sum ^ p[i]) * UINT32_C(16777619);
	return sum;
}

int segment_put_head(struct buf *out, const uint64_t offset[STREAM_MAX])
{
	size_t before = buf_len(out);
	int r = 0;

	put_bytes(out, magic, sizeof(magic), &r);
	put_u32(out, VERSION, &r);
	put_u64(out, offset[STREAM_STDOUT], &r);
	put_u64(out, offset[STREAM_STDERR], &r);
	put_u64(out, offset[STREAM_PTY], &r);
	if (r >= 0)
		put_u32(out, checksum(buf_head(out) + before, buf_len(out) - before), &r);
	return r;
}

/* -EBADMSG: torn or foreign. -EPROTONOSUPPORT: of a newer version. */
static int get_head(const uint8_t *p, size_t n, uint64_t ret[STREAM_MAX])
{
	struct rd rd = { .p = p, .n = n };
	uint64_t offset[STREAM_MAX] = { 0 };
	uint8_t found[sizeof(magic)];
	uint32_t version, sum;

	get_bytes(&rd, found, sizeof(found));
	version = get_u32(&rd);
	if (rd.failed || memcmp(found, magic, sizeof(magic)) != 0)
		return -EBADMSG;
	if (version > VERSION)
		return -EPROTONOSUPPORT;
	offset[STREAM_STDOUT] = get_u64(&rd);
	offset[STREAM_STDERR] = get_u64(&rd);
	offset[STREAM_PTY] = get_u64(&rd);
	sum = get_u32(&rd);
	if (rd.failed || version == 0 || sum != checksum(p, SEGMENT_HEAD_SIZE - sizeof(sum)))
		return -EBADMSG;
	for (int i = 0; i < STREAM_MAX; i++) {
		if (offset[i] > OFFSET_MAX)
			return -EBADMSG;
	}
	memcpy(ret, offset, sizeof(offset));
	return 0;
}

/* Lists of segments */

void segments_done(struct segments *l)
{
	free(l->items);
	memset(l, 0, sizeof(*l));
}

int segments_reserve(struct segments *l)
{
	size_t cap = MAX_OF(l->cap * 2, (size_t)8);
	struct segment *items;

	if (l->n < l->cap)
		return 0;
	items = reallocarray(l->items, cap, sizeof(*items));
	if (!items)
		return -ENOMEM;
	l->items = items;
	l->cap = cap;
	return 0;
}

void segments_drop_first(struct segments *l)
{
	l->n--;
	memmove(l->items, l->items + 1, l->n * sizeof(*l->items));
}

int segments_copy(struct segments *dst, const struct segments *src)
{
	struct segments copy = *src;

	copy.items = calloc(MAX_OF(src->n, (size_t)1), sizeof(*copy.items));
	if (!copy.items)
		return -ENOMEM;
	copy.cap = MAX_OF(src->n, (size_t)1);
	if (src->n > 0)
		memcpy(copy.items, src->items, src->n * sizeof(*copy.items));
	*dst = copy;
	return 0;
}

/* Files */

static int pread_all(int fd, void *p, size_t n, uint64_t at)
{
	size_t done = 0;

	while (done < n) {
		ssize_t got = pread(fd, (uint8_t *)p + done, n - done, (off_t)(at + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		done += (size_t)got;
	}
	return (int)done;
}

static int pwrite_all(int fd, const void *p, size_t n, uint64_t at)
{
	size_t done = 0;

	while (done < n) {
		ssize_t put = pwrite(fd, (const uint8_t *)p + done, n - done, (off_t)(at + done));

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		if (put == 0)
			return -EIO;
		done += (size_t)put;
	}
	return 0;
}

static int open_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static void make_name(char ret[NAME_SIZE], const char *id, uint32_t number)
{
	(void)snprintf(ret, NAME_SIZE, "%s.%04u", id, number);
}

/* O_NONBLOCK: the open of a FIFO would wait. */
static int open_segment(int dir_fd, const char *id, uint32_t number, int flags, uint64_t *ret_size)
{
	_cleanup_close_ int fd = -EBADF;
	char name[NAME_SIZE];
	struct stat st;

	make_name(name, id, number);
	fd = openat(dir_fd, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	*ret_size = (uint64_t)st.st_size;
	return TAKE_FD(fd);
}

/* Goes from record to record of a file. */
struct walk {
	int fd;       /* borrowed */
	uint64_t end; /* nothing at or beyond this offset is read */
	struct segment_place place;
	uint64_t chunk_at;
	size_t chunk_n;
	uint8_t chunk[WALK_CHUNK];
};

static struct walk *walk_new(int fd, uint64_t size, const struct segment_place *from)
{
	struct walk *w = malloc(sizeof(*w));

	if (!w)
		return NULL;
	w->fd = fd;
	w->end = MIN_OF(size, (uint64_t)SEGMENT_BYTES);
	w->place = *from;
	w->chunk_at = w->chunk_n = 0;
	return w;
}

/* Returns 1 and the record at the place, from which the place was moved on; 0 at the end; -EBADMSG
 * where no whole record follows. */
static int walk_next(struct walk *w, struct record *ret)
{
	uint64_t at = w->place.at, left = w->end - MIN_OF(w->end, at);
	int r;

	if (left == 0)
		return 0;
	if (at < w->chunk_at || at + RECORD_HEAD_SIZE > w->chunk_at + w->chunk_n) {
		r = pread_all(w->fd, w->chunk, MIN_OF(left, (uint64_t)WALK_CHUNK), at);
		if (r < 0)
			return r;
		w->chunk_at = at;
		w->chunk_n = (size_t)r;
	}
	r = get_record_head(
		w->chunk + (at - w->chunk_at), w->chunk_n - (size_t)(at - w->chunk_at), left, ret);
	if (r < 0)
		return r;
	w->place.at += record_size(ret);
	w->place.cursor += ret->length;
	return 1;
}

static const struct segment_place *first_place(const struct segment *s, struct segment_place *ret)
{
	*ret = (struct segment_place){ SEGMENT_HEAD_SIZE, cursor_of(s->offset) };
	return ret;
}

/* Opening */

static int compare_numbers(const void *a, const void *b)
{
	const struct segment *x = a, *y = b;

	return (x->number > y->number) - (x->number < y->number);
}

/* True for ID.NNNN, as make_name writes it. */
static bool parse_name(const char *name, const char *id, uint32_t *ret)
{
	size_t n = strlen(id);
	char canonical[NAME_SIZE];
	uint64_t number;

	if (!startswith(name, id) || name[n] != '.' ||
		parse_u64(name + n + 1, 0, UINT32_MAX - 1, &number) < 0)
		return false;
	make_name(canonical, id, (uint32_t)number);
	*ret = (uint32_t)number;
	return streq(canonical, name);
}

static void closedirp(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}

/* Numbers alone, sorted. */
static int list_numbers(int dir_fd, const char *id, struct segments *ret)
{
	_cleanup_close_ int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(closedirp) DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	int r = 0;

	if (!d)
		return -errno;
	fd = -EBADF; /* closed with d */
	for (errno = 0; r >= 0 && (e = readdir(d)); errno = 0) {
		struct segment s = { .bad = UINT64_MAX };

		if (!parse_name(e->d_name, id, &s.number))
			continue;
		r = ret->n < SEGMENTS_MAX ? segments_reserve(ret) : -EOVERFLOW;
		if (r >= 0)
			ret->items[ret->n++] = s;
	}
	if (r >= 0 && errno != 0)
		r = -errno;
	if (r >= 0 && ret->n > 1)
		qsort(ret->items, ret->n, sizeof(*ret->items), compare_numbers);
	return r;
}

static int read_head(int dir_fd, const char *id, struct segment *s)
{
	_cleanup_close_ int fd = open_segment(dir_fd, id, s->number, O_RDONLY, &s->size);
	uint8_t head[SEGMENT_HEAD_SIZE];
	int n;

	if (fd < 0)
		return fd;
	n = pread_all(fd, head, sizeof(head), 0);
	return n < 0 ? n : get_head(head, (size_t)n, s->offset);
}

/* Finds the end of the last segment and cuts what follows its last whole record. */
static int cut_last(int dir_fd, const char *id, struct segment *s, uint64_t ret_offset[STREAM_MAX])
{
	_cleanup_close_ int fd = open_segment(dir_fd, id, s->number, O_RDWR, &s->size);
	_cleanup_free_ struct walk *w = NULL;
	uint64_t offset[STREAM_MAX];
	struct segment_place from;
	struct record rec;
	int r;

	if (fd < 0)
		return fd;
	w = walk_new(fd, s->size, first_place(s, &from));
	if (!w)
		return -ENOMEM;
	memcpy(offset, s->offset, sizeof(offset));
	while ((r = walk_next(w, &rec)) > 0)
		offset[rec.stream] += rec.length;
	if (r < 0 && r != -EBADMSG)
		return r;
	if (s->size > w->place.at && ftruncate(fd, (off_t)w->place.at) < 0)
		return -errno;
	s->size = w->place.at;
	s->end = w->place.cursor;
	memcpy(ret_offset, offset, sizeof(offset));
	return 0;
}

static bool begins_before(const struct segment *a, const struct segment *b)
{
	for (int i = 0; i < STREAM_MAX; i++) {
		if (a->offset[i] > b->offset[i])
			return false;
	}
	return true;
}

/* Removes the last segments while their heads are torn. */
static int remove_torn(int dir_fd, const char *id, struct segments *l)
{
	char name[NAME_SIZE];
	int r = 0;

	while (l->n > 0) {
		struct segment *last = &l->items[l->n - 1];

		r = read_head(dir_fd, id, last);
		if (r != -EBADMSG)
			return r;
		make_name(name, id, last->number);
		if (unlinkat(dir_fd, name, 0) < 0)
			return -errno;
		l->n--;
	}
	return 0;
}

/* Reads the other heads, from the last to the first. Those that cannot be read, or that do not
 * begin before the next one, are ignored: their bytes are a gap. */
static int read_heads(int dir_fd, const char *id, struct segments *l)
{
	size_t kept = l->n - 1; /* the first of those that stay, which are at the end */

	for (size_t i = l->n - 1; i-- > 0;) {
		struct segment s = l->items[i];
		int r = read_head(dir_fd, id, &s);

		if (r == -EPROTONOSUPPORT || r == -ENOMEM || r == -EMFILE || r == -ENFILE)
			return r;
		if (r < 0 || !begins_before(&s, &l->items[kept]))
			continue;
		s.end = cursor_of(l->items[kept].offset);
		s.size = MIN_OF(s.size, (uint64_t)SEGMENT_BYTES);
		l->items[--kept] = s;
	}
	l->n -= kept;
	memmove(l->items, l->items + kept, l->n * sizeof(*l->items));
	return 0;
}

int segments_list(const char *dir, const char *id, struct segments *ret)
{
	_cleanup_close_ int dir_fd = open_dir(dir);
	_cleanup_(segments_done) struct segments l = { 0 };
	int r;

	if (dir_fd == -ENOENT) {
		*ret = l;
		return 0;
	}
	if (dir_fd < 0)
		return dir_fd;
	r = list_numbers(dir_fd, id, &l);
	if (r >= 0 && l.n > 0)
		l.next_number = l.items[l.n - 1].number + 1;
	if (r >= 0)
		r = remove_torn(dir_fd, id, &l);
	if (r >= 0 && l.n > 0)
		r = read_heads(dir_fd, id, &l);
	if (r >= 0 && l.n > 0)
		r = cut_last(dir_fd, id, &l.items[l.n - 1], l.offset);
	if (r < 0)
		return r;
	*ret = l;
	l = (struct segments){ 0 };
	return 0;
}

/* Writing */

static int append_at(int fd, uint64_t size, uint64_t at, const void *p, size_t n)
{
	int r;

	if (size < at)
		return -ESTALE;
	/* Longer: what a write that failed has left, when it could not be cut either. */
	if (size > at && ftruncate(fd, (off_t)at) < 0)
		return -errno;
	r = pwrite_all(fd, p, n, at);
	if (r < 0 && ftruncate(fd, (off_t)at) < 0)
		return r; /* cut before the next write, or when it is opened */
	return r;
}

int segment_append(
	const char *dir, const char *id, uint32_t number, uint64_t at, const void *p, size_t n)
{
	_cleanup_close_ int dir_fd = -EBADF, fd = -EBADF;
	bool begins = at == 0;
	char name[NAME_SIZE];
	uint64_t size = 0;
	int r;

	if (begins && mkdir(dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	dir_fd = open_dir(dir);
	if (dir_fd < 0)
		return dir_fd;
	fd = open_segment(dir_fd, id, number, O_WRONLY | (begins ? O_CREAT | O_EXCL : 0), &size);
	if (fd < 0)
		return fd;
	crash_point();
	r = append_at(fd, size, at, p, n);
	crash_point();
	if (r < 0 && begins) {
		make_name(name, id, number);
		(void)unlinkat(dir_fd, name, 0); /* if it stays: a torn head */
	}
	return r;
}

static int sync_one(int dir_fd, const char *id, uint32_t number)
{
	uint64_t size;
	_cleanup_close_ int fd = open_segment(dir_fd, id, number, O_WRONLY, &size);

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd; /* dropped meanwhile */
	return fdatasync(fd) < 0 ? -errno : 0;
}

int segments_sync(const char *dir, const char *id, const struct segments *l, uint32_t first)
{
	_cleanup_close_ int dir_fd = open_dir(dir), parent_fd = -EBADF;
	int r = dir_fd < 0 ? dir_fd : 0;

	for (size_t i = 0; r >= 0 && i < l->n; i++) {
		if (l->items[i].number >= first)
			r = sync_one(dir_fd, id, l->items[i].number);
	}
	if (r >= 0 && fsync(dir_fd) < 0)
		r = -errno;
	if (r < 0)
		return r;
	parent_fd = openat(dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent_fd < 0 || fsync(parent_fd) < 0)
		return -errno;
	return 0;
}

int segment_unlink(const char *dir, const char *id, uint32_t number)
{
	_cleanup_close_ int dir_fd = open_dir(dir);
	char name[NAME_SIZE];

	if (dir_fd < 0)
		return dir_fd;
	make_name(name, id, number);
	return unlinkat(dir_fd, name, 0) < 0 ? -errno : 0;
}

int segments_remove(const char *dir, const char *id)
{
	_cleanup_close_ int dir_fd = open_dir(dir);
	_cleanup_(segments_done) struct segments l = { 0 };
	int r;

	if (dir_fd < 0)
		return dir_fd == -ENOENT ? 0 : dir_fd;
	r = list_numbers(dir_fd, id, &l);
	for (size_t i = 0; r >= 0 && i < l.n; i++) {
		char name[NAME_SIZE];

		make_name(name, id, l.items[i].number);
		if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
			r = -errno;
	}
	return r;
}

int segments_remove_dir(const char *dir)
{
	return rmdir(dir) < 0 && errno != ENOENT ? -errno : 0;
}

/* Reading */

/* Returns how many of the n bytes are whole records, and moves place over them. */
static size_t whole_records(const uint8_t *p, size_t n, struct segment_place *place)
{
	struct record rec;
	size_t at = 0;

	while (record_get(p + at, n - at, &rec) >= 0) {
		at += record_size(&rec);
		place->at += record_size(&rec);
		place->cursor += rec.length;
	}
	return at;
}

int segment_read(const char *dir, const char *id, uint32_t number, uint64_t size,
	struct segment_place *place, uint64_t want, uint8_t **ret, size_t *ret_n,
	uint64_t *ret_cursor)
{
	_cleanup_close_ int dir_fd = open_dir(dir), fd = -EBADF;
	_cleanup_free_ struct walk *w = NULL;
	_cleanup_free_ uint8_t *bytes = NULL;
	struct segment_place found;
	struct record rec;
	uint64_t now = 0;
	int r;

	if (dir_fd < 0)
		return dir_fd;
	fd = open_segment(dir_fd, id, number, O_RDONLY, &now);
	if (fd < 0)
		return fd;
	w = walk_new(fd, MIN_OF(size, now), place);
	bytes = malloc(SEGMENT_READ_MAX);
	if (!w || !bytes)
		return -ENOMEM;
	do {
		found = w->place;
		r = walk_next(w, &rec);
	} while (r > 0 && w->place.cursor <= want);
	if (r < 0 && r != -EBADMSG)
		return r;
	*place = found;
	*ret = NULL;
	*ret_n = 0;
	*ret_cursor = found.cursor;
	if (r <= 0)
		return 0;
	r = pread_all(
		fd, bytes, (size_t)MIN_OF(w->end - found.at, (uint64_t)SEGMENT_READ_MAX), found.at);
	if (r < 0)
		return r;
	*ret_n = whole_records(bytes, (size_t)r, place);
	if (*ret_n > 0) /* else it was changed meanwhile */
		*ret = TAKE_PTR(bytes);
	return 0;
}

/* Returns 1 and the cursor of the first record of s at or after usec, 0 if all are earlier,
 * -ENODATA if s has no record. only_first: reads the first record alone. */
static int find_in(int dir_fd, const char *id, const struct segment *s, uint64_t usec,
	bool only_first, uint64_t *ret)
{
	uint64_t now = 0;
	_cleanup_close_ int fd = open_segment(dir_fd, id, s->number, O_RDONLY, &now);
	_cleanup_free_ struct walk *w = NULL;
	struct segment_place from;
	struct record rec = { 0 };
	bool any = false;
	int r;

	if (fd < 0)
		return fd == -ENOENT ? -ENODATA : fd;
	w = walk_new(fd, MIN_OF(s->size, now), first_place(s, &from));
	if (!w)
		return -ENOMEM;
	while ((r = walk_next(w, &rec)) > 0) {
		if (rec.usec >= usec) {
			*ret = from.cursor;
			return 1;
		}
		from = w->place;
		any = true;
		if (only_first)
			return 0;
	}
	if (r < 0 && r != -EBADMSG)
		return r;
	return any ? 0 : -ENODATA;
}

int segments_find_time(
	const char *dir, const char *id, const struct segments *l, uint64_t usec, uint64_t *ret)
{
	_cleanup_close_ int dir_fd = l->n > 0 ? open_dir(dir) : -EBADF;
	int found = 0, r;

	if (dir_fd < 0)
		return l->n > 0 && dir_fd != -ENOENT ? dir_fd : 0;
	/* The last segment that begins before usec is the first that can have the record. */
	for (size_t i = l->n; i-- > 0;) {
		r = find_in(dir_fd, id, &l->items[i], usec, true, ret);
		if (r == 1)
			found = 1;
		if (r == 0) {
			r = find_in(dir_fd, id, &l->items[i], usec, false, ret);
			return r < 0 ? r : MAX_OF(r, found);
		}
		if (r < 0 && r != -ENODATA)
			return r;
	}
	return found;
}
