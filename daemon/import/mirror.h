/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The Debian mirror for environments and kernels: the host's own when the host is Debian, else the
 * configured one.
 */

#include "proto/base.h"

struct mirror {
	char *uri;      /* owned or NULL: of the suite itself */
	char *security; /* owned or NULL: of suite-security */
	bool updates;   /* it has suite-updates too */
};
void mirror_done(struct mirror *m);

/*
 * Reads root's etc/os-release, etc/apt and apt's lists. Both URIs stay NULL when the host is not
 * Debian or none of its sources is Debian's archive of the host's release or of the suite.
 */
int mirror_of_host(const char *root, const char *suite, struct mirror *ret);

/*
 * Finds out whether the mirror of pyrod.conf has Debian's updates and security fixes, by fetching
 * their Release files into the folder work. Without security fixes there, Debian's own archive is
 * used if it can be reached.
 */
int mirror_configured(const char *uri, const char *suite, const char *work, struct mirror *ret);

#define MIRROR_LINES 3
/*
 * Makes lines of a sources.list, each with options ("" or "[...] "); returns how many; caller owns
 * them.
 */
int mirror_lines(
	const struct mirror *m, const char *suite, const char *options, char *ret[MIRROR_LINES]);

/* True for an http, https or file URI without blanks, quotes or control characters. */
bool mirror_valid(const char *uri);
