/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What pyro-vmm does to itself before it becomes a VMM. Part of pyro-vmm alone.
 */

#include "proto/base.h"

/* A containment that could not be had: what, and a negative errno. */
typedef void (*confine_note_fn)(const char *what, int r, void *userdata);

struct confine_spec {
	const char *program; /* absolute path of what will be executed */
	bool unit;           /* systemd has confined us: only what must hold is made sure of */
	bool kvm;            /* it opens /dev/kvm */
	confine_note_fn note;
	void *userdata;
};

/*
 * Session, limits, namespaces, mount view, identity, no_new_privs: in this order. What cannot be had is
 * noted and left out; staying root, or keeping the way to new privileges, is a failure: *ret_what says
 * which step (static).
 */
int confine(const struct confine_spec *spec, const char **ret_what);
