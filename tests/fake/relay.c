/* SPDX-License-Identifier: MIT */
/*
 * Stands in for virtio-serial and its socket: one host at a time, the next one waits in the
 * listening socket's backlog. Made by main.c; scripts cut it.
 *
 * What must stay true: as with QEMU, bytes on their way to a host that has disconnected are lost,
 * bytes taken from it reach the guest, and the guest is notified of neither.
 */

#include "tests/fake/fake.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { RELAY_BYTES = 64 * 1024 };

struct relay {
	struct relay_params p;
	struct source listening, host, guest;
	int conn; /* owned */
	struct buf in, out;
	uint64_t cut_in, cut_out; /* bytes until the connection ends; UINT64_MAX: never */
	bool mute, still;
};

static void take_host(struct relay *r);

static void drop_host(struct relay *r)
{
	loop_unwatch(r->p.loop, &r->host);
	r->conn = fd_close(r->conn);
	buf_clear(&r->out);
	r->cut_in = r->cut_out = UINT64_MAX;
	take_host(r);
}

/* Moves at most max bytes from fd into b and returns their number; -1: the peer has closed. */
static ssize_t fill(struct buf *b, int fd, uint64_t max)
{
	size_t room = RELAY_BYTES - buf_len(b);
	ssize_t n;

	room = (size_t)MIN_OF((uint64_t)room, max);
	if (fd < 0 || room == 0)
		return 0;
	n = buf_read_fd(b, fd, room);
	if (n == -EAGAIN)
		return 0;
	return n <= 0 ? -1 : n;
}

static ssize_t drain(struct buf *b, int fd, uint64_t max)
{
	size_t n = (size_t)MIN_OF((uint64_t)buf_len(b), max);
	ssize_t sent;

	if (fd < 0 || n == 0)
		return 0;
	sent = send(fd, buf_head(b), n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	buf_consume(b, (size_t)sent);
	return sent;
}

static void count(uint64_t *left, ssize_t n)
{
	if (*left != UINT64_MAX && n > 0)
		*left -= (uint64_t)n;
}

static void add_noise(struct relay *r)
{
	uint8_t noise[4096];

	if (r->p.manner != MANNER_NOISE || r->conn < 0)
		return;
	random_bytes(noise, sizeof(noise));
	(void)buf_append(&r->out, noise, MIN_OF(sizeof(noise), RELAY_BYTES - buf_len(&r->out)));
}

/* Moves bytes once in each direction. False when the host must be dropped. */
static bool move(struct relay *r, bool *ret_any)
{
	ssize_t got = fill(&r->in, r->conn, r->cut_in), put, said = 0, told;

	count(&r->cut_in, got);
	if (got < 0 || r->cut_in == 0)
		return false;
	if (r->p.manner == MANNER_DEAF)
		buf_clear(&r->in);
	put = drain(&r->in, r->p.port, UINT64_MAX);
	/* Without a host the guest's writes wait in its port. */
	if (r->conn >= 0)
		said = fill(&r->out, r->p.port, UINT64_MAX);
	if (r->mute || r->p.manner == MANNER_DEAF || r->p.manner == MANNER_NOISE)
		buf_clear(&r->out);
	add_noise(r);
	told = drain(&r->out, r->conn, r->cut_out);
	count(&r->cut_out, told);
	*ret_any = got > 0 || put > 0 || said > 0 || told > 0;
	return told >= 0 && r->cut_out != 0;
}

static void pump(struct relay *r)
{
	bool any = true;

	if (r->still) {
		if (fill(&r->in, r->conn, UINT64_MAX) < 0)
			drop_host(r);
		return;
	}
	/* Reads until EAGAIN: events are edge-triggered. The sockets' buffers bound it. */
	while (any)
		if (!move(r, &any)) {
			drop_host(r);
			return;
		}
}

static void on_event(struct source *s, uint32_t events _unused_)
{
	pump(s->userdata);
}

/* Accepts the next host of the backlog, if none is connected. */
static void take_host(struct relay *r)
{
	if (r->conn >= 0)
		return;
	r->conn = accept4(r->p.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (r->conn < 0)
		return;
	fake_tell("host");
	r->host = (struct source){ .on_event = on_event, .userdata = r };
	if (loop_watch(r->p.loop, &r->host, r->conn, EPOLLIN | EPOLLOUT | EPOLLRDHUP) < 0)
		abort();
}

static void on_listening(struct source *s, uint32_t events _unused_)
{
	take_host(s->userdata);
	pump(s->userdata);
}

int relay_new(const struct relay_params *p, struct relay **ret)
{
	struct relay *r = calloc(1, sizeof(*r));
	int k;

	if (!r)
		return -ENOMEM;
	r->p = *p;
	r->conn = -EBADF;
	r->cut_in = r->cut_out = UINT64_MAX;
	buf_init(&r->in, RELAY_BYTES);
	buf_init(&r->out, RELAY_BYTES);
	r->listening = (struct source){ .on_event = on_listening, .userdata = r };
	r->guest = (struct source){ .on_event = on_event, .userdata = r };
	k = fcntl(p->listen_fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ? -errno : 0;
	if (k >= 0)
		k = loop_watch(p->loop, &r->listening, p->listen_fd, EPOLLIN);
	if (k >= 0)
		k = loop_watch(p->loop, &r->guest, p->port, EPOLLIN | EPOLLOUT);
	if (k < 0) {
		free(r);
		return k;
	}
	*ret = r;
	return 0;
}

void relay_cut(struct relay *r, bool out, uint64_t after)
{
	if (r->conn < 0)
		return;
	if (out)
		r->cut_out = after;
	else
		r->cut_in = after;
	if (after == 0)
		drop_host(r);
}

void relay_mute(struct relay *r)
{
	r->mute = true;
}

void relay_still(struct relay *r, bool still)
{
	r->still = still;
	pump(r);
}

bool relay_drained(struct relay *r)
{
	pump(r);
	return r->conn < 0 || buf_len(&r->out) == 0;
}
