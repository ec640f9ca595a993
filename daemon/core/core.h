/* SPDX-License-Identifier: MIT */
#pragma once

/* The nouns of this daemon: what they hold in common, from the daemon's start to its end. */

#include "daemon/manager.h"

struct core;

/* Makes m->core and m->machines, with what an earlier daemon left. Nothing remains of either on failure. */
int core_start(struct manager *m, struct error *err);
/* Ends what nobody waits for, tells those who wait, and frees both; what runs goes on. */
void core_end(struct manager *m);
