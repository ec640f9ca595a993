/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of pyrod.conf: a refusal always has its message; what is accepted is within the type's
 * bounds, with no relative path and no control character in it.
 */

#include "daemon/config.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *text, bool path)
{
	if (!text)
		return;
	if (!text[0] || (path && text[0] != '/'))
		abort();
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			abort();
}

static void check_config(const struct config *c)
{
	const int64_t numbers[] = { c->default_ttl_seconds, c->retention_days, c->max_machines,
		c->max_vcpus, c->max_memory_mib, c->max_disk_mib, c->memory_reserve_mib,
		c->disk_reserve_mib, c->seed_max_mib, c->output_limit_mib, c->pool };

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		if (numbers[i] < 0)
			abort();
	if (!accelerator_name(c->accelerator))
		abort();
	check_text(c->kernel, true);
	check_text(c->qemu, true);
	check_text(c->firecracker, true);
	check_text(c->jailer, true);
	check_text(c->mirror, false);
	check_text(c->registries, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(config_freep) struct config *c = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_close_ int fd = memfd_create("pyrod.conf", MFD_CLOEXEC);
	char path[64];

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (config_load(true, path, &c, &err) < 0) {
		if (c || !err.set || !err.message)
			abort();
		return 0;
	}
	check_config(c);
	return 0;
}
