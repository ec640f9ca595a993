/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The environments pyro knows by name (contract.md section 6).
 */

#include "proto/base.h"

#define CATALOG_VERSION PYRO_VERSION /* the catalog is part of the package */

struct catalog_entry {
	const char *name, *description;
	const char *version;         /* raised with every change of packages */
	const char *suite;           /* of Debian */
	const char *const *packages; /* NULL-terminated; added to mmdebstrap's minbase */
};

extern const struct catalog_entry catalog[];
extern const size_t catalog_size;

/* All packages, comma-separated; *ret is owned by the caller. */
int catalog_packages(const struct catalog_entry *e, char **ret);
