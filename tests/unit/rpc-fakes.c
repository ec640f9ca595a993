/* SPDX-License-Identifier: MIT */
/*
 * Fakes of the functions that handlers call (core, image, vmm), so that test-rpc.c links only rpc/
 * and decides when a run ends. What must stay true: each fake keeps its header's promises about
 * order and ownership.
 */

#include "rpc-fakes.h"

#include <check.h>

#include "daemon/machine/proof.h"
#include "daemon/image/confinement.h"
#include "daemon/image/environment.h"
#include "daemon/image/kernel.h"
#include "daemon/vmm/vmm.h"

struct fake fake;
struct run {
	int unused;
};
struct environment {
	int unused;
};

static struct run the_run;
static struct environment the_environment;
static struct pull_wait *const the_wait = (struct pull_wait *)(void *)&the_environment;

int run_start(_unused_ struct manager *m, const struct run_params *p,
	const struct run_callbacks *cb, void *userdata, struct run **ret, struct error *err)
{
	if (streq(p->command, "fail"))
		return error_set(err, ERROR_START_FAILED, "because", "do that", "it cannot start");
	if (streq(p->command, "internal"))
		return error_internal(err, "secret cause", "secret text");
	if (streq(p->command, "internal with a fix"))
		return error_set(err, ERROR_INTERNAL, "secret cause", "mend it so", "what failed");
	fake.cb = *cb;
	fake.userdata = userdata;
	fake.stdio_fd = p->stdio_fd;
	fake.ttl = p->machine.ttl_seconds;
	fake.uid = p->machine.owner_uid;
	(void)snprintf(fake.env, sizeof(fake.env), "%s", p->env[0] ? p->env[0] : "");
	fake.runs++;
	*ret = &the_run;
	return 0;
}

int run_stopped_json(_unused_ struct machine *mc, _unused_ const char *reason, json_object **ret)
{
	*ret = NULL;
	return 0;
}

void run_cancel(struct run *r)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	if (fake.cancel_late)
		return;
	(void)error_cancelled(&err, "it is gone", "cancelled");
	fake.cb.on_done(r, NULL, &err, fake.userdata);
}

void run_abandon(_unused_ struct run *r)
{
	fake.abandoned++;
}

struct run *run_free(_unused_ struct run *r)
{
	fake.freed++;
	return NULL;
}

int runs_find(_unused_ struct manager *m, const char *exec_id, uid_t uid, struct run **ret,
	struct error *err)
{
	fake.found_as = uid;
	if (!streq(exec_id, "ex-000000000000"))
		return error_set(err, ERROR_EXEC_NOT_FOUND, NULL, "mend it", "%s", exec_id);
	*ret = &the_run;
	return 0;
}

int run_signal(struct run *r, int signo, json_object **ret, _unused_ struct error *err)
{
	ck_assert_ptr_eq(r, &the_run);
	fake.signo = signo;
	*ret = json_tokener_parse("{\"exec_id\":\"ex-000000000000\",\"signal\":\"INT\"}");
	return 0;
}

int machines_check_size(_unused_ struct machines *ms, _unused_ uid_t uid, _unused_ int64_t vcpus,
	int64_t mem_mib, struct error *err)
{
	return mem_mib < 16000000 ? 0
				  : error_set(err, ERROR_INVALID_ARGUMENT, NULL, "ask for less",
					    "too much memory");
}

int vm_find(_unused_ struct machines *ms, const char *id, uid_t uid, struct machine **ret,
	struct error *err)
{
	fake.found_as = uid;
	if (fake.machine_id[0] && startswith(fake.machine_id, id)) {
		*ret = (struct machine *)(void *)&the_run;
		return 0;
	}
	return error_set(err, ERROR_VM_NOT_FOUND, NULL, "pyro vm list", "no machine %s", id);
}

int vm_list_json(
	_unused_ struct machines *ms, _unused_ uid_t uid, _unused_ bool all, json_object **ret)
{
	*ret = json_tokener_parse("{\"count\":0,\"vms\":[]}");
	return 0;
}

int vm_json(_unused_ struct machine *mc, json_object **ret)
{
	*ret = json_object_new_object();
	return json_add_str(*ret, "vm_id", fake.machine_id);
}

const char *machine_id(_unused_ const struct machine *mc)
{
	return fake.machine_id;
}

int machine_boot(_unused_ struct machine *mc, machine_done_fn done, void *userdata,
	_unused_ struct error *err)
{
	fake.state_done = done;
	fake.state_userdata = userdata;
	return 0;
}

int machine_stop(_unused_ struct machine *mc, _unused_ const char *reason, machine_done_fn done,
	void *userdata, _unused_ struct error *err)
{
	fake.state_done = done;
	fake.state_userdata = userdata;
	return 0;
}

int creation_start(_unused_ struct manager *m, const struct machine_spec *spec,
	const struct creation_callbacks *cb, void *userdata, struct creation **ret,
	_unused_ struct error *err)
{
	fake.creation = *cb;
	fake.creation_userdata = userdata;
	fake.ttl = spec->ttl_seconds;
	fake.creations++;
	*ret = (struct creation *)&fake;
	return 0;
}

void creation_cancel(_unused_ struct creation *c)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_cancelled(&err, "it is gone", "cancelled");
	fake.creation.on_done(NULL, &err, fake.creation_userdata);
}

int vm_reap_expired(
	_unused_ struct manager *m, _unused_ uid_t uid, reap_done_fn done, void *userdata)
{
	fake.reap_done = done;
	fake.reap_userdata = userdata;
	return 0;
}

int environments_find(_unused_ struct environments *envs, const char *name,
	struct environment **ret, struct error *err)
{
	if (!streq(name, "debian:12"))
		return error_set(err, ERROR_ENVIRONMENT_UNKNOWN, NULL, "known: debian:12",
			"unknown environment %s", name);
	*ret = &the_environment;
	return 0;
}

int environments_list_json(_unused_ struct environments *envs, json_object **ret)
{
	json_object *list = NULL, *env = NULL;
	*ret = json_tokener_parse("{\"catalog_version\":\"1\",\"environments\":[]}");
	if (fake.installed && json_object_object_get_ex(*ret, "environments", &list) &&
		environment_json(NULL, &env) >= 0)
		(void)json_object_array_add(list, env);
	return 0;
}

int environment_json(_unused_ struct environment *env, json_object **ret)
{
	*ret = json_tokener_parse(
		"{\"name\":\"debian:12\",\"version\":\"1\",\"description\":\"d\","
		"\"installed\":true,\"digest\":null,\"size_bytes\":1,\"source\":null,"
		"\"packages\":[],\"path\":null,\"kernel\":null,\"pulled_at\":null,"
		"\"damage\":null}");
	return 0;
}

const char *environment_name(_unused_ const struct environment *env)
{
	return "debian:12";
}

bool confinement_is_known(_unused_ struct environments *envs)
{
	return true;
}

int confinement_wait(_unused_ struct environments *envs, _unused_ confinement_done_fn done,
	_unused_ void *userdata)
{
	return 0;
}

void confinement_forget(_unused_ struct environments *envs, _unused_ const void *userdata)
{
}

bool confinement_describe(
	_unused_ struct environments *envs, char **ret_detail, const char **ret_fix)
{
	*ret_detail = strdup("whole");
	*ret_fix = NULL;
	return true;
}

const char *environment_damage(_unused_ const struct environment *env)
{
	return NULL;
}

const struct error *environment_failure(_unused_ const struct environment *env)
{
	return NULL;
}

bool environment_installed(_unused_ const struct environment *env)
{
	return fake.installed;
}

bool environment_is_damaged(_unused_ const struct environment *env)
{
	return false;
}

bool environment_outdated(_unused_ const struct environment *env)
{
	return false;
}

const char *environment_digest(_unused_ const struct environment *env)
{
	return "sha256:00";
}

struct environment *environments_at(_unused_ struct environments *envs, size_t n)
{
	return n == 0 ? &the_environment : NULL;
}

int environments_check_image(_unused_ struct environments *envs, _unused_ const char *digest,
	_unused_ bool again, integrity_done_fn done, void *userdata, _unused_ struct error *err)
{
	fake.read_done = done;
	fake.read_userdata = userdata;
	fake.reads++;
	return 0;
}

void integrity_forget(_unused_ struct integrity *in, const void *userdata)
{
	if (fake.read_userdata == userdata)
		fake.read_done = NULL;
}

void proof_find(_unused_ struct manager *m, _unused_ const char *digest,
	_unused_ enum accelerator a, struct proof *ret)
{
	*ret = (struct proof){ 0 };
}

void machines_user_limits(_unused_ const struct manager *m, struct user_limits *ret)
{
	*ret = (struct user_limits){
		.vcpus = 4, .mem_mib = 1024, .disk_mib = 10240, .total_mem_mib = 2048
	};
}

int machines_check_space(_unused_ struct manager *m, _unused_ struct error *err)
{
	return 0;
}

int environment_pull(_unused_ struct environment *env, _unused_ enum pull_why why,
	pull_progress_fn on_progress, pull_done_fn on_done, void *userdata, struct pull_wait **ret,
	_unused_ struct error *err)
{
	fake.pull_progress = on_progress;
	fake.pull_done = on_done;
	fake.pull_userdata = userdata;
	*ret = the_wait;
	return 0;
}

struct pull_wait *pull_wait_free(struct pull_wait *w)
{
	fake.waits_freed += w != NULL;
	return NULL;
}

int environments_prune(_unused_ struct environments *envs, _unused_ bool all, _unused_ bool dry_run,
	_unused_ prune_done_fn done, _unused_ void *userdata, _unused_ struct error *err)
{
	return -ENOSPC;
}

static int fake_probe(_unused_ struct manager *m, _unused_ bool again, struct vmm_probe *ret)
{
	*ret = (struct vmm_probe){ .usable = fake.vmm_usable };
	return 0;
}

static const struct vmm_driver fake_driver = { .name = "qemu", .probe = fake_probe };
const struct vmm_driver *const vmm_drivers[] = { &fake_driver, NULL };

void vmm_probe_done(_unused_ struct vmm_probe *p)
{
}

int vmm_resolve_accelerator(_unused_ enum accelerator want, enum accelerator *ret,
	_unused_ const char **ret_reason, struct error *err)
{
	*ret = ACCELERATOR_EMULATION;
	if (fake.vmm_usable)
		return 0;
	return error_set(err, ERROR_VM_UNAVAILABLE, NULL, "mend it", "none");
}
