/* SPDX-License-Identifier: MIT */
/*
 * What a machine is made of, as named steps from the ground up, each with its undo; engine.c runs them.
 * The first of them make a machine that is `created`, the rest boot it. Called by core/.
 *
 * What must stay true: the row is committed before anything else exists and goes last; a boot begins with
 * the commit that says so.
 */

#include "daemon/machine/machine-internal.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "daemon/crash.h"
#include "daemon/log.h"
#include "daemon/unit.h"
#include "proto/api.h"
#include "proto/deadline.h"
#include "proto/host.h"

static int resolve_accelerator(struct machine *mc, struct error *err)
{
	int r = vmm_resolve_accelerator(mc->wanted, &mc->accelerator, &mc->accelerator_reason, err);

	if (r >= 0)
		(void)snprintf(mc->row.accelerator, sizeof(mc->row.accelerator), "%s",
			accelerator_name(mc->accelerator));
	return r;
}

static int run_check(struct machine *mc, struct error *err)
{
	int r = machine_check_quotas(mc, err);

	if (r >= 0)
		r = machine_check_host(mc, err);
	if (r >= 0)
		r = machine_pin_images(mc, err);
	return r < 0 ? r : resolve_accelerator(mc, err);
}

/* Row */

static void on_row(int r, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error why = ERROR_INIT;

	if (mc->engine != ENGINE_UP)
		return; /* going down already: the row's deletion is queued behind this */
	if (r < 0 && err)
		(void)error_copy(&why, err);
	if (r < 0)
		error_set_errno(&why, ERROR_INTERNAL, r, "look at pyrod's journal",
			"cannot keep the machine");
	machine_continue(mc, r < 0 ? &why : NULL);
}

/* Goes on when the row is committed as it is now. */
static int commit_row(struct machine *mc, struct error *err)
{
	int r = store_vm_put(mc->machines->m->store, &mc->row, on_row, mc);

	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "cannot keep the machine");
	return STEP_WAIT;
}

static int run_row(struct machine *mc, struct error *err)
{
	if (mc->target == machine_steps())
		machine_set_state(mc, MACHINE_STARTING);
	return commit_row(mc, err);
}

static void on_row_deleted(int r, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error why = ERROR_INIT;

	if (r < 0 && err)
		(void)error_copy(&why, err);
	if (r < 0)
		error_set_errno(
			&why, ERROR_INTERNAL, r, "restart pyrod", "cannot forget the machine");
	machine_continue(mc, r < 0 ? &why : NULL);
}

static int undo_row(struct machine *mc)
{
	int r = store_vm_delete(mc->machines->m->store, mc->row.id, on_row_deleted, mc);

	return r < 0 ? r : STEP_WAIT;
}

/* Directories */

static int make_dir(const char *path, struct error *err)
{
	_cleanup_free_ char *parent = strdup(path);

	if (!parent)
		return error_no_memory(err, "cannot create %s", path);
	*strrchr(parent, '/') = '\0';
	if ((mkdir(parent, 0700) < 0 && errno != EEXIST) || mkdir(path, 0700) < 0) {
		int r = -errno;

		return error_set_errno(err, error_code_for_errno(r), r,
			"check that pyrod may write there", "cannot create the directory %s", path);
	}
	return 0;
}

static int run_directory(struct machine *mc, struct error *err)
{
	return make_dir(mc->state_dir, err);
}

/* Below /run, which the host's restart empties: made for each boot. */
static int run_run_directory(struct machine *mc, struct error *err)
{
	return make_dir(mc->run_dir, err);
}

static void on_removed(const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	mc->remove_op = disk_op_free(mc->remove_op);
	machine_continue(mc, err);
}

/* What is absent is done. */
static int remove_dir(struct machine *mc, const char *path)
{
	int r;

	if (access(path, F_OK) < 0 && errno == ENOENT)
		return 0;
	r = disk_remove(mc->machines->m, path, on_removed, mc, &mc->remove_op, NULL);
	return r < 0 ? r : STEP_WAIT;
}

static int undo_directory(struct machine *mc)
{
	return remove_dir(mc, mc->state_dir);
}

static int undo_run_directory(struct machine *mc)
{
	return remove_dir(mc, mc->run_dir);
}

/* Disk */

static void on_disk(const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	mc->disk_op = disk_op_free(mc->disk_op);
	machine_continue(mc, mc->engine == ENGINE_UP ? err : NULL);
}

static int run_disk(struct machine *mc, struct error *err)
{
	int r = disk_create(
		mc->machines->m, mc->disk_path, mc->row.disk_mib, on_disk, mc, &mc->disk_op, err);

	return r < 0 ? r : STEP_WAIT;
}

/* A copy under way is waited for: its file would appear in a directory already removed. */
static int undo_disk(struct machine *mc)
{
	return mc->disk_op ? STEP_WAIT : 0;
}

/* A machine that boots at once is never seen as created, and is spared the commit. */
static int run_created(struct machine *mc, struct error *err)
{
	if (mc->target == machine_steps())
		return 0;
	machine_set_state(mc, MACHINE_CREATED);
	return commit_row(mc, err);
}

static int run_boot(struct machine *mc, struct error *err)
{
	int r;

	if (mc->state == MACHINE_STARTING)
		return 0; /* checked and committed with its creation */
	r = machine_check_host(mc, err);
	if (r >= 0)
		r = resolve_accelerator(mc, err);
	if (r < 0) {
		mc->landing = mc->state; /* refused: it stays what it is */
		return r;
	}
	mc->set_up = mc->boot_known = mc->vmm_up = mc->vmm_gone = mc->row_kept = false;
	free(TAKE_PTR(mc->bye));
	free(TAKE_PTR(mc->row.last_error));
	memcpy(mc->row.boot_id, mc->machines->boot_id, sizeof(mc->row.boot_id));
	machine_set_state(mc, MACHINE_STARTING);
	return commit_row(mc, err);
}

/* VMM */

/* Nobody else tells of a VMM that was killed: the log has it too. */
static char *exit_cause(struct machine *mc, const struct vmm_exit *e)
{
	_cleanup_free_ char *killed = NULL;
	char *cause;

	if (mc->bye)
		return strdup(mc->bye);
	if (e->status < 0 && e->status != INT_MIN)
		killed = str_printf("the VMM was ended by signal %d (%s), as the host's OOM killer "
				    "and its administrator do",
			-e->status, strsignal(-e->status));
	cause = machine_death_cause(mc, e->reason        ? e->reason
					: e->guest_ended ? "the guest ended itself"
					: killed         ? killed
							 : "the VMM ended");
	log_uid(LOG_WARNING, 0, mc->row.owner_uid, "%s: %s", mc->row.id,
		cause ? cause : "its VMM ended");
	return cause;
}

static void on_pid_kept(int r, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	mc->row_kept = true;
	if (mc->engine != ENGINE_UP)
		return;
	if (r < 0)
		machine_continue(mc, err);
	else if (mc->vmm_up)
		machine_continue(mc, NULL);
}

static void on_vmm_launched(struct vmm *v, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	int r;

	if (mc->engine != ENGINE_UP)
		return;
	crash_point();
	mc->row.vmm_pid = vmm_pid(v);
	mc->row.vmm_start_time = vmm_start_time(v);
	(void)snprintf(
		mc->row.vmm_invocation, sizeof(mc->row.vmm_invocation), "%s", vmm_invocation(v));
	r = store_vm_put(mc->machines->m->store, &mc->row, on_pid_kept, mc);
	if (r < 0) {
		error_set_errno(&err, ERROR_INTERNAL, r, NULL, "cannot keep the machine's process");
		machine_continue(mc, &err);
	}
}

static void on_vmm_started(_unused_ struct vmm *v, void *userdata)
{
	struct machine *mc = userdata;

	mc->vmm_up = true;
	reserve_watch(mc->machines);
	if (mc->engine == ENGINE_UP && mc->row_kept)
		machine_continue(mc, NULL);
}

static void on_vmm_failed(_unused_ struct vmm *v, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	if (mc->engine == ENGINE_UP)
		machine_continue(mc, err);
}

static void on_vmm_exited(_unused_ struct vmm *v, const struct vmm_exit *e, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *cause = NULL, *fix = NULL;

	mc->vmm_gone = true;
	if (machine_goes_down(mc)) {
		machine_continue(mc, NULL);
		return;
	}
	if (mc->engine != ENGINE_UP && mc->state == MACHINE_STOPPING) {
		machine_shut_down_over(mc);
		return;
	}
	if (mc->engine == ENGINE_UP && e->guest_ended && !mc->boot_known &&
		!vmm_guest_seen(mc->vmm)) {
		machine_not_booted(mc, true, &err);
		machine_continue(mc, &err);
		return;
	}
	cause = exit_cause(mc, e);
	fix = machine_death_fix(mc, cause);
	if (mc->engine == ENGINE_UP) {
		error_set(&err, ERROR_START_FAILED, cause, fix,
			"machine %s ended while it was starting", mc->row.id);
		machine_continue(mc, &err);
	} else {
		error_set(&err, ERROR_GUEST_DIED, cause, fix, "machine %s ended under its command",
			mc->row.id);
		machine_fail(mc, MACHINE_FAILED, &err);
	}
}

static void on_vmm_paused(_unused_ struct vmm *v, const char *reason, void *userdata)
{
	machine_paused(userdata, reason);
}

static void on_vmm_resumed(_unused_ struct vmm *v, void *userdata)
{
	machine_unpaused(userdata);
}

const struct vmm_callbacks machine_vmm_events = {
	.on_launched = on_vmm_launched,
	.on_started = on_vmm_started,
	.on_failed = on_vmm_failed,
	.on_exited = on_vmm_exited,
	.on_paused = on_vmm_paused,
	.on_resumed = on_vmm_resumed,
};

static void add_disk(struct vmm_spec *spec, const char *serial, int fd, bool read_only)
{
	if (fd >= 0)
		spec->disks[spec->n_disks++] =
			(struct vmm_disk){ .serial = serial, .fd = fd, .read_only = read_only };
}

static int launch(struct machine *mc, struct error *err)
{
	struct vmm_spec spec = {
		.id = mc->row.id,
		.owner_uid = mc->row.owner_uid,
		.vcpu_count = mc->row.vcpu_count,
		.mem_mib = mc->row.mem_mib,
		.accelerator = mc->accelerator,
		.vmlinux_fd = mc->kernel.vmlinux_fd,
		.initrd_fd = mc->kernel.initrd_fd,
		.run_dir = mc->run_dir,
	};

	memcpy(spec.uuid, mc->row.uuid, sizeof(spec.uuid));
	add_disk(&spec, DISK_SERIAL_ENV, mc->image_fd, true);
	add_disk(&spec, DISK_SERIAL_OWN, mc->own_fd, false);
	add_disk(&spec, DISK_SERIAL_MODULES, mc->kernel.modules_fd, true);
	return vmm_start(mc->machines->m, &spec, &machine_vmm_events, mc, &mc->vmm, err);
}

/* Goes on when the process is in the row and its vCPUs run, in either order. */
static int run_vmm(struct machine *mc, struct error *err)
{
	_cleanup_free_ char *fix = NULL;
	int r;

	mc->own_fd = open(mc->disk_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (mc->own_fd < 0) {
		r = -errno;
		fix = error_errno_fix(r) ? NULL : machine_fix(mc, "delete");
		return error_set_errno(err, ERROR_START_FAILED, r, fix,
			"cannot open the machine's disk %s", mc->disk_path);
	}
	if (mc->cb.on_launch)
		mc->cb.on_launch(mc, mc->userdata);
	mc->launches++;
	r = launch(mc, err);
	crash_point();
	return r < 0 ? r : STEP_WAIT;
}

static int on_end_late(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;

	mc->deadline = sd_event_source_disable_unref(mc->deadline);
	error_internal(&err, "it may hang in the kernel",
		"the VMM (pid %d) did not end when it was killed", (int)mc->row.vmm_pid);
	machine_continue(mc, &err);
	return 0;
}

static int undo_vmm(struct machine *mc)
{
	int r;

	mc->deadline = sd_event_source_disable_unref(mc->deadline);
	if (mc->vmm && mc->vmm_gone) {
		machine_heed_console(mc);
		mc->vmm = vmm_free(mc->vmm);
		return 0;
	}
	if (!mc->vmm && mc->this_life)
		return 0;
	/* It was told to end before and has been late with it. */
	mc->pid_event = sd_event_source_disable_unref(mc->pid_event);
	mc->unit = unit_free(mc->unit);
	r = sd_event_add_time_relative(mc->machines->m->event, &mc->deadline, CLOCK_MONOTONIC,
		deadline_usec(DEADLINE_VMM_END), 0, on_end_late, mc);
	if (r < 0)
		return r;
	if (!mc->vmm) {
		r = machine_recover_kill(mc);
		if (r != STEP_WAIT)
			mc->deadline = sd_event_source_disable_unref(mc->deadline);
		return r;
	}
	vmm_stop(mc->vmm);
	return STEP_WAIT;
}

/* It has been told to end, then ends, then is freed. */
static bool undo_vmm_again(const struct machine *mc)
{
	return mc->vmm != NULL;
}

/* Agent */

static int run_agent(struct machine *mc, struct error *err)
{
	int r;

	machine_forget_images(mc); /* the VMM has them */
	r = machine_link_open(mc, deadline_usec(DEADLINE_BOOT));
	if (r < 0)
		return error_set_errno(err, ERROR_START_FAILED, r,
			error_errno_fix(r) ? NULL : "pyro doctor", "cannot reach the guest");
	return STEP_WAIT;
}

/* Who started a machine is told after the commit; the command for which it goes does not wait for one more. */
static int run_started(struct machine *mc, struct error *err)
{
	machine_set_state(mc, MACHINE_STARTED);
	machine_has_booted(mc);
	if (mc->owner->remains != REMAINS_NOTHING)
		return commit_row(mc, err);
	machine_save(mc);
	return 0;
}

static const struct step steps[] = {
	{ "check", run_check, NULL, NULL },
	{ "row", run_row, undo_row, NULL },
	{ "directory", run_directory, undo_directory, NULL },
	{ "disk", run_disk, undo_disk, NULL },
	{ "created", run_created, NULL, NULL },
#define STEPS_CREATED 5
	{ "boot", run_boot, NULL, NULL },
	{ "run directory", run_run_directory, undo_run_directory, NULL },
	{ "images", machine_open_images, machine_close_images, NULL },
	{ "vmm", run_vmm, undo_vmm, undo_vmm_again },
	{ "agent", run_agent, NULL, NULL }, /* the way down begins with the end of its link */
	{ "started", run_started, NULL, NULL },
};

const struct step *machine_step(size_t i)
{
	return &steps[i];
}

size_t machine_steps(void)
{
	return ARRAY_SIZE(steps);
}

size_t machine_steps_created(void)
{
	return STEPS_CREATED;
}

static int make_row(struct machines *ms, const struct machine_spec *spec, struct vm_row *ret)
{
	struct vm_row row = {
		.owner_uid = spec->owner_uid,
		.vcpu_count = spec->vcpu_count,
		.mem_mib = spec->mem_mib,
		.disk_mib = spec->disk_mib,
		.ttl_seconds = spec->ttl_seconds,
		.created_usec = wall_usec(),
		.one_shot = spec->owner->remains == REMAINS_NOTHING,
	};

	row.active_usec = row.created_usec;
	if (spec->ttl_seconds > 0)
		row.expires_usec = row.created_usec + (uint64_t)spec->ttl_seconds * USEC_PER_SEC;
	api_new_id(spec->owner->id_prefix, row.id);
	(void)snprintf(row.state, sizeof(row.state), "%s", machine_state_name(MACHINE_PREPARING));
	(void)snprintf(row.start_mode, sizeof(row.start_mode), "cold");
	memcpy(row.boot_id, ms->boot_id, sizeof(row.boot_id));
	random_bytes(row.uuid, sizeof(row.uuid));
	row.uuid[6] = (uint8_t)((row.uuid[6] & 0x0f) | 0x40); /* RFC 9562: version 4, variant 1 */
	row.uuid[8] = (uint8_t)((row.uuid[8] & 0x3f) | 0x80);
	frame_make_sync(row.sync);
	row.environment = strdup(spec->environment);
	if (!row.environment)
		return -ENOMEM;
	*ret = row;
	return 0;
}

int machine_start(struct machines *ms, const struct machine_spec *spec, bool whole,
	const struct machine_callbacks *cb, void *userdata, struct machine **ret, struct error *err)
{
	_cleanup_(machine_freep) struct machine *mc = NULL;
	_cleanup_(vm_row_done) struct vm_row row = { 0 };
	int r = make_row(ms, spec, &row);

	if (r >= 0)
		r = machine_new(ms, spec->owner, &row, &mc);
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "cannot create a machine");
	mc->this_life = true;
	mc->wanted = spec->accelerator;
	if (mc->wanted == ACCELERATOR_AUTO)
		mc->wanted = ms->m->config->accelerator;
	mc->target = whole ? machine_steps() : STEPS_CREATED;
	mc->cb = *cb;
	mc->userdata = userdata;
	mc->engine = ENGINE_UP;
	r = sd_event_source_set_enabled(mc->work, SD_EVENT_ONESHOT);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "cannot create a machine");
	log_uid(LOG_INFO, 0, mc->row.owner_uid, "%s: made for uid %u from %s", mc->row.id,
		mc->row.owner_uid, mc->row.environment);
	*ret = TAKE_PTR(mc);
	return 0;
}
