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
#include "proto/limits.h"

#define DISK_MARGIN_MIB 64 /* of free space, beyond disk_reserve_mib, for a new sparse disk */
#define INODES_NEEDED   64 /* in each of its directories' file systems; its own are fewer than ten */
#define RUN_DIR_BYTES   MIB

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

/* What the account of uid uses, and what all of them do. */
static void count_usage(
	struct machines *ms, uid_t uid, struct usage *ret_own, struct usage *ret_total)
{
	struct accounts *a = ms->m->accounts;
	struct usage own = { 0 }, total = { 0 };
	const struct machine *other;
	uid_t account;

	accounts_refresh(a);
	account = accounts_find(a, uid);
	LIST_FOREACH (other, &ms->list, entry) {
		count(&total, other);
		if (accounts_find(a, other->row.owner_uid) == account)
			count(&own, other);
	}
	*ret_own = own;
	*ret_total = total;
}

/* What other machines that are being started have been promised and not touched yet. */
static uint64_t promised_mib(struct machines *ms, const struct machine *mc)
{
	const struct machine *other;
	uint64_t sum = 0;

	LIST_FOREACH (other, &ms->list, entry)
		if (other != mc && other->engine == ENGINE_UP && other->target == machine_steps())
			sum += other->row.mem_mib;
	return sum;
}

/* What of something a machine may have now, were it to ask for less; at most 0: nothing. */
struct most {
	int64_t vcpus, mem_mib, disk_mib;
};

static int64_t max_of(int64_t configured, int64_t dflt)
{
	return configured ? configured : dflt;
}

void machines_user_limits(const struct manager *m, struct user_limits *ret)
{
	const struct config *c = m->config;
	uint64_t bytes = 0;
	int64_t half;

	(void)host_total_bytes(m->state_dir, &bytes); /* 0 when it cannot be told */
	half = (int64_t)(bytes / 2 / MIB);
	*ret = (struct user_limits){
		.vcpus = max_of(c->max_vcpus, 4 * (int64_t)host_cpu_count()),
		.mem_mib = max_of(c->max_memory_mib, (int64_t)host_memory_mib() / 2),
		.disk_mib = max_of(
			c->max_disk_mib, MAX_OF(half, c->max_machines * c->default_disk_mib)),
	};
}

/* The room that a limit of a user and one of all leave, 0 being none of either. */
static int64_t room(int64_t max, int64_t used, int64_t total, int64_t total_used)
{
	int64_t own = max ? max - used : INT64_MAX, all = total ? total - total_used : INT64_MAX;

	return MIN_OF(own, all);
}

static int64_t total_memory(const struct config *c)
{
	return max_of(c->total_memory_mib, (int64_t)host_memory_mib() / 4 * 3);
}

/* What uid could ask for, not counting `without`, a machine that is asked about (NULL: none). */
static struct most most_of(struct machines *ms, uid_t uid, const struct machine *without)
{
	const struct config *c = ms->m->config;
	int64_t have = host_cpu_count();
	int64_t available =
		(int64_t)host_memory_available_mib() / 8 * 7; /* it changes all the time */
	struct usage u, all, self = { 0 };
	struct user_limits max;

	machines_user_limits(ms->m, &max);
	count_usage(ms, uid, &u, &all);
	if (without)
		count(&self, without);
	available -= (int64_t)promised_mib(ms, without) + c->memory_reserve_mib;
	/* What it has now it gives back. */
	if (without && without->state == MACHINE_STARTED)
		available += self.mem_mib;
	return (struct most){
		.vcpus = MIN_OF(have, room(max.vcpus, u.vcpus - self.vcpus, c->total_vcpus,
					      all.vcpus - self.vcpus)),
		.mem_mib = MIN_OF(available, room(max.mem_mib, u.mem_mib - self.mem_mib,
						     total_memory(c), all.mem_mib - self.mem_mib)),
		.disk_mib = room(max.disk_mib, u.disk_mib - self.disk_mib, c->total_disk_mib,
			all.disk_mib - self.disk_mib),
	};
}

uint64_t machine_memory_max(struct machine *mc)
{
	int64_t most = most_of(mc->machines, mc->row.owner_uid, mc).mem_mib;

	return (uint64_t)MAX_OF(MIN_OF(most, (int64_t)MEM_MIB_MAX), INT64_C(0));
}

uint64_t machine_disk_max(struct machine *mc)
{
	struct manager *m = mc->machines->m;
	int64_t most = most_of(mc->machines, mc->row.owner_uid, mc).disk_mib, here;
	uint64_t bytes = 0;

	if (host_free_bytes(m->state_dir, &bytes) < 0)
		return 0;
	here = (int64_t)(bytes / MIB) - m->config->disk_reserve_mib;
	most = MIN_OF(most, MAX_OF(here, INT64_C(0)) + (int64_t)mc->row.disk_mib);
	return (uint64_t)MAX_OF(MIN_OF(most, (int64_t)DISK_MIB_MAX), INT64_C(0));
}

/* How to ask for what can be had: the flag and the parameter. */
static char *ask_for(const char *flag, const char *param, int64_t most, int64_t least)
{
	if (most < least)
		return strdup("end one of your machines: pyro vm list shows them");
	return str_printf("ask for at most %lld: %s %lld, %s=%lld", (long long)most, flag,
		(long long)most, param, (long long)most);
}

static int check_quota(const char *what, const char *key, int64_t used, int64_t max,
	const char *fix, struct error *err)
{
	_cleanup_free_ char *cause = NULL;

	if (max == 0 || used <= max)
		return 0;
	cause = str_printf("with this machine you would use %lld of %lld (%s in pyrod.conf)",
		(long long)used, (long long)max, key);
	return error_set(
		err, ERROR_QUOTA_EXCEEDED, cause, fix, "your limit on %s is reached", what);
}

static int check_total(
	const char *what, int64_t used, int64_t max, const char *fix, struct error *err)
{
	if (max == 0 || used <= max)
		return 0;
	return error_set(err, ERROR_QUOTA_EXCEEDED, "other users' machines count too", fix,
		"the limit on %s of all users together is reached, which is %lld", what,
		(long long)max);
}

#define FIX_MACHINES "end one of your machines: pyro vm list shows them"

int machine_check_quotas(struct machine *mc, struct error *err)
{
	const struct config *c = mc->machines->m->config;
	struct most most = most_of(mc->machines, mc->row.owner_uid, mc);
	struct user_limits max;
	struct usage u, all;
	_cleanup_free_ char *vcpus = ask_for("--cpus", "vcpu_count", most.vcpus, VCPU_MIN);
	_cleanup_free_ char *mem = ask_for("-m", "mem_mib", most.mem_mib, MEM_MIB_MIN);
	_cleanup_free_ char *disk = ask_for("--disk-mib", "disk_mib", most.disk_mib, DISK_MIB_MIN);
	int r;

	machines_user_limits(mc->machines->m, &max);
	count_usage(mc->machines, mc->row.owner_uid, &u, &all);
	r = check_quota("machines", "max_machines", u.machines, c->max_machines, FIX_MACHINES, err);
	if (r >= 0)
		r = check_quota("vCPUs", "max_vcpus", u.vcpus, max.vcpus, vcpus, err);
	if (r >= 0)
		r = check_quota(
			"memory in MiB", "max_memory_mib", u.mem_mib, max.mem_mib, mem, err);
	if (r >= 0)
		r = check_quota("disk in MiB", "max_disk_mib", u.disk_mib, max.disk_mib, disk, err);
	if (r >= 0)
		r = check_total("machines", all.machines, c->total_machines, FIX_MACHINES, err);
	if (r >= 0)
		r = check_total("vCPUs", all.vcpus, c->total_vcpus, vcpus, err);
	if (r >= 0)
		r = check_total("memory in MiB", all.mem_mib, total_memory(c), mem, err);
	if (r >= 0)
		r = check_total("disk in MiB", all.disk_mib, c->total_disk_mib, disk, err);
	return r;
}

int machines_check_size(
	struct machines *ms, uid_t uid, int64_t vcpus, int64_t mem_mib, struct error *err)
{
	struct most most = most_of(ms, uid, NULL);
	int64_t have = host_cpu_count(), total = (int64_t)host_memory_mib();
	_cleanup_free_ char *fix = NULL;

	if (vcpus > have) {
		fix = ask_for("--cpus", "vcpu_count", most.vcpus, VCPU_MIN);
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, fix,
			"vcpu_count must be from %d to this host's %lld, not %lld", VCPU_MIN,
			(long long)have, (long long)vcpus);
	}
	if (total > 0 && mem_mib > total) { /* 0: not known now; the start says so */
		fix = ask_for("-m", "mem_mib", most.mem_mib, MEM_MIB_MIN);
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, fix,
			"mem_mib must be from %d to this host's %lld, not %lld", MEM_MIB_MIN,
			(long long)total, (long long)mem_mib);
	}
	return 0;
}

/* mc is the machine that is to have it, where there is one. */
static int check_memory(struct machines *ms, uid_t uid, uint64_t mem_mib, const struct machine *mc,
	struct error *err)
{
	uint64_t available = host_memory_available_mib(), promised = promised_mib(ms, mc);
	_cleanup_free_ char *fix = NULL;
	int64_t most;

	if (host_memory_mib() == 0 || available == 0)
		return error_set(err, ERROR_INTERNAL, "/proc/meminfo cannot be read",
			error_errno_fix(-EMFILE), "cannot tell this host's memory");
	available -= MIN_OF(available, promised);
	if (mem_mib + (uint64_t)ms->m->config->memory_reserve_mib <= available)
		return 0;
	most = most_of(ms, uid, mc).mem_mib;
	fix = most < MEM_MIB_MIN
		      ? strdup("end other programs or machines of this host, then try again")
		      : ask_for("-m", "mem_mib", most, MEM_MIB_MIN);
	return error_set(err, ERROR_NO_MEMORY, "the rest is in use or kept in reserve", fix,
		"the host has %llu MiB of memory left, %llu were asked for",
		(unsigned long long)available, (unsigned long long)mem_mib);
}

int machines_check_memory(struct machines *ms, uid_t uid, uint64_t mem_mib, struct error *err)
{
	_cleanup_free_ char *fix =
		ask_for("-m", "mem_mib", most_of(ms, uid, NULL).mem_mib, MEM_MIB_MIN);
	int r = machines_check_size(ms, uid, 1, (int64_t)mem_mib, err);
	struct user_limits max;

	machines_user_limits(ms->m, &max);
	if (r >= 0)
		r = check_quota(
			"memory in MiB", "max_memory_mib", (int64_t)mem_mib, max.mem_mib, fix, err);
	return r < 0 ? r : check_memory(ms, uid, mem_mib, NULL, err);
}

static int check_inodes(const char *dir, struct error *err)
{
	_cleanup_free_ char *fix = NULL;
	uint64_t n;
	int r = host_free_inodes(dir, &n);

	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, "check pyrod's directories",
			"cannot tell the free inodes of %s", dir);
	if (n >= INODES_NEEDED)
		return 0;
	fix = str_printf(
		"delete at least %llu files there", (unsigned long long)(INODES_NEEDED - n));
	return error_set(err, ERROR_NO_SPACE, "a machine needs room for its files", fix,
		"only %llu inodes are free in %s", (unsigned long long)n, dir);
}

static int check_bytes(const char *dir, uint64_t need, const char *why, struct error *err)
{
	_cleanup_free_ char *fix = NULL;
	uint64_t bytes;
	int r = host_free_bytes(dir, &bytes);

	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, "check pyrod's directories",
			"cannot tell the free space of %s", dir);
	if (bytes >= need)
		return check_inodes(dir, err);
	fix = str_printf("free at least %llu MiB there",
		(unsigned long long)((need - bytes + MIB - 1) / MIB));
	return error_set(err, ERROR_NO_SPACE, why, fix, "only %llu MiB of space are free in %s",
		(unsigned long long)(bytes / MIB), dir);
}

int machines_check_space(struct manager *m, struct error *err)
{
	uint64_t need = ((uint64_t)m->config->disk_reserve_mib + DISK_MARGIN_MIB) * MIB;
	int r = check_bytes(m->state_dir, need, "a machine needs room for its disk", err);

	return r < 0 ? r
		     : check_bytes(m->runtime_dir, RUN_DIR_BYTES,
			       "a machine needs room for its sockets", err);
}

int machine_check_host(struct machine *mc, struct error *err)
{
	struct machines *ms = mc->machines;
	uid_t uid = mc->row.owner_uid;
	int r = machines_check_size(ms, uid, mc->row.vcpu_count, (int64_t)mc->row.mem_mib, err);

	if (r >= 0)
		r = check_memory(ms, uid, mc->row.mem_mib, mc, err);
	return r < 0 ? r : machines_check_space(ms->m, err);
}
