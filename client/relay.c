/* SPDX-License-Identifier: MIT */
/*
 * Carries live stdio between the daemon's socket and the caller's descriptors (design.md section 6:
 * DATA, ACK, END on channel 0, offsets absolute). Used by session.c. What must stay true: at most
 * STREAM_WINDOW bytes of each stream are held, because only *written* bytes are acknowledged. The
 * caller's descriptors keep their flags, because the shell shares them: terminals and pipes are
 * opened a second time with O_NONBLOCK, sockets are used with MSG_DONTWAIT, and on other files at
 * most PIPE_BUF bytes are written after poll() reported room. So a slow terminal never delays the
 * handling of Ctrl-C.
 */
#include "relay.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "proto/window.h"

#define CHANNEL  0
#define OUT_MAX  (256 * 1024) /* frames waiting for the daemon */
#define OUT_BUSY (64 * 1024)  /* above that no more stdin is read */

enum { POLL_SOCK, POLL_IN, POLL_OUT, POLL_ERR };

/* One of the caller's descriptors. */
struct port {
	int fd;       /* in use: own, or the caller's */
	int own;      /* owned: opened here, else -EBADF */
	bool socket;  /* MSG_DONTWAIT works */
	bool regular; /* never blocks */
	dev_t dev;
	ino_t ino;
	bool tty;
};

struct sink {
	struct port port;
	uint8_t stream;
	struct buf pending; /* owned */
	struct window_receiver w;
	bool gone;
	bool unplaced;    /* begins with the offset of the first frame */
	bool with_stderr; /* writes to the same place as stderr */
};

struct relay {
	int sock;           /* owned */
	struct decoder dec; /* owned */
	struct buf out;     /* owned */
	struct port in;
	struct window_sender held; /* stdin not yet acknowledged; ended: no more to read */
	bool in_dead;              /* closed by the command, or given up here */
	bool in_unsure;            /* a new daemon has not sent the offset to resume from */
	bool in_unplaced;          /* begins with the offset of the first ACK */
	struct sink sinks[2];
	bool peer_closed;
	bool discard;
	bool stdout_closed;
	uint8_t last; /* the last byte written to stderr's place; 0: none */
};

/* Opens the terminal or pipe behind fd again, for an open file description of its own. Returns
 * -EBADF if that is impossible. */
static int reopen(int fd, const struct stat *st, int flags)
{
	char path[32];
	int r;

	/* Opening /dev/ptmx again would make a new terminal. */
	if (!S_ISFIFO(st->st_mode) && (!isatty(fd) || st->st_rdev == makedev(5, 2)))
		return -EBADF;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return r < 0 ? -EBADF : r;
}

static int port_open(struct port *p, int fd, int flags)
{
	struct stat st;

	*p = (struct port){ .fd = fd, .own = -EBADF };
	if (fd < 0)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	p->dev = st.st_dev;
	p->ino = st.st_ino;
	p->tty = isatty(fd);
	p->socket = S_ISSOCK(st.st_mode);
	p->regular = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode);
	p->own = reopen(fd, &st, flags);
	if (p->own >= 0)
		p->fd = p->own;
	return 0;
}

static bool port_ready(const struct port *p, short events)
{
	struct pollfd pfd = { .fd = p->fd, .events = events };

	return p->own >= 0 || p->socket || p->regular || poll(&pfd, 1, 0) > 0;
}

/* Writes without waiting. Returns the number of bytes, -EAGAIN or -errno. */
static ssize_t port_write(const struct port *p, const uint8_t *bytes, size_t n)
{
	ssize_t r;

	if (!port_ready(p, POLLOUT))
		return -EAGAIN;
	if (p->own < 0 && !p->regular && !p->socket)
		n = MIN_OF(n, (size_t)PIPE_BUF);
	do
		r = p->socket ? send(p->fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL)
			      : write(p->fd, bytes, n);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static ssize_t port_read(const struct port *p, uint8_t *bytes, size_t n)
{
	ssize_t r;

	if (!port_ready(p, POLLIN))
		return -EAGAIN;
	do
		r = p->socket ? recv(p->fd, bytes, n, MSG_DONTWAIT) : read(p->fd, bytes, n);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

struct relay *relay_free(struct relay *r)
{
	if (!r)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(r->sinks); i++) {
		buf_done(&r->sinks[i].pending);
		fd_close(r->sinks[i].port.own);
	}
	fd_close(r->in.own);
	fd_close(r->sock);
	buf_done(&r->out);
	free(r->held.ring);
	decoder_done(&r->dec);
	free(r);
	return NULL;
}

/* True if both are terminals, or the same file. */
static bool same_place(const struct port *a, const struct port *b)
{
	return (a->dev == b->dev && a->ino == b->ino) || (a->tty && b->tty);
}

static int relay_open(struct relay *r, int in_fd, const int out_fds[2])
{
	int q = port_open(&r->in, in_fd, O_RDONLY);

	r->in_dead = r->held.ended = in_fd < 0;
	for (size_t i = 0; i < 2 && q >= 0; i++) {
		struct sink *s = &r->sinks[i];

		s->stream = i == 0 ? STREAM_STDOUT : STREAM_STDERR;
		q = port_open(&s->port, out_fds[i], O_WRONLY);
	}
	r->sinks[1].with_stderr = true;
	r->sinks[0].with_stderr = same_place(&r->sinks[0].port, &r->sinks[1].port);
	return q;
}

static uint64_t sink_written(const struct sink *s)
{
	return s->w.received - buf_len(&s->pending);
}

/* Makes a socket pair and queues its first frames: each stream's written offset and its limit. */
static int connect_pair(struct relay *r, int *ret_peer)
{
	int pair[2], q = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	r->sock = pair[0];
	for (size_t i = 0; i < ARRAY_SIZE(r->sinks) && q >= 0; i++) {
		struct sink *s = &r->sinks[i];

		q = window_receiver_put_ack(&s->w, &r->out, CHANNEL, s->stream, sink_written(s));
	}
	if (q < 0)
		(void)close(pair[1]);
	else
		*ret_peer = pair[1];
	return q;
}

void relay_accept_offsets(struct relay *r)
{
	for (size_t i = 0; i < ARRAY_SIZE(r->sinks); i++)
		r->sinks[i].unplaced = true;
	r->in_unplaced = true;
}

bool relay_offset(const struct relay *r, bool of_stderr, uint64_t *ret)
{
	*ret = r->sinks[of_stderr].w.received;
	return !r->sinks[of_stderr].unplaced;
}

/* Takes the offset of a stream's first frame. */
static void sink_place(struct sink *s, uint64_t offset)
{
	if (s->unplaced) {
		s->w.received = s->w.acked = offset;
		s->w.limit = offset + STREAM_WINDOW;
	}
	s->unplaced = false;
}

int relay_renew(struct relay *r, int *ret_peer, struct error *err)
{
	int q;

	r->sock = fd_close(r->sock);
	buf_clear(&r->out);
	decoder_done(&r->dec);
	decoder_init(&r->dec, DECODER_PLAIN, NULL);
	r->peer_closed = false;
	r->in_unsure = true;
	for (size_t i = 0; i < ARRAY_SIZE(r->sinks); i++)
		r->sinks[i].w.ended = false; /* the new daemon sends END again */
	q = connect_pair(r, ret_peer);
	return q < 0 ? error_set_errno(err, ERROR_INTERNAL, q, NULL, "cannot create a socket pair")
		     : 0;
}

int relay_new(
	int in_fd, int out_fd, int err_fd, struct relay **ret, int *ret_peer, struct error *err)
{
	_cleanup_(relay_freep) struct relay *r = calloc(1, sizeof(*r));
	_cleanup_close_ int peer = -EBADF;
	int q;

	if (!r)
		return -ENOMEM;
	r->sock = -EBADF;
	r->in.own = r->sinks[0].port.own = r->sinks[1].port.own = -EBADF;
	buf_init(&r->out, OUT_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(r->sinks); i++)
		buf_init(&r->sinks[i].pending, STREAM_WINDOW);
	decoder_init(&r->dec, DECODER_PLAIN, NULL);
	q = relay_open(r, in_fd, (int[]){ out_fd, err_fd });
	if (q < 0)
		return error_set_errno(
			err, ERROR_INTERNAL, q, NULL, "cannot use stdin, stdout and stderr");
	q = connect_pair(r, &peer);
	if (q < 0)
		return error_set_errno(err, ERROR_INTERNAL, q, NULL, "cannot create a socket pair");
	*ret = TAKE_PTR(r);
	*ret_peer = TAKE_FD(peer);
	return 0;
}

static bool may_read_stdin(const struct relay *r)
{
	return !r->held.ended && !r->in_unsure && !r->peer_closed &&
	       window_sender_room(&r->held) > 0 && buf_len(&r->out) < OUT_BUSY;
}

void relay_poll(const struct relay *r, struct pollfd fds[RELAY_POLLS])
{
	for (size_t i = 0; i < RELAY_POLLS; i++)
		fds[i] = (struct pollfd){ .fd = -1 };
	if (!r->peer_closed)
		fds[POLL_SOCK] = (struct pollfd){ .fd = r->sock,
			.events = (short)(POLLIN | (buf_len(&r->out) > 0 ? POLLOUT : 0)) };
	if (may_read_stdin(r))
		fds[POLL_IN] = (struct pollfd){ .fd = r->in.fd, .events = POLLIN };
	for (size_t i = 0; i < ARRAY_SIZE(r->sinks); i++)
		if (buf_len(&r->sinks[i].pending) > 0)
			fds[POLL_OUT + i] =
				(struct pollfd){ .fd = r->sinks[i].port.fd, .events = POLLOUT };
}

/* Acknowledges what is written, in steps or when nothing is pending. */
static int sink_ack(struct relay *r, struct sink *s)
{
	uint64_t upto = sink_written(s);
	int q;

	(void)window_receiver_allow(&s->w, s->w.acked, window_limit(upto));
	if (r->peer_closed || !window_receiver_ack_due(&s->w, upto, buf_len(&s->pending) == 0))
		return 0;
	q = window_receiver_put_ack(&s->w, &r->out, CHANNEL, s->stream, upto);
	return q == -ENOBUFS ? 0 : q;
}

static int sink_failed(struct relay *r, struct sink *s, int q, struct error *err)
{
	s->gone = true;
	buf_clear(&s->pending);
	if (s->stream != STREAM_STDOUT)
		return 0; /* as with 2>&-: there is nowhere to report it */
	if (q == -EPIPE) {
		r->stdout_closed = true;
		return 0;
	}
	return error_set_errno(
		err, error_code_for_errno(q), q, NULL, "cannot write the command's stdout");
}

static int sink_flush(struct relay *r, struct sink *s, struct error *err)
{
	int q = 0;

	if (s->gone || r->discard)
		buf_clear(&s->pending);
	while (buf_len(&s->pending) > 0) {
		const uint8_t *head = buf_head(&s->pending);
		ssize_t n = port_write(&s->port, head, buf_len(&s->pending));

		if (n == -EAGAIN || n == 0)
			break;
		if (n < 0) {
			q = sink_failed(r, s, (int)n, err);
			break;
		}
		if (s->with_stderr)
			r->last = head[n - 1];
		buf_consume(&s->pending, (size_t)n);
	}
	return q < 0 ? q : sink_ack(r, s);
}

static struct sink *find_sink(struct relay *r, uint8_t stream)
{
	for (size_t i = 0; i < ARRAY_SIZE(r->sinks); i++)
		if (r->sinks[i].stream == stream)
			return &r->sinks[i];
	return NULL;
}

/* Takes DATA. Offsets are absolute: bytes received before are skipped, and a gap is an error. */
static int take_data(struct relay *r, const struct frame *f, struct error *err)
{
	struct frame_data d;
	struct sink *s;
	int q = frame_get_data(f, &d);

	if (q < 0)
		return q;
	s = find_sink(r, d.stream);
	if (s)
		sink_place(s, d.offset);
	if (!s || s->w.ended)
		return -EBADMSG;
	q = window_receiver_data(&s->w, &d);
	if (q >= 0)
		q = buf_append(&s->pending, d.bytes, d.n);
	return q < 0 ? q : sink_flush(r, s, err);
}

static int take_ack(struct relay *r, const struct frame *f)
{
	uint64_t upto, limit;
	uint8_t stream;
	int q = frame_get_ack(f, &stream, &upto, &limit);

	if (q >= 0 && stream != STREAM_STDIN)
		q = -EBADMSG;
	if (q >= 0 && r->in_unplaced) /* nothing has been read yet */
		r->held.acked = r->held.sent = r->held.produced = upto;
	if (q >= 0 && r->in_unsure) {
		q = window_sender_seek(&r->held, upto);
		r->held.limit = 0; /* an earlier daemon's */
	}
	if (q >= 0)
		q = window_sender_ack(&r->held, upto, limit);
	if (q >= 0)
		r->in_unsure = r->in_unplaced = false;
	return q;
}

static int take_end(struct relay *r, const struct frame *f)
{
	uint64_t offset;
	uint8_t stream;
	int q = frame_get_end(f, &stream, &offset);
	struct sink *s;

	if (q < 0)
		return q;
	s = find_sink(r, stream);
	if (s) {
		sink_place(s, offset);
		return window_receiver_end(&s->w, offset);
	}
	/* END of stdin: the command closed it. */
	r->in_dead = r->held.ended = true;
	return stream == STREAM_STDIN ? 0 : -EBADMSG;
}

static int take_frame(struct relay *r, const struct frame *f, struct error *err)
{
	if (f->channel != CHANNEL)
		return -EBADMSG;
	switch (f->type) {
	case FRAME_DATA: return take_data(r, f, err);
	case FRAME_ACK: return take_ack(r, f);
	case FRAME_END: return take_end(r, f);
	default: return 0; /* a newer daemon may send more types */
	}
}

/* Reads once from the daemon and handles the frames. */
static int read_frames(struct relay *r, struct error *err)
{
	struct frame f;
	size_t room;
	uint8_t *space = decoder_space(&r->dec, &room);
	ssize_t n;
	int q;

	if (!space)
		return -ENOMEM;
	n = recv(r->sock, space, room, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		r->peer_closed = true;
		return 0;
	}
	decoder_fed(&r->dec, (size_t)n);
	while ((q = decoder_next(&r->dec, &f)) == DECODER_FRAME) {
		q = take_frame(r, &f, err);
		if (q < 0)
			return q;
	}
	return q < 0 ? q : 0;
}

static int read_stdin(struct relay *r, struct error *err)
{
	uint8_t *at = window_sender_tail(&r->held);
	size_t room = MIN_OF(window_sender_room(&r->held), (size_t)FRAME_DATA_MAX);
	ssize_t n = at ? port_read(&r->in, at, room) : -ENOMEM;

	if (n == -EAGAIN)
		return 0;
	/* A terminal that was hung up gives EIO: treat it as the end. */
	if (n == 0 || (n == -EIO && r->in.tty)) {
		r->held.ended = true;
		return 0;
	}
	if (n < 0) {
		r->held.ended = true;
		return error_set_errno(
			err, error_code_for_errno((int)n), (int)n, NULL, "cannot read stdin");
	}
	r->held.produced += (uint64_t)n;
	return 0;
}

/* Frames the held bytes that are not framed yet, and END after the last byte. */
static int frame_stdin(struct relay *r)
{
	int q = 1;

	if (r->in_dead || r->in_unsure || r->peer_closed)
		return 0;
	while (q > 0 && buf_len(&r->out) < OUT_BUSY)
		q = window_sender_put_data(&r->held, &r->out, CHANNEL, STREAM_STDIN);
	return q < 0 ? q : window_sender_put_end(&r->held, &r->out, CHANNEL, STREAM_STDIN);
}

static void write_frames(struct relay *r)
{
	ssize_t n;

	while (!r->peer_closed && buf_len(&r->out) > 0) {
		n = buf_write_fd(&r->out, r->sock);
		if (n == -EAGAIN)
			return;
		/* The daemon closed its end; what it wrote before is still to be read. */
		if (n < 0) {
			buf_clear(&r->out);
			r->in_unsure = true; /* none of it arrives */
		}
	}
}

/* Sends until the daemon takes no more or nothing is left. Unframed bytes would otherwise wait for
 * an event that never comes. */
static int send_frames(struct relay *r)
{
	bool any;
	int q;

	do {
		q = frame_stdin(r);
		any = buf_len(&r->out) > 0;
		if (q >= 0)
			write_frames(r);
	} while (q >= 0 && any && buf_len(&r->out) == 0);
	return q;
}

int relay_process(struct relay *r, const struct pollfd fds[RELAY_POLLS], struct error *err)
{
	int q = 0;

	if (fds[POLL_SOCK].fd >= 0 && (fds[POLL_SOCK].revents & ~POLLOUT))
		q = read_frames(r, err);
	for (size_t i = 0; i < ARRAY_SIZE(r->sinks) && q >= 0; i++)
		if (fds[POLL_OUT + i].revents || r->discard)
			q = sink_flush(r, &r->sinks[i], err);
	if (q >= 0 && may_read_stdin(r) && fds[POLL_IN].revents)
		q = read_stdin(r, err);
	/* Retry acknowledgements for which `out` had no room. */
	for (size_t i = 0; i < ARRAY_SIZE(r->sinks) && q >= 0; i++)
		q = sink_ack(r, &r->sinks[i]);
	if (q >= 0)
		q = send_frames(r);
	if (q >= 0)
		return 0;
	if (q == -EBADMSG || q == -ENOBUFS) {
		r->peer_closed = true;
		error_set_errno(err, ERROR_INTERNAL, q,
			"pyro --version shows whether client and daemon have the same version",
			"the daemon violated the protocol of live stdio");
	}
	relay_discard(r);
	return q;
}

bool relay_stdout_closed(const struct relay *r)
{
	return r->stdout_closed;
}

bool relay_ended(const struct relay *r)
{
	return r->peer_closed || (r->sinks[0].w.ended && r->sinks[1].w.ended);
}

bool relay_finished(const struct relay *r)
{
	return relay_ended(r) && buf_len(&r->sinks[0].pending) == 0 &&
	       buf_len(&r->sinks[1].pending) == 0;
}

bool relay_end_line(struct relay *r)
{
	bool mid = r->last != 0 && r->last != '\n';

	r->last = '\n';
	return mid;
}

void relay_key_echoed(struct relay *r)
{
	if (isatty(STDERR_FILENO))
		r->last = 'C';
}

void relay_discard(struct relay *r)
{
	r->discard = true;
	r->in_dead = r->held.ended = true;
}
