/* SPDX-License-Identifier: MIT */
/*
 * Owns the catalog of environments: their names, descriptions and packages. Read by environment.c,
 * which knows which of them are installed.
 *
 * Each larger environment contains the packages of the smaller one. A change of a package list
 * raises the version of each entry that uses it. Every pull records the version, and an environment
 * that was pulled before stays in use until the next `env pull`.
 */

#include "daemon/image/catalog.h"

#define BASE \
	"ca-certificates", "procps", "iproute2", "iputils-ping", "less", "file", "patch", \
		"xz-utils", "unzip", "netbase", "tzdata", "vim-tiny"
#define TOOLS \
	"git", "make", "openssh-client", "python3", "python3-venv", "python3-pip", \
		"python3-pytest", "curl", "wget", "jq", "rsync", "ripgrep"
#define BUILD "build-essential", "pkg-config", "cmake", "python3-dev", "gdb"

const struct catalog_entry catalog[] = {
	{
		.name = "debian:12",
		.version = "1.1.0",
		.description = "Debian 12 environment with Git preinstalled for common agent "
			       "workflows.",
		.suite = "bookworm",
		.packages = (const char *const[]){ BASE, TOOLS, NULL },
	},
	{
		.name = "debian:12-base",
		.version = "1.0.0",
		.description = "Minimal Debian 12 environment for shell and core Unix tooling.",
		.suite = "bookworm",
		.packages = (const char *const[]){ BASE, NULL },
	},
	{
		.name = "debian:12-build",
		.version = "1.1.0",
		.description =
			"Debian 12 environment with Git and common build tools preinstalled.",
		.suite = "bookworm",
		.packages = (const char *const[]){ BASE, TOOLS, BUILD, NULL },
	},
};
const size_t catalog_size = ARRAY_SIZE(catalog);

int catalog_packages(const struct catalog_entry *e, char **ret)
{
	_cleanup_free_ char *list = NULL;

	for (const char *const *p = e->packages; *p; p++) {
		char *more = list ? str_printf("%s,%s", list, *p) : strdup(*p);

		if (!more)
			return -ENOMEM;
		free(list);
		list = more;
	}
	*ret = TAKE_PTR(list);

	return 0;
}
