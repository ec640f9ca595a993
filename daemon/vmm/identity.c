/* SPDX-License-Identifier: MIT */
/*
 * Finds the process that is the VMM of a machine, by what the driver put on its command line.
 * Called by machine/ for a VMM that outlived its daemon. What must stay true: a pid alone proves
 * nothing. A process belongs to the machine only if its start time matches, it has a VMM's uid and
 * the machine's uuid follows the driver's option on its command line. A command line alone proves
 * nothing either: every user sees a VMM's and may start a process with the same words, and reading
 * one may block for as long as its process likes (its pages may lie in a file system of that user).
 */
#include "daemon/vmm/vmm.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "daemon/vmm/confine.h"

enum {
	CMDLINE_MAX = 256 * 1024,
	STAT_MAX = 4096,
	STATUS_MAX = 16 * 1024,
	STAT_START_TIME = 22, /* proc(5): field of /proc/PID/stat */
};

static int read_proc(pid_t pid, const char *file, size_t max, char **ret, size_t *ret_n)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	return read_file_at(AT_FDCWD, path, max, ret, ret_n);
}

/* The program's name may contain spaces and parentheses, so fields are counted from the last
 * ')'. */
int vmm_process_start_time(pid_t pid, uint64_t *ret)
{
	_cleanup_free_ char *stat = NULL;
	size_t n;
	int r = read_proc(pid, "stat", STAT_MAX, &stat, &n);
	char *p, *end;

	if (r < 0)
		return r;
	p = strrchr(stat, ')');
	for (int field = 2; p && field < STAT_START_TIME; field++)
		p = strchr(p + 1, ' ');
	if (!p)
		return -EBADMSG;
	*ret = strtoull(p + 1, &end, 10);
	return *end == ' ' ? 0 : -EBADMSG;
}

void vmm_uuid_text(const uint8_t u[16], char ret[VMM_UUID_TEXT])
{
	(void)snprintf(ret, VMM_UUID_TEXT,
		"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
		u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
		u[15]);
}

static int has_words(pid_t pid, const char *option, const char *value)
{
	_cleanup_free_ char *line = NULL;
	size_t n, next;
	int r = read_proc(pid, "cmdline", CMDLINE_MAX, &line, &n);

	if (r < 0)
		return r;
	if (n == 0)
		return -ENODATA;
	for (size_t i = 0; i < n; i = next) {
		next = i + strlen(line + i) + 1;
		if (streq(line + i, option) && next < n)
			return streq(line + next, value);
	}
	return 0;
}

/* True if no other user can have started it: real, effective and saved uid are a VMM's. (A set-id
 * program has its caller's real uid.) */
static int has_vmm_uid(pid_t pid)
{
	_cleanup_free_ char *status = NULL;
	unsigned real, effective, saved;
	const char *line;
	int r = read_proc(pid, "status", STATUS_MAX, &status, NULL);

	if (r < 0)
		return r;
	line = strstr(status, "\nUid:");
	/* NOLINTNEXTLINE(cert-err34-c): the kernel wrote it */
	if (!line || sscanf(line, "\nUid: %u %u %u", &real, &effective, &saved) != 3)
		return -EBADMSG;
	if (real != effective || real != saved)
		return 0;
	if (geteuid() != 0)
		return real == geteuid();
	return real == CONFINE_UID(pid) || real == CONFINE_UID_SMALL(pid);
}

int vmm_process_is(const struct vmm_driver *d, pid_t pid, const uint8_t uuid[16])
{
	char text[VMM_UUID_TEXT];
	int r;

	if (!d)
		return -ENODEV;
	r = has_vmm_uid(pid);
	if (r <= 0)
		return r;
	vmm_uuid_text(uuid, text);
	return has_words(pid, d->id_option, text);
}

pid_t vmm_process_find(const struct vmm_driver *d, const uint8_t uuid[16])
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	while (proc && found == 0 && (entry = readdir(proc))) {
		uint64_t pid;

		if (parse_u64(entry->d_name, 2, INT32_MAX, &pid) >= 0 &&
			vmm_process_is(d, (pid_t)pid, uuid) > 0)
			found = (pid_t)pid;
	}
	if (proc)
		(void)closedir(proc);
	return found;
}
