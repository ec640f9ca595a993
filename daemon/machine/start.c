/* SPDX-License-Identifier: MIT */
/*
 * Makes a new machine, from the request to its first step. Called by core/.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/log.h"
#include "proto/api.h"

static int make_row(struct machines *ms, const struct machine_spec *spec, struct vm_row *ret)
{
	struct vm_row row = {
		.owner_uid = spec->owner_uid,
		.vcpu_count = spec->vcpu_count,
		.mem_mib = spec->mem_mib,
		.disk_mib = spec->disk_mib,
		.ttl_seconds = spec->ttl_seconds,
		.created_usec = wall_usec(),
	};

	row.active_usec = row.created_usec;
	if (spec->ttl_seconds > 0 && spec->owner->expires)
		row.expires_usec = row.created_usec + (uint64_t)spec->ttl_seconds * USEC_PER_SEC;
	if (spec->id)
		(void)snprintf(row.id, sizeof(row.id), "%s", spec->id);
	else
		api_new_id(spec->owner->id_prefix, row.id);
	(void)snprintf(row.noun, sizeof(row.noun), "%s", spec->owner->noun);
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
		r = machine_new(ms, spec->owner, &row, &mc);
	if (r >= 0)
		r = machine_add_engine(mc);
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "cannot create a machine");
	mc->is_new = true;
	mc->accelerator.wanted = spec->accelerator;
	if (mc->accelerator.wanted == ACCELERATOR_AUTO)
		mc->accelerator.wanted = ms->m->config->accelerator;
	mc->starter.cb = *cb;
	mc->starter.userdata = userdata;
	machine_want(mc, spec->whole ? LEVEL_UP : LEVEL_STOPPED);
	log_uid(LOG_INFO, 0, mc->row.owner_uid, "%s: created for uid %u from %s", mc->row.id,
		mc->row.owner_uid, mc->row.environment);
	*ret = TAKE_PTR(mc);
	return 0;
}
