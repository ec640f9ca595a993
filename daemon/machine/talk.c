/* SPDX-License-Identifier: MIT */
/*
 * A machine's conversation with its agent: the answer to each WELCOME, SETUP, frames to its
 * commands and file operations, and the loss of the guest. plan.c and adopt.c open the link.
 *
 * What must stay true: SETUP is sent until the agent reports that it is set up, and only to the
 * machine with that uuid; a guest that restarted under a running command is an error, not a
 * reconnection; the guest is hostile, and its messages do not count once its machine goes down.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/crash.h"
#include "daemon/log.h"
#include "proto/deadline.h"

/* On the way up the start fails; a stop is complete; in a started machine the commands fail. */
static void lost(struct machine *mc, const struct error *err)
{
	if (machine_goes_up(mc))
		machine_continue(mc, err);
	else if (mc->state == MACHINE_STOPPING)
		machine_shut_down_done(mc);
	else
		machine_fail(mc, MACHINE_FAILED, err);
}

static int send_setup(struct machine *mc)
{
	struct msg_setup m = { .realtime_usec = wall_usec(), .hostname = mc->row.id };
	int r;

	random_bytes(m.entropy, sizeof(m.entropy));
	memcpy(m.machine_id, mc->row.uuid, sizeof(m.machine_id));
	memcpy(m.sync, mc->row.sync, sizeof(m.sync));
	link_set_sync(mc->guest.link, mc->row.sync, false);
	r = link_send(mc->guest.link, setup, FRAME_SETUP, AGENT_CHANNEL_NONE, &m);
	explicit_bzero(m.entropy, sizeof(m.entropy));
	if (r >= 0)
		link_schedule(mc->guest.link);
	return r;
}

static void set_up(struct machine *mc)
{
	if (mc->guest.set_up)
		return;
	crash_point();
	mc->guest.set_up = true;
	mc->guest.setup_timer = sd_event_source_disable_unref(mc->guest.setup_timer);
	link_set_sync(mc->guest.link, mc->row.sync, true);
	if (mc->state != MACHINE_ADOPTING) {
		machine_continue(mc, NULL);
		return;
	}
	machine_adopt_done(mc);
	if (mc->state == MACHINE_STARTED)
		machine_notify(mc, WAIT_STARTED, NULL);
}

static void not_set_up(struct machine *mc, const struct error *err)
{
	mc->guest.setup_timer = sd_event_source_disable_unref(mc->guest.setup_timer);
	if (mc->state == MACHINE_ADOPTING)
		machine_fail(mc, MACHINE_FAILED, err);
	else
		machine_continue(mc, err);
}

static int on_setup_late(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *cause = NULL, *fix = NULL;

	/* A paused guest cannot answer: its deadline begins again. */
	if (mc->hold.pause &&
		sd_event_source_set_time_relative(
			mc->guest.setup_timer, deadline_usec(DEADLINE_SETUP)) >= 0 &&
		sd_event_source_set_enabled(mc->guest.setup_timer, SD_EVENT_ONESHOT) >= 0)
		return 0;
	cause = machine_death_cause(mc, "the guest did not answer SETUP");
	fix = machine_death_fix(mc, cause);
	error_set(
		&err, ERROR_START_FAILED, cause, fix, "machine %s could not be set up", mc->row.id);
	not_set_up(mc, &err);
	return 0;
}

static int begin_setup(struct machine *mc)
{
	if (!mc->guest.setup_timer) {
		int r = sd_event_add_time_relative(mc->machines->m->event, &mc->guest.setup_timer,
			CLOCK_MONOTONIC, deadline_usec(DEADLINE_SETUP), 0, on_setup_late, mc);

		if (r < 0)
			return r;
	}
	return send_setup(mc);
}

/* Continues a boot whose daemon ended before SETUP; the command was never begun and fails. */
static int begin_setup_adopted(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERROR_START_FAILED, "pyrod ended while it was starting", "run it again",
		"the command was never started in machine %s", mc->row.id);
	machine_fail_execs(mc, &err);
	return machine_is_settled(mc) ? begin_setup(mc) : 0;
}

static void guest_rebooted(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *cause = machine_death_cause(mc, "it restarted");
	_cleanup_free_ char *fix = machine_death_fix(mc, cause);

	error_set(&err, ERROR_GUEST_DIED, cause, fix,
		"the guest of machine %s is not the one that pyrod set up", mc->row.id);
	lost(mc, &err);
}

static int on_welcome(struct link *l, const struct msg_welcome *w, void *userdata)
{
	struct machine *mc = userdata;
	const bool adopted = mc->state == MACHINE_ADOPTING;
	struct exec *x, *next;
	struct file *f, *next_file;
	int r = 0;

	if (machine_goes_down(mc))
		return 0;
	if (adopted && w->state == AGENT_READY && !mc->guest.set_up)
		return begin_setup_adopted(mc);
	if (adopted) {
		r = machine_adopted(mc, w);
		if (r < 0 || !machine_is_settled(mc))
			return r;
	}
	if (w->state == AGENT_READY && !mc->guest.set_up)
		return begin_setup(mc);
	if (!machine_is_same(mc, w)) {
		guest_rebooted(mc);
		return 0;
	}
	set_up(mc); /* its SETUP_DONE may have been lost */
	r = machine_forget_strays(mc, w);
	for (x = LIST_FIRST(&mc->guest.execs); r >= 0 && x; x = next) {
		next = exec_list_next(x);
		r = exec_on_welcome(x, w);
	}
	for (f = LIST_FIRST(&mc->guest.files); r >= 0 && f; f = next_file) {
		next_file = file_list_next(f);
		file_on_welcome(f);
	}
	if (r >= 0 && mc->state == MACHINE_STOPPING)
		r = machine_shut_down_again(mc);
	link_schedule(l);
	if (adopted && mc->state == MACHINE_STARTED)
		machine_notify(mc, WAIT_STARTED, NULL);
	return r;
}

static int take_setup_done(struct machine *mc, const struct frame *f)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct msg_result result = { 0 };
	char what[256] = "the guest";
	int r = msg_result_get(f, link_version(mc->guest.link), &result);

	if (r < 0)
		return r;
	if (result.error == 0) {
		set_up(mc);
	} else if (!mc->guest.set_up) {
		_cleanup_free_ char *fix = str_printf("%spyro env pull --force %s",
			mc->machines->m->system ? "sudo " : "", mc->row.environment);

		if (result.what)
			(void)log_escape(result.what, strlen(result.what), what, sizeof(what));
		error_set_errno(&err, ERROR_START_FAILED, -(int)(result.error & 0xfff), fix,
			"machine %s could not be set up: %s", mc->row.id, what);
		not_set_up(mc, &err);
	}
	msg_result_done(&result);
	return 0;
}

static const char *bye_text(uint8_t reason)
{
	switch (reason) {
	case BYE_SHUTDOWN: return "the guest was shut down";
	case BYE_REBOOT: return "the guest restarted itself, which ends its machine";
	case BYE_POWEROFF: return "the guest powered itself off";
	default: return "the guest's agent could not continue";
	}
}

/* Leaves the same as vm.stop. */
static void ended_itself(struct machine *mc, const struct error *err)
{
	machine_set_stop_reason(mc, "guest");
	machine_set_state(mc, MACHINE_STOPPING);
	machine_fail_execs(mc, err);
	if (machine_is_settled(mc))
		machine_shut_down_done(mc);
}

static int take_bye(struct machine *mc, const struct frame *f)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct msg_bye bye = { 0 };
	_cleanup_free_ char *fix = NULL;
	char what[256] = "";
	int r = msg_bye_get(f, link_version(mc->guest.link), &bye);
	bool by_itself = bye.reason == BYE_SHUTDOWN || bye.reason == BYE_REBOOT ||
			 bye.reason == BYE_POWEROFF;

	if (r < 0)
		return r;
	if (bye.what)
		(void)log_escape(bye.what, strlen(bye.what), what, sizeof(what));
	free(mc->guest.bye);
	mc->guest.bye = str_printf("%s%s%s", bye_text(bye.reason), what[0] ? ": " : "", what);
	fix = bye.reason == BYE_REBOOT || bye.reason == BYE_POWEROFF
		      ? strdup("remove reboot, halt and poweroff from the command")
		      : machine_death_fix(mc, mc->guest.bye);
	error_set(&err, machine_goes_up(mc) ? ERROR_START_FAILED : ERROR_GUEST_DIED, mc->guest.bye,
		fix, "machine %s ended", mc->row.id);
	msg_bye_done(&bye);
	if (machine_is_settled(mc) && mc->state == MACHINE_STARTED && by_itself)
		ended_itself(mc, &err);
	else if (mc->state != MACHINE_STOPPING)
		lost(mc, &err); /* not in a stop: there the VMM exits next */
	return 0;
}

/* Acknowledges the EXIT of an unknown command, so that the agent forgets it. */
static int take_stray(struct machine *mc, const struct frame *f)
{
	int r;

	if (f->type != FRAME_EXIT)
		return 0;
	r = frame_put(link_control(mc->guest.link), FRAME_EXIT_ACK, f->channel, NULL, 0);
	if (r >= 0)
		link_schedule(mc->guest.link);
	return r;
}

static int on_frame(_unused_ struct link *l, const struct frame *f, void *userdata)
{
	struct machine *mc = userdata;
	struct exec *x;

	if (machine_goes_down(mc))
		return 0;
	if (f->type == FRAME_FILE_DONE) {
		struct file *file = file_list_find(&mc->guest.files, f->channel);

		return file ? file_on_frame(file, f) : 0;
	}
	if (f->channel != AGENT_CHANNEL_NONE) {
		x = exec_list_find(&mc->guest.execs, f->channel);
		return x ? exec_on_frame(x, f) : take_stray(mc, f);
	}
	switch (f->type) {
	case FRAME_SETUP_DONE: return take_setup_done(mc, f);
	case FRAME_BYE: return take_bye(mc, f);
	default: return 0; /* frames that only a host sends */
	}
}

/* Lets each command add its input, and one file operation its request. */
static void fill(_unused_ struct link *l, struct buf *out, void *userdata)
{
	struct machine *mc = userdata;
	struct exec *x;
	struct file *f;

	for (x = LIST_FIRST(&mc->guest.execs); x; x = exec_list_next(x))
		exec_fill(x, out);
	for (f = LIST_FIRST(&mc->guest.files); f && !file_fill(f, out); f = file_list_next(f))
		;
}

static void on_dead(_unused_ struct link *l, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error why = ERROR_INIT;
	_cleanup_free_ char *cause = NULL, *fix = NULL;

	if (machine_goes_down(mc))
		return;
	mc->guest.setup_timer = sd_event_source_disable_unref(mc->guest.setup_timer);
	if (mc->state == MACHINE_STOPPING) {
		machine_shut_down_done(mc);
		return;
	}
	if (mc->state == MACHINE_ADOPTING) {
		machine_adopt_failed(mc, err);
		return;
	}
	if (!machine_goes_up(mc)) {
		machine_fail(mc, MACHINE_UNKNOWN, err);
		return;
	}
	if (!vmm_guest_seen(mc->process.vmm)) {
		machine_not_booted(mc, false, &why);
		machine_continue(mc, &why);
		return;
	}
	cause = machine_death_cause(mc, err->cause ? err->cause : "no answer");
	fix = machine_death_fix(mc, cause);
	error_set(&why, ERROR_START_FAILED, cause, fix, "machine %s did not start in time",
		mc->row.id);
	machine_continue(mc, &why);
}

static int dial(void *userdata)
{
	struct machine *mc = userdata;

	int r = mc->process.ended ? -ENOTCONN : vmm_dial(mc->process.vmm);

	return r < 0 ? r : -EINPROGRESS; /* on_vmm_agent brings the stream */
}

int machine_link_open(struct machine *mc, uint64_t first_usec)
{
	static const struct link_callbacks cb = {
		.dial = dial,
		.on_welcome = on_welcome,
		.on_frame = on_frame,
		.fill = fill,
		.on_dead = on_dead,
	};

	int r = link_new(mc->machines->m->event, &cb, mc, first_usec, &mc->guest.link);

	if (r >= 0 && mc->hold.pause)
		link_hold(mc->guest.link, true);
	return r;
}
