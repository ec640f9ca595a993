/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A QMP client on the loop. The peer is a QEMU that its guest may have taken over: lines are bounded and
 * strictly parsed, every command has a deadline, answers nobody asked for are ignored.
 *
 * A struct qmp must not be freed from one of its own callbacks.
 */

#include "proto/base.h"
#include <json-c/json.h>
#include <systemd/sd-event.h>

struct qmp;

struct qmp_callbacks {
	void (*on_ready)(struct qmp *q, void *userdata); /* greeted, capabilities agreed */
	/* data: borrowed, an object or NULL; unchecked, read it with qmp_str and qmp_bool */
	void (*on_event)(struct qmp *q, const char *name, json_object *data, void *userdata);
	/* Once, and nothing follows. r: -ECONNRESET, -EPIPE when the peer left; else what it did wrong, -ETIMEDOUT
	 * included. what: one static sentence. */
	void (*on_closed)(struct qmp *q, int r, const char *what, void *userdata);
};

/* r 0: ret is borrowed (may be NULL). r < 0: -EREMOTEIO when QEMU refused, with desc escaped; else no answer came. */
typedef void (*qmp_reply_fn)(
	struct qmp *q, int r, json_object *ret, const char *desc, void *userdata);

/* fd (taken over on success): connected, non-blocking. The greeting must come within timeout_usec. */
int qmp_new(sd_event *event, int fd, const struct qmp_callbacks *cb, void *userdata,
	uint64_t timeout_usec, struct qmp **ret);
struct qmp *qmp_free(struct qmp *q);
DEFINE_CLEANUP(struct qmp *, qmp_free)

/* The answer may take as long as it likes. */
#define QMP_NO_DEADLINE UINT64_MAX

/* args (borrowed) may be NULL. Without an answer within timeout_usec the connection is closed. -ENOTCONN after the end, -EBUSY with too many under way. */
int qmp_execute(struct qmp *q, const char *command, json_object *args, uint64_t timeout_usec,
	qmp_reply_fn fn, void *userdata);

/* What it greeted with, "10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", escaped; "" before that, or when it did not say. */
const char *qmp_version(const struct qmp *q);

/* Handles what has been sent already; for when the peer's process is gone. */
void qmp_drain(struct qmp *q);

/* Members of untrusted objects: the default unless it is there with the right type. */
const char *qmp_str(json_object *o, const char *key, const char *dflt);
bool qmp_bool(json_object *o, const char *key, bool dflt);
