/* SPDX-License-Identifier: MIT */
/*
 * The host's end of one agent stream. machine/guest.c makes it, frees it and handles its callbacks;
 * exec.c sends over it.
 *
 * What must stay true:
 * - the guest is hostile: a wrong length or frame drops the connection, and connections that keep
 *   breaking end the link;
 * - control frames go before bulk data, and both queues are bounded;
 * - nothing is decoded before the nonce of this connection's HELLO has come back;
 * - reading never stops;
 * - the descriptor is only used without waiting.
 */

#include "daemon/agent/link.h"

#include <sys/socket.h>

enum {
	/* START may hold a command and an environment; all other control messages are small. */
	CONTROL_MAX = LIMIT_LINK_CONTROL_BYTES + LIMIT_COMMAND_BYTES + 2 * LIMIT_ENV_BYTES,
	OUT_MAX = CONTROL_MAX + LIMIT_FILE_MESSAGE_BYTES + 8 * FRAME_PAYLOAD_MAX,
	READ_ROUNDS = 64, /* per event, so that one guest cannot block the loop */
	READ_BYTES = 4 * 1024,
};
/* No round of reading begins later than this in one event: a round may hold thousands of small
 * frames. */
#define READ_TURN_USEC 40

struct link {
	sd_event *event; /* borrowed: the manager's */
	struct link_callbacks cb;
	void *userdata;

	int fd;                 /* owned */
	sd_event_source *io;    /* owned */
	sd_event_source *timer; /* owned: start of the next try, or deadline of this one */
	struct decoder in;
	struct frame_assembler parts; /* messages longer than a frame */
	struct buf control;           /* control frames to send */
	struct buf out;               /* being sent; whole frames */
	unsigned connection;          /* counts connections: a callback may have opened another */

	uint8_t sync[SYNC_SIZE];
	bool has_sync, sync_confirmed;
	bool welcomed; /* at least once */
	bool dead;
	bool awaited;     /* the stream of dial is still to come */
	uint16_t version; /* of the protocol, from WELCOME; 0: not up */
	unsigned tries;   /* failed in a row */
	unsigned dials;
	bool still;              /* the guest is paused */
	uint64_t still_since;    /* first_deadline moves by the time since then */
	uint64_t first_deadline; /* monotonic */
	uint64_t slot_end;       /* deadline of this try */
	uint64_t up_since;
};

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata);

bool link_is_up(const struct link *l)
{
	return l->version > 0;
}

uint16_t link_version(const struct link *l)
{
	return l->version;
}

struct buf *link_control(struct link *l)
{
	return &l->control;
}

static void disconnect(struct link *l)
{
	l->io = sd_event_source_disable_unref(l->io);
	l->fd = fd_close(l->fd);
	l->version = 0;
	l->awaited = false;
	buf_clear(&l->control);
	buf_clear(&l->out);
}

static void set_timer(struct link *l, uint64_t at)
{
	(void)sd_event_source_set_time(l->timer, at);
	(void)sd_event_source_set_enabled(l->timer, SD_EVENT_ONESHOT);
}

static void give_up(struct link *l, const char *cause)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	disconnect(l);
	(void)sd_event_source_set_enabled(l->timer, SD_EVENT_OFF);
	l->dead = true;
	error_set(&err, ERROR_GUEST_UNRESPONSIVE, cause,
		"run it again, with more memory (-m) if it may have run out of memory",
		l->welcomed ? "the guest's agent no longer answers"
			    : "the guest did not start in time");
	l->cb.on_dead(l, &err, l->userdata);
}

/* Ends this try, because it failed or its stream was replaced. False: no other try follows. */
static bool end_try(struct link *l)
{
	uint64_t now = now_usec();

	if (link_is_up(l) && now - l->up_since > LINK_STEADY_USEC)
		l->tries = 0;
	disconnect(l);
	if (!l->welcomed && !l->still && now >= l->first_deadline) {
		give_up(l, "its agent sent no WELCOME");
		return false;
	}
	if (l->welcomed && !l->still && ++l->tries > LINK_TRIES) {
		give_up(l, "its stream broke, and three new connections failed");
		return false;
	}
	return true;
}

static void try_failed(struct link *l)
{
	if (end_try(l))
		set_timer(l, now_usec() + LINK_AGAIN_USEC);
}

void link_fault(struct link *l)
{
	if (!l->dead && l->fd >= 0)
		try_failed(l);
}

void link_hold(struct link *l, bool still)
{
	uint64_t now = now_usec();

	if (still == l->still)
		return;
	l->still = still;
	if (still)
		l->still_since = now;
	else
		l->first_deadline += now - l->still_since;
}

/* Appends a NOP where the end of `out` looks like a prefix of SYNC: the agent would hold those
 * bytes back. Both values of SYNC are checked, since the agent may use either while SETUP runs. */
static void end_with_nop(struct link *l)
{
	size_t n = buf_len(&l->out);

	if (n > 0 && (frame_needs_nop(frame_sync_initial, buf_head(&l->out), n) ||
			     (l->has_sync && frame_needs_nop(l->sync, buf_head(&l->out), n))))
		(void)frame_put(&l->out, FRAME_NOP, AGENT_CHANNEL_NONE, NULL, 0);
}

/* Moves the next frames into the empty out buffer. */
static void refill(struct link *l)
{
	if (buf_len(&l->control) > 0) {
		if (buf_append(&l->out, buf_head(&l->control), buf_len(&l->control)) < 0)
			return;
		buf_clear(&l->control);
	} else if (link_is_up(l)) {
		l->cb.fill(l, &l->out, l->userdata);
	}
	end_with_nop(l);
}

/* Returns 0 when nothing is left to send, -EAGAIN when the socket is full, -errno when the
 * connection is broken. */
static int flush(struct link *l)
{
	for (;;) {
		ssize_t n;

		if (buf_len(&l->out) == 0)
			refill(l);
		if (buf_len(&l->out) == 0)
			return 0;
		n = send(l->fd, buf_head(&l->out), buf_len(&l->out), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			buf_consume(&l->out, (size_t)n);
	}
}

static void write_now(struct link *l)
{
	int r = flush(l);

	if (r < 0 && r != -EAGAIN) {
		try_failed(l);
		return;
	}
	(void)sd_event_source_set_io_events(l->io, r == -EAGAIN ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

void link_schedule(struct link *l)
{
	/* Only schedules the write: the connection must not change in a caller of this function. */
	if (l->fd >= 0)
		(void)sd_event_source_set_io_events(l->io, EPOLLIN | EPOLLOUT);
}

void link_set_sync(struct link *l, const uint8_t sync[SYNC_SIZE], bool confirmed)
{
	memcpy(l->sync, sync, SYNC_SIZE);
	l->has_sync = true;
	l->sync_confirmed = confirmed;
}

/* Opens the connection: SYNC, then HELLO with a fresh nonce. */
static int greet(struct link *l)
{
	struct msg_hello hello = { .version_min = AGENT_PROTOCOL_MIN,
		.version_max = AGENT_PROTOCOL_MAX };
	bool own = l->has_sync && (l->sync_confirmed || l->dials % 2 == 0);
	int r = buf_append(&l->out, own ? l->sync : frame_sync_initial, SYNC_SIZE);

	if (r < 0)
		return r;
	l->dials++;
	random_bytes(hello.nonce, sizeof(hello.nonce));
	decoder_done(&l->in);
	decoder_init(&l->in, DECODER_NONCE, hello.nonce);
	frame_assembler_reset(&l->parts);
	r = msg_send(&l->out, AGENT_PROTOCOL_MAX, hello, FRAME_HELLO, AGENT_CHANNEL_NONE, &hello);
	if (r >= 0)
		end_with_nop(l);
	return r;
}

/* Takes over fd, also on failure. */
static int open_stream(struct link *l, int fd)
{
	int r;

	disconnect(l);
	l->connection++;
	l->fd = fd;
	r = sd_event_add_io(l->event, &l->io, l->fd, EPOLLIN | EPOLLOUT, on_io, l);
	return r < 0 ? r : greet(l);
}

static void begin_try(struct link *l)
{
	uint64_t now = now_usec();

	l->slot_end = now + LINK_TRY_USEC;
	if (!l->welcomed && !l->still && l->slot_end > l->first_deadline)
		l->slot_end = MAX_OF(l->first_deadline, now);
}

static void dial(struct link *l)
{
	int r;

	disconnect(l);
	begin_try(l);
	l->awaited = true; /* link_take may be called from within */
	r = l->cb.dial(l->userdata);
	if (r >= 0)
		r = open_stream(l, r);
	else if (r == -EINPROGRESS)
		r = 0;
	if (r < 0)
		try_failed(l);
	else
		set_timer(l, l->slot_end);
}

void link_take(struct link *l, int fd)
{
	/* A replaced connection counts as a failed try, so a guest cannot reconnect for ever. */
	if (l->dead || (l->fd >= 0 && !end_try(l))) {
		(void)fd_close(fd);
		return;
	}
	if (!l->awaited)
		begin_try(l);
	if (open_stream(l, fd) < 0)
		try_failed(l);
	else
		set_timer(l, l->slot_end);
}

void link_restart(struct link *l)
{
	if (l->dead)
		return;
	disconnect(l);
	l->has_sync = false;
	set_timer(l, now_usec());
}

static int on_timer(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct link *l = userdata;

	if (l->fd >= 0 || l->awaited)
		try_failed(l); /* no stream, or no WELCOME, in time */
	else if (!l->dead)
		dial(l);
	return 0;
}

static int take_welcome(struct link *l, const struct frame *f)
{
	struct msg_welcome w = { 0 };
	int r = msg_welcome_get(f, AGENT_PROTOCOL_MAX, &w);

	if (r < 0)
		return r;
	if (w.version < AGENT_PROTOCOL_MIN || w.version > AGENT_PROTOCOL_MAX) {
		msg_welcome_done(&w);
		return -EPROTONOSUPPORT;
	}
	l->version = w.version;
	l->up_since = now_usec();
	l->welcomed = true;
	(void)sd_event_source_set_enabled(l->timer, SD_EVENT_OFF);
	r = l->cb.on_welcome(l, &w, l->userdata);
	msg_welcome_done(&w);
	return r;
}

static int take_frame(struct link *l, const struct frame *f)
{
	if (f->type == FRAME_WELCOME)
		return link_is_up(l) ? -EBADMSG : take_welcome(l, f);
	if (!link_is_up(l))
		return -EBADMSG;
	return agent_knows(l->version, f->type) ? l->cb.on_frame(l, f, l->userdata) : 0;
}

static int take_frames(struct link *l)
{
	unsigned connection = l->connection;
	struct frame f;
	int r;

	while (l->connection == connection && l->fd >= 0) {
		r = decoder_next(&l->in, &f);
		if (r < 0 || r == DECODER_MORE)
			return r;
		if (r == DECODER_RESYNC)
			continue; /* our nonce: what follows belongs to this connection */
		r = frame_assembler_add(&l->parts, &f);
		if (r > 0 && f.type != FRAME_NOP)
			r = take_frame(l, &f);
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_now(struct link *l)
{
	unsigned connection = l->connection;
	uint64_t end = now_usec() + READ_TURN_USEC;

	for (int i = 0; i < READ_ROUNDS && l->connection == connection && l->fd >= 0; i++) {
		size_t room;
		uint8_t *p = decoder_space(&l->in, &room);
		ssize_t n;
		int r;

		if (!p)
			return -ENOMEM;
		n = recv(l->fd, p, MIN_OF(room, (size_t)READ_BYTES), MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		if (n == 0)
			return -ECONNRESET;
		decoder_fed(&l->in, (size_t)n);
		r = take_frames(l);
		if (r < 0)
			return r;
		if (now_usec() >= end)
			return 0;
	}
	return 0;
}

static int on_io(
	_unused_ sd_event_source *source, _unused_ int fd, uint32_t revents, void *userdata)
{
	struct link *l = userdata;
	unsigned connection = l->connection;
	int r = 0;

	if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR))
		r = read_now(l);
	if (l->connection != connection || l->fd < 0)
		return 0;
	if (r < 0)
		try_failed(l);
	else
		write_now(l);
	return 0;
}

int link_new(sd_event *event, const struct link_callbacks *cb, void *userdata, uint64_t first_usec,
	struct link **ret)
{
	_cleanup_(link_freep) struct link *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->event = event;
	l->cb = *cb;
	l->userdata = userdata;
	l->fd = -EBADF;
	l->first_deadline = now_usec() + first_usec;
	buf_init(&l->control, CONTROL_MAX);
	buf_init(&l->out, OUT_MAX);
	decoder_init(&l->in, DECODER_NONCE, frame_sync_initial);
	frame_assembler_init(&l->parts, LIMIT_FILE_MESSAGE_BYTES);
	/* The first dial is left to the loop, so that link_new calls no callback. */
	r = sd_event_add_time(event, &l->timer, CLOCK_MONOTONIC, now_usec(), 1, on_timer, l);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(l);
	return 0;
}

struct link *link_free(struct link *l)
{
	if (!l)
		return NULL;
	disconnect(l);
	sd_event_source_disable_unref(l->timer);
	decoder_done(&l->in);
	frame_assembler_done(&l->parts);
	buf_done(&l->control);
	buf_done(&l->out);
	free(l);
	return NULL;
}
