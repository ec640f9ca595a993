/* SPDX-License-Identifier: MIT */
/*
 * Enters new namespaces one by one, since a host may permit some of them only. Called by
 * vmm/confine.c and import/sandbox.c. What must stay true: each one that is not possible is
 * reported.
 */
#include "daemon/namespaces.h"

#include <sched.h>
#include <unistd.h>

#include "daemon/userns.h"

int namespaces_enter(int flags, namespaces_note_fn note, void *userdata)
{
	static const struct {
		int flag;
		const char *name;
	} kinds[] = {
		{ CLONE_NEWNET, "network namespace" },
		{ CLONE_NEWIPC, "IPC namespace" },
		{ CLONE_NEWUTS, "UTS namespace" },
		{ CLONE_NEWNS, "mount namespace" },
		{ CLONE_NEWPID, "PID namespace" },
	};
	int had = 0, r = geteuid() == 0 ? 0 : userns_enter();

	if (r < 0) {
		note("user namespace, and with it all others", r, userdata);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!(flags & kinds[i].flag))
			continue;
		if (unshare(kinds[i].flag) == 0)
			had |= kinds[i].flag;
		else
			note(kinds[i].name, -errno, userdata);
	}
	return had;
}
