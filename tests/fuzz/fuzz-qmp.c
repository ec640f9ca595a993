/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of a VMM that its guest has taken over: the first byte selects how many bytes arrive
 * at a time, the rest is the VMM's output. Each command must be answered once, the end must be
 * reported once and nothing after it, and no event's name may bring a control character into a log
 * line.
 */

#include "daemon/vmm/qmp.h"

#include <sys/socket.h>

#include "proto/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { COMMANDS = 3 };

struct host {
	unsigned ready, closed, answered[COMMANDS];
	int asked[COMMANDS]; /* result of qmp_execute */
};

static struct host *current; /* of this input */

static void on_reply(
	_unused_ struct qmp *q, int r, json_object *ret, const char *desc, void *userdata)
{
	unsigned i = (unsigned)((unsigned *)userdata - current->answered);

	if (++current->answered[i] > 1 || (r == 0 && desc) || r > 0 ||
		(r == -EREMOTEIO && (!desc || strpbrk(desc, "\n\x1b"))))
		abort();
	if (r == 0 && ret)
		(void)strlen(qmp_str(ret, "status", ""));
}

static void ask(struct qmp *q)
{
	_cleanup_json_ json_object *args = json_object_new_object();

	if (!args || json_add_str(args, "node-name", "own") < 0)
		abort();
	for (size_t i = 0; i < COMMANDS; i++)
		current->asked[i] = qmp_execute(q, i ? "query-status" : "block_resize",
			i ? NULL : args, on_reply, &current->answered[i]);
}

static void on_greeting(struct qmp *q, void *userdata)
{
	struct host *h = userdata;

	if (++h->ready > 1 || h->closed)
		abort();
	ask(q);
}

static void on_event(_unused_ struct qmp *q, const char *name, json_object *data, void *userdata)
{
	struct host *h = userdata;

	if (!h->ready || h->closed || !name)
		abort();
	(void)qmp_bool(data, "guest", false);
	(void)strlen(qmp_str(data, "reason", ""));
}

static void on_closed(_unused_ struct qmp *q, int r, const char *what, void *userdata)
{
	struct host *h = userdata;

	if (++h->closed > 1 || r >= 0 || !what)
		abort();
}

static void turns(sd_event *event)
{
	for (int i = 0; i < 1000; i++) {
		int r = sd_event_run(event, 0);

		if (r < 0)
			abort();
		if (r == 0)
			return;
	}
	abort(); /* a busy loop */
}

/* False when the host has closed. */
static bool say(sd_event *event, int fd, const uint8_t *data, size_t size, size_t step)
{
	uint8_t nowhere[4096];

	while (size > 0) {
		size_t n = MIN_OF(size, step);

		if (send(fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)n)
			return false;
		data += n;
		size -= n;
		turns(event);
		while (recv(fd, nowhere, sizeof(nowhere), MSG_DONTWAIT) > 0)
			;
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct qmp_callbacks cb = { on_greeting, on_event, on_closed };
	struct host h = { 0 };
	sd_event *event = NULL;
	struct qmp *q = NULL;
	int pair[2];

	if (size < 1)
		return 0;
	current = &h;
	if (sd_event_new(&event) < 0 ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0 ||
		qmp_new(event, pair[0], &cb, &h, &q) < 0)
		abort();
	bool open = say(event, pair[1], data + 1, size - 1, (size_t)data[0] + 1);
	if (!open && !h.closed)
		abort();
	(void)close(pair[1]);
	qmp_drain(q);
	turns(event);
	if (h.closed != 1)
		abort();
	for (size_t i = 0; i < COMMANDS; i++)
		if (h.answered[i] != (h.ready && h.asked[i] >= 0))
			abort();
	if (qmp_execute(q, "stop", NULL, on_reply, &h.answered[0]) != -ENOTCONN)
		abort();
	qmp_free(q);
	(void)sd_event_unref(event);
	return 0;
}
