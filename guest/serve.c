/* SPDX-License-Identifier: MIT */
/*
 * The agent stream (design.md section 6), driven by main.c's loop: events of the port only set
 * flags, and all work is done once per iteration.
 *
 * What must stay true: nothing is written between SYNC and HELLO, and after HELLO nothing before
 * nonce and WELCOME; control frames precede DATA and FILE_DONE; reading stops while answers are
 * queued, so a host that only sends cannot fill the memory; an invalid frame ends the connection,
 * and the agent then waits for SYNC.
 */

#include "guest/serve.h"

#include "guest/exec.h"
#include "guest/files.h"

#include <sys/epoll.h>
#include <sys/random.h>

enum {
	READ_ROUNDS = 64, /* per iteration */
	WRITE_ROUNDS = 64,
	OUT_TARGET = 2 * FRAME_PAYLOAD_MAX, /* DATA is added while less is queued */
	OUT_MAX = 4 * 1024 * 1024,
	CONTROL_STOP = 64 * 1024, /* reading stops while this much is queued */
	CONTROL_MAX = 1024 * 1024,
};

struct serve {
	struct serve_params p;
	struct source port;
	struct decoder in;
	struct frame_assembler long_in;
	struct buf control;  /* answers, sent before `out` */
	struct buf out;      /* sent next */
	struct execs *execs; /* owned; NULL before SETUP */
	struct files *files; /* owned; NULL before SETUP */
	uint8_t machine_id[16], boot_nonce[16];
	char *bye_what; /* owned */
	enum bye_reason bye_reason;
	bool readable, writable;
	uint16_t version; /* of the protocol on this connection; 0 before HELLO */
	bool finish_due;
	bool bye_due, bye_put, bye_sent;
};

static void drop_connection(struct serve *s)
{
	frame_assembler_reset(&s->long_in);
	buf_clear(&s->control);
	buf_clear(&s->out);
	s->version = 0;
	s->bye_put = false;
	s->writable = true; /* a reconnection may cause no event: try to write */
	if (s->execs)
		execs_reconnected(s->execs);
	if (s->files)
		files_reconnected(s->files);
}

static void put_bye(struct serve *s)
{
	struct msg_bye m = { .reason = (uint8_t)s->bye_reason, .what = s->bye_what };

	if (s->bye_due && !s->bye_put && s->version > 0)
		s->bye_put =
			msg_send(&s->out, s->version, bye, FRAME_BYE, AGENT_CHANNEL_NONE, &m) >= 0;
}

static int take_hello(struct serve *s, const struct frame *f)
{
	struct msg_hello hello;
	struct msg_welcome w = { .state = s->execs ? AGENT_SET_UP : AGENT_READY };
	int r = msg_hello_get(f, AGENT_PROTOCOL_MAX, &hello);

	if (r < 0 || s->version > 0)
		return -EBADMSG;
	w.version = MIN_OF(hello.version_max, s->p.version_max);
	memcpy(w.machine_id, s->machine_id, sizeof(w.machine_id));
	memcpy(w.boot_nonce, s->boot_nonce, sizeof(w.boot_nonce));
	if (s->execs)
		r = execs_held(s->execs, &w.held, &w.n_held);
	if (r >= 0)
		r = buf_append(&s->control, hello.nonce, sizeof(hello.nonce));
	if (r >= 0)
		r = msg_send(&s->control, AGENT_PROTOCOL_MAX, welcome, FRAME_WELCOME,
			AGENT_CHANNEL_NONE, &w);
	s->version = r >= 0 ? w.version : 0;
	msg_welcome_done(&w);
	return r;
}

static int become_machine(struct serve *s, const struct msg_setup *m, char **ret_what)
{
	struct execs_params p = { .loop = s->p.loop, .workspace = s->p.workspace };
	const struct files_params fp = { .loop = s->p.loop, .workspace = s->p.workspace };
	int r;

	if (s->execs && memcmp(s->machine_id, m->machine_id, sizeof(s->machine_id)) != 0) {
		*ret_what = strdup("the machine is already set up with another id");
		return -EEXIST;
	}
	r = s->p.hooks->setup(m, &p.cgroup_fd, ret_what, s->p.userdata);
	if (r >= 0 && !s->files)
		r = files_new(&fp, &s->files);
	if (r >= 0 && !s->execs)
		r = execs_new(&p, &s->execs);
	if (r < 0)
		return r;
	memcpy(s->machine_id, m->machine_id, sizeof(s->machine_id));
	/* A clone has the nonce of its template. */
	random_bytes(s->boot_nonce, sizeof(s->boot_nonce));
	return 0;
}

static void finish_setup(struct serve *s)
{
	if (!s->finish_due)
		return;
	s->finish_due = false;
	if (s->p.hooks->finish)
		s->p.hooks->finish(s->p.userdata);
}

static int take_setup(struct serve *s, const struct frame *f)
{
	struct msg_setup m = { 0 };
	struct msg_result result = { 0 };
	int r = msg_setup_get(f, s->version, &m);

	if (r < 0)
		return r;
	r = become_machine(s, &m, &result.what);
	result.error = r < 0 ? (uint32_t)-r : 0;
	r = msg_send(
		&s->control, s->version, result, FRAME_SETUP_DONE, AGENT_CHANNEL_NONE, &result);
	if (result.error == 0) {
		decoder_set_mark(&s->in, m.sync);
		s->finish_due = true;
	}
	msg_result_done(&result);
	msg_setup_done(&m);
	return r;
}

static int take_start(struct serve *s, const struct frame *f)
{
	struct msg_result early = { .error = ENOTCONN, .what = (char *)"START before SETUP" };
	struct msg_start m = { 0 };
	int r = msg_start_get(f, s->version, &m);

	if (r < 0)
		return r;
	finish_setup(s);
	if (s->execs)
		r = execs_start(s->execs, f->channel, &m);
	else
		r = msg_send(&s->control, s->version, result, FRAME_STARTED, f->channel, &early);
	msg_start_done(&m);
	return r;
}

static int take_file(struct serve *s, const struct frame *f)
{
	struct msg_file m = { 0 };
	int r = s->execs ? msg_file_get(f, s->version, &m) : -EBADMSG;

	if (r < 0)
		return r;
	finish_setup(s);
	r = files_take(s->files, s->version, f->channel, &m);
	msg_file_done(&m);
	return r;
}

static int take_exec_message(struct serve *s, const struct frame *f)
{
	struct msg_resume resume;
	struct msg_kill kill;
	int r;

	if (f->type == FRAME_EXIT_ACK)
		return execs_exit_ack(s->execs, f->channel);
	if (f->type == FRAME_KILL) {
		r = msg_kill_get(f, s->version, &kill);
		return r < 0 ? r : execs_kill(s->execs, f->channel, &kill);
	}
	r = msg_resume_get(f, s->version, &resume);
	return r < 0 ? r : execs_resume(s->execs, f->channel, &resume);
}

static int take_stream(struct serve *s, const struct frame *f)
{
	uint64_t upto, limit, offset;
	struct frame_data d;
	uint8_t stream;
	int r;

	if (f->type == FRAME_DATA) {
		r = frame_get_data(f, &d);
		return r < 0 ? r : execs_data(s->execs, f->channel, &d);
	}
	if (f->type == FRAME_ACK) {
		r = frame_get_ack(f, &stream, &upto, &limit);
		return r < 0 ? r : execs_ack(s->execs, f->channel, stream, upto, limit);
	}
	r = frame_get_end(f, &stream, &offset);
	return r < 0 ? r : execs_end(s->execs, f->channel, stream, offset);
}

static int take_frame(struct serve *s, const struct frame *f)
{
	if (f->type == FRAME_HELLO)
		return take_hello(s, f);
	if (f->type == FRAME_NOP)
		return 0;
	if (s->version == 0)
		return -EBADMSG;
	if (!agent_knows(s->version, f->type))
		return 0;
	switch (f->type) {
	case FRAME_SETUP: return take_setup(s, f);
	case FRAME_START: return take_start(s, f);
	case FRAME_FILE: return take_file(s, f);
	case FRAME_LOGIN: finish_setup(s); return s->execs ? execs_login(s->execs) : -EBADMSG;
	case FRAME_SHUTDOWN: s->p.hooks->on_shutdown(s->p.userdata); return 0;
	case FRAME_KILL:
	case FRAME_RESUME:
	case FRAME_EXIT_ACK: return s->execs ? take_exec_message(s, f) : -EBADMSG;
	case FRAME_DATA:
	case FRAME_ACK:
	case FRAME_END: return s->execs ? take_stream(s, f) : -EBADMSG;
	default: return 0; /* a frame that only an agent sends */
	}
}

/* Handles all complete frames received. */
static int take_frames(struct serve *s)
{
	struct frame f;
	int r;

	while ((r = decoder_next(&s->in, &f)) != DECODER_MORE) {
		if (r == DECODER_RESYNC) {
			drop_connection(s);
			continue;
		}
		if (r == DECODER_FRAME)
			r = frame_assembler_add(&s->long_in, &f);
		if (r > 0)
			r = take_frame(s, &f);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Handles a protocol error: ignores the host until the next SYNC. */
static void fault(struct serve *s, int r)
{
	drop_connection(s);
	s->in.synced = false;
	(void)dprintf(STDERR_FILENO, "pyro-agent: bad frame from the host: %s\n", strerror(-r));
	s->p.hooks->on_hangup(r, s->p.userdata);
}

static void end_of_input(struct serve *s, int r)
{
	s->readable = false;
	s->p.hooks->on_hangup(r, s->p.userdata);
}

static void read_port(struct serve *s)
{
	for (int i = 0; i < READ_ROUNDS && s->readable && buf_len(&s->control) < CONTROL_STOP;
		i++) {
		size_t room;
		uint8_t *p = decoder_space(&s->in, &room);
		ssize_t n;
		int r;

		if (!p) {
			fault(s, -errno);
			return;
		}
		n = read(s->port.fd, p, room);
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			s->readable = errno == EINTR;
			continue;
		}
		if (n <= 0) {
			end_of_input(s, n < 0 ? -errno : 0);
			return;
		}
		decoder_fed(&s->in, (size_t)n);
		while ((r = take_frames(s)) < 0)
			fault(s, r);
	}
}

static void refill(struct serve *s)
{
	if (buf_len(&s->control) > 0) {
		if (buf_append(&s->out, buf_head(&s->control), buf_len(&s->control)) >= 0)
			buf_clear(&s->control);
		return;
	}
	if (s->version > 0 && s->execs) {
		(void)execs_send_control(s->execs, s->version, &s->out);
		/* One answer, then one DATA at least: neither a command that always has output nor
		 * a host that always asks keeps the other waiting. */
		(void)files_send(s->files, &s->out);
		while (execs_send_data(s->execs, &s->out) && buf_len(&s->out) < OUT_TARGET)
			;
	}
	/* BYE is last, after all frames of commands and files. */
	if (buf_len(&s->out) == 0)
		put_bye(s);
}

/* Returns true if there may be more to write and the port may accept it. */
static bool write_port(struct serve *s)
{
	int i;

	for (i = 0; i < WRITE_ROUNDS && s->writable; i++) {
		ssize_t n;

		if (buf_len(&s->out) < FRAME_PAYLOAD_MAX)
			refill(s);
		if (buf_len(&s->out) == 0)
			break;
		n = buf_write_fd(&s->out, s->port.fd);
		if (n == -EAGAIN) {
			s->writable = false;
		} else if (n < 0) {
			s->writable = false;
			end_of_input(s, (int)n);
		}
	}
	if (s->bye_put && !s->bye_sent && buf_len(&s->out) == 0 && buf_len(&s->control) == 0) {
		s->bye_sent = true;
		s->p.hooks->on_bye_sent(s->p.userdata);
	}
	return s->writable && (i == WRITE_ROUNDS || buf_len(&s->control) > 0);
}

static bool on_step(void *userdata)
{
	struct serve *s = userdata;
	bool more = false;

	if (s->readable)
		read_port(s);
	if (s->execs)
		more = execs_step(s->execs);
	more |= write_port(s);
	finish_setup(s); /* the answer to SETUP was written first */
	return more || (s->readable && buf_len(&s->control) < CONTROL_STOP);
}

static void on_port(struct source *src, uint32_t events)
{
	struct serve *s = src->userdata;

	/* A port without a host reports EPOLLHUP and EOF at once; an event announces the next
	 * connection. */
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))
		s->readable = true;
	if (events & EPOLLOUT)
		s->writable = true;
}

int serve_new(const struct serve_params *p, struct serve **ret)
{
	struct serve *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->p = *p;
	if (s->p.version_max == 0)
		s->p.version_max = AGENT_PROTOCOL_MAX;
	s->port = (struct source){ .on_event = on_port, .userdata = s };
	buf_init(&s->control, CONTROL_MAX);
	buf_init(&s->out, OUT_MAX);
	decoder_init(&s->in, DECODER_SYNC, frame_sync_initial);
	frame_assembler_init(&s->long_in, LIMIT_FILE_MESSAGE_BYTES);
	/* Not a secret, and replaced at SETUP: must not block for entropy at boot. */
	r = getrandom(s->boot_nonce, sizeof(s->boot_nonce), GRND_INSECURE) < 0 ? -errno : 0;
	if (r >= 0)
		r = loop_watch(p->loop, &s->port, p->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
	if (r < 0) {
		s->p.fd = -EBADF;
		serve_free(s);
		return r;
	}
	loop_set_step(p->loop, on_step, s);
	*ret = s;
	return 0;
}

struct serve *serve_free(struct serve *s)
{
	if (!s)
		return NULL;
	loop_set_step(s->p.loop, NULL, NULL);
	loop_unwatch(s->p.loop, &s->port);
	execs_free(s->execs);
	files_free(s->files);
	decoder_done(&s->in);
	frame_assembler_done(&s->long_in);
	buf_done(&s->control);
	buf_done(&s->out);
	fd_close(s->p.fd);
	free(s->bye_what);
	free(s);
	return NULL;
}

void serve_kill_commands(struct serve *s)
{
	if (s->execs)
		execs_kill_all(s->execs);
}

void serve_bye(struct serve *s, enum bye_reason reason, const char *what)
{
	if (s->bye_due)
		return;
	s->bye_due = true;
	s->bye_reason = reason;
	s->bye_what = what ? strdup(what) : NULL;
	loop_again(s->p.loop);
}
