/* SPDX-License-Identifier: MIT */
/*
 * A machine's environment image and kernel: pinned when it is made, opened for each boot, and
 * checked again after a failed one. Called by plan.c's steps and by request.c.
 *
 * What must stay true: what is known to be damaged is not booted; what was written to after its
 * installation is checked before it is booted; after a boot that failed with its VMM launched both
 * are checked before anybody is notified, so that damage is reported as the cause.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/log.h"

#define CONSOLE_LOOKED_AT 8192 /* bytes, from its end */

int machine_pin_images(struct machine *mc, struct error *err)
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
	if (environment_version(env))
		mc->row.environment_version = strdup(environment_version(env));
	if (!mc->row.env_digest || !mc->row.kernel_hash ||
		(environment_version(env) && !mc->row.environment_version))
		return error_no_memory(err, "cannot create the machine");
	return 0;
}

/* A pull cannot make a machine's image again, since packages have changed; it restores the
 * kernel while that is the current one. NULL when out of memory. */
static char *make_fix(struct machine *mc, bool image)
{
	struct manager *m = mc->machines->m;
	const char *name = mc->row.environment, *current = kernels_current(m->kernels);
	struct environment *env = NULL;
	bool installed = environments_find(m->environments, name, &env, NULL) >= 0 &&
			 environment_installed(env);

	if (mc->owner->remains == REMAINS_NOTHING ||
		(!image && current && streq(current, mc->row.kernel_hash)))
		return str_printf("pyro env pull %s", name);
	return str_printf("%s%s%s%s delete %s && %s create %s", installed ? "" : "pyro env pull ",
		installed ? "" : name, installed ? "" : " && ", mc->owner->command, mc->row.id,
		mc->owner->command, name);
}

/* Fails if the image or kernel is known to be damaged. */
static int check_known(struct machine *mc, struct error *err)
{
	struct manager *m = mc->machines->m;
	const char *image = environments_image_damage(m->environments, mc->row.env_digest);
	const char *kernel = image ? NULL : kernels_damage(m->kernels, mc->row.kernel_hash);
	_cleanup_free_ char *fix = NULL;

	if (!image && !kernel)
		return 0;
	fix = make_fix(mc, image);
	/* The message names no machine that is deleted with its failed start. */
	if (mc->owner->remains == REMAINS_NOTHING && image)
		return error_set(err, ERROR_START_FAILED, image, fix, "environment %s is damaged",
			mc->row.environment);
	if (mc->owner->remains == REMAINS_NOTHING)
		return error_set(err, ERROR_START_FAILED, kernel, fix, "the kernel is damaged");
	return error_set(err, ERROR_START_FAILED, image ? image : kernel, fix,
		"the %s of machine %s is damaged", image ? "environment" : "kernel", mc->row.id);
}

static int open_images(struct machine *mc, struct error *err)
{
	struct manager *m = mc->machines->m;
	int r = environments_open_image(
		m->environments, mc->row.env_digest, &mc->boot->image_fd, err);

	if (r >= 0)
		r = kernels_open(m->kernels, mc->row.kernel_hash, &mc->boot->kernel, err);
	if (r >= 0)
		machine_make_key(mc);
	return r;
}

static void on_packed(const struct error *err, void *userdata)
{
	_cleanup_error_ struct error mine = ERROR_INIT;
	struct machine *mc = userdata;

	mc->boot->kernel_awaited = false;
	if (!err && open_images(mc, &mine) < 0)
		err = &mine;
	machine_continue(mc, err);
}

/* A machine made before an upgrade boots with the current agent, which its kernel may not be
 * packed with yet. */
static int pack(struct machine *mc, struct error *err)
{
	int r = check_known(mc, err);

	if (r >= 0)
		r = kernels_pack(mc->machines->m->kernels, mc->row.kernel_hash, on_packed, mc, err);
	if (r != 0)
		return r < 0 ? r : open_images(mc, err);
	mc->boot->kernel_awaited = true;
	return STEP_WAIT;
}

/* Replaces the reason of the failure by the damage that the checks have found, if any. */
static void explain_failure(struct machine *mc)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	_cleanup_free_ char *fix = NULL;
	const char *initrd = kernels_initrd_damage(mc->machines->m->kernels, mc->row.kernel_hash);

	if (check_known(mc, &why) >= 0 && initrd) {
		fix = mc->owner->again
			      ? str_printf("%s: the next start makes a new one", mc->owner->again)
			      : machine_fix(mc, "start");
		error_set(&why, ERROR_START_FAILED, initrd, fix,
			"the initramfs of machine %s was damaged", mc->row.id);
	}
	if (!why.set)
		return;
	error_clear(&mc->failure);
	error_move(&mc->failure, &why);
}

/* Both are checked, before a boot or after a failed one. */
static void on_all_read(struct machine *mc, const struct error *err)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	int r;

	if (mc->steps.phase == STEPS_DOWN) {
		explain_failure(mc);
		machine_continue(mc, NULL);
	}
	if (!machine_goes_up(mc))
		return;
	if (err) {
		machine_continue(mc, err);
		return;
	}
	r = pack(mc, &why);
	if (r != STEP_WAIT)
		machine_continue(mc, r < 0 ? &why : NULL);
}

static void on_read(const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	if (err)
		log_uid(LOG_WARNING, 0, mc->row.owner_uid,
			"%s: cannot check its environment and kernel: %s%s%s", mc->row.id,
			err->message ? err->message : "out of memory", err->cause ? ": " : "",
			err->cause ? err->cause : "");
	if (err && machine_goes_up(mc)) {
		integrity_forget(mc->machines->m->integrity, mc);
		mc->boot->checks = 0;
	} else if (--mc->boot->checks > 0) {
		return;
	}
	on_all_read(mc, err);
}

/* again: as for integrity_check(). */
static int read_both(struct machine *mc, bool again, struct error *err)
{
	struct manager *m = mc->machines->m;
	int r = environments_check_image(
		m->environments, mc->row.env_digest, again, on_read, mc, err);

	if (r >= 0) {
		mc->boot->checks++;
		r = kernels_check(m->kernels, mc->row.kernel_hash, again, on_read, mc, err);
	}
	if (r >= 0) {
		mc->boot->checks++;
		return STEP_WAIT;
	}
	machine_forget_images(mc);
	return r;
}

int machine_open_images(struct machine *mc, struct error *err)
{
	struct manager *m = mc->machines->m;

	if (environments_image_is_suspect(m->environments, mc->row.env_digest) ||
		kernels_is_suspect(m->kernels, mc->row.kernel_hash))
		return read_both(mc, true, err);
	return pack(mc, err);
}

int machine_close_images(struct machine *mc)
{
	machine_forget_images(mc);
	if (!mc->boot || !mc->boot->failed)
		return 0;
	mc->boot->failed = false;
	/* Not if checked a short while ago: users can make boots fail at will. */
	return read_both(mc, false, NULL) == STEP_WAIT ? STEP_WAIT : 0;
}

void machine_skip_reading(struct machine *mc)
{
	if (!mc->boot || mc->boot->checks == 0 || mc->steps.phase != STEPS_DOWN)
		return;
	machine_forget_images(mc);
	machine_continue(mc, NULL);
}

static void on_checked(_unused_ const struct error *err, _unused_ void *userdata)
{
	/* integrity.c logs and records what it finds. */
}

void machine_check_console(struct machine *mc)
{
	struct manager *m = mc->machines->m;
	_cleanup_free_ char *tail = NULL;

	if ((mc->boot && mc->boot->failed) || !mc->row.env_digest ||
		vmm_console_tail(mc->process.vmm, CONSOLE_LOOKED_AT, &tail) < 0 ||
		!strstr(tail, "EXT4-fs error"))
		return;
	/* Not if checked a short while ago: a guest can print this at will. */
	(void)environments_check_image(
		m->environments, mc->row.env_digest, false, on_checked, NULL, NULL);
}
