/* SPDX-License-Identifier: MIT */
/*
 * All machines of this daemon: loaded at start, with those of the previous one, and freed at the
 * end. Called by core/.
 *
 * What must stay true: a settled machine's VMM keeps running when the daemon ends.
 */

#include "daemon/machine/machine-internal.h"

int machines_new(struct manager *m, const struct machine_owner *const *owners,
	struct machines **ret, struct error *err)
{
	struct machines *ms = calloc(1, sizeof(*ms));
	int r;

	if (!ms)
		return error_no_memory(err, "cannot load the machines");
	ms->m = m;
	ms->owners = owners;
	ms->plan = &machine_plan;
	*ret = ms; /* recovery reads m->machines */
	LIST_INIT(&ms->list);
	TAILQ_INIT(&ms->proofs);
	r = reserve_new(ms);
	if (r >= 0)
		r = machines_recover(ms, err);
	if (r < 0) {
		error_set_errno(err, ERROR_INTERNAL, r, "look at pyrod's journal",
			"cannot load the machines");
		*ret = machines_free(ms);
		return r;
	}
	return 0;
}

struct machines *machines_free(struct machines *ms)
{
	if (!ms)
		return NULL;
	while (!LIST_EMPTY(&ms->list)) {
		struct machine *mc = LIST_FIRST(&ms->list);

		/* A settled machine's VMM keeps running; a boot under way is ended. */
		if (machine_is_settled(mc) && !mc->process.ended)
			mc->process.vmm = vmm_detach(mc->process.vmm);
		machine_free(mc);
	}
	for (size_t i = 0; i < ms->n_leftovers; i++)
		disk_op_free(ms->leftovers[i]);
	free(ms->leftovers);
	sd_event_source_disable_unref(ms->reserve);
	proofs_free(ms);
	free(ms);
	return NULL;
}

struct machine *machines_next(struct machines *ms, const struct machine *mc)
{
	return mc ? LIST_NEXT(mc, entry) : LIST_FIRST(&ms->list);
}

bool machines_use_digest(const char *digest, void *machines)
{
	struct machines *ms = machines;
	struct machine *mc;

	LIST_FOREACH (mc, &ms->list, entry)
		if ((mc->row.env_digest && streq(mc->row.env_digest, digest)) ||
			(mc->row.kernel_hash && streq(mc->row.kernel_hash, digest)))
			return true;
	return false;
}

size_t machines_count(struct machines *ms, uid_t uid)
{
	struct machine *mc;
	size_t n = 0;

	LIST_FOREACH (mc, &ms->list, entry)
		n += uid == 0 || mc->row.owner_uid == uid;
	return n;
}
