/* SPDX-License-Identifier: MIT */
/*
 * A machine's way up and down: named steps, each with its undo, run by one engine. Called by run.c
 * (up) and machine_delete, recover.c and failures (down).
 *
 * What must stay true: the row is committed before anything else exists and goes last; going down
 * undoes the steps begun in reverse order, whichever of them was half done, and a step that cannot be
 * undone leaves the machine `unknown` with everything below it still in place; the engine runs only in
 * a turn of the loop of its own, so that no callback sees its object freed under it.
 */

#include "daemon/core/machine-internal.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/log.h"
#include "proto/api.h"
#include "proto/host.h"

enum {
	STEP_WAIT = 1,        /* machine_continue comes */
	DISK_MARGIN_MIB = 64, /* of free space, beyond disk_reserve_mib, for a new sparse disk */
	REMOVALS = 2,         /* the state and the run directory */
};

struct step {
	const char *name;
	int (*run)(struct machine *mc, struct error *err);
	int (*undo)(struct machine *mc); /* NULL: nothing to undo */
};

/* Limits */

struct usage {
	int64_t machines, vcpus, mem_mib, disk_mib;
};

static struct usage usage_of(struct machines *ms, uid_t uid)
{
	struct usage u = { 0 };
	struct machine *mc;

	LIST_FOREACH (mc, &ms->list, entry) {
		if (mc->row.owner_uid != uid)
			continue;
		u.machines++;
		u.vcpus += mc->row.vcpu_count;
		u.mem_mib += (int64_t)mc->row.mem_mib;
		u.disk_mib += (int64_t)mc->row.disk_mib;
	}
	return u;
}

static int check_quota(const char *what, int64_t used, int64_t max, struct error *err)
{
	_cleanup_free_ char *cause = NULL;

	if (max == 0 || used <= max)
		return 0;
	cause = str_printf(
		"with this machine you would use %lld of %lld", (long long)used, (long long)max);
	return error_set(err, ERROR_QUOTA_EXCEEDED, cause,
		"wait for your other machines to end (pyro vm list), or raise the limit in pyrod.conf",
		"your limit on %s is reached", what);
}

/* The machine is in the list already, so its own share is counted. */
static int check_quotas(struct machine *mc, struct error *err)
{
	const struct config *c = mc->machines->m->config;
	struct usage u = usage_of(mc->machines, mc->row.owner_uid);
	int64_t max_vcpus = c->max_vcpus ? c->max_vcpus : 4 * (int64_t)host_cpu_count();
	int64_t max_mem = c->max_memory_mib ? c->max_memory_mib : (int64_t)host_memory_mib() / 2;
	int r = check_quota("machines", u.machines, c->max_machines, err);

	if (r >= 0)
		r = check_quota("vCPUs", u.vcpus, max_vcpus, err);
	if (r >= 0)
		r = check_quota("memory in MiB", u.mem_mib, max_mem, err);
	if (r >= 0)
		r = check_quota("disk in MiB", u.disk_mib, c->max_disk_mib, err);
	return r;
}

static int check_host(struct machine *mc, struct error *err)
{
	struct manager *m = mc->machines->m;
	uint64_t available = host_memory_available_mib();
	uint64_t reserve = (uint64_t)m->config->disk_reserve_mib + DISK_MARGIN_MIB;
	_cleanup_free_ char *fix = NULL;
	uint64_t free_bytes;
	int r;

	if (mc->row.vcpu_count > host_cpu_count())
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "ask for fewer with --cpus",
			"this host has %u CPUs, %u were asked for", host_cpu_count(),
			mc->row.vcpu_count);
	if (mc->row.mem_mib > host_memory_mib())
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "ask for less with --memory",
			"this host has %llu MiB of memory, %llu were asked for",
			(unsigned long long)host_memory_mib(), (unsigned long long)mc->row.mem_mib);
	if (mc->row.mem_mib + (uint64_t)m->config->memory_reserve_mib > available)
		return error_set(err, ERROR_NO_MEMORY, "the rest is in use or kept in reserve",
			"end other programs or machines, or ask for less with --memory",
			"the host has %llu MiB of memory left, %llu were asked for",
			(unsigned long long)available, (unsigned long long)mc->row.mem_mib);
	r = host_free_bytes(m->state_dir, &free_bytes);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, "check pyrod's state directory",
			"cannot tell the free space of %s", m->state_dir);
	if (free_bytes / MIB < reserve) {
		fix = str_printf("free at least %llu MiB there",
			(unsigned long long)(reserve - free_bytes / MIB));
		return error_set(err, ERROR_NO_SPACE, "a machine needs room for its disk", fix,
			"only %llu MiB of space are free in %s",
			(unsigned long long)(free_bytes / MIB), m->state_dir);
	}
	return 0;
}

static int pin_images(struct machine *mc, struct error *err)
{
	struct manager *m = mc->machines->m;
	struct environment *env;
	_cleanup_free_ char *fix = NULL;
	const char *digest, *kernel = kernels_current(m->kernels);
	int r = environments_find(m->environments, mc->row.environment, &env, err);

	if (r < 0)
		return r;
	digest = environment_digest(env);
	if (!digest || !kernel) {
		fix = str_printf("pyro env pull %s", mc->row.environment);
		return error_set(err, ERROR_PULL_FAILED,
			digest ? "the kernel store is empty" : "it is not installed", fix,
			"environment %s cannot be started", mc->row.environment);
	}
	mc->row.env_digest = strdup(digest);
	mc->row.kernel_hash = strdup(kernel);
	if (!mc->row.env_digest || !mc->row.kernel_hash)
		return error_set_errno(
			err, ERROR_NO_MEMORY, -ENOMEM, NULL, "cannot create the machine");
	return 0;
}

static int run_check(struct machine *mc, struct error *err)
{
	int r = check_quotas(mc, err);

	if (r >= 0)
		r = check_host(mc, err);
	if (r >= 0)
		r = pin_images(mc, err);
	if (r >= 0)
		r = vmm_resolve_accelerator(
			mc->accelerator, &mc->accelerator, &mc->accelerator_reason, err);
	if (r >= 0)
		(void)snprintf(mc->row.accelerator, sizeof(mc->row.accelerator), "%s",
			accelerator_name(mc->accelerator));
	return r;
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

static int run_row(struct machine *mc, struct error *err)
{
	int r;

	machine_set_state(mc, MACHINE_STARTING);
	r = store_vm_put(mc->machines->m->store, &mc->row, on_row, mc);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "cannot keep the machine");
	return STEP_WAIT;
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
		return error_set_errno(
			err, ERROR_NO_MEMORY, -ENOMEM, NULL, "cannot create %s", path);
	*strrchr(parent, '/') = '\0';
	if ((mkdir(parent, 0700) < 0 && errno != EEXIST) || mkdir(path, 0700) < 0) {
		int r = -errno;

		return error_set_errno(err, error_code_for_errno(r), r,
			"check that pyrod may write there", "cannot create the directory %s", path);
	}
	return 0;
}

static int run_directories(struct machine *mc, struct error *err)
{
	int r = make_dir(mc->state_dir, err);

	return r < 0 ? r : make_dir(mc->run_dir, err);
}

static int remove_next(struct machine *mc);

static void on_removed(const struct error *err, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error why = ERROR_INIT;
	int r = 0;

	mc->remove_op = disk_op_free(mc->remove_op);
	if (!err) {
		mc->removed++;
		r = remove_next(mc);
	} else {
		(void)error_copy(&why, err);
	}
	if (r < 0)
		error_set_errno(&why, ERROR_INTERNAL, r, "look at pyrod's journal",
			"cannot remove the files of %s", mc->row.id);
	if (r != STEP_WAIT || why.set)
		machine_continue(mc, why.set ? &why : NULL);
}

/* One directory after the other; what is absent is done. */
static int remove_next(struct machine *mc)
{
	for (; mc->removed < REMOVALS; mc->removed++) {
		const char *path = mc->removed == 0 ? mc->state_dir : mc->run_dir;
		int r;

		if (access(path, F_OK) < 0 && errno == ENOENT)
			continue;
		r = disk_remove(mc->machines->m, path, on_removed, mc, &mc->remove_op, NULL);
		return r < 0 ? r : STEP_WAIT;
	}
	return 0;
}

static int undo_directories(struct machine *mc)
{
	mc->removed = 0;
	return remove_next(mc);
}

/* Images and disk */

static int run_images(struct machine *mc, struct error *err)
{
	struct manager *m = mc->machines->m;
	int r = environments_open_image(m->environments, mc->row.env_digest, &mc->image_fd, err);

	return r < 0 ? r : kernels_open(m->kernels, mc->row.kernel_hash, &mc->kernel, err);
}

static void close_images(struct machine *mc)
{
	mc->image_fd = fd_close(mc->image_fd);
	mc->own_fd = fd_close(mc->own_fd);
	kernel_files_done(&mc->kernel);
	mc->kernel = (struct kernel_files)KERNEL_FILES_INIT;
}

static int undo_images(struct machine *mc)
{
	close_images(mc);
	return 0;
}

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

/* VMM */

static char *exit_cause(struct machine *mc, const struct vmm_exit *e)
{
	_cleanup_free_ char *tail = NULL;

	if (mc->bye)
		return strdup(mc->bye);
	(void)vmm_console_tail(mc->vmm, 2048, &tail);
	return str_printf("%s%s%s",
		e->reason ? e->reason
			  : (e->guest_ended ? "the guest ended itself" : "the VMM ended"),
		tail && tail[0] ? "; its console ended: " : "", tail ? tail : "");
}

static void on_vmm_started(_unused_ struct vmm *v, void *userdata)
{
	struct machine *mc = userdata;

	mc->vmm_up = true;
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
	_cleanup_free_ char *cause = NULL;

	mc->vmm_gone = true;
	if (mc->engine == ENGINE_TURN || mc->engine == ENGINE_DOWN) {
		machine_continue(mc, NULL);
		return;
	}
	cause = exit_cause(mc, e);
	if (mc->engine == ENGINE_UP) {
		error_set(&err, ERROR_START_FAILED, cause, "pyro doctor",
			"machine %s ended while it was starting", mc->row.id);
		machine_continue(mc, &err);
	} else {
		error_set(&err, ERROR_GUEST_DIED, cause, "run the command again",
			"machine %s ended under its command", mc->row.id);
		machine_fail(mc, MACHINE_FAILED, &err);
	}
}

static const struct vmm_callbacks vmm_events = {
	.on_started = on_vmm_started,
	.on_failed = on_vmm_failed,
	.on_exited = on_vmm_exited,
};

static void add_disk(struct vmm_spec *spec, const char *serial, int fd, bool read_only)
{
	if (fd >= 0)
		spec->disks[spec->n_disks++] =
			(struct vmm_disk){ .serial = serial, .fd = fd, .read_only = read_only };
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

static int launch(struct machine *mc, struct error *err)
{
	struct vmm_spec spec = {
		.id = mc->row.id,
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
	return vmm_start(mc->machines->m, &spec, &vmm_events, mc, &mc->vmm, err);
}

/* Goes on when the process is in the row and its vCPUs run, in either order. */
static int run_vmm(struct machine *mc, struct error *err)
{
	int r;

	mc->own_fd = open(mc->disk_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (mc->own_fd < 0)
		return error_set_errno(err, ERROR_START_FAILED, -errno, "run it again",
			"cannot open the machine's disk %s", mc->disk_path);
	mc->cb.on_launch(mc, mc->userdata);
	r = launch(mc, err);
	if (r < 0)
		return r;
	mc->row.vmm_pid = vmm_pid(mc->vmm);
	mc->row.vmm_start_time = vmm_start_time(mc->vmm);
	r = store_vm_put(mc->machines->m->store, &mc->row, on_pid_kept, mc);
	if (r < 0)
		return error_set_errno(
			err, ERROR_INTERNAL, r, NULL, "cannot keep the machine's process");
	return STEP_WAIT;
}

static int undo_vmm(struct machine *mc)
{
	if (!mc->vmm)
		return mc->this_life ? 0 : machine_recover_kill(mc);
	if (mc->vmm_gone) {
		mc->vmm = vmm_free(mc->vmm);
		return 0;
	}
	vmm_stop(mc->vmm);
	return STEP_WAIT;
}

/* Agent */

static int run_agent(struct machine *mc, struct error *err)
{
	int r;

	close_images(mc); /* the VMM has them */
	r = machine_link_open(mc);
	if (r < 0)
		return error_set_errno(err, ERROR_START_FAILED, r, NULL, "cannot reach the guest");
	return STEP_WAIT;
}

static int undo_agent(struct machine *mc)
{
	mc->setup_timer = sd_event_source_disable_unref(mc->setup_timer);
	mc->link = link_free(mc->link);
	return 0;
}

static int run_started(struct machine *mc, _unused_ struct error *err)
{
	machine_set_state(mc, MACHINE_STARTED);
	machine_save(mc);
	return 0;
}

static const struct step steps[] = {
	{ "check", run_check, NULL },
	{ "row", run_row, undo_row },
	{ "directories", run_directories, undo_directories },
	{ "images", run_images, undo_images },
	{ "disk", run_disk, undo_disk },
	{ "vmm", run_vmm, undo_vmm },
	{ "agent", run_agent, undo_agent },
	{ "started", run_started, NULL },
};

size_t machine_steps(void)
{
	return ARRAY_SIZE(steps);
}

/* Engine */

static void kick(struct machine *mc)
{
	(void)sd_event_source_set_enabled(mc->work, SD_EVENT_ONESHOT);
}

void machine_undo(struct machine *mc, const struct error *why)
{
	if (mc->engine == ENGINE_TURN || mc->engine == ENGINE_DOWN)
		return;
	(void)error_copy(&mc->failure, why);
	mc->engine = ENGINE_TURN;
	kick(mc);
}

void machine_continue(struct machine *mc, const struct error *err)
{
	if (mc->engine == ENGINE_UP && err) {
		machine_undo(mc, err);
		return;
	}
	if (!mc->waiting || mc->engine == ENGINE_TURN)
		return;
	if (err)
		(void)error_copy(&mc->stuck, err);
	mc->waiting = false;
	kick(mc);
}

static void tell_waiters(struct machine *mc, const struct error *err)
{
	struct machine_waiter *w;

	while ((w = TAILQ_FIRST(&mc->waiters))) {
		TAILQ_REMOVE(&mc->waiters, w, entry);
		w->done(err, w->userdata);
		free(w);
	}
}

static void tell_started(struct machine *mc, const struct error *err)
{
	struct machine_callbacks cb = mc->cb;

	mc->cb.on_started = NULL;
	if (cb.on_started)
		cb.on_started(mc, err, mc->userdata);
}

/* Nothing is left of it. */
static void gone(struct machine *mc)
{
	_cleanup_(machine_freep) struct machine *last = mc;
	struct machines *ms = mc->machines;

	LIST_REMOVE(mc, entry);
	mc->entry.le_prev = NULL;
	tell_started(last, &last->failure);
	tell_waiters(last, NULL);
	reaper_update(ms);
}

/* Something of it cannot be removed: it is kept, and a later deletion begins here again. */
static void get_stuck(struct machine *mc, int r)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *fix = str_printf("pyro vm delete %s", mc->row.id);
	const char *why = mc->stuck.message ? mc->stuck.message : strerror(-r);

	error_set(&err, ERROR_INTERNAL, why, fix, "machine %s cannot be removed", mc->row.id);
	log_error(
		"%s: step \"%s\" cannot be undone: %s", mc->row.id, steps[mc->step - 1].name, why);
	free(mc->row.last_error);
	mc->row.last_error = strdup(why);
	mc->engine = ENGINE_IDLE;
	machine_set_state(mc, MACHINE_UNKNOWN);
	machine_save(mc);
	error_clear(&mc->failure);
	error_clear(&mc->stuck);
	tell_started(mc, &err);
	tell_waiters(mc, &err);
}

static void go_down(struct machine *mc)
{
	while (mc->step > 0) {
		int (*undo)(struct machine *) = steps[mc->step - 1].undo;
		int r = undo ? undo(mc) : 0;

		if (r < 0) {
			get_stuck(mc, r);
			return;
		}
		if (r == STEP_WAIT) {
			mc->waiting = true;
			return;
		}
		mc->step--;
	}
	gone(mc);
}

static void turn_down(struct machine *mc)
{
	mc->engine = ENGINE_DOWN;
	mc->waiting = false;
	machine_set_state(mc, MACHINE_DELETING);
	if (!mc->row.one_shot && mc->step > 1)
		machine_save(
			mc); /* a one-shot is removed by the next daemon whatever its row says */
	while (!LIST_EMPTY(&mc->execs)) {
		struct exec *x = LIST_FIRST(&mc->execs);

		exec_list_remove(x);
		exec_fail(x, &mc->failure);
	}
	go_down(mc);
}

/* A step on the way down has ended by its event. */
static void go_on_down(struct machine *mc)
{
	if (mc->stuck.set) {
		get_stuck(mc, -EIO);
		return;
	}
	/* Undoing the VMM is called twice: to stop it, and to free it when it has ended. */
	if (steps[mc->step - 1].undo != undo_vmm || !mc->vmm)
		mc->step--;
	go_down(mc);
}

static void go_up(struct machine *mc)
{
	while (mc->step < ARRAY_SIZE(steps)) {
		int r = steps[mc->step++].run(mc, &mc->failure);

		if (r < 0) {
			error_set_errno(&mc->failure, ERROR_START_FAILED, r, NULL,
				"step \"%s\" of the machine's start failed",
				steps[mc->step - 1].name);
			turn_down(mc);
			return;
		}
		if (r == STEP_WAIT) {
			mc->waiting = true;
			return;
		}
	}
	mc->engine = ENGINE_IDLE;
	tell_started(mc, NULL);
	reaper_update(mc->machines);
}

static int on_work(_unused_ sd_event_source *source, void *userdata)
{
	struct machine *mc = userdata;

	if (mc->engine == ENGINE_TURN)
		turn_down(mc);
	else if (mc->engine == ENGINE_UP && !mc->waiting)
		go_up(mc);
	else if (mc->engine == ENGINE_DOWN && !mc->waiting)
		go_on_down(mc);
	return 0;
}

int machine_add_engine(struct machine *mc)
{
	int r = sd_event_add_defer(mc->machines->m->event, &mc->work, on_work, mc);

	return r < 0 ? r : sd_event_source_set_enabled(mc->work, SD_EVENT_OFF);
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
		.one_shot = spec->one_shot,
	};

	if (spec->ttl_seconds > 0)
		row.expires_usec = row.created_usec + (uint64_t)spec->ttl_seconds * USEC_PER_SEC;
	api_new_id("vm-", row.id);
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

int machine_start(struct machines *ms, const struct machine_spec *spec,
	const struct machine_callbacks *cb, void *userdata, struct machine **ret, struct error *err)
{
	_cleanup_(machine_freep) struct machine *mc = NULL;
	_cleanup_(vm_row_done) struct vm_row row = { 0 };
	int r = make_row(ms, spec, &row);

	if (r >= 0)
		r = machine_new(ms, &row, &mc);
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "cannot create a machine");
	mc->this_life = true;
	mc->accelerator = spec->accelerator;
	if (mc->accelerator == ACCELERATOR_AUTO)
		mc->accelerator = ms->m->config->accelerator;
	mc->cb = *cb;
	mc->userdata = userdata;
	mc->engine = ENGINE_UP;
	kick(mc);
	*ret = TAKE_PTR(mc);
	return 0;
}
