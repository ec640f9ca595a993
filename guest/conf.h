/* SPDX-License-Identifier: MIT */
#pragma once

/* What an environment itself asks for at boot: sysctl.d(5) and modules-load.d(5). */

#include "proto/base.h"

enum { CONF_ENTRIES_MAX = 512 };

/* A line of sysctl.d: value NULL keeps patterns off the key. */
struct conf_setting {
	char *key;   /* owned: below /proc/sys, with slashes */
	char *value; /* owned */
};
struct conf_settings {
	struct conf_setting *v; /* owned */
	size_t n;
};
/* Adds the text's settings; what is no setting is passed over, so is what comes after CONF_ENTRIES_MAX. */
int conf_parse_settings(const char *text, struct conf_settings *s);
void conf_settings_done(struct conf_settings *s);
#define _cleanup_settings_ _cleanup_(conf_settings_done)

/* Applies sysctl.d and sysctl.conf of the environment; a setting that the kernel refuses is passed over. */
int conf_apply_settings(void);
/* Calls load for each module that modules-load.d names. */
int conf_each_module(void (*load)(const char *name, void *userdata), void *userdata);
