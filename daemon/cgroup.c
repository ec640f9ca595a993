/* SPDX-License-Identifier: MIT */
/*
 * Checks in the kernel the limits that systemd was asked to set on a unit. Called by unit.c. What
 * must stay true: a missing controller means "not enforced", and an existing controller with a
 * looser limit is an error.
 */
#include "daemon/cgroup.h"

#include <fcntl.h>

#include "daemon/unit.h"

#define VALUE_MAX     256
#define CPU_TOLERANCE 1000 /* usec per second: rounding by the kernel's period */

static int read_value(const char *root, const char *cgroup, const char *file, char **ret)
{
	_cleanup_free_ char *path = str_printf("%s%s/%s", root, cgroup, file);
	size_t n;

	return path ? read_file_at(AT_FDCWD, path, VALUE_MAX, ret, &n) : -ENOMEM;
}

static int has_controller(const char *root, const char *controller)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL, *word;
	int r = read_value(root, "", "cgroup.controllers", &text);

	if (r < 0)
		return r == -ENOENT ? 0 : r; /* v1 */
	for (word = strtok_r(text, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
		if (streq(word, controller))
			return 1;
	return 0;
}

/* Compares a file with max: "MAX", or if per is not 0 "MAX PERIOD", scaled to a time of `per`. */
static int held(const char *root, const char *cgroup, const char *file, uint64_t max, uint64_t per)
{
	_cleanup_free_ char *text = NULL;
	uint64_t value, period;
	char *save = NULL, *word;
	int r = read_value(root, cgroup, file, &text);

	if (r < 0)
		return r;
	word = strtok_r(text, " \n", &save);
	if (!word || parse_u64(word, 0, INT64_MAX / USEC_PER_SEC, &value) < 0)
		return -ERANGE; /* "max": no limit */
	if (per == 0)
		return value <= max ? 1 : -ERANGE;
	word = strtok_r(NULL, " \n", &save);
	if (!word || parse_u64(word, 1, INT32_MAX, &period) < 0)
		return -EBADMSG;
	return value * per / period <= max + CPU_TOLERANCE ? 1 : -ERANGE;
}

int cgroup_holds(const char *root, const char *cgroup, const struct unit_limits *limits)
{
	const struct {
		const char *controller, *file;
		uint64_t max, per;
	} rows[] = {
		{ "memory", "memory.max", limits->memory_bytes, 0 },
		{ "cpu", "cpu.max", limits->cpu_usec_per_sec, USEC_PER_SEC },
		{ "pids", "pids.max", limits->tasks, 0 },
	};
	int all = 1;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		int r = has_controller(root, rows[i].controller);

		if (r > 0)
			r = held(root, cgroup, rows[i].file, rows[i].max, rows[i].per);
		if (r < 0)
			return r;
		all = all && r > 0;
	}
	return all;
}
