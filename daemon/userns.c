/* SPDX-License-Identifier: MIT */
/*
 * Writes the id maps of a new user namespace. Called by child.c, whose child starts in one, and by
 * namespaces.c, which needs one as a plain user to create other namespaces. What must stay true:
 * only the caller's own ids are mapped.
 */
#include "daemon/userns.h"

#include <fcntl.h>
#include <sched.h>

static int write_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -errno : write_all(fd, text, strlen(text));
}

void userns_plan(struct userns *ret)
{
	(void)snprintf(ret->uid_map, sizeof(ret->uid_map), "%u %u 1", geteuid(), geteuid());
	(void)snprintf(ret->gid_map, sizeof(ret->gid_map), "%u %u 1", getegid(), getegid());
}

int userns_settle(const struct userns *u)
{
	int r = write_file("/proc/self/setgroups", "deny");

	if (r >= 0)
		r = write_file("/proc/self/uid_map", u->uid_map);
	return r < 0 ? r : write_file("/proc/self/gid_map", u->gid_map);
}

int userns_enter(void)
{
	struct userns u;

	userns_plan(&u);
	return unshare(CLONE_NEWUSER) < 0 ? -errno : userns_settle(&u);
}
