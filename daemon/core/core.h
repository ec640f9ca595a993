/* SPDX-License-Identifier: MIT */
#pragma once

/* What the nouns of this daemon share, from its start to its end. */

#include "daemon/manager.h"

struct core;

/* Makes m->core and m->machines, with the state of a previous daemon. Frees both on failure. */
int core_start(struct manager *m, struct error *err);
/* Frees runs without a caller, notifies waiters, frees both; machines that run keep running. */
void core_end(struct manager *m);
