/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of pyrod.conf: each refusal has a message; each accepted value is within its type's
 * bounds, without relative paths and control characters. If the first byte is DIRECTORY, the rest
 * is a user's default files: pyrod.conf and three files of conf.d, divided by SEPARATOR.
 */

#include "daemon/config.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define DIRECTORY 0x01
#define SEPARATOR 0x1c /* FS */

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

static void load(bool system, const char *path)
{
	_cleanup_(config_freep) struct config *c = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (config_load(system, path, &c, &err) >= 0)
		check_config(c);
	else if (c || !err.set || !err.message)
		abort();
}

/* In reading order; pyrod must not read the last one. */
static const char *const places[] = { "pyro/pyrod.conf", "pyro/conf.d/10-a.conf",
	"pyro/conf.d/20-b.conf", "pyro/conf.d/.hidden.conf" };
static char folder[] = "/tmp/pyro-fuzz-config-XXXXXX";
static int folder_fd = -EBADF;

static void remove_folder(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		(void)unlinkat(folder_fd, places[i], 0);
	(void)unlinkat(folder_fd, "pyro/conf.d", AT_REMOVEDIR);
	(void)unlinkat(folder_fd, "pyro", AT_REMOVEDIR);
	(void)rmdir(folder);
}

static void make_folder(void)
{
	if (folder_fd >= 0)
		return;
	if (!mkdtemp(folder) || setenv("XDG_CONFIG_HOME", folder, 1) < 0)
		abort();
	folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder_fd < 0 || atexit(remove_folder) != 0 || mkdirat(folder_fd, "pyro", 0700) < 0 ||
		mkdirat(folder_fd, "pyro/conf.d", 0700) < 0)
		abort();
}

static void load_places(const uint8_t *data, size_t size)
{
	make_folder();
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		const uint8_t *end = size > 0 ? memchr(data, SEPARATOR, size) : NULL;
		size_t n = end ? (size_t)(end - data) : size;

		(void)unlinkat(folder_fd, places[i], 0);
		if (n > 0) {
			_cleanup_close_ int fd = openat(folder_fd, places[i],
				O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

			if (fd < 0 || write(fd, data, n) != (ssize_t)n)
				abort();
		}
		n += end ? 1 : 0;
		data += n;
		size -= n;
	}
	load(false, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_close_ int fd = -EBADF;
	char path[64];

	if (size > 0 && data[0] == DIRECTORY) {
		load_places(data + 1, size - 1);
		return 0;
	}
	fd = memfd_create("pyrod.conf", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	load(true, path);
	return 0;
}
