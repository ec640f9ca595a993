/* SPDX-License-Identifier: MIT */
/*
 * Users and groups from /etc/passwd and /etc/group, called by exec.c for every command. The files
 * are untrusted: they are read without blocking, only if regular, up to 1 MiB, and a malformed line
 * is skipped.
 */

#include "guest/user.h"

#include "guest/file.h"

enum { PASSWD_FIELDS = 7, GROUP_FIELDS = 4 };
#define ID_MAX UINT64_C(0xfffffffe)

/* Splits a copy of the line at *text into fields and advances *text. Returns 1, 0 at the end,
 * -ENOMEM. */
static int next_line(const char **text, char **ret_copy, char **fields, size_t want, size_t *ret_n)
{
	const char *start = *text;
	size_t n = strcspn(start, "\n"), count = 0;
	char *copy, *p;

	if (!*start)
		return 0;
	*text = start + n + (start[n] == '\n');
	copy = strndup(start, n);
	if (!copy)
		return -ENOMEM;
	p = copy;
	while (p && count < want)
		fields[count++] = strsep(&p, ":");
	*ret_copy = copy;
	*ret_n = count;
	return 1;
}

static int parse_id(const char *s, uint32_t *ret)
{
	uint64_t v;
	int r = parse_u64(s, 0, ID_MAX, &v);

	if (r < 0)
		return r;
	*ret = (uint32_t)v;
	return 0;
}

static int take_passwd_line(char **f, struct user *u)
{
	uint32_t uid, gid;

	if (parse_id(f[2], &uid) < 0 || parse_id(f[3], &gid) < 0)
		return -EBADMSG;
	u->uid = uid;
	u->gid = gid;
	u->name = strdup(f[0]);
	u->home = strdup(*f[5] ? f[5] : "/");
	u->shell = strdup(*f[6] ? f[6] : "/bin/sh");
	return u->name && u->home && u->shell ? 1 : -ENOMEM;
}

/* Finds a user by name, or by number if `who` is one; returns 1 if found. */
static int find_passwd(const char *who, const char *passwd, struct user *u)
{
	uint32_t number = 0;
	bool numeric = parse_id(who, &number) >= 0;
	int r;

	for (;;) {
		_cleanup_free_ char *copy = NULL;
		char *f[PASSWD_FIELDS];
		uint32_t uid;
		size_t n;

		r = next_line(&passwd, &copy, f, PASSWD_FIELDS, &n);
		if (r <= 0)
			return r;
		if (n < PASSWD_FIELDS || parse_id(f[2], &uid) < 0)
			continue;
		if (!streq(f[0], who) && !(numeric && uid == number))
			continue;
		r = take_passwd_line(f, u);
		if (r != -EBADMSG)
			return r;
	}
}

static bool list_has(char *list, const char *name)
{
	char *word;

	while ((word = strsep(&list, ",")))
		if (streq(word, name))
			return true;
	return false;
}

/* Adds the supplementary groups of the user; sets *ret_gid if `wanted` is the name of a group. */
static int scan_groups(const char *group, struct user *u, const char *wanted, bool *ret_found)
{
	for (;;) {
		_cleanup_free_ char *copy = NULL;
		char *f[GROUP_FIELDS];
		uint32_t gid;
		size_t n;
		int r = next_line(&group, &copy, f, GROUP_FIELDS, &n);

		if (r <= 0)
			return r;
		if (n < 3 || parse_id(f[2], &gid) < 0)
			continue;
		if (wanted && streq(f[0], wanted)) {
			u->gid = gid;
			*ret_found = true;
		}
		if (n == GROUP_FIELDS && u->n_groups < USER_GROUPS_MAX && list_has(f[3], u->name))
			u->groups[u->n_groups++] = gid;
	}
}

/* Fills in a user without a line in /etc/passwd: a number, or root, which is 0 even without any
 * users. */
static int fill_unknown(const char *who, struct user *u)
{
	uint32_t uid = 0;

	if (!streq(who, "root") && parse_id(who, &uid) < 0)
		return -ENOENT;
	u->uid = uid;
	u->gid = 0;
	u->name = strdup(who);
	u->home = strdup("/");
	u->shell = strdup("/bin/sh");
	return u->name && u->home && u->shell ? 0 : -ENOMEM;
}

int user_find_in(
	const char *spec, const char *passwd, const char *group, struct user *ret, char **ret_what)
{
	_cleanup_free_ char *who = strdup(spec);
	_cleanup_user_ struct user u = { 0 };
	bool found = false;
	uint32_t gid;
	char *wanted;
	int r;

	if (!who)
		return -ENOMEM;
	wanted = strchr(who, ':');
	if (wanted)
		*wanted++ = '\0';
	r = find_passwd(who, passwd, &u);
	if (r == 0)
		r = fill_unknown(who, &u);
	if (r == -ENOENT)
		*ret_what = str_printf("user %s is not in /etc/passwd", who);
	if (r < 0)
		return r;
	r = scan_groups(group, &u, wanted, &found);
	if (r < 0)
		return r;
	if (wanted && !found) {
		if (parse_id(wanted, &gid) < 0) {
			*ret_what = str_printf("group %s is not in /etc/group", wanted);
			return -ENOENT;
		}
		u.gid = gid;
	}
	*ret = u;
	u = (struct user){ 0 };
	return 0;
}

int user_find(const char *spec, struct user *ret, char **ret_what)
{
	_cleanup_free_ char *passwd = NULL, *group = NULL;
	int r;

	r = file_read("/etc/passwd", &passwd);
	if (r >= 0)
		r = file_read("/etc/group", &group);
	if (r < 0) {
		*ret_what = str_printf("read %s", passwd ? "/etc/group" : "/etc/passwd");
		return r;
	}
	return user_find_in(spec, passwd, group, ret, ret_what);
}

int user_group_ids(const char *const *names, size_t n, uint32_t *ret)
{
	_cleanup_free_ char *group = NULL;
	const char *at;
	int r = file_read("/etc/group", &group);

	memset(ret, 0, n * sizeof(*ret));
	if (r < 0)
		return r;
	for (at = group;;) {
		_cleanup_free_ char *copy = NULL;
		char *f[GROUP_FIELDS];
		uint32_t gid;
		size_t fields;
		r = next_line(&at, &copy, f, GROUP_FIELDS, &fields);
		if (r <= 0)
			return r;
		if (fields < 3 || parse_id(f[2], &gid) < 0)
			continue;
		for (size_t i = 0; i < n; i++)
			if (streq(f[0], names[i]))
				ret[i] = gid;
	}
}

void user_done(struct user *u)
{
	free(u->name);
	free(u->home);
	free(u->shell);
	*u = (struct user){ 0 };
}
