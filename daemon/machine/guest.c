/* SPDX-License-Identifier: MIT */
/*
 * A machine's link, commands and file operations, and the identity of its guest's boot. Called by
 * core/, by the engine and by talk.c.
 *
 * What must stay true: a command or a file operation is in the list of one machine alone, from its
 * start to its end.
 */

#include "daemon/machine/machine-internal.h"

static void fail_files(struct machine *mc, const struct error *err)
{
	while (!LIST_EMPTY(&mc->guest.files)) {
		struct file *f = LIST_FIRST(&mc->guest.files);

		file_list_remove(f);
		file_fail(f, err);
	}
}

void machine_fail_execs(struct machine *mc, const struct error *err)
{
	while (!LIST_EMPTY(&mc->guest.execs)) {
		struct exec *x = LIST_FIRST(&mc->guest.execs);

		exec_list_remove(x);
		exec_fail(x, err);
	}
	fail_files(mc, err);
}

void machine_end_files(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (LIST_EMPTY(&mc->guest.files))
		return;
	error_cancelled(
		&err, "pyrod is stopping", "the operation in machine %s was cancelled", mc->row.id);
	fail_files(mc, &err);
}

/* The guest has a nonce from SETUP on; the first WELCOME after that reports it. */
bool machine_is_same(struct machine *mc, const struct msg_welcome *w)
{
	if (w->state != AGENT_SET_UP ||
		memcmp(w->machine_id, mc->row.uuid, sizeof(w->machine_id)) != 0)
		return false;
	if (!mc->guest.boot_known)
		memcpy(mc->guest.boot_nonce, w->boot_nonce, sizeof(mc->guest.boot_nonce));
	mc->guest.boot_known = true;
	return memcmp(w->boot_nonce, mc->guest.boot_nonce, sizeof(w->boot_nonce)) == 0;
}

void machine_link_close(struct machine *mc)
{
	mc->guest.setup_timer = sd_event_source_disable_unref(mc->guest.setup_timer);
	mc->guest.link = link_free(mc->guest.link);
}

/* The guest reports these numbers: they must not bring the next one round to zero. */
int machine_note_channel(struct machine *mc, uint32_t channel)
{
	if (channel >= CHANNEL_HELD_MAX)
		return -EBADMSG;
	mc->guest.channels = MAX_OF(mc->guest.channels, channel);
	return 0;
}

uint32_t machine_channel(struct machine *mc)
{
	return ++mc->guest.channels;
}

struct link *machine_link(struct machine *mc)
{
	return mc->guest.link;
}

void machine_expect_command(struct machine *mc)
{
	/* If the frame is lost, the command is only slower. */
	if (mc->state == MACHINE_STARTED && mc->guest.link &&
		agent_knows(link_version(mc->guest.link), FRAME_LOGIN) &&
		frame_put(link_control(mc->guest.link), FRAME_LOGIN, AGENT_CHANNEL_NONE, NULL, 0) >=
			0)
		link_schedule(mc->guest.link);
}

void machine_hold_exec(struct machine *mc, struct exec *x, uint32_t channel)
{
	(void)machine_note_channel(mc, channel); /* the next WELCOME fails if it is too high */
	exec_list_insert(&mc->guest.execs, x);
}

int machine_exec(struct machine *mc, struct exec *x, uint32_t channel)
{
	int r;

	if (mc->state != MACHINE_STARTED || !mc->guest.link)
		return -ENOTCONN;
	exec_list_insert(&mc->guest.execs, x);
	r = exec_start(x, mc->guest.link, channel);
	if (r < 0)
		exec_list_remove(x);
	else if (mc->hold.pause)
		exec_hold(x, true);
	return r;
}

int machine_file(struct machine *mc, struct file *f, struct error *err)
{
	const struct file *other;
	size_t n = 0;
	int r;

	if (mc->state != MACHINE_STARTED || !mc->guest.link) {
		_cleanup_free_ char *fix = machine_fix(mc, "start");

		return error_set(err, ERROR_WRONG_STATE, NULL, fix ? fix : "start it",
			"machine %s is %s", mc->row.id, machine_state_public(mc->state));
	}
	for (other = LIST_FIRST(&mc->guest.files); other; other = file_list_next(other))
		n++;
	if (n >= LIMIT_FILES)
		return error_set(err, ERROR_QUOTA_EXCEEDED, NULL,
			"the same call again, when one of them has ended",
			"%d file operations already run in %s", LIMIT_FILES, mc->row.id);
	r = file_start(f, mc->guest.link, machine_channel(mc), err);
	if (r < 0)
		return r;
	file_list_insert(&mc->guest.files, f);
	if (mc->hold.pause)
		file_hold(f, true);
	return 0;
}
