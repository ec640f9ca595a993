/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Which Debian mirror an environment or a kernel comes from: the host's own when the host is Debian, else the configured one.
 */

#include "proto/base.h"

struct mirror {
	char *uri;      /* owned or NULL: of the suite itself */
	char *security; /* owned or NULL: of suite-security */
	bool updates;   /* it has suite-updates too */
};
void mirror_done(struct mirror *m);

/* Looks into root's etc/os-release, etc/apt and apt's lists; both stay NULL when the host is not Debian or none of
 * its sources is Debian's archive of its own release or the suite. */
int mirror_of_host(const char *root, const char *suite, struct mirror *ret);

/*
 * The mirror of pyrod.conf with what it offers of Debian's updates and security fixes, asked of it (work: a
 * folder to fetch into); the fixes are else Debian's own, when those can be reached.
 */
int mirror_configured(const char *uri, const char *suite, const char *work, struct mirror *ret);

#define MIRROR_LINES 3
/* The lines of a sources.list, each with options ("" or "[...] "); owned by the caller, as many as returned. */
int mirror_lines(
	const struct mirror *m, const char *suite, const char *options, char *ret[MIRROR_LINES]);

/* True for an http, https or file URI without blanks, quotes or control characters. */
bool mirror_valid(const char *uri);
