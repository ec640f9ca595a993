/* SPDX-License-Identifier: MIT */
/*
 * Encodes and decodes the messages of the launch socket. Called by service.c in pyrod, and by
 * pyro-vmm and pyro-import. Each side validates what the other sends: a wrong descriptor table
 * would become the VMM's, and a launcher may be a unit that pyrod did not fork.
 */
#include "daemon/launch-msg.h"

#define LAUNCH_MAGIC   0x4d565950u /* "PYVM" */
#define LAUNCH_VERSION 1

int launch_msg_put(struct buf *out, uint32_t flags, size_t n_fds, const char *const *args)
{
	size_t n_args = 0;
	int r = 0;

	while (args[n_args]) {
		if (strlen(args[n_args]) > LAUNCH_ARG_BYTES)
			return -E2BIG;
		n_args++;
	}
	if (n_args == 0 || n_fds == 0)
		return -EINVAL;
	if (n_args > LAUNCH_ARGS_MAX || n_fds > LAUNCH_FDS_MAX)
		return -E2BIG;
	put_u32(out, LAUNCH_MAGIC, &r);
	put_u16(out, LAUNCH_VERSION, &r);
	put_u16(out, (uint16_t)n_fds, &r);
	put_u32(out, flags, &r);
	put_u16(out, (uint16_t)n_args, &r);
	for (size_t i = 0; i < n_args; i++)
		put_str(out, args[i], &r);
	return r;
}

static int get_args(struct rd *rd, struct launch_msg *m)
{
	m->args = calloc((size_t)m->n_args + 1, sizeof(*m->args));
	if (!m->args)
		return -ENOMEM;
	for (size_t i = 0; i < m->n_args; i++) {
		int r = get_str(rd, LAUNCH_ARG_BYTES, &m->args[i]);

		if (r < 0)
			return r;
		if (!m->args[i])
			return -EBADMSG;
	}
	return m->args[0][0] == '/' ? rd_done(rd) : -EBADMSG;
}

int launch_msg_get(const void *p, size_t n, struct launch_msg *ret)
{
	_cleanup_(launch_msg_done) struct launch_msg m = {};
	struct rd rd = { .p = p, .n = n };
	uint16_t version;
	int r;

	if (n > LAUNCH_BYTES || get_u32(&rd) != LAUNCH_MAGIC)
		return -EBADMSG;
	version = get_u16(&rd);
	if (!rd.failed && version != LAUNCH_VERSION)
		return -EPROTONOSUPPORT;
	m.n_fds = get_u16(&rd);
	m.flags = get_u32(&rd);
	m.n_args = get_u16(&rd);
	if (rd.failed || m.n_fds == 0 || m.n_fds > LAUNCH_FDS_MAX || m.n_args == 0 ||
		m.n_args > LAUNCH_ARGS_MAX || (m.flags & ~(uint32_t)LAUNCH_FLAGS))
		return -EBADMSG;
	r = get_args(&rd, &m);
	if (r < 0)
		return r;
	*ret = m;
	m.args = NULL;
	return 0;
}

void launch_msg_done(struct launch_msg *m)
{
	for (size_t i = 0; m->args && m->args[i]; i++)
		free(m->args[i]);
	free(m->args);
	m->args = NULL;
}

size_t launch_reply_put(char ret[LAUNCH_REPLY_BYTES], enum launch_reply_type type, const char *text)
{
	size_t n = MIN_OF(strlen(text), (size_t)LAUNCH_REPLY_BYTES - 1);

	ret[0] = (char)type;
	/* NOLINTNEXTLINE(bugprone-not-null-terminated-result): a message with a length */
	memcpy(ret + 1, text, n);
	return n + 1;
}

int launch_reply_get(const char *p, size_t n, enum launch_reply_type *ret_type,
	const char **ret_text, size_t *ret_n)
{
	if (n < 2 || n > LAUNCH_REPLY_BYTES)
		return -EBADMSG;
	if (p[0] != LAUNCH_NOTE && p[0] != LAUNCH_FAILED)
		return -EBADMSG;
	*ret_type = (enum launch_reply_type)p[0];
	*ret_text = p + 1;
	*ret_n = n - 1;
	return 0;
}
