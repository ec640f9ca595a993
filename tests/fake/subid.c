/* SPDX-License-Identifier: MIT */
/*
 * A module of libsubid for tests (libsubid_pyrotest.so, "subid: pyrotest" in nsswitch.conf). The
 * requested uid chooses what it does. Run by pyro-subid, for tests/t/test_attackers.py.
 */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

/* shadow's subid.h */
enum { SUCCESS, UNKNOWN_USER, ERROR_CONN, ERROR };
struct subid_range {
	unsigned long start, count;
};

enum { RANGE = 65536, PROBED = 62000 };
#define GATE "/run/pyro-test-subid" /* a FIFO */

bool shadow_subid_valid(const char *owner, int type, bool *result);
int shadow_subid_has_range(
	const char *owner, unsigned long start, unsigned long count, int type, bool *result);
int shadow_subid_list_owner_ranges(
	const char *owner, int type, struct subid_range **ranges, int *count);
int shadow_subid_find_subid_owners(unsigned long id, int type, uid_t **uids, int *count);
void shadow_subid_free(void *p);

static const struct owner {
	const char *name; /* in the passwd file of the test, or NULL */
	uid_t uid;
	unsigned long start;
	int count;  /* of the ranges that it says it lists */
	bool found; /* by shadow_subid_find_subid_owners */
} owners[] = {
	{ "attacker", 61001, 700000, 1, true },
	{ NULL, 61002, 800000, 0, true },
	{ "member", 61003, 930000, 1, false },
	{ "boaster", 61004, 1200000, INT_MAX, true },
};

/* Tries what pyro-subid may not do. */
static uid_t probe(void)
{
	char *const argv[] = { (char[]){ "/bin/true" }, NULL };
	uid_t may = 0;
	pid_t pid;
	int fd;

	may |= getuid() == 0 ? 1 : 0;
	may |= socket(AF_INET, SOCK_STREAM, 0) >= 0 ? 2 : 0;
	may |= socket(AF_NETLINK, SOCK_RAW, 0) >= 0 ? 4 : 0;
	fd = open("/tmp/written-by-pyro-subid", O_WRONLY | O_CREAT, 0600);
	may |= fd >= 0 ? 8 : 0;
	may |= open("/tmp", O_RDONLY | O_DIRECTORY) >= 0 ? 16 : 0;
	pid = fork();
	if (pid == 0)
		_exit(0);
	may |= pid > 0 ? 32 : 0;
	may |= kill(getppid(), 0) == 0 ? 64 : 0;
	for (fd = 4; fd < 64; fd++) /* 3 is where the answer goes */
		may |= fcntl(fd, F_GETFD) >= 0 ? 128 : 0;
	printf("own\n"); /* not taken for the answer */
	(void)fflush(stdout);
	if (socket(AF_UNIX, SOCK_STREAM, 0) < 0)
		return PROBED + 256;
	(void)execv(argv[0], argv);
	return PROBED + may;
}

static int one(uid_t uid, int n, uid_t **uids, int *count)
{
	*uids = malloc(sizeof(**uids));
	if (!*uids)
		return ERROR;
	**uids = uid;
	*count = n;
	return SUCCESS;
}

int shadow_subid_find_subid_owners(unsigned long id, int type, uid_t **uids, int *count)
{
	(void)type;
	for (size_t i = 0; i < sizeof(owners) / sizeof(owners[0]); i++)
		if (owners[i].found && id - owners[i].start < RANGE)
			return one(owners[i].uid, 1, uids, count);
	switch (id / 10000) {
	case 89:
		(void)open(GATE, O_RDONLY); /* until the test opens it too */
		break;
	case 90:
		for (;;)
			pause();
	case 91: (void)raise(SIGSEGV); break;
	case 92: return one(61002, INT_MAX, uids, count);
	case 93:
	case 130: return ERROR; /* as SSSD's, of every uid */
	case 140: return one(probe(), 1, uids, count);
	}
	*uids = NULL;
	*count = 0;
	return SUCCESS;
}

int shadow_subid_list_owner_ranges(
	const char *owner, int type, struct subid_range **ranges, int *count)
{
	(void)type;
	for (size_t i = 0; i < sizeof(owners) / sizeof(owners[0]); i++) {
		if (!owners[i].name || strcmp(owners[i].name, owner) != 0)
			continue;
		*ranges = malloc(sizeof(**ranges));
		if (!*ranges)
			return ERROR;
		**ranges = (struct subid_range){ owners[i].start, RANGE };
		*count = owners[i].count;
		return SUCCESS;
	}
	return UNKNOWN_USER;
}

int shadow_subid_has_range(
	const char *owner, unsigned long start, unsigned long count, int type, bool *result)
{
	(void)owner, (void)start, (void)count, (void)type;
	*result = false;
	return SUCCESS;
}

bool shadow_subid_valid(const char *owner, int type, bool *result)
{
	(void)owner, (void)type;
	*result = false;
	return true;
}

void shadow_subid_free(void *p)
{
	free(p);
}
