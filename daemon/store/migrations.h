/* SPDX-License-Identifier: MIT */
#pragma once

/* The schema's migrations, embedded from sql/ at build time: entry N ends with user_version N+1. */
extern const char *const store_migrations[];
extern const int store_n_migrations;
