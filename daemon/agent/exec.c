/* SPDX-License-Identifier: MIT */
/*
 * The host's end of one command in a guest. core/run.c makes it; core/run-attach.c makes it again
 * after a restart of the daemon; machine/guest.c lists it and passes it the frames of its channel.
 *
 * What must stay true:
 * - after a reconnection every message whose effect the agent does not hold is sent again, and
 *   receiving a message twice changes nothing;
 * - each wait for the guest has a deadline;
 * - stdin is kept until the agent has accepted it, at most STREAM_WINDOW bytes.
 */

#include "daemon/agent/exec.h"

#include "daemon/log.h"
#include "proto/api.h"
#include "proto/deadline.h"
#include "proto/window.h"

#include <signal.h>

enum exec_state {
	EXEC_NEW,
	EXEC_SENT,    /* START sent */
	EXEC_RUNNING, /* STARTED */
	EXEC_EXITED,  /* EXIT, output may be missing */
	EXEC_KEPT,    /* on_exit has been called, exec_acknowledge follows */
	EXEC_OVER,    /* on_exit or on_failed has been called */
};

struct exec {
	LIST_ENTRY(exec) entry;
	bool listed;
	struct exec_callbacks cb;
	void *userdata;
	struct link *link;      /* borrowed: the machine's */
	sd_event_source *timer; /* owned: the deadline of the present state */
	bool still;             /* the guest is paused: no deadline runs */
	uint64_t left_usec;     /* of the deadline, while still; 0: none */

	enum exec_state state;
	uint32_t channel;
	struct msg_start start; /* owned */
	unsigned streams;       /* a mask */
	struct msg_exit exit;
	bool killed;
	bool keeps_exit;    /* exec_keep_exit has been called */
	uint64_t sent_usec; /* of the first START; 0: sent by a previous daemon */
	/* acked, limit: sent, or for START or RESUME; while held: the agent has acked..received */
	struct window_receiver out[STREAM_MAX];

	bool adopted; /* by exec_adopt, exec_take not called yet */
	bool held;    /* adopted, and the agent holds it */

	struct window_sender in; /* owned: stdin the guest has not accepted */
	uint64_t in_next;        /* offset of the caller's next byte */
	char *text;              /* owned or NULL: input that is not yet in `in` */
	size_t text_n, text_at;
	int signo; /* to send on reconnection; 0: none */
};

const char *exec_id(const struct exec *x)
{
	return x->start.exec_id;
}

uint32_t exec_channel(const struct exec *x)
{
	return x->channel;
}

bool exec_has_ended(const struct exec *x)
{
	return x->state >= EXEC_KEPT;
}

void exec_list_insert(struct exec_list *list, struct exec *x)
{
	LIST_INSERT_HEAD(list, x, entry);
	x->listed = true;
}

void exec_list_remove(struct exec *x)
{
	if (x->listed)
		LIST_REMOVE(x, entry);
	x->listed = false;
}

struct exec *exec_list_next(const struct exec *x)
{
	return LIST_NEXT(x, entry);
}

struct exec *exec_list_find(const struct exec_list *list, uint32_t channel)
{
	struct exec *x;

	LIST_FOREACH (x, list, entry)
		if (x->channel == channel)
			return x;
	return NULL;
}

static void set_deadline(struct exec *x, uint64_t usec)
{
	if (x->still) {
		x->left_usec = usec;
		return;
	}
	(void)sd_event_source_set_time(x->timer, now_usec() + usec);
	(void)sd_event_source_set_enabled(x->timer, SD_EVENT_ONESHOT);
}

static void no_deadline(struct exec *x)
{
	x->left_usec = 0;
	(void)sd_event_source_set_enabled(x->timer, SD_EVENT_OFF);
}

void exec_hold(struct exec *x, bool still)
{
	uint64_t at = 0, now = now_usec();
	int enabled = SD_EVENT_OFF;

	if (still == x->still)
		return;
	x->still = still;
	if (!still && x->left_usec > 0) {
		set_deadline(x, x->left_usec);
	} else if (still && sd_event_source_get_enabled(x->timer, &enabled) >= 0 &&
		   enabled != SD_EVENT_OFF && sd_event_source_get_time(x->timer, &at) >= 0) {
		no_deadline(x);
		x->left_usec = at > now ? at - now : 1;
	}
}

static void end(struct exec *x)
{
	x->state = EXEC_OVER;
	no_deadline(x);
	x->link = NULL;
}

void exec_fail(struct exec *x, const struct error *err)
{
	bool reported = x->state >= EXEC_KEPT;

	end(x);
	if (!reported)
		x->cb.on_failed(x, err, x->userdata);
}

static void fail_late(struct exec *x, const char *cause)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERROR_GUEST_UNRESPONSIVE, cause,
		"run it again, with more memory (-m) if it may have run out of memory",
		"the guest no longer answers about command %s", exec_id(x));
	exec_fail(x, &err);
}

/* True when a stream lacks bytes that the guest may send. Bytes held back by the stream's limit do
 * not count. */
static bool guest_owes(const struct exec *x)
{
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT)
		if (x->out[i].received < x->exit.produced[i] &&
			x->out[i].received < x->out[i].limit)
			return true;
	return false;
}

static int on_deadline(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct exec *x = userdata;

	if (x->state == EXEC_SENT)
		fail_late(x, "it did not report that the command started");
	else if (x->state == EXEC_RUNNING)
		fail_late(x, "it did not end the command at its timeout");
	else if (guest_owes(x))
		fail_late(x, "it did not send the rest of the output");
	else
		set_deadline(x, deadline_usec(DEADLINE_DRAIN));
	return 0;
}

static int copy_start(struct msg_start *dst, const struct msg_start *src)
{
	dst->flags = src->flags;
	dst->timeout_usec = src->timeout_usec;
	dst->command = strdup(src->command);
	dst->cwd = strdup(src->cwd);
	dst->user = strdup(src->user);
	dst->env = calloc(src->n_env + 1, sizeof(*dst->env));
	if (!dst->command || !dst->cwd || !dst->user || !dst->env)
		return -ENOMEM;
	for (; dst->n_env < src->n_env; dst->n_env++) {
		dst->env[dst->n_env] = strdup(src->env[dst->n_env]);
		if (!dst->env[dst->n_env])
			return -ENOMEM;
	}
	return 0;
}

int exec_new(sd_event *event, const struct msg_start *start, const struct exec_callbacks *cb,
	void *userdata, struct exec **ret)
{
	_cleanup_(exec_freep) struct exec *x = calloc(1, sizeof(*x));
	int r;

	if (!x)
		return -ENOMEM;
	x->cb = *cb;
	x->userdata = userdata;
	r = copy_start(&x->start, start);
	if (r < 0)
		return r;
	api_new_id("ex-", x->start.exec_id);
	x->streams = start_streams(start->flags);
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT)
		(void)window_receiver_allow(&x->out[i], 0, STREAM_WINDOW);
	r = sd_event_add_time(event, &x->timer, CLOCK_MONOTONIC, 0, 0, on_deadline, x);
	if (r >= 0)
		r = sd_event_source_set_enabled(x->timer, SD_EVENT_OFF);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(x);
	return 0;
}

struct exec *exec_free(struct exec *x)
{
	if (!x)
		return NULL;
	exec_list_remove(x);
	sd_event_source_disable_unref(x->timer);
	msg_start_done(&x->start);
	free(x->in.ring);
	free(x->text);
	free(x);
	return NULL;
}

static int send_start(struct exec *x)
{
	int r;

	for (size_t i = 0; i < STREAM_MAX; i++)
		x->start.limit[i] = x->out[i].limit;
	if (x->sent_usec == 0)
		x->sent_usec = now_usec();
	r = link_send(x->link, start, FRAME_START, x->channel, &x->start);
	if (r >= 0)
		link_schedule(x->link);
	return r;
}

int exec_start(struct exec *x, struct link *link, uint32_t channel)
{
	x->link = link;
	x->channel = channel;
	x->state = EXEC_SENT;
	set_deadline(x, deadline_usec(DEADLINE_STARTED));
	return link_is_up(link) ? send_start(x) : 0; /* otherwise on_welcome sends it */
}

static bool link_usable(const struct exec *x)
{
	return x->link && link_is_up(x->link);
}

/* Schedules a write after a message was queued. A full queue means that the guest does not read. */
static void sent(struct exec *x, int r)
{
	if (r < 0)
		link_fault(x->link);
	else
		link_schedule(x->link);
}

void exec_set_limit(struct exec *x, uint8_t stream, uint64_t upto, uint64_t limit)
{
	struct window_receiver *o = &x->out[stream];

	if (window_receiver_allow(o, upto, limit) && x->state >= EXEC_SENT &&
		x->state < EXEC_KEPT && link_usable(x))
		sent(x, frame_put_ack(
				link_control(x->link), x->channel, stream, o->acked, o->limit));
}

/* Reports how much of the caller's input the guest has accepted. */
static void ack_stdin(struct exec *x)
{
	x->cb.on_stdin_ack(x, MIN_OF(x->in.acked, x->in_next), x->userdata);
}

int exec_stdin(struct exec *x, const void *p, size_t n)
{
	size_t again = (size_t)MIN_OF((uint64_t)n, x->in.produced - x->in_next);
	bool behind = x->in_next < x->in.acked;
	int r;

	if (x->state >= EXEC_EXITED)
		return 0; /* no reader is left */
	x->in_next += again;
	if (behind)
		ack_stdin(x);
	if (x->in.ended || again == n)
		return 0; /* an earlier caller has sent the rest, or ended it */
	r = window_sender_append(&x->in, (const uint8_t *)p + again, n - again);
	if (r >= 0)
		x->in_next += n - again;
	if (r >= 0 && link_usable(x))
		link_schedule(x->link);
	return r;
}

uint64_t exec_stdin_begin(struct exec *x, bool again)
{
	x->in_next = again ? x->in.acked : x->in.produced;
	return x->in_next;
}

bool exec_stdin_ended(const struct exec *x)
{
	return x->in.ended || x->text;
}

void exec_stdin_end(struct exec *x)
{
	x->in.ended = true;
	if (link_usable(x))
		link_schedule(x->link);
}

size_t exec_stdin_room(const struct exec *x)
{
	return (size_t)(STREAM_WINDOW - (x->in.produced - x->in.acked));
}

/* Moves as much of the text into the window as fits. */
static int feed_text(struct exec *x)
{
	size_t n = MIN_OF(exec_stdin_room(x), x->text_n - x->text_at);
	int r = exec_stdin(x, x->text + x->text_at, n);

	if (r < 0)
		return r;
	x->text_at += n;
	if (x->text_at < x->text_n)
		return 0;
	free(TAKE_PTR(x->text));
	exec_stdin_end(x);
	return 0;
}

int exec_stdin_text(struct exec *x, const void *p, size_t n)
{
	x->text = malloc(n + 1);
	if (!x->text)
		return -ENOMEM;
	memcpy(x->text, p, n);
	x->text_n = n;
	return feed_text(x);
}

/* Appends as many bytes as the guest's limit and one frame allow; END after the last byte. */
void exec_fill(struct exec *x, struct buf *out)
{
	if (x->state != EXEC_RUNNING || !(x->streams & STREAM_BIT(STREAM_STDIN)))
		return;
	if (window_sender_put_data(&x->in, out, x->channel, STREAM_STDIN) == 0)
		(void)window_sender_put_end(&x->in, out, x->channel, STREAM_STDIN);
}

static int send_kill(struct exec *x, int signo)
{
	struct msg_kill kill = { .signal = (uint8_t)signo };

	return link_send(x->link, kill, FRAME_KILL, x->channel, &kill);
}

int exec_kill(struct exec *x, int signo)
{
	int r;

	if (x->state != EXEC_RUNNING && x->state != EXEC_SENT)
		return -ESRCH;
	x->killed = x->killed || signo == SIGKILL;
	if (!link_usable(x)) {
		if (x->signo != SIGKILL)
			x->signo = signo;
		return 0;
	}
	r = send_kill(x, signo);
	sent(x, r);
	return r;
}

static void started(struct exec *x)
{
	if (x->state != EXEC_SENT)
		return;
	x->state = EXEC_RUNNING;
	if (x->start.timeout_usec > 0)
		set_deadline(x, x->start.timeout_usec + deadline_usec(DEADLINE_LATE));
	else
		no_deadline(x);
	x->cb.on_started(x, x->userdata);
	if (link_usable(x))
		link_schedule(x->link);
}

static int send_exit_ack(struct exec *x)
{
	int r = frame_put(link_control(x->link), FRAME_EXIT_ACK, x->channel, NULL, 0);

	if (r >= 0)
		link_schedule(x->link);
	return r;
}

/* Ends the exec when EXIT has come and no byte is missing. */
static int check_ended(struct exec *x)
{
	int r;

	if (x->state != EXEC_EXITED || x->adopted)
		return 0;
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT) {
		if (x->out[i].received < x->exit.produced[i]) {
			set_deadline(x, deadline_usec(DEADLINE_DRAIN));
			return 0;
		}
	}
	if (x->keeps_exit) {
		x->state = EXEC_KEPT;
		no_deadline(x);
		x->cb.on_exit(x, &x->exit, x->userdata);
		return 0;
	}
	r = send_exit_ack(x);
	end(x);
	x->cb.on_exit(x, &x->exit, x->userdata);
	return r;
}

bool exec_is_kept(const struct exec *x)
{
	return x->state == EXEC_KEPT;
}

void exec_keep_exit(struct exec *x)
{
	x->keeps_exit = true;
}

/* Without a connection nothing is sent: the next WELCOME lists the command, which is then unknown
 * here and is acknowledged by the machine. */
void exec_acknowledge(struct exec *x)
{
	if (x->state != EXEC_KEPT)
		return;
	if (link_usable(x) && send_exit_ack(x) < 0)
		link_fault(x->link);
	end(x);
}

static int take_data(struct exec *x, const struct frame *f)
{
	struct frame_data d;
	int r = frame_get_data(f, &d);

	if (r < 0)
		return r;
	if (!(x->streams & STREAMS_OUTPUT & STREAM_BIT(d.stream)) ||
		(x->state == EXEC_EXITED && d.offset + d.n > x->exit.produced[d.stream]))
		return -EBADMSG;
	r = window_receiver_data(&x->out[d.stream], &d);
	if (r < 0 || d.n == 0)
		return r;
	r = x->cb.on_output(x, d.stream, d.bytes, d.n, x->userdata);
	return r < 0 ? r : check_ended(x);
}

static int take_ack(struct exec *x, const struct frame *f)
{
	uint64_t upto, limit, before = x->in.acked;
	uint8_t stream;
	int r = frame_get_ack(f, &stream, &upto, &limit);

	if (r >= 0)
		r = stream == STREAM_STDIN ? window_sender_ack(&x->in, upto, limit) : -EBADMSG;
	if (r < 0)
		return r;
	if (x->in.acked > before)
		ack_stdin(x);
	r = x->text ? feed_text(x) : 0;
	if (link_usable(x))
		link_schedule(x->link);
	return r;
}

/* Returns a fix for the step that failed in the agent, with its argument (guest/spawn.c,
 * guest/user.c). */
static const char *start_fix(const char *what, int error)
{
	if (startswith(what, "user ") || startswith(what, "group "))
		return "-u root, or a user of the guest's /etc/passwd";
	if (startswith(what, "chdir "))
		return "-w /workspace, or another directory that exists";
	if (error == E2BIG)
		return "give fewer or shorter variables with -e, or a shorter command";
	if (error == ENOMEM || error == EAGAIN)
		return "give the machine more memory: -m 2G";
	return "pyro env list shows the environments: try another";
}

static int take_started(struct exec *x, const struct frame *f)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *cause = NULL;
	struct msg_result result = { 0 };
	char what[MSG_WHAT_MAX + 1] = "start";
	int r = msg_result_get(f, link_version(x->link), &result);

	if (r < 0)
		return r;
	if (result.error == 0) {
		started(x);
	} else {
		if (result.what)
			(void)log_escape(result.what, strlen(result.what), what, sizeof(what));
		cause = str_printf("%s: %s", what, strerror((int)(result.error & 0xfff)));
		error_set(&err, result.error == ENOMEM ? ERROR_NO_MEMORY : ERROR_INVALID_ARGUMENT,
			cause, start_fix(what, (int)(result.error & 0xfff)),
			"the guest could not start the command");
		exec_fail(x, &err);
	}
	msg_result_done(&result);
	return 0;
}

/* Checks the guest's claim of a timeout by the host's clock: the guest's timer starts after START
 * was sent. Half the timeout allows for a guest clock that runs fast. */
static bool may_have_timed_out(const struct exec *x)
{
	uint64_t timeout = x->start.timeout_usec;

	return timeout > 0 && (x->sent_usec == 0 || now_usec() - x->sent_usec >= timeout / 2);
}

static int take_exit(struct exec *x, const struct frame *f)
{
	struct msg_exit e = { 0 };
	int r = msg_exit_get(f, link_version(x->link), &e);

	if (r < 0)
		return r;
	if (x->state == EXEC_EXITED) /* repeated after a RESUME */
		return check_ended(x);
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT)
		if (e.produced[i] < x->out[i].received)
			return -EBADMSG;
	started(x);
	x->exit = e;
	x->exit.timed_out = e.timed_out && may_have_timed_out(x);
	x->state = EXEC_EXITED;
	return check_ended(x);
}

/* Used only for the text that the caller gets; no decision depends on it. */
const struct agent_ended *exec_ended(const struct exec *x)
{
	return x->exit.tells ? &x->exit.ended : NULL;
}

bool exec_was_killed(const struct exec *x)
{
	return x->killed;
}

int exec_on_frame(struct exec *x, const struct frame *f)
{
	uint64_t offset;
	uint8_t stream;

	if (x->state == EXEC_NEW || x->state >= EXEC_KEPT)
		return 0;
	switch (f->type) {
	case FRAME_STARTED: return take_started(x, f);
	case FRAME_DATA: return take_data(x, f);
	case FRAME_ACK: return take_ack(x, f);
	case FRAME_END: return frame_get_end(f, &stream, &offset);
	case FRAME_EXIT: return take_exit(x, f);
	default: return 0; /* sent only by a host */
	}
}

/* Fails a command that the agent does not hold any more. */
static int report_lost(struct exec *x)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERROR_GUEST_DIED, "its agent no longer knows it", "run it again",
		"the guest lost command %s", exec_id(x));
	exec_fail(x, &err);
	return 0;
}

/* The agent keeps and repeats output from upto on. Received bytes are safe only once their reader
 * has them, so what is acknowledged is sent, not what is received. */
static int send_resume(struct exec *x)
{
	struct msg_resume m = { 0 };
	int r;

	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT) {
		m.upto[i] = x->out[i].acked;
		m.limit[i] = x->out[i].limit;
	}
	r = link_send(x->link, resume, FRAME_RESUME, x->channel, &m);
	if (r >= 0)
		link_schedule(x->link);
	return r;
}

static int resume(struct exec *x, const struct msg_held *h)
{
	int r;

	if (h->channel != x->channel || h->stdin_accepted > x->in.sent)
		return -EBADMSG;
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT)
		if (h->kept[i] > x->out[i].acked || h->produced[i] < x->out[i].received)
			return -EBADMSG;
	r = window_sender_seek(&x->in, h->stdin_accepted);
	if (r >= 0)
		r = send_resume(x);
	if (r < 0)
		return r;
	started(x);
	x->cb.on_held(x, x->userdata);
	return 0;
}

/* Notes which output of an adopted command the agent still has, and whether its input has ended. */
static int note_held(struct exec *x, const struct msg_held *h)
{
	if (h->channel != x->channel)
		return -EBADMSG;
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT) {
		if (h->kept[i] > h->produced[i])
			return -EBADMSG;
		x->out[i].acked = h->kept[i];
		x->out[i].received = h->produced[i];
	}
	x->in.acked = x->in.sent = x->in.produced = x->in.limit = x->in_next = h->stdin_accepted;
	x->in.ended = h->stdin_ended;
	x->held = true;
	x->cb.on_held(x, x->userdata);
	return 0;
}

int exec_on_welcome(struct exec *x, const struct msg_welcome *w)
{
	const struct msg_held *h = NULL;
	int r, signo = x->signo;

	if (x->state == EXEC_NEW || x->state >= EXEC_KEPT)
		return 0;
	for (uint32_t i = 0; i < w->n_held && !h; i++)
		if (streq(w->held[i].exec_id, exec_id(x)))
			h = &w->held[i];
	if (!h && x->state != EXEC_SENT)
		return report_lost(x);
	if (h)
		r = x->adopted ? note_held(x, h) : resume(x, h);
	else
		r = send_start(x); /* START was lost */
	if (r < 0 || signo == 0 || !link_usable(x))
		return r;
	x->signo = 0;
	return send_kill(x, signo);
}

int exec_adopt(sd_event *event, const struct msg_start *start, uint32_t channel, struct link *link,
	const struct exec_callbacks *cb, void *userdata, struct exec **ret)
{
	int r = exec_new(event, start, cb, userdata, ret);
	struct exec *x;

	if (r < 0)
		return r;
	x = *ret;
	memcpy(x->start.exec_id, start->exec_id, sizeof(x->start.exec_id));
	x->channel = channel;
	x->link = link;
	x->adopted = true;
	x->state = EXEC_RUNNING;
	memset(x->out, 0, sizeof(x->out)); /* its limits come from exec_take */
	if (x->start.timeout_usec > 0)
		set_deadline(x, x->start.timeout_usec + deadline_usec(DEADLINE_LATE));
	return 0;
}

bool exec_within_reach(const struct exec *x)
{
	return link_usable(x) && (!x->adopted || x->held);
}

bool exec_is_adopted(const struct exec *x)
{
	return x->adopted;
}

uint64_t exec_earliest(const struct exec *x, uint8_t stream)
{
	return x->out[stream].acked;
}

int exec_has(const struct exec *x, const uint64_t have[STREAM_MAX])
{
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT)
		if (have[i] < x->out[i].acked || have[i] > x->out[i].received)
			return -ERANGE;
	return 0;
}

void exec_take(struct exec *x, const uint64_t have[STREAM_MAX])
{
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT) {
		/* What the previous daemon may have allowed the guest. */
		if (x->adopted)
			x->out[i].limit = window_limit(x->out[i].acked);
		window_receiver_rewind(&x->out[i], have[i]);
	}
	x->adopted = false;
	x->in_next = x->in.acked;
	sent(x, send_resume(x));
}

uint64_t exec_timeout_usec(const struct exec *x)
{
	return x->start.timeout_usec;
}

uint64_t exec_stdin_accepted(const struct exec *x)
{
	return x->in.acked;
}
