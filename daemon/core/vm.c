/* SPDX-License-Identifier: MIT */
/*
 * The machines that stay until they are deleted, and those and the machines of runs as their users
 * see them: look-up by id and owner, the JSON of vm.list and vm.status. Called by rpc/.
 *
 * What must stay true: another uid's machine is not found, and a workspace's is none of these.
 */

#include "daemon/core/vm.h"

#include "daemon/core/core-internal.h"
#include "daemon/store/store.h"
#include "proto/json.h"

const struct machine_owner vm_owner = {
	.noun = "vm",
	.command = "pyro vm",
	.id_prefix = "vm-",
	.id_name = "VM_ID",
	.log_field = "PYRO_VM",
	.remains = REMAINS_DISK,
	.expires = true,
	.on_state = reaper_on_state,
	.on_pause = run_on_pause,
	.adopt_exec = run_adopt,
};

static bool is_vm(const struct machine *mc)
{
	return machine_owner(mc) == &vm_owner || machine_owner(mc) == &run_owner;
}

static bool visible(const struct machine *mc, uid_t uid)
{
	return is_vm(mc) && (uid == 0 || machine_row(mc)->owner_uid == uid);
}

int vm_find(struct machines *ms, const char *id, uid_t uid, struct machine **ret, struct error *err)
{
	struct machine *mc, *found = NULL;
	unsigned n = 0;

	for (mc = machines_next(ms, NULL); mc; mc = machines_next(ms, mc)) {
		if (!visible(mc, uid) || !startswith(machine_row(mc)->id, id))
			continue;
		found = mc;
		n++;
		if (streq(machine_row(mc)->id, id)) {
			n = 1;
			break;
		}
	}
	if (n == 1) {
		*ret = found;
		return 0;
	}
	return error_set(err, ERROR_VM_NOT_FOUND,
		n > 1 ? "it matches several machines" : "it does not exist, or it was deleted",
		"pyro vm list", "machine %s not found", id);
}

static const char *none_if_empty(const char *s)
{
	return s[0] ? s : NULL;
}

/* What users are told: a start whose commit is under way cannot be stopped yet. */
static enum machine_state state_of(const struct machine *mc)
{
	if (!mc)
		return MACHINE_PREPARING;
	return machine_goes_up(mc) && machine_state(mc) == MACHINE_STARTED ? MACHINE_STARTING
									   : machine_state(mc);
}

static int add_spec(const struct vm_row *row, const struct machine *mc, json_object *o)
{
	enum machine_state state = state_of(mc);
	int r = json_add_str(o, "environment", row->environment);

	if (r >= 0)
		r = json_add_str(o, "environment_version", row->environment_version);
	if (r >= 0)
		r = json_add_str(o, "state", machine_state_public(state));
	if (r >= 0)
		r = json_add_str(o, "stop_reason",
			state == MACHINE_STOPPED ? none_if_empty(row->stop_reason) : NULL);
	if (r >= 0)
		r = json_add_str(o, "pause_reason", mc ? machine_pause_reason(mc) : NULL);
	if (r >= 0)
		r = json_add_int(o, "vcpu_count", row->vcpu_count);
	if (r >= 0)
		r = json_add_int(o, "mem_mib", (int64_t)row->mem_mib);
	if (r >= 0)
		r = json_add_int(o, "disk_mib", (int64_t)row->disk_mib);
	if (r >= 0)
		r = json_add_int(o, "ttl_seconds", row->ttl_seconds);
	if (r >= 0)
		r = json_add_time(o, "created_at", row->created_usec);
	if (r >= 0)
		r = json_add_time(o, "expires_at", row->expires_usec);
	return r;
}

/* Adds the members of a network, which no machine has yet. */
static int add_absent(json_object *o, const char *const *names, size_t n)
{
	int r = json_add_bool(o, "network_enabled", false);

	for (size_t i = 0; r >= 0 && i < n; i++)
		r = json_add_str(o, names[i], NULL);
	return r;
}

static int add_present(const struct vm_row *row, const struct machine *mc, json_object *o)
{
	static const char *const absent[] = { "network_policy", "guest_ip", "tap_name" };
	int r = add_absent(o, absent, ARRAY_SIZE(absent));

	if (r >= 0)
		r = json_add_bool(o, "allow_host_compat", false);
	if (r >= 0)
		r = json_add_str(o, "execution_mode", mc ? machine_execution_mode(mc) : NULL);
	if (r >= 0)
		r = json_add_str(o, "accelerator", none_if_empty(row->accelerator));
	if (r >= 0)
		r = json_add_str(o, "start_mode", none_if_empty(row->start_mode));
	if (r >= 0)
		r = json_add_str(o, "last_error", row->last_error);
	if (r >= 0)
		r = json_add_int(o, "owner_uid", row->owner_uid);
	return r;
}

int vm_add_fields(const struct vm_row *row, const struct machine *mc, json_object *o)
{
	int r = add_spec(row, mc, o);

	return r < 0 ? r : add_present(row, mc, o);
}

int vm_json(struct machine *mc, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	int r = o ? json_add_str(o, "vm_id", machine_id(mc)) : -ENOMEM;

	if (r >= 0)
		r = vm_add_fields(machine_row(mc), mc, o);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);
	return 0;
}

int vm_network_json(struct machine *mc, json_object **ret)
{
	static const char *const absent[] = { "network_policy", "tap_name", "guest_ip",
		"gateway_ip", "subnet_cidr", "mac_address" };
	_cleanup_json_ json_object *o = json_object_new_object();
	int r = o ? json_add_str(o, "vm_id", machine_row(mc)->id) : -ENOMEM;

	if (r >= 0)
		r = add_absent(o, absent, ARRAY_SIZE(absent));
	if (r >= 0)
		r = json_add(o, "dns_servers", json_object_new_array());
	if (r >= 0)
		r = json_add(o, "ports", json_object_new_array());
	if (r >= 0)
		r = json_add_bool(o, "outbound_connectivity_expected", false);
	if (r >= 0)
		r = json_add_str(o, "reason", "its network is off");
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);
	return 0;
}

/* Latest activity first. Rows of an older pyro have none recorded. */
static int by_activity(const void *a, const void *b)
{
	const struct vm_row *x = machine_row(*(const struct machine *const *)a),
			    *y = machine_row(*(const struct machine *const *)b);
	uint64_t at_x = MAX_OF(x->active_usec, x->created_usec),
		 at_y = MAX_OF(y->active_usec, y->created_usec);

	return at_x != at_y ? (at_x < at_y ? 1 : -1) : strcmp(x->id, y->id);
}

static int add_machines(struct machines *ms, uid_t uid, bool all, json_object *list)
{
	_cleanup_free_ struct machine **sorted = calloc(machines_count(ms, 0) + 1, sizeof(*sorted));
	struct machine *mc;
	size_t n = 0;

	if (!sorted)
		return -ENOMEM;
	for (mc = machines_next(ms, NULL); mc; mc = machines_next(ms, mc))
		if (is_vm(mc) && (all || machine_row(mc)->owner_uid == uid))
			sorted[n++] = mc;
	qsort(sorted, n, sizeof(*sorted), by_activity);
	for (size_t i = 0; i < n; i++) {
		json_object *o = NULL;
		int r = vm_json(sorted[i], &o);

		if (r < 0)
			return r;
		if (json_object_array_add(list, o) < 0) {
			json_object_put(o);
			return -ENOMEM;
		}
	}
	return 0;
}

int vm_list_json(struct machines *ms, uid_t uid, bool all, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	_cleanup_json_ json_object *list = json_object_new_array();
	int r;

	if (!o || !list)
		return -ENOMEM;
	r = add_machines(ms, uid, all, list);
	if (r >= 0)
		r = json_add_int(o, "count", (int64_t)json_object_array_length(list));
	if (r >= 0)
		r = json_add(o, "vms", TAKE_PTR(list));
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);
	return 0;
}
