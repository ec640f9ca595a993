/* SPDX-License-Identifier: MIT */
/*
 * The table of subordinate uids and their owners. Created by manager.c; queried at each connection
 * and each count of a user's machines. It reads local files only, since a name service may block
 * and the loop must not: subid.c asks one, about the uids that are in none of the files. What must
 * stay true: such a uid never has an account of its own before the answer.
 */

#include "daemon/account.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/subid.h"

enum {
	FILE_BYTES_MAX = 4 * 1024 * 1024,
	RANGES_MAX = 100000,
	OWNERS_DEEP = 4, /* an owner may itself be a subordinate uid */
};

struct range {
	uint64_t start, end; /* end is exclusive */
	uid_t account;
};

/* A line of a passwd file. */
struct user {
	const char *name; /* borrowed: the file's text */
	uid_t uid;
};

struct file {
	char *path;     /* owned */
	struct stat st; /* of the file that was read; zero: none */
};

struct accounts {
	struct file subuid, passwd;
	struct range *ranges; /* owned; sorted by start, none overlaps another */
	size_t n;
	struct file nsswitch;  /* with subids */
	struct subids *subids; /* owned; NULL: no name service is used */
	bool has_service;      /* nsswitch names one */
	uid_t *users;          /* owned; sorted: those of passwd, with has_service */
	size_t n_users;
	void (*on_change)(void *userdata);
	void *userdata;
};

const char *account_has(uid_t account, char ret[ACCOUNT_TEXT_SIZE])
{
	if (account == ACCOUNT_UNKNOWN)
		(void)snprintf(ret, ACCOUNT_TEXT_SIZE, "uids of unknown owner have");
	else
		(void)snprintf(ret, ACCOUNT_TEXT_SIZE, "uid %u has", account);
	return ret;
}

int accounts_new(const char *subuid_path, const char *passwd_path, struct accounts **ret)
{
	_cleanup_(accounts_freep) struct accounts *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->subuid.path = strdup(subuid_path);
	a->passwd.path = strdup(passwd_path);
	if (!a->subuid.path || !a->passwd.path)
		return -ENOMEM;
	*ret = TAKE_PTR(a);
	return 0;
}

struct accounts *accounts_free(struct accounts *a)
{
	if (!a)
		return NULL;
	subids_free(a->subids);
	free(a->subuid.path);
	free(a->passwd.path);
	free(a->nsswitch.path);
	free(a->ranges);
	free(a->users);
	free(a);
	return NULL;
}

static void notify(void *userdata)
{
	const struct accounts *a = userdata;

	if (a->on_change)
		a->on_change(a->userdata);
}

int accounts_use_service(struct accounts *a, const struct accounts_service *service)
{
	const struct subids_spec spec = {
		.event = service->event,
		.program = service->program,
		.uid = service->uid,
		.gid = service->gid,
		.on_answer = notify,
		.userdata = a,
	};

	a->nsswitch.path = strdup(service->nsswitch_path);
	return a->nsswitch.path ? subids_new(&spec, &a->subids) : -ENOMEM;
}

void accounts_watch(struct accounts *a, void (*fn)(void *userdata), void *userdata)
{
	a->on_change = fn;
	a->userdata = userdata;
}

/* True if the file has changed since it was read. */
static bool has_changed(const struct file *f, struct stat *ret)
{
	*ret = (struct stat){ 0 };
	if (stat(f->path, ret) < 0)
		*ret = (struct stat){ 0 };
	return ret->st_dev != f->st.st_dev || ret->st_ino != f->st.st_ino ||
	       ret->st_size != f->st.st_size || ret->st_mtim.tv_sec != f->st.st_mtim.tv_sec ||
	       ret->st_mtim.tv_nsec != f->st.st_mtim.tv_nsec ||
	       ret->st_ctim.tv_sec != f->st.st_ctim.tv_sec ||
	       ret->st_ctim.tv_nsec != f->st.st_ctim.tv_nsec;
}

static size_t split(char *line, char **fields, size_t n)
{
	size_t k = 0;

	while (line && k < n)
		fields[k++] = strsep(&line, ":");
	return k;
}

static size_t count_lines(const char *text)
{
	size_t n = 0;

	for (const char *p = text; p && *p; p = strchr(p, '\n'), p += p != NULL)
		n++;
	return n;
}

/* By name; of one name, the earlier line first. */
static int by_name(const void *pa, const void *pb)
{
	const struct user *a = pa, *b = pb;
	int r = strcmp(a->name, b->name);

	return r ? r : (a->name > b->name) - (a->name < b->name);
}

/* Lists the users in the text of a passwd file, which it cuts into fields. */
static int read_users(char *passwd, struct user **ret, size_t *ret_n)
{
	struct user *users = calloc(count_lines(passwd) + 1, sizeof(*users));
	size_t n = 0;
	char *line;

	if (!users)
		return -ENOMEM;
	for (char *at = passwd; (line = strsep(&at, "\n"));) {
		char *fields[3];
		uint64_t uid;

		if (split(line, fields, ARRAY_SIZE(fields)) == ARRAY_SIZE(fields) &&
			parse_u64(fields[2], 0, UINT32_MAX - 1, &uid) >= 0)
			users[n++] = (struct user){ fields[0], (uid_t)uid };
	}
	qsort(users, n, sizeof(*users), by_name);
	*ret = users;
	*ret_n = n;
	return 0;
}

static int uid_of(const struct user *users, size_t n_users, const char *name, uid_t *ret)
{
	size_t low = 0, high = n_users;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(users[middle].name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == n_users || !streq(users[low].name, name))
		return -ENOENT;
	*ret = users[low].uid;
	return 0;
}

/* Parses a line OWNER:START:COUNT; false if it is malformed. */
static bool read_range(char *line, const struct user *users, size_t n_users, struct range *ret)
{
	uint64_t start, count, number;
	char *fields[3];

	if (split(line, fields, ARRAY_SIZE(fields)) != ARRAY_SIZE(fields) ||
		parse_u64(fields[1], 0, UINT32_MAX, &start) < 0 ||
		parse_u64(fields[2], 1, UINT32_MAX, &count) < 0)
		return false;
	*ret = (struct range){ .start = start, .end = start + count };
	if (uid_of(users, n_users, fields[0], &ret->account) >= 0)
		return true;
	ret->account =
		parse_u64(fields[0], 0, UINT32_MAX - 1, &number) < 0 ? (uid_t)start : (uid_t)number;
	return true;
}

/* By start; of one start, the range that counts last: the shorter one, then the smaller account. */
static int by_start(const void *pa, const void *pb)
{
	const struct range *a = pa, *b = pb;

	if (a->start != b->start)
		return a->start < b->start ? -1 : 1;
	if (a->end != b->end)
		return a->end > b->end ? -1 : 1;
	return (a->account < b->account) - (a->account > b->account);
}

/* Reads all lines of the text of a subuid file. */
static int read_ranges(
	char *subuid, const struct user *users, size_t n_users, struct range **ret, size_t *ret_n)
{
	size_t max = MIN_OF(count_lines(subuid), (size_t)RANGES_MAX), n = 0;
	struct range *ranges = calloc(max + 1, sizeof(*ranges));
	char *line;

	if (!ranges)
		return -ENOMEM;
	for (char *at = subuid; n < max && (line = strsep(&at, "\n"));)
		n += read_range(line, users, n_users, &ranges[n]);
	qsort(ranges, n, sizeof(*ranges), by_start);
	*ret = ranges;
	*ret_n = n;
	return 0;
}

/* Cuts sorted ranges where they overlap: of several, the one that starts last has the uid. */
static int separate(const struct range *ranges, size_t n, struct range **ret, size_t *ret_n)
{
	_cleanup_free_ struct range *parts = calloc(2 * n + 1, sizeof(*parts)),
				    *active = calloc(n + 1, sizeof(*active));
	size_t n_parts = 0, n_active = 0;
	uint64_t at = 0;

	if (!parts || !active)
		return -ENOMEM;
	for (size_t i = 0; i <= n; i++) {
		uint64_t next = i < n ? ranges[i].start : UINT64_MAX;

		while (n_active > 0 && at < next) {
			const struct range *last = &active[n_active - 1];

			if (last->end <= at) {
				n_active--;
				continue;
			}
			parts[n_parts++] =
				(struct range){ at, MIN_OF(last->end, next), last->account };
			at = MIN_OF(last->end, next);
		}
		at = next;
		if (i < n)
			active[n_active++] = ranges[i];
	}
	*ret = TAKE_PTR(parts);
	*ret_n = n_parts;
	return 0;
}

static int by_uid(const void *pa, const void *pb)
{
	const uid_t *a = pa, *b = pb;

	return *a < *b ? -1 : *a > *b;
}

static int list_uids(const struct user *users, size_t n, uid_t **ret)
{
	uid_t *uids = calloc(n + 1, sizeof(*uids));

	if (!uids)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		uids[i] = users[i].uid;
	qsort(uids, n, sizeof(*uids), by_uid);
	*ret = uids;
	return 0;
}

/* A missing file is read as NULL. */
static int read_file(const struct file *f, char **ret)
{
	int r = read_file_at(AT_FDCWD, f->path, FILE_BYTES_MAX, ret, NULL);

	return r == -ENOENT ? 0 : r;
}

/* A file that cannot be read may name a service, so it counts as if it did. */
static void load_source(struct accounts *a)
{
	_cleanup_free_ char *text = NULL;
	char source[SUBID_SOURCE_SIZE] = "";
	int r = read_file(&a->nsswitch, &text);

	a->has_service = r < 0 || (text && subid_source(text, source));
	subids_set_source(a->subids, a->has_service ? source : NULL);
}

/* Any local user can have the files read again and again (chsh(1) changes one): the time grows with
 * their lines, not with the lines of one times those of the other. */
static int load(struct accounts *a)
{
	_cleanup_free_ char *subuid = NULL, *passwd = NULL;
	_cleanup_free_ struct range *ranges = NULL, *parts = NULL;
	_cleanup_free_ struct user *users = NULL;
	_cleanup_free_ uid_t *uids = NULL;
	size_t n = 0, n_users = 0;
	int r;

	if (a->subids)
		load_source(a);
	r = read_file(&a->subuid, &subuid);
	if (r >= 0)
		r = read_file(&a->passwd, &passwd);
	if (r >= 0)
		r = read_users(passwd, &users, &n_users);
	if (r >= 0)
		r = read_ranges(subuid, users, n_users, &ranges, &n);
	if (r >= 0)
		r = separate(ranges, n, &parts, &n);
	if (r >= 0 && a->has_service)
		r = list_uids(users, n_users, &uids);
	if (r < 0)
		return r;
	free(a->ranges);
	a->ranges = TAKE_PTR(parts);
	a->n = n;
	free(a->users);
	a->users = TAKE_PTR(uids);
	a->n_users = a->users ? n_users : 0;
	return 0;
}

/* On failure the table stays unchanged and the next call tries again. */
void accounts_refresh(struct accounts *a)
{
	struct stat subuid, passwd, nsswitch = { 0 };
	bool changed;

	if (!a)
		return;
	changed = has_changed(&a->subuid, &subuid);
	changed |= has_changed(&a->passwd, &passwd);
	if (a->subids)
		changed |= has_changed(&a->nsswitch, &nsswitch);
	if (!changed || load(a) < 0)
		return;
	a->subuid.st = subuid;
	a->passwd.st = passwd;
	a->nsswitch.st = nsswitch;
	notify(a);
}

static const struct range *range_of(const struct accounts *a, uid_t uid)
{
	size_t low = 0, high = a->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (a->ranges[middle].start <= uid)
			low = middle + 1;
		else
			high = middle;
	}
	return low > 0 && uid < a->ranges[low - 1].end ? &a->ranges[low - 1] : NULL;
}

static bool is_user(const struct accounts *a, uid_t uid)
{
	return a->n_users > 0 && bsearch(&uid, a->users, a->n_users, sizeof(uid), by_uid);
}

uid_t accounts_find(const struct accounts *a, uid_t uid)
{
	if (!a || uid == 0)
		return uid;
	if (a->has_service && !range_of(a, uid) && !is_user(a, uid) &&
		!subids_find(a->subids, uid, &uid))
		return ACCOUNT_UNKNOWN;
	for (int i = 0; i < OWNERS_DEEP; i++) {
		const struct range *r = range_of(a, uid);

		if (!r || r->account == uid)
			break;
		uid = r->account;
	}
	return uid;
}
