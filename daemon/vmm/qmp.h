/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A QMP client on the loop. The peer is a QEMU that its guest may have taken over: lines are
 * bounded and strictly parsed, unexpected answers are ignored. Commands have no deadline: the
 * caller bounds how long it waits for an answer.
 *
 * A struct qmp must not be freed from one of its own callbacks.
 */

#include "proto/base.h"
#include <json-c/json.h>
#include <systemd/sd-event.h>

struct qmp;

struct qmp_callbacks {
	/* The peer has greeted. Commands executed from here on follow the request for capabilities,
	 * whose answer they need not wait for: QEMU takes one after the other. */
	void (*on_greeting)(struct qmp *q, void *userdata);
	/* data: borrowed, an object or NULL, not validated; read it with qmp_str and qmp_bool */
	void (*on_event)(struct qmp *q, const char *name, json_object *data, void *userdata);
	/* Called once, as the last callback. r: -ECONNRESET or -EPIPE if the peer closed, else its
	 * fault. what: one static sentence. */
	void (*on_closed)(struct qmp *q, int r, const char *what, void *userdata);
};

/* r 0: ret is borrowed (may be NULL). r < 0: -EREMOTEIO if QEMU returned an error (desc, escaped),
 * else there was no answer. */
typedef void (*qmp_reply_fn)(
	struct qmp *q, int r, json_object *ret, const char *desc, void *userdata);

/* fd: connected and non-blocking, owned on success. */
int qmp_new(
	sd_event *event, int fd, const struct qmp_callbacks *cb, void *userdata, struct qmp **ret);
struct qmp *qmp_free(struct qmp *q);
DEFINE_CLEANUP(struct qmp *, qmp_free)

/* args (borrowed) may be NULL. -ENOTCONN once closed, -EBUSY with too many pending commands. */
int qmp_execute(
	struct qmp *q, const char *command, json_object *args, qmp_reply_fn fn, void *userdata);

/* Returns the version of the greeting, "10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", escaped; "" if
 * there was none. */
const char *qmp_version(const struct qmp *q);

/* Handles what was sent already, after the peer's process has exited. */
void qmp_drain(struct qmp *q);

/* Read a member of an untrusted object; return the default if it is absent or of another type. */
const char *qmp_str(json_object *o, const char *key, const char *dflt);
bool qmp_bool(json_object *o, const char *key, bool dflt);
