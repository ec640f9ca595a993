/* SPDX-License-Identifier: MIT */
/*
 * Owns the scratch folders of pyro-import's tools: PREFIXUID-XXXXXX, locked while the run lasts.
 * Used by the environment and kernel verbs.
 *
 * Must stay true: only folders of this user whose lock is free are removed; the next run removes
 * what a SIGKILL left behind; no other user can enter a folder, since a tree in the making has
 * world-writable folders and set-id programs.
 */
#include "daemon/import/scratch.h"
#include "daemon/import/program.h"
#include "daemon/remove.h"
#include "proto/host.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define PREFIX       "pyro-import-"
#define REMOVE_LIMIT (120 * USEC_PER_SEC)
#define APT_USER     "_apt" /* the user that root's apt downloads as */

/* Removes an mmdebstrap tree that subordinate uids own: only mmdebstrap's helper can. */
static int remove_foreign(const char *path)
{
	_cleanup_free_ char *program = NULL, *output = NULL;
	int r = host_find_program("mmdebstrap", &program);
	if (r < 0)
		return r;
	struct program p = { .argv = (const char *const[]){ program, "--unshare-helper", "rm",
				     "-rf", "--one-file-system", path, NULL },
		.stdin_fd = -EBADF,
		.timeout_usec = REMOVE_LIMIT };
	return program_run(&p, &output);
}

static void remove_folder(const char *path)
{
	int r = remove_tree_at(AT_FDCWD, path);
	if (r < 0 && geteuid() != 0 && remove_foreign(path) >= 0)
		r = remove_tree_at(AT_FDCWD, path);
	if (r < 0)
		fprintf(stderr, "pyro-import: cannot remove %s: %s\n", path, strerror(-r));
}

/* Removes folders of this user that are not locked. */
static void sweep(const char *base)
{
	_cleanup_free_ char *prefix = str_printf(PREFIX "%u-", (unsigned)geteuid());
	DIR *dir = opendir(base);
	struct dirent *e;
	while (prefix && dir && (e = readdir(dir))) {
		if (!startswith(e->d_name, prefix))
			continue;
		_cleanup_free_ char *path = str_printf("%s/%s", base, e->d_name);
		_cleanup_close_ int fd =
			path ? open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -EBADF;
		struct stat st;
		if (fd < 0 || fstat(fd, &st) < 0 || st.st_uid != geteuid())
			continue;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			continue;
		remove_folder(path);
	}
	if (dir)
		(void)closedir(dir);
}

static const char *roomiest(void)
{
	uint64_t a = 0, b = 0;
	(void)host_free_bytes("/var/tmp", &a);
	(void)host_free_bytes("/tmp", &b);
	return a >= b ? "/var/tmp" : "/tmp";
}

/*
 * Finds the one other user that needs access: root of the tree that a plain user's mmdebstrap
 * makes, or the user that apt downloads as. -ENOENT: there is none.
 */
static int find_tool_user(uid_t *ret)
{
	uint64_t start, count;
	const struct passwd *pw;

	if (geteuid() == 0) {
		pw = getpwnam(APT_USER);
		if (!pw)
			return -ENOENT;
		*ret = pw->pw_uid;
		return 0;
	}
	if (host_subid("/etc/subuid", geteuid(), 1, &start, &count) < 0)
		return -ENOENT;
	*ret = (uid_t)start;
	return 0;
}

/* Sets the ACL u::rwx u:UID:x g::- m::x o::- (acl(5)); the folder's mode is 0700 already. */
static int grant_access(int fd)
{
	struct {
		struct posix_acl_xattr_header head;
		struct posix_acl_xattr_entry entry[5];
	} acl = {
		.head = { htole32(POSIX_ACL_XATTR_VERSION) },
		.entry = {
			{ htole16(ACL_USER_OBJ), htole16(ACL_READ | ACL_WRITE | ACL_EXECUTE), htole32(ACL_UNDEFINED_ID) },
			{ htole16(ACL_USER), htole16(ACL_EXECUTE), 0 },
			{ htole16(ACL_GROUP_OBJ), 0, htole32(ACL_UNDEFINED_ID) },
			{ htole16(ACL_MASK), htole16(ACL_EXECUTE), htole32(ACL_UNDEFINED_ID) },
			{ htole16(ACL_OTHER), 0, htole32(ACL_UNDEFINED_ID) },
		},
	};
	uid_t uid;
	int r = find_tool_user(&uid);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	acl.entry[1].e_id = htole32(uid);
	return fsetxattr(fd, "system.posix_acl_access", &acl, sizeof(acl), 0) < 0 ? -errno : 0;
}

int scratch_make(struct scratch *s, struct error *err)
{
	const char *base = getenv("TMPDIR");
	*s = (struct scratch)SCRATCH_INIT;
	if (!base || base[0] != '/')
		base = roomiest();
	sweep(base);
	_cleanup_free_ char *path = str_printf("%s/" PREFIX "%u-XXXXXX", base, (unsigned)geteuid());
	if (!path)
		return error_no_memory(err, "no memory for a path");
	if (!mkdtemp(path))
		return error_set_errno(err, ERROR_PULL_FAILED, -errno,
			"set TMPDIR to a folder with free space", "cannot make a folder in \"%s\"",
			base);
	s->path = TAKE_PTR(path);
	s->lock_fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->lock_fd < 0 || flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, -errno,
			"set TMPDIR to a folder with free space", "cannot use \"%s\"", s->path);
	int r = grant_access(s->lock_fd);
	if (r < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, r,
			"set TMPDIR of pyrod to a folder on a file system that has access control lists",
			"cannot restrict \"%s\" to the tools of the pull", s->path);
	return 0;
}

void scratch_done(struct scratch *s)
{
	if (s->path)
		remove_folder(s->path);
	s->lock_fd = fd_close(s->lock_fd);
	free(s->path);
	s->path = NULL;
}
