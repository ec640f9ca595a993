/* SPDX-License-Identifier: MIT */
#pragma once

/* The schema's history, embedded from sql/ at build time: entry N brings user_version from N to N + 1. */
extern const char *const store_migrations[];
extern const int store_n_migrations;
