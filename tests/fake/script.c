/* SPDX-License-Identifier: MIT */
/*
 * Commands as scripts: replaces the guest's exec.c behind serve.c (fake.h lists the steps). Streams
 * are the guest's own stream.c without pipes: output goes into the ring up to the window, input
 * waits in the buffer until a step takes it.
 *
 * What must stay true, as in exec.c, so that the daemon sees the same protocol: a command is held
 * until EXIT_ACK; nothing is sent before START or RESUME named it on this connection; DATA comes
 * before END, and END before EXIT.
 */

#include "tests/fake/fake.h"

#include "guest/exec.h"
#include "guest/stream.h"

#include <signal.h>

enum { WORD_MAX = 128, LINE = 16, FAILED_STDERR = 127 };

enum step_kind { STEP_NONE, STEP_PRINT, STEP_TEXT, STEP_SLEEP, STEP_CAT, STEP_ATTACK, STEP_EXIT };

struct exec {
	TAILQ_ENTRY(exec) entry;
	struct execs *execs; /* borrowed */
	uint32_t channel;
	struct msg_start start; /* owned */
	unsigned streams;       /* a mask */
	struct out_stream out[STREAM_MAX];
	struct in_stream in;
	const char *at; /* in start.command: the next step */
	enum step_kind step;
	uint8_t stream;        /* of PRINT and TEXT */
	uint64_t pos, n;       /* bytes done, and in all */
	const char *text;      /* of TEXT; borrowed from the command */
	struct attack *attack; /* owned */
	struct timer sleep, timeout, nudge;
	uint64_t started_at;
	struct msg_exit exit;
	bool exited, resumed, started_due, exit_sent;
	bool never_started; /* sends no STARTED */
};

TAILQ_HEAD(exec_list, exec);
struct execs {
	struct execs_params p;
	struct exec_list list; /* owned */
	size_t n;
};

static void advance(struct exec *x);

int execs_new(const struct execs_params *p, struct execs **ret)
{
	struct execs *xs = calloc(1, sizeof(*xs));

	if (!xs)
		return -ENOMEM;
	xs->p = *p;
	TAILQ_INIT(&xs->list);
	*ret = xs;
	return 0;
}

static void exec_free(struct exec *x)
{
	struct loop *l = x->execs->p.loop;

	TAILQ_REMOVE(&x->execs->list, x, entry);
	x->execs->n--;
	loop_disarm(l, &x->sleep);
	loop_disarm(l, &x->timeout);
	loop_disarm(l, &x->nudge);
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT)
		out_done(l, &x->out[i]);
	in_done(l, &x->in);
	attack_free(x->attack);
	msg_start_done(&x->start);
	free(x);
}

struct execs *execs_free(struct execs *xs)
{
	struct exec *x;

	if (!xs)
		return NULL;
	while ((x = TAILQ_FIRST(&xs->list)))
		exec_free(x);
	free(xs);
	return NULL;
}

/* Steps */

static void finish(struct exec *x, uint8_t code, uint8_t signo)
{
	if (x->exited)
		return;
	in_close(x->execs->p.loop, &x->in);
	loop_disarm(x->execs->p.loop, &x->sleep);
	loop_disarm(x->execs->p.loop, &x->timeout);
	x->exit.code = code;
	x->exit.signal = signo;
	x->exit.duration_usec = now_usec() - x->started_at;
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT) {
		x->out[i].w.ended = true;
		x->exit.produced[i] = x->out[i].w.produced;
	}
	x->exit.produced[STREAM_STDIN] = x->in.w.received;
	x->exited = true;
}

/* Writes as many of the bytes as the window allows. */
static size_t put_out(struct out_stream *o, const void *p, size_t n)
{
	n = MIN_OF(n, window_sender_room(&o->w));
	return window_sender_append(&o->w, p, n) < 0 ? 0 : n;
}

/* True when the step is done; false: it waits. */
static bool step_print(struct exec *x)
{
	while (x->pos < x->n) {
		char line[32];
		size_t skip = (size_t)(x->pos % LINE), n, put;

		(void)snprintf(
			line, sizeof(line), "%015llu\n", (unsigned long long)(x->pos / LINE));
		n = (size_t)MIN_OF((uint64_t)(LINE - skip), x->n - x->pos);
		put = put_out(&x->out[x->stream], line + skip, n);
		x->pos += put;
		if (put < n)
			return false;
	}
	return true;
}

static bool step_text(struct exec *x)
{
	if (x->pos < x->n - 1)
		x->pos +=
			put_out(&x->out[x->stream], x->text + x->pos, (size_t)(x->n - 1 - x->pos));
	if (x->pos == x->n - 1)
		x->pos += put_out(&x->out[x->stream], "\n", 1);
	return x->pos == x->n;
}

static bool step_cat(struct exec *x)
{
	struct buf *b = &x->in.data;
	size_t n;

	while (buf_len(b) > 0 && (n = put_out(&x->out[STREAM_STDOUT], buf_head(b), buf_len(b))) > 0)
		buf_consume(b, n);
	in_flush(x->execs->p.loop, &x->in);
	return buf_len(b) == 0 && (x->in.w.ended || !(x->streams & STREAMS_INPUT));
}

static void on_slept(struct timer *t)
{
	struct exec *x = t->userdata;

	x->step = STEP_NONE;
	advance(x);
}

static void begin_sleep(struct exec *x, uint64_t msec)
{
	x->step = STEP_SLEEP;
	if (msec > 0)
		loop_arm(x->execs->p.loop, &x->sleep, now_usec() + msec * USEC_PER_MSEC);
}

static void begin_bytes(struct exec *x, enum step_kind kind, bool err, uint64_t n)
{
	x->step = kind;
	x->stream = err ? STREAM_STDERR : STREAM_STDOUT;
	x->pos = 0;
	x->n = n;
}

static void begin_attack(struct exec *x, const char *words)
{
	unsigned long long n = 0, seed = 0;
	char name[WORD_MAX] = "";

	(void)sscanf(words, "%127[^ ;] %llu %llu", name, &n, &seed);
	x->attack = attack_free(x->attack);
	x->attack = attack_new(name, n, seed, x->channel);
	if (x->attack)
		x->step = STEP_ATTACK;
	else
		finish(x, FAILED_STDERR, 0);
}

static void begin_cut(const char *words)
{
	unsigned long long n = 0;
	char way[WORD_MAX] = "";

	(void)sscanf(words, "%127[^ ;] %llu", way, &n);
	relay_cut(fake_relay(fake_self()), streq(way, "out"), n);
}

/* The step's words are [p, p + n). */
static void begin_step(struct exec *x, const char *p, size_t n)
{
	size_t verb = strcspn(p, " ;");
	const char *rest = p + verb + (p[verb] == ' ');
	size_t rest_n = n > verb ? n - (size_t)(rest - p) : 0;
	uint64_t number = strtoull(rest, NULL, 10);

#define IS(word) (verb == strlen(word) && memcmp(p, word, verb) == 0)
	if (IS("print") || IS("errprint")) {
		begin_bytes(x, STEP_PRINT, *p == 'e', number);
	} else if (IS("echo") || IS("err")) {
		begin_bytes(x, STEP_TEXT, IS("err"), rest_n + 1);
		x->text = rest;
	} else if (IS("sleep")) {
		begin_sleep(x, number);
	} else if (IS("cat")) {
		x->step = STEP_CAT;
	} else if (IS("ended")) {
		(void)sscanf(rest, "%u %u", &x->exit.ended.flags, &x->exit.ended.pids_max);
	} else if (IS("timed-out")) {
		x->exit.timed_out = 1;
		finish(x, 0, SIGKILL);
	} else if (IS("killed")) {
		finish(x, 0, (uint8_t)number);
	} else if (IS("exit")) {
		finish(x, (uint8_t)number, 0);
	} else if (IS("die")) {
		/* As PID 1 of its namespace the VMM cannot kill itself by a signal, except by a
		 * fault. */
		__builtin_trap();
	} else if (IS("reboot")) {
		fake_end(fake_self(), BYE_REBOOT);
		begin_sleep(x, 0);
	} else if (IS("panic")) {
		fake_panic();
	} else if (IS("hangup")) {
		relay_cut(fake_relay(fake_self()), true, 0);
	} else if (IS("cut")) {
		begin_cut(rest);
	} else if (IS("stand")) {
		fake_stand(fake_self(), number);
	} else if (IS("attack")) {
		begin_attack(x, rest);
	}
#undef IS
}

static bool step_done(struct exec *x)
{
	switch (x->step) {
	case STEP_PRINT: return step_print(x);
	case STEP_TEXT: return step_text(x);
	case STEP_CAT: return step_cat(x);
	case STEP_ATTACK: return attack_over(x->attack);
	case STEP_SLEEP: return false; /* ended by its timer */
	default: return true;
	}
}

static void advance(struct exec *x)
{
	while (!x->exited) {
		size_t n;

		if (!step_done(x))
			break;
		x->step = STEP_NONE;
		x->at += strspn(x->at, " ;");
		if (!*x->at) {
			finish(x, 0, 0);
			break;
		}
		n = strcspn(x->at, ";");
		begin_step(x, x->at, n);
		x->at += n;
	}
	loop_again(x->execs->p.loop);
}

/* Continues an attack, which waits for no event of its own. */
static void on_nudge(struct timer *t)
{
	struct exec *x = t->userdata;

	loop_again(x->execs->p.loop);
}

static void on_timeout(struct timer *t)
{
	struct exec *x = t->userdata;

	if (x->step == STEP_ATTACK)
		return;
	x->exit.timed_out = 1;
	finish(x, 0, SIGKILL);
	loop_again(x->execs->p.loop);
}

/* Messages from the host */

static struct exec *find_channel(struct execs *xs, uint32_t channel)
{
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry)
		if (x->channel == channel)
			return x;
	return NULL;
}

static struct exec *find_id(struct execs *xs, const char *id)
{
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry)
		if (streq(x->start.exec_id, id))
			return x;
	return NULL;
}

static int open_streams(struct exec *x)
{
	int r = 0;

	in_init(&x->in);
	x->streams = start_streams(x->start.flags);
	x->in.ack_due = (x->streams & STREAMS_INPUT) != 0;
	for (size_t i = 0; i < STREAM_MAX; i++)
		x->out[i].fd = -EBADF;
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT)
		if (r >= 0)
			r = out_open(&x->out[i], -EBADF, x->start.limit[i]);
	return r;
}

int execs_start(struct execs *xs, uint32_t channel, struct msg_start *m)
{
	struct exec *x = find_id(xs, m->exec_id);

	if (x) {
		x->resumed = x->started_due = true;
		return x->channel == channel ? 0 : -EBADMSG;
	}
	if (channel == AGENT_CHANNEL_NONE || find_channel(xs, channel) ||
		xs->n >= LIMIT_AGENT_EXECS)
		return -EBADMSG;
	x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->execs = xs;
	x->channel = channel;
	x->start = *m;
	*m = (struct msg_start){ 0 };
	x->at = x->start.command;
	x->never_started = startswith(x->at, "attack no-started");
	x->resumed = x->started_due = true;
	x->started_at = now_usec();
	x->sleep = (struct timer){ .on_timer = on_slept, .userdata = x };
	x->timeout = (struct timer){ .on_timer = on_timeout, .userdata = x };
	x->nudge = (struct timer){ .on_timer = on_nudge, .userdata = x };
	TAILQ_INSERT_TAIL(&xs->list, x, entry);
	xs->n++;
	if (open_streams(x) < 0)
		abort();
	if (x->start.timeout_usec > 0)
		loop_arm(xs->p.loop, &x->timeout, now_usec() + x->start.timeout_usec);
	fake_tell("start %s", x->start.command);
	advance(x);
	return 0;
}

int execs_kill(struct execs *xs, uint32_t channel, const struct msg_kill *m)
{
	struct exec *x = find_channel(xs, channel);

	if (x && x->step != STEP_ATTACK)
		finish(x, 0, m->all ? SIGKILL : m->signal);
	return 0;
}

int execs_resume(struct execs *xs, uint32_t channel, const struct msg_resume *m)
{
	struct exec *x = find_channel(xs, channel);

	if (!x)
		return 0;
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT) {
		int r = out_resume(&x->out[i], m->upto[i], m->limit[i]);

		if (r < 0 && x->step != STEP_ATTACK)
			return r;
	}
	x->resumed = x->started_due = true;
	x->exit_sent = false;
	x->in.ack_due = (x->streams & STREAMS_INPUT) != 0;
	if (x->step == STEP_ATTACK)
		attack_resumed(x->attack);
	advance(x);
	return 0;
}

int execs_exit_ack(struct execs *xs, uint32_t channel)
{
	struct exec *x = find_channel(xs, channel);

	if (x)
		exec_free(x);
	TAILQ_FOREACH (x, &xs->list, entry)
		if (x->step == STEP_ATTACK)
			attack_exit_acked(x->attack, channel);
	loop_again(xs->p.loop);
	return 0;
}

int execs_data(struct execs *xs, uint32_t channel, const struct frame_data *d)
{
	struct exec *x = find_channel(xs, channel);
	int r;

	if (!x)
		return 0;
	if (!(x->streams & STREAMS_INPUT & STREAM_BIT(d->stream)))
		return -EBADMSG;
	r = in_data(xs->p.loop, &x->in, *d);
	advance(x);
	return r;
}

int execs_ack(struct execs *xs, uint32_t channel, uint8_t stream, uint64_t upto, uint64_t limit)
{
	struct exec *x = find_channel(xs, channel);
	int r;

	if (!x)
		return 0;
	if (!(x->streams & STREAMS_OUTPUT & STREAM_BIT(stream)))
		return -EBADMSG;
	r = out_ack(&x->out[stream], upto, limit);
	advance(x);
	/* The host acknowledges an EXIT that an attack made up. */
	return x->step == STEP_ATTACK ? 0 : r;
}

int execs_end(struct execs *xs, uint32_t channel, uint8_t stream, uint64_t offset)
{
	struct exec *x = find_channel(xs, channel);
	int r;

	if (!x)
		return 0;
	if (!(x->streams & STREAMS_INPUT & STREAM_BIT(stream)))
		return -EBADMSG;
	r = in_end(xs->p.loop, &x->in, offset);
	advance(x);
	return r;
}

void execs_reconnected(struct execs *xs)
{
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry)
		x->resumed = false;
}

void execs_kill_all(struct execs *xs)
{
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry)
		finish(x, 0, SIGKILL);
}

/* Scripts have no environment. */
int execs_login(_unused_ struct execs *xs)
{
	fake_tell("login");
	return 0;
}

int execs_held(struct execs *xs, struct msg_held **ret, uint32_t *ret_n)
{
	struct msg_held *held = calloc(MAX_OF(xs->n, (size_t)1), sizeof(*held));
	uint32_t n = 0;
	struct exec *x;

	if (!held)
		return -ENOMEM;
	TAILQ_FOREACH (x, &xs->list, entry) {
		memcpy(held[n].exec_id, x->start.exec_id, sizeof(held[n].exec_id));
		held[n].channel = x->channel;
		held[n].exited = x->exited;
		held[n].stdin_accepted = x->in.w.received;
		held[n].stdin_ended = x->in.w.ended;
		STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT) {
			held[n].produced[i] = x->out[i].w.produced;
			held[n].kept[i] = x->out[i].w.acked;
		}
		n++;
	}
	*ret = held;
	*ret_n = n;
	return 0;
}

/* Messages to the host */

static bool send_exit(struct exec *x, uint16_t version, struct buf *out)
{
	if (!x->exited || x->exit_sent)
		return false;
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT)
		if (x->out[i].w.sent < x->out[i].w.produced)
			return false;
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT)
		(void)window_sender_put_end(&x->out[i].w, out, x->channel, i);
	x->exit_sent = msg_send(out, version, exit, FRAME_EXIT, x->channel, &x->exit) >= 0;
	return x->exit_sent;
}

bool execs_send_control(struct execs *xs, uint16_t version, struct buf *out)
{
	const struct msg_result done = { 0 };
	bool any = false;
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry) {
		if (!x->resumed)
			continue;
		if (x->started_due && !x->never_started &&
			msg_send(out, version, result, FRAME_STARTED, x->channel, &done) >= 0) {
			x->started_due = false;
			any = true;
		}
		if (x->in.ack_due && window_receiver_put_ack(&x->in.w, out, x->channel,
					     STREAM_STDIN, in_written(&x->in)) >= 0) {
			x->in.ack_due = false;
			any = true;
		}
		any |= send_exit(x, version, out);
	}
	return any;
}

static bool send_data(struct exec *x, struct buf *out)
{
	STREAM_FOREACH (i, x->streams & STREAMS_OUTPUT)
		if (window_sender_put_data(&x->out[i].w, out, x->channel, i) > 0)
			return true;
	if (x->step != STEP_ATTACK)
		return false;
	if (attack_fill(x->attack, out, x->out[STREAM_STDOUT].w.sent))
		return true;
	if (attack_wait(x->attack) > 0 && !x->nudge.armed)
		loop_arm(x->execs->p.loop, &x->nudge, attack_wait(x->attack));
	return false;
}

bool execs_send_data(struct execs *xs, struct buf *out)
{
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry)
		if (x->resumed && (!x->started_due || x->never_started) && send_data(x, out)) {
			TAILQ_REMOVE(&xs->list, x, entry);
			TAILQ_INSERT_TAIL(&xs->list, x, entry);
			return true;
		}
	return false;
}

bool execs_step(struct execs *xs)
{
	struct exec *x;

	/* After an attack has ended its command goes on. */
	TAILQ_FOREACH (x, &xs->list, entry)
		if (x->step == STEP_ATTACK && attack_over(x->attack))
			advance(x);
	return false;
}
