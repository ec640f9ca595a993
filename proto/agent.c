/* SPDX-License-Identifier: MIT */
/*
 * The messages of agent.h as bytes: for each one what is valid, how it is written and how it is
 * read. Host and agent call these on every frame but DATA, ACK and END. Both sides are hostile to
 * each other, so _get builds in a local value that is freed on any failure, and a value that _get
 * accepts satisfies every range that agent.h states; the same check stands before _put, so that a
 * mistake of ours is found where it is made.
 */

#include "proto/agent.h"

#include "proto/utf8.h"

#define EXEC_ID_LENGTH (AGENT_EXEC_ID_SIZE - 1)
#define HOSTNAME_MAX   63
#define SIGNAL_MAX     64
#define ERRNO_MAX      4095
#define ALL_START      (START_STDIN | START_PTY | START_LOGIN)

static struct rd payload_reader(const struct frame *f)
{
	return (struct rd){ .p = f->payload, .n = f->length };
}

static bool exec_id_valid(const char id[AGENT_EXEC_ID_SIZE])
{
	return memcmp(id, "ex-", 3) == 0 && id[EXEC_ID_LENGTH] == '\0' &&
	       strspn(id + 3, "0123456789abcdef") == EXEC_ID_LENGTH - 3;
}

static void get_exec_id(struct rd *rd, char ret[AGENT_EXEC_ID_SIZE])
{
	get_bytes(rd, ret, EXEC_ID_LENGTH);
	ret[EXEC_ID_LENGTH] = '\0';
}

static void put_streams(struct buf *b, const uint64_t v[STREAM_MAX], int *r)
{
	for (size_t i = 0; i < STREAM_MAX; i++)
		put_u64(b, v[i], r);
}

static void get_streams(struct rd *rd, uint64_t ret[STREAM_MAX])
{
	for (size_t i = 0; i < STREAM_MAX; i++)
		ret[i] = get_u64(rd);
}

/* A text for a person: its beginning is enough. */
static void put_what(struct buf *b, const char *what, int *r)
{
	if (!what) {
		put_str(b, NULL, r);
		return;
	}
	size_t n = (size_t)utf8_cut(what, MSG_WHAT_MAX);
	put_u32(b, (uint32_t)n, r);
	put_bytes(b, what, n, r);
}

/* hello */

static bool hello_valid(const struct msg_hello *m)
{
	return m->version_min >= 1 && m->version_min <= m->version_max;
}

int msg_hello_put(struct buf *out, const struct msg_hello *m)
{
	int r = hello_valid(m) ? 0 : -EINVAL;

	put_u16(out, m->version_min, &r);
	put_u16(out, m->version_max, &r);
	put_bytes(out, m->nonce, sizeof(m->nonce), &r);
	return r;
}

int msg_hello_get(const struct frame *f, struct msg_hello *ret)
{
	struct rd rd = payload_reader(f);
	struct msg_hello m = { 0 };

	m.version_min = get_u16(&rd);
	m.version_max = get_u16(&rd);
	get_bytes(&rd, m.nonce, sizeof(m.nonce));
	if (rd_done(&rd) < 0 || !hello_valid(&m))
		return -EBADMSG;
	*ret = m;
	return 0;
}

void msg_hello_done(struct msg_hello *m)
{
	*m = (struct msg_hello){ 0 };
}

/* welcome */

static bool held_valid(const struct msg_held *h)
{
	bool valid =
		exec_id_valid(h->exec_id) && h->channel != AGENT_CHANNEL_NONE && h->exited <= 1;

	for (size_t i = 0; i < STREAM_MAX; i++)
		valid = valid && h->kept[i] <= h->produced[i];
	return valid;
}

static bool welcome_valid(const struct msg_welcome *m)
{
	if (m->version < 1 || m->state > AGENT_SET_UP || m->n_held > LIMIT_AGENT_EXECS)
		return false;
	for (size_t i = 0; i < m->n_held; i++) {
		if (!held_valid(&m->held[i]))
			return false;
	}
	return true;
}

static void put_held(struct buf *out, const struct msg_held *h, int *r)
{
	put_bytes(out, h->exec_id, EXEC_ID_LENGTH, r);
	put_u32(out, h->channel, r);
	put_u8(out, h->exited, r);
	put_u64(out, h->stdin_accepted, r);
	put_streams(out, h->produced, r);
	put_streams(out, h->kept, r);
}

int msg_welcome_put(struct buf *out, const struct msg_welcome *m)
{
	int r = welcome_valid(m) ? 0 : -EINVAL;

	if (r < 0)
		return r;
	put_u16(out, m->version, &r);
	put_u8(out, m->state, &r);
	put_bytes(out, m->machine_id, sizeof(m->machine_id), &r);
	put_bytes(out, m->boot_nonce, sizeof(m->boot_nonce), &r);
	put_u32(out, m->n_held, &r);
	for (size_t i = 0; i < m->n_held; i++)
		put_held(out, &m->held[i], &r);
	return r;
}

static void get_held(struct rd *rd, struct msg_held *ret)
{
	get_exec_id(rd, ret->exec_id);
	ret->channel = get_u32(rd);
	ret->exited = get_u8(rd);
	ret->stdin_accepted = get_u64(rd);
	get_streams(rd, ret->produced);
	get_streams(rd, ret->kept);
}

int msg_welcome_get(const struct frame *f, struct msg_welcome *ret)
{
	struct rd rd = payload_reader(f);
	_cleanup_(msg_welcome_done) struct msg_welcome m = { 0 };

	m.version = get_u16(&rd);
	m.state = get_u8(&rd);
	get_bytes(&rd, m.machine_id, sizeof(m.machine_id));
	get_bytes(&rd, m.boot_nonce, sizeof(m.boot_nonce));
	uint32_t n = get_u32(&rd);
	if (rd.failed || n > LIMIT_AGENT_EXECS)
		return -EBADMSG;
	if (n > 0) {
		m.held = calloc(n, sizeof(*m.held));
		if (!m.held)
			return -ENOMEM;
	}
	m.n_held = n;
	for (uint32_t i = 0; i < n; i++)
		get_held(&rd, &m.held[i]);
	if (rd_done(&rd) < 0 || !welcome_valid(&m))
		return -EBADMSG;
	*ret = m;
	m.held = NULL;
	return 0;
}

void msg_welcome_done(struct msg_welcome *m)
{
	free(m->held);
	*m = (struct msg_welcome){ 0 };
}

/* setup */

static bool setup_valid(const struct msg_setup *m)
{
	if (!m->hostname || memchr(m->sync, 0, sizeof(m->sync)))
		return false;
	size_t n = strlen(m->hostname);
	return n >= 1 && n <= HOSTNAME_MAX &&
	       strspn(m->hostname, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

int msg_setup_put(struct buf *out, const struct msg_setup *m)
{
	int r = setup_valid(m) ? 0 : -EINVAL;

	put_bytes(out, m->entropy, sizeof(m->entropy), &r);
	put_u64(out, m->realtime_usec, &r);
	put_bytes(out, m->machine_id, sizeof(m->machine_id), &r);
	put_bytes(out, m->sync, sizeof(m->sync), &r);
	put_str(out, m->hostname, &r);
	return r;
}

int msg_setup_get(const struct frame *f, struct msg_setup *ret)
{
	struct rd rd = payload_reader(f);
	_cleanup_(msg_setup_done) struct msg_setup m = { 0 };

	get_bytes(&rd, m.entropy, sizeof(m.entropy));
	m.realtime_usec = get_u64(&rd);
	get_bytes(&rd, m.machine_id, sizeof(m.machine_id));
	get_bytes(&rd, m.sync, sizeof(m.sync));
	int r = get_str(&rd, HOSTNAME_MAX, &m.hostname);
	if (r < 0)
		return r;
	if (rd_done(&rd) < 0 || !setup_valid(&m))
		return -EBADMSG;
	*ret = m;
	m.hostname = NULL;
	return 0;
}

void msg_setup_done(struct msg_setup *m)
{
	free(m->hostname);
	*m = (struct msg_setup){ 0 };
}

/* start */

static bool text_valid(const char *s, size_t max)
{
	return s && *s && strnlen(s, max + 1) <= max;
}

static bool start_env_valid(const struct msg_start *m)
{
	size_t bytes = 0;

	if (m->n_env > LIMIT_ENV_COUNT)
		return false;
	for (size_t i = 0; i < m->n_env; i++) {
		const char *e = m->env[i];
		if (!e || *e == '=' || !strchr(e, '='))
			return false;
		bytes += strlen(e) + 1;
	}
	return bytes <= LIMIT_ENV_BYTES;
}

static bool start_valid(const struct msg_start *m)
{
	return exec_id_valid(m->exec_id) && !(m->flags & ~(uint32_t)ALL_START) &&
	       text_valid(m->command, LIMIT_COMMAND_BYTES) && text_valid(m->cwd, MSG_CWD_MAX) &&
	       text_valid(m->user, MSG_USER_MAX) && start_env_valid(m);
}

int msg_start_put(struct buf *out, const struct msg_start *m)
{
	int r = start_valid(m) ? 0 : -EINVAL;

	if (r < 0)
		return r;
	put_bytes(out, m->exec_id, EXEC_ID_LENGTH, &r);
	put_u32(out, m->flags, &r);
	put_str(out, m->command, &r);
	put_str(out, m->cwd, &r);
	put_str(out, m->user, &r);
	put_u32(out, m->n_env, &r);
	for (size_t i = 0; i < m->n_env; i++)
		put_str(out, m->env[i], &r);
	put_u64(out, m->timeout_usec, &r);
	put_streams(out, m->limit, &r);
	return r;
}

static int get_start_env(struct rd *rd, struct msg_start *m)
{
	size_t left = LIMIT_ENV_BYTES;
	uint32_t n = get_u32(rd);

	if (rd->failed || n > LIMIT_ENV_COUNT)
		return -EBADMSG;
	m->env = calloc((size_t)n + 1, sizeof(*m->env)); /* NULL at the end */
	if (!m->env)
		return -ENOMEM;
	while (m->n_env < n) {
		int r = get_str(rd, left, &m->env[m->n_env]);
		if (r < 0)
			return r;
		const char *e = m->env[m->n_env];
		if (!e || strlen(e) + 1 > left)
			return -EBADMSG;
		left -= strlen(e) + 1;
		m->n_env++;
	}
	return 0;
}

int msg_start_get(const struct frame *f, struct msg_start *ret)
{
	struct rd rd = payload_reader(f);
	_cleanup_(msg_start_done) struct msg_start m = { 0 };

	get_exec_id(&rd, m.exec_id);
	m.flags = get_u32(&rd);
	int r = get_str(&rd, LIMIT_COMMAND_BYTES, &m.command);
	if (r >= 0)
		r = get_str(&rd, MSG_CWD_MAX, &m.cwd);
	if (r >= 0)
		r = get_str(&rd, MSG_USER_MAX, &m.user);
	if (r >= 0)
		r = get_start_env(&rd, &m);
	if (r < 0)
		return r;
	m.timeout_usec = get_u64(&rd);
	get_streams(&rd, m.limit);
	if (rd_done(&rd) < 0 || !start_valid(&m))
		return -EBADMSG;
	*ret = m;
	m = (struct msg_start){ 0 };
	return 0;
}

void msg_start_done(struct msg_start *m)
{
	/* One more than n_env may be there: the entry that was refused. */
	for (size_t i = 0; m->env && m->env[i]; i++)
		free(m->env[i]);
	free(m->env);
	free(m->command);
	free(m->cwd);
	free(m->user);
	*m = (struct msg_start){ 0 };
}

/* kill */

static bool kill_valid(const struct msg_kill *m)
{
	return m->signal >= 1 && m->signal <= SIGNAL_MAX && m->all <= 1;
}

int msg_kill_put(struct buf *out, const struct msg_kill *m)
{
	int r = kill_valid(m) ? 0 : -EINVAL;

	put_u8(out, m->signal, &r);
	put_u8(out, m->all, &r);
	return r;
}

int msg_kill_get(const struct frame *f, struct msg_kill *ret)
{
	struct rd rd = payload_reader(f);
	struct msg_kill m = { 0 };

	m.signal = get_u8(&rd);
	m.all = get_u8(&rd);
	if (rd_done(&rd) < 0 || !kill_valid(&m))
		return -EBADMSG;
	*ret = m;
	return 0;
}

void msg_kill_done(struct msg_kill *m)
{
	*m = (struct msg_kill){ 0 };
}

/* resume */

int msg_resume_put(struct buf *out, const struct msg_resume *m)
{
	int r = 0;

	put_streams(out, m->upto, &r);
	put_streams(out, m->limit, &r);
	return r;
}

int msg_resume_get(const struct frame *f, struct msg_resume *ret)
{
	struct rd rd = payload_reader(f);
	struct msg_resume m = { 0 };

	get_streams(&rd, m.upto);
	get_streams(&rd, m.limit);
	if (rd_done(&rd) < 0)
		return -EBADMSG;
	*ret = m;
	return 0;
}

void msg_resume_done(struct msg_resume *m)
{
	*m = (struct msg_resume){ 0 };
}

/* result */

int msg_result_put(struct buf *out, const struct msg_result *m)
{
	int r = m->error <= ERRNO_MAX ? 0 : -EINVAL;

	put_u32(out, m->error, &r);
	put_what(out, m->what, &r);
	return r;
}

int msg_result_get(const struct frame *f, struct msg_result *ret)
{
	struct rd rd = payload_reader(f);
	_cleanup_(msg_result_done) struct msg_result m = { 0 };

	m.error = get_u32(&rd);
	int r = get_str(&rd, MSG_WHAT_MAX, &m.what);
	if (r < 0)
		return r;
	if (rd_done(&rd) < 0 || m.error > ERRNO_MAX)
		return -EBADMSG;
	*ret = m;
	m.what = NULL;
	return 0;
}

void msg_result_done(struct msg_result *m)
{
	free(m->what);
	*m = (struct msg_result){ 0 };
}

/* exit */

static bool exit_valid(const struct msg_exit *m)
{
	return m->signal <= SIGNAL_MAX && m->timed_out <= 1;
}

int msg_exit_put(struct buf *out, const struct msg_exit *m)
{
	int r = exit_valid(m) ? 0 : -EINVAL;

	put_u8(out, m->code, &r);
	put_u8(out, m->signal, &r);
	put_u8(out, m->timed_out, &r);
	put_u64(out, m->duration_usec, &r);
	put_streams(out, m->produced, &r);
	return r;
}

int msg_exit_get(const struct frame *f, struct msg_exit *ret)
{
	struct rd rd = payload_reader(f);
	struct msg_exit m = { 0 };

	m.code = get_u8(&rd);
	m.signal = get_u8(&rd);
	m.timed_out = get_u8(&rd);
	m.duration_usec = get_u64(&rd);
	get_streams(&rd, m.produced);
	if (rd_done(&rd) < 0 || !exit_valid(&m))
		return -EBADMSG;
	*ret = m;
	return 0;
}

void msg_exit_done(struct msg_exit *m)
{
	*m = (struct msg_exit){ 0 };
}

/* bye */

int msg_bye_put(struct buf *out, const struct msg_bye *m)
{
	int r = m->reason <= BYE_ERROR ? 0 : -EINVAL;

	put_u8(out, m->reason, &r);
	put_what(out, m->what, &r);
	return r;
}

int msg_bye_get(const struct frame *f, struct msg_bye *ret)
{
	struct rd rd = payload_reader(f);
	_cleanup_(msg_bye_done) struct msg_bye m = { 0 };

	m.reason = get_u8(&rd);
	int r = get_str(&rd, MSG_WHAT_MAX, &m.what);
	if (r < 0)
		return r;
	if (rd_done(&rd) < 0 || m.reason > BYE_ERROR)
		return -EBADMSG;
	*ret = m;
	m.what = NULL;
	return 0;
}

void msg_bye_done(struct msg_bye *m)
{
	free(m->what);
	*m = (struct msg_bye){ 0 };
}

/* ended */

int msg_ended_put(struct buf *out, const struct msg_ended *m)
{
	int r = 0;

	put_u32(out, m->flags, &r);
	put_u32(out, m->pids_max, &r);
	return r;
}

int msg_ended_get(const struct frame *f, struct msg_ended *ret)
{
	struct rd rd = payload_reader(f);
	struct msg_ended m = { 0 };

	m.flags = get_u32(&rd);
	m.pids_max = get_u32(&rd);
	if (rd_done(&rd) < 0)
		return -EBADMSG;
	*ret = m;
	return 0;
}

void msg_ended_done(struct msg_ended *m)
{
	*m = (struct msg_ended){ 0 };
}
