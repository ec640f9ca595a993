/* SPDX-License-Identifier: MIT */
#pragma once

/* The environment's own boot settings: sysctl.d(5) and modules-load.d(5). */

#include "proto/base.h"

enum { CONF_ENTRIES_MAX = 512 };

/* A line of sysctl.d; value NULL excludes the key from patterns. */
struct conf_setting {
	char *key;   /* owned: below /proc/sys, with slashes */
	char *value; /* owned */
};
struct conf_settings {
	struct conf_setting *v; /* owned */
	size_t n;
};
/* Adds the settings in text; skips malformed lines and all after CONF_ENTRIES_MAX. */
int conf_parse_settings(const char *text, struct conf_settings *s);
void conf_settings_done(struct conf_settings *s);
#define _cleanup_settings_ _cleanup_(conf_settings_done)

/* Applies sysctl.d and sysctl.conf of the environment; skips a setting that the kernel refuses. */
int conf_apply_settings(void);
/* Calls load for each module that modules-load.d names. */
int conf_each_module(void (*load)(const char *name, void *userdata), void *userdata);
