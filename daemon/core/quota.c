/* SPDX-License-Identifier: MIT */
/*
 * Whether a machine may have what it asks for: its owner's limits (from pyrod.conf), the limits of all together, and
 * what the host has left. Called by start.c before anything of the machine exists, and before each of its boots.
 *
 * What must stay true: a machine counts from its request until nothing of it is left, whatever its state; the one
 * asked about is in the list already, so its own share is counted; a user's subordinate uids count with theirs.
 */

#include "daemon/core/machine-internal.h"

#include "daemon/account.h"
#include "proto/host.h"

#define DISK_MARGIN_MIB 64 /* of free space, beyond disk_reserve_mib, for a new sparse disk */

struct usage {
	int64_t machines, vcpus, mem_mib, disk_mib;
};

static void count(struct usage *u, const struct machine *mc)
{
	u->machines++;
	u->vcpus += mc->row.vcpu_count;
	u->mem_mib += (int64_t)mc->row.mem_mib;
	u->disk_mib += (int64_t)mc->row.disk_mib;
}

/* What the account of mc's owner uses, and what all of them do. */
static void count_usage(const struct machine *mc, struct usage *ret_own, struct usage *ret_total)
{
	struct accounts *a = mc->machines->m->accounts;
	struct usage own = { 0 }, total = { 0 };
	const struct machine *other;
	uid_t account;

	accounts_refresh(a);
	account = accounts_find(a, mc->row.owner_uid);
	LIST_FOREACH (other, &mc->machines->list, entry) {
		count(&total, other);
		if (accounts_find(a, other->row.owner_uid) == account)
			count(&own, other);
	}
	*ret_own = own;
	*ret_total = total;
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

static int check_total(const char *what, int64_t used, int64_t max, struct error *err)
{
	if (max == 0 || used <= max)
		return 0;
	return error_set(err, ERROR_QUOTA_EXCEEDED, "other users' machines count too",
		"delete a machine of yours, wait for others' to end, or ask an administrator to raise the total in "
		"pyrod.conf",
		"the limit on %s of all users together is reached, which is %lld", what,
		(long long)max);
}

int machine_check_quotas(struct machine *mc, struct error *err)
{
	const struct config *c = mc->machines->m->config;
	struct usage u, all;
	int64_t max_vcpus = c->max_vcpus ? c->max_vcpus : 4 * (int64_t)host_cpu_count();
	int64_t max_mem = c->max_memory_mib ? c->max_memory_mib : (int64_t)host_memory_mib() / 2;
	int64_t total_mem =
		c->total_memory_mib ? c->total_memory_mib : (int64_t)host_memory_mib() / 4 * 3;
	int r;

	count_usage(mc, &u, &all);
	r = check_quota("machines", u.machines, c->max_machines, err);

	if (r >= 0)
		r = check_quota("vCPUs", u.vcpus, max_vcpus, err);
	if (r >= 0)
		r = check_quota("memory in MiB", u.mem_mib, max_mem, err);
	if (r >= 0)
		r = check_quota("disk in MiB", u.disk_mib, c->max_disk_mib, err);
	if (r >= 0)
		r = check_total("machines", all.machines, c->total_machines, err);
	if (r >= 0)
		r = check_total("vCPUs", all.vcpus, c->total_vcpus, err);
	if (r >= 0)
		r = check_total("memory in MiB", all.mem_mib, total_mem, err);
	if (r >= 0)
		r = check_total("disk in MiB", all.disk_mib, c->total_disk_mib, err);
	return r;
}

/* What other machines that are being started have been promised and not touched yet. */
static uint64_t promised_mib(const struct machine *mc)
{
	const struct machine *other;
	uint64_t sum = 0;

	LIST_FOREACH (other, &mc->machines->list, entry)
		if (other != mc && other->engine == ENGINE_UP && other->target == machine_steps())
			sum += other->row.mem_mib;
	return sum;
}

int machine_check_host(struct machine *mc, struct error *err)
{
	struct manager *m = mc->machines->m;
	uint64_t total = host_memory_mib(), available = host_memory_available_mib();
	uint64_t promised = promised_mib(mc);
	uint64_t reserve = (uint64_t)m->config->disk_reserve_mib + DISK_MARGIN_MIB;
	_cleanup_free_ char *fix = NULL;
	uint64_t free_bytes;
	int r;

	if (mc->row.vcpu_count > host_cpu_count())
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "ask for fewer with --cpus",
			"this host has %u CPUs, %u were asked for", host_cpu_count(),
			mc->row.vcpu_count);
	if (total == 0 || available == 0)
		return error_set(err, ERROR_INTERNAL, "/proc/meminfo cannot be read",
			"look at pyrod's limit of open files", "cannot tell this host's memory");
	if (mc->row.mem_mib > total)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "ask for less with --memory",
			"this host has %llu MiB of memory, %llu were asked for",
			(unsigned long long)total, (unsigned long long)mc->row.mem_mib);
	available -= MIN_OF(available, promised);
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
