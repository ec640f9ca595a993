/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Which Debian mirror an environment comes from: the host's own when the host is Debian.
 */

#include "proto/base.h"

struct mirror {
	char *uri;      /* owned or NULL: of the suite itself */
	char *security; /* owned or NULL: of suite-security */
};
void mirror_done(struct mirror *m);

/* Looks into root's etc/os-release, etc/apt and apt's lists; both stay NULL when the host is not Debian or none of
 * its sources is Debian's archive of its own release or the suite. */
int mirror_of_host(const char *root, const char *suite, struct mirror *ret);

/* True for an http, https or file URI without blanks, quotes or control characters. */
bool mirror_valid(const char *uri);
