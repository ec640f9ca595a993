/* SPDX-License-Identifier: MIT */
/*
 * The named steps that make a machine, in order, each with its undo; the engine takes them. The
 * first n_created make a machine that is `created`, the rest boot it.
 *
 * What must stay true: the row is committed before anything else exists and is deleted last; a boot
 * begins with the commit of `starting`, and its undo ends with the commit of the resting state.
 */

#include "daemon/machine/machine-internal.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/crash.h"
#include "daemon/log.h"
#include "proto/deadline.h"
#include "proto/host.h"

static int choose_vmm(struct machine *mc, struct error *err)
{
	struct vmm_choice choice;
	int r = vmm_choose(mc->machines->m, mc->accelerator.wanted, &choice, err);

	if (r < 0)
		return r;
	mc->accelerator.used = choice.accelerator;
	mc->accelerator.reason = choice.reason;
	(void)snprintf(mc->row.driver, sizeof(mc->row.driver), "%s", choice.driver);
	(void)snprintf(mc->row.accelerator, sizeof(mc->row.accelerator), "%s",
		accelerator_name(mc->accelerator.used));
	return 0;
}

static int run_check(struct machine *mc, struct error *err)
{
	int r = machine_check_quotas(mc, err);

	if (r >= 0)
		r = machine_check_host(mc, err);
	if (r >= 0)
		r = machine_pin_images(mc, err);
	return r < 0 ? r : choose_vmm(mc, err);
}

/* Row */

static void on_row(int r, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error why = ERROR_INIT;

	if (!machine_goes_up(mc))
		return; /* going down already: the row's deletion is queued behind this */
	if (r < 0 && err)
		(void)error_copy(&why, err);
	if (r < 0)
		error_set_errno(&why, ERROR_INTERNAL, r, "look at pyrod's journal",
			"cannot save the machine's record");
	machine_continue(mc, r < 0 ? &why : NULL);
}

/* Commits the row as it is now; the step waits for that. */
static int commit_row(struct machine *mc, struct error *err)
{
	int r = store_vm_put(mc->machines->m->store, &mc->row, on_row, mc);

	if (r < 0)
		return error_set_errno(
			err, ERROR_INTERNAL, r, NULL, "cannot save the machine's record");
	return STEP_WAIT;
}

/* True for a machine that boots at once and leaves nothing: it skips the commit of `created`. A
 * machine that remains is `preparing` until its disk exists: the next daemon would take it for a
 * failed one, which can be booted again. */
static bool is_spared(const struct machine *mc)
{
	return mc->desired == LEVEL_UP && mc->owner->remains == REMAINS_NOTHING;
}

static int run_row(struct machine *mc, struct error *err)
{
	if (is_spared(mc))
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
		error_set_errno(&why, ERROR_INTERNAL, r, "restart pyrod",
			"cannot delete the machine's record");
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
	return make_dir(mc->paths.state_dir, err);
}

/* Made for each boot, since it is below /run, which a restart of the host empties. */
static int run_run_directory(struct machine *mc, struct error *err)
{
	return make_dir(mc->paths.run_dir, err);
}

static void on_removed(const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	mc->disk_op = disk_op_free(mc->disk_op);
	machine_continue(mc, err);
}

/* An absent directory counts as removed. */
static int remove_dir(struct machine *mc, const char *path)
{
	int r;

	if (access(path, F_OK) < 0 && errno == ENOENT)
		return 0;
	r = disk_remove(mc->machines->m, path, on_removed, mc, &mc->disk_op, NULL);
	return r < 0 ? r : STEP_WAIT;
}

static int undo_directory(struct machine *mc)
{
	return remove_dir(mc, mc->paths.state_dir);
}

static int undo_run_directory(struct machine *mc)
{
	return remove_dir(mc, mc->paths.run_dir);
}

/* Disk */

static void on_disk(const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	mc->disk_op = disk_op_free(mc->disk_op);
	machine_continue(mc, machine_goes_up(mc) ? err : NULL);
}

static int run_disk(struct machine *mc, struct error *err)
{
	int r = disk_create(
		mc->machines->m, mc->paths.disk, mc->row.disk_mib, on_disk, mc, &mc->disk_op, err);

	return r < 0 ? r : STEP_WAIT;
}

/* Waits for a copy under way, whose file would otherwise appear in a removed directory. */
static int undo_disk(struct machine *mc)
{
	return mc->disk_op ? STEP_WAIT : 0;
}

static int run_created(struct machine *mc, struct error *err)
{
	if (is_spared(mc))
		return 0;
	machine_set_state(mc, MACHINE_CREATED);
	return commit_row(mc, err);
}

static int run_boot(struct machine *mc, struct error *err)
{
	int r = machine_boot_new(mc);

	if (r >= 0 && mc->state == MACHINE_STARTING)
		return 0; /* checked and committed with its creation */
	if (r < 0)
		error_no_memory(err, "cannot boot machine %s", mc->row.id);
	else
		r = machine_check_host(mc, err);
	if (r >= 0)
		r = choose_vmm(mc, err);
	if (r < 0) {
		mc->resting = mc->state; /* refused: the state stays */
		return r;
	}
	mc->guest.set_up = mc->guest.boot_known = mc->process.up = mc->process.ended = false;
	free(TAKE_PTR(mc->guest.bye));
	machine_set_last_error(mc, NULL);
	memcpy(mc->row.boot_id, mc->machines->boot_id, sizeof(mc->row.boot_id));
	machine_set_state(mc, MACHINE_STARTING);
	return commit_row(mc, err);
}

/* VMM */

static void add_disk(struct vmm_spec *spec, enum vmm_disk_kind what, int fd, bool read_only)
{
	if (fd >= 0)
		spec->disks[spec->n_disks++] =
			(struct vmm_disk){ .what = what, .fd = fd, .read_only = read_only };
}

static int launch(struct machine *mc, struct error *err)
{
	struct vmm_spec spec = {
		.driver = vmm_driver_find(mc->row.driver),
		.id = mc->row.id,
		.owner_uid = mc->row.owner_uid,
		.vcpu_count = mc->row.vcpu_count,
		.mem_mib = mc->row.mem_mib,
		.accelerator = mc->accelerator.used,
		.vmlinux_fd = mc->boot->kernel.vmlinux_fd,
		.initrd_fd = mc->boot->kernel.initrd_fd,
		.run_dir = mc->paths.run_dir,
	};

	memcpy(spec.uuid, mc->row.uuid, sizeof(spec.uuid));
	add_disk(&spec, VMM_DISK_ENVIRONMENT, mc->boot->image_fd, true);
	add_disk(&spec, VMM_DISK_OWN, mc->boot->own_fd, false);
	add_disk(&spec, VMM_DISK_MODULES, mc->boot->kernel.modules_fd, true);
	return vmm_launch(mc->machines->m, &spec, &machine_vmm_events, mc, &mc->process.vmm, err);
}

/* Continues when the process is in the row and the vCPUs run, in either order. */
static int run_vmm(struct machine *mc, struct error *err)
{
	_cleanup_free_ char *fix = NULL;
	int r;

	mc->boot->own_fd = open(mc->paths.disk, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (mc->boot->own_fd < 0) {
		r = -errno;
		fix = error_errno_fix(r) ? NULL : machine_fix(mc, "delete");
		return error_set_errno(err, ERROR_START_FAILED, r, fix,
			"cannot open the machine's disk %s", mc->paths.disk);
	}
	if (mc->starter.cb.on_launch)
		mc->starter.cb.on_launch(mc, mc->starter.userdata);
	mc->proof.launches++;
	r = launch(mc, err);
	crash_point();
	if (r < 0)
		return r;
	vmm_boot(mc->process.vmm);
	return STEP_WAIT;
}

static int on_end_late(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;

	mc->process.deadline = sd_event_source_disable_unref(mc->process.deadline);
	error_internal(&err, "it may be blocked in the kernel",
		"the VMM (pid %d) did not end when it was killed", (int)mc->row.vmm_pid);
	machine_continue(mc, &err);
	return 0;
}

static int undo_vmm(struct machine *mc)
{
	int r;

	mc->process.deadline = sd_event_source_disable_unref(mc->process.deadline);
	if (mc->process.vmm && mc->process.ended) {
		machine_check_console(mc);
		mc->process.vmm = vmm_free(mc->process.vmm);
		return 0;
	}
	if (!mc->process.vmm && mc->is_new)
		return 0;
	/* Drops the wait of an earlier attempt that timed out. */
	machine_forget_survivor(mc);
	r = sd_event_add_time_relative(mc->machines->m->event, &mc->process.deadline,
		CLOCK_MONOTONIC, deadline_usec(DEADLINE_VMM_END), 0, on_end_late, mc);
	if (r < 0)
		return r;
	if (!mc->process.vmm) {
		r = machine_end_survivor(mc);
		if (r != STEP_WAIT)
			mc->process.deadline = sd_event_source_disable_unref(mc->process.deadline);
		return r;
	}
	vmm_stop(mc->process.vmm);
	return STEP_WAIT;
}

/* The first undo stops the VMM, the second frees it. */
static bool undo_vmm_again(const struct machine *mc)
{
	return mc->process.vmm != NULL;
}

/* Agent */

static int run_agent(struct machine *mc, struct error *err)
{
	int r;

	machine_forget_images(mc); /* the VMM has the descriptors */
	r = machine_link_open(mc, deadline_usec(DEADLINE_BOOT));
	if (r < 0)
		return error_set_errno(err, ERROR_START_FAILED, r,
			error_errno_fix(r) ? NULL : "pyro doctor", "cannot reach the guest");
	return STEP_WAIT;
}

/* A start is reported after its commit, but a run's command does not wait for that. */
static int run_started(struct machine *mc, struct error *err)
{
	machine_set_state(mc, MACHINE_STARTED);
	machine_has_booted(mc);
	if (mc->owner->remains != REMAINS_NOTHING)
		return commit_row(mc, err);
	machine_save(mc);
	return 0;
}

/* NULL when out of memory: the row then has no reason. */
static char *sentence(const struct error *err)
{
	return str_printf(
		"%s%s%s", err->message, err->cause ? ": " : "", err->cause ? err->cause : "");
}

static void log_rest(struct machine *mc, int r, const struct error *err)
{
	log_uid(LOG_ERR, r, mc->row.owner_uid, "cannot save that machine %s does not run: %s",
		mc->row.id, err && err->cause ? err->cause : "the store refused the write");
}

static void on_rest(int r, const struct error *err, void *userdata)
{
	if (r < 0)
		log_rest(userdata, r, err);
	machine_continue(userdata, NULL);
}

/* A deletion needs no commit here: before_undo makes it where it is needed. */
static int undo_boot(struct machine *mc)
{
	_cleanup_free_ char *text = NULL;
	int r;

	machine_boot_free(mc);
	if (mc->desired == LEVEL_DELETED)
		return 0;
	machine_set_state(mc, mc->resting);
	mc->row.vmm_pid = 0;
	mc->row.vmm_start_time = 0;
	mc->row.vmm_invocation[0] = '\0';
	if (mc->resting == MACHINE_FAILED && mc->failure.message)
		text = sentence(&mc->failure);
	machine_set_last_error(mc, text);
	r = store_vm_put(mc->machines->m->store, &mc->row, on_rest, mc);
	if (r < 0)
		log_rest(mc, r, NULL);
	return r < 0 ? 0 : STEP_WAIT;
}

#define N_CREATED 5

static const struct step steps[] = {
	{ "check", run_check, NULL, NULL },
	{ "record", run_row, undo_row, NULL },
	{ "directory", run_directory, undo_directory, NULL },
	{ "disk", run_disk, undo_disk, NULL },
	{ "created", run_created, NULL, NULL },
	[N_CREATED] = { "boot", run_boot, undo_boot, NULL },
	{ "runtime directory", run_run_directory, undo_run_directory, NULL },
	{ "images", machine_open_images, machine_close_images, NULL },
	{ "vmm", run_vmm, undo_vmm, undo_vmm_again },
	{ "agent", run_agent, NULL, NULL }, /* on_going_down closes the link */
	{ "started", run_started, NULL, NULL },
};

const struct plan machine_plan = { .steps = steps, .n = ARRAY_SIZE(steps), .n_created = N_CREATED };
