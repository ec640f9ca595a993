/* SPDX-License-Identifier: MIT */
/*
 * Checks whether a machine may have what it requests: its owner's limits (from pyrod.conf), the
 * limits of all users together, and what the host has left. Called by plan.c before anything of the
 * machine exists, and before each of its boots.
 *
 * What must stay true: a machine counts from its request until nothing of it is left, in any state;
 * the machine that is checked is in the list already, so its own share is counted; a user's
 * subordinate uids count as the user's.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/account.h"
#include "proto/host.h"
#include "proto/limits.h"

#define DISK_MARGIN_MIB 128 /* of free space, beyond disk_reserve_mib, for a new sparse disk */
#define INODES_NEEDED   64  /* in its directories' file systems; a machine uses fewer than ten */
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

/* Sums the usage of uid's account, the part of its other uids (ret_kin may be NULL), and of all. */
static void count_usage(struct machines *ms, uid_t uid, struct usage *ret_own,
	struct usage *ret_kin, struct usage *ret_total)
{
	struct accounts *a = ms->m->accounts;
	struct usage own = { 0 }, kin = { 0 }, total = { 0 };
	const struct machine *other;
	uid_t account;

	accounts_refresh(a);
	account = accounts_find(a, uid);
	LIST_FOREACH (other, &ms->list, entry) {
		count(&total, other);
		if (accounts_find(a, other->row.owner_uid) != account)
			continue;
		count(&own, other);
		if (other->row.owner_uid != uid)
			count(&kin, other);
	}
	*ret_own = own;
	if (ret_kin)
		*ret_kin = kin;
	*ret_total = total;
}

/* Memory promised to other machines that are being started, which they have not touched yet. */
static uint64_t promised_mib(struct machines *ms, const struct machine *mc)
{
	const struct machine *other;
	uint64_t sum = 0;

	LIST_FOREACH (other, &ms->list, entry)
		if (other != mc && machine_goes_up(other) && other->desired == LEVEL_UP)
			sum += other->row.mem_mib;
	return sum;
}

/* The most that a machine may request now; 0 or less: nothing. */
struct most {
	int64_t vcpus, mem_mib, disk_mib;
};

static int64_t max_of(int64_t configured, int64_t dflt)
{
	return configured ? configured : dflt;
}

static int64_t total_memory(const struct config *c)
{
	return max_of(c->total_memory_mib, (int64_t)host_memory_mib() / 4 * 3);
}

void machines_user_limits(const struct manager *m, struct user_limits *ret)
{
	const struct config *c = m->config;
	uint64_t bytes = 0;
	int64_t half;

	(void)host_total_bytes(m->state_dir, &bytes); /* 0 if unknown */
	half = (int64_t)(bytes / 2 / MIB);
	*ret = (struct user_limits){
		.vcpus = max_of(c->max_vcpus, 4 * (int64_t)host_cpu_count()),
		.mem_mib = max_of(c->max_memory_mib, (int64_t)host_memory_mib() / 2),
		.disk_mib = max_of(
			c->max_disk_mib, MAX_OF(half, c->max_machines * c->default_disk_mib)),
		.total_mem_mib = total_memory(c),
	};
}

/* Returns what is left of the limits of a user and of all users. A limit of 0 means none. */
static int64_t room(int64_t max, int64_t used, int64_t total, int64_t total_used)
{
	int64_t own = max ? max - used : INT64_MAX, all = total ? total - total_used : INT64_MAX;

	return MIN_OF(own, all);
}

/* What uid could request, not counting the machine `without` (may be NULL). */
static struct most most_of(struct machines *ms, uid_t uid, const struct machine *without)
{
	const struct config *c = ms->m->config;
	int64_t have = host_cpu_count();
	int64_t available = (int64_t)host_memory_available_mib() / 8 * 7; /* margin: it varies */
	struct usage u, all, self = { 0 };
	struct user_limits max;

	machines_user_limits(ms->m, &max);
	count_usage(ms, uid, &u, NULL, &all);
	if (without)
		count(&self, without);
	available -= (int64_t)promised_mib(ms, without) + c->memory_reserve_mib;
	/* A machine that runs gives back what it has now. */
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

/* A limited resource: its keys in pyrod.conf, how to request less of it, a machine's minimum. */
static const struct resource {
	const char *what, *max_key, *total_key, *flag, *param;
	int64_t least;
} resources[] = {
	{ "machines", "max_machines", "total_machines", NULL, NULL, 1 },
	{ "vCPUs", "max_vcpus", "total_vcpus", "--cpus", "vcpu_count", VCPU_MIN },
	{ "memory in MiB", "max_memory_mib", "total_memory_mib", "-m", "mem_mib", MEM_MIB_MIN },
	{ "disk in MiB", "max_disk_mib", "total_disk_mib", "--disk-mib", "disk_mib", DISK_MIB_MIN },
};
#define VCPUS     (&resources[1])
#define MEMORY    (&resources[2])
#define N_LIMITED ARRAY_SIZE(resources)

#define FIX_HOST_FULL "stop other programs or machines on this host, then try again"

/* The fix that requests `most`: the flag and the parameter. */
static char *ask_for(const struct resource *res, int64_t most)
{
	return str_printf("ask for at most %lld: %s %lld, %s=%lld", (long long)most, res->flag,
		(long long)most, res->param, (long long)most);
}

/* One limit, and the usage that counts besides the machine that is checked. */
struct limit {
	const struct resource *res;
	const struct machine_owner *lister; /* whose command lists the user's machines */
	bool total;                         /* of all users */
	int64_t max;                        /* 0: no limit */
	int64_t asked;                      /* by the machine */
	int64_t own, others; /* of the user's other machines; of other users' if they count */
	int64_t kin;     /* part of own: of the account's other uids, which the user does not see */
	bool is_kin;     /* the asking user is a subordinate uid */
	bool is_unknown; /* the owner of its uid is not known */
	int64_t most;    /* could be requested, by all limits and the host; -1: no size */
};

static const char *limit_key(const struct limit *l)
{
	return l->total ? l->res->total_key : l->res->max_key;
}

/* What to delete so that the machine fits. NULL: nothing helps, or out of memory. */
static char *end_machines(const struct limit *l)
{
	const char *command = l->lister->command, *id = l->lister->id_name;
	int64_t excess = l->own + l->others + l->asked - l->max, mine = l->own - l->kin;

	if (excess <= mine && (l->res->flag || excess == 1))
		return str_printf(
			"%s delete %s, for a machine that %s list shows", command, id, command);
	if (excess <= mine)
		return str_printf("%s delete %s, for each of %lld machines that %s list shows",
			command, id, (long long)excess, command);
	if (excess <= l->own)
		return str_printf("sudo %s delete %s, for a machine of these uids that sudo "
				  "%s list --all-users shows",
			command, id, command);
	return excess <= l->others ? strdup("wait until other users' machines have ended") : NULL;
}

/* NULL when out of memory. */
static char *limit_fix(const struct limit *l)
{
	int64_t need = l->own + l->others + l->asked;
	_cleanup_free_ char *end = NULL;

	if (l->max >= l->res->least && l->res->flag && l->most >= l->res->least)
		return ask_for(l->res, l->most);
	if (l->max >= l->asked)
		end = end_machines(l);
	if (end && (l->own - l->kin > 0))
		return TAKE_PTR(end);
	if (l->max >= l->res->least && need == l->asked)
		return strdup(FIX_HOST_FULL);
	return str_printf("%s%sset %s in pyrod.conf to at least %lld and reload pyrod",
		end ? end : "", end ? ", or " : "", limit_key(l), (long long)need);
}

/* Names the machines in the sum that the user does not see. */
static const char *limit_kin(const struct limit *l)
{
	if (l->kin == 0)
		return "";
	if (l->is_unknown)
		return "; machines of other uids whose owner is unknown count too";
	return l->is_kin ? "; your uid is a subordinate uid, so its owner's machines count too"
			 : "; machines of your subordinate uids count too";
}

static char *limit_cause(const struct limit *l)
{
	if (l->asked > l->max)
		return str_printf("this machine alone would use %lld of %lld (%s in pyrod.conf)",
			(long long)l->asked, (long long)l->max, limit_key(l));
	if (l->own + l->asked > l->max)
		return str_printf(
			"with this machine you would use %lld of %lld (%s in pyrod.conf)%s",
			(long long)(l->own + l->asked), (long long)l->max, limit_key(l),
			limit_kin(l));
	return str_printf("other users' machines count too (%s in pyrod.conf)", limit_key(l));
}

static int check_limit(const struct limit *l, struct error *err)
{
	_cleanup_free_ char *cause = NULL, *fix = NULL;

	if (l->max == 0 || l->own + l->others + l->asked <= l->max)
		return 0;
	cause = limit_cause(l);
	fix = limit_fix(l);
	if (!l->total)
		return error_set(err, ERROR_QUOTA_EXCEEDED, cause, fix,
			"your limit on %s is reached", l->res->what);
	return error_set(err, ERROR_QUOTA_EXCEEDED, cause, fix,
		"the limit on %s of all users together, %lld, is reached", l->res->what,
		(long long)l->max);
}

/* The owner of most of uid's machines: its command lists what can be deleted. */
static const struct machine_owner *lister_of(
	const struct machines *ms, uid_t uid, const struct machine *without)
{
	const struct machine_owner *best = ms->owners[0];
	size_t most = 0;

	for (size_t i = 0; ms->owners[i]; i++) {
		const struct machine *mc;
		size_t n = 0;

		LIST_FOREACH (mc, &ms->list, entry)
			n += mc != without && mc->row.owner_uid == uid &&
			     streq(mc->owner->command, ms->owners[i]->command);
		if (n > most) {
			most = n;
			best = ms->owners[i];
		}
	}
	return best;
}

/* Lists u in the order of resources. */
static void list_usage(const struct usage *u, int64_t ret[N_LIMITED])
{
	const int64_t n[] = { u->machines, u->vcpus, u->mem_mib, u->disk_mib };

	memcpy(ret, n, sizeof(n));
}

/* Checks whether uid may have one more machine of this size; `without`: that machine, if it is
 * in the list already. */
static int check_quotas(struct machines *ms, uid_t uid, const struct usage *asked,
	const struct machine *without, struct error *err)
{
	const struct config *c = ms->m->config;
	const struct most most = most_of(ms, uid, without);
	int64_t own[N_LIMITED], kin[N_LIMITED], all[N_LIMITED], want[N_LIMITED],
		self[N_LIMITED] = { 0 };
	struct usage u, theirs, total;
	const uid_t account = accounts_find(ms->m->accounts, uid);
	struct user_limits max;
	int r = 0;

	machines_user_limits(ms->m, &max);
	count_usage(ms, uid, &u, &theirs, &total);
	list_usage(&u, own);
	list_usage(&theirs, kin);
	list_usage(&total, all);
	list_usage(asked, want);
	if (without)
		memcpy(self, want, sizeof(self));
	const int64_t mosts[] = { -1, most.vcpus, most.mem_mib, most.disk_mib };
	const int64_t maxima[2][N_LIMITED] = {
		{ c->max_machines, max.vcpus, max.mem_mib, max.disk_mib },
		{ c->total_machines, c->total_vcpus, total_memory(c), c->total_disk_mib },
	};
	for (size_t i = 0; r >= 0 && i < 2 * N_LIMITED; i++) {
		size_t k = i % N_LIMITED;
		bool of_all = i >= N_LIMITED;

		r = check_limit(
			&(struct limit){
				.res = &resources[k],
				.lister = lister_of(ms, uid, without),
				.total = of_all,
				.max = maxima[of_all][k],
				.asked = want[k],
				.own = own[k] - self[k],
				.kin = kin[k],
				.is_kin = account != uid,
				.is_unknown = account == ACCOUNT_UNKNOWN,
				.others = of_all ? all[k] - own[k] : 0,
				.most = mosts[k],
			},
			err);
	}
	return r;
}

int machine_check_quotas(struct machine *mc, struct error *err)
{
	struct usage asked = { 0 };

	count(&asked, mc);
	return check_quotas(mc->machines, mc->row.owner_uid, &asked, mc, err);
}

/* Refuses more than the host has; the size may be a default of pyrod.conf. */
static int refuse_size(const struct resource *res, int64_t have, int64_t asked, int64_t most,
	int64_t dflt, struct error *err)
{
	_cleanup_free_ char *fix = most < res->least ? strdup(FIX_HOST_FULL) : ask_for(res, most);
	_cleanup_free_ char *cause = NULL;

	if (asked == dflt)
		cause = str_printf("default_%s in pyrod.conf is %lld", res->param, (long long)dflt);
	return error_set(err, ERROR_INVALID_ARGUMENT, cause, fix,
		"%s must be from %lld to this host's %lld, not %lld", res->param,
		(long long)res->least, (long long)have, (long long)asked);
}

int machines_check_size(
	struct machines *ms, uid_t uid, int64_t vcpus, int64_t mem_mib, struct error *err)
{
	const struct config *c = ms->m->config;
	struct most most = most_of(ms, uid, NULL);
	int64_t have = host_cpu_count(), total = (int64_t)host_memory_mib();

	if (vcpus > have)
		return refuse_size(VCPUS, have, vcpus, most.vcpus, c->default_vcpu_count, err);
	if (total > 0 && mem_mib > total) /* 0: unknown; the start reports it */
		return refuse_size(MEMORY, total, mem_mib, most.mem_mib, c->default_mem_mib, err);
	return 0;
}

/* The fix when the memory is too small for the smallest machine. */
static char *memory_fix(int64_t reserve, int64_t total, int64_t available, int64_t asked)
{
	int64_t most = available / 8 * 7 - asked; /* margin: it varies */
	bool ending_helps = reserve + asked <= total;

	if (most < 0)
		most = available - MEM_MIB_MIN;
	if (reserve == 0 || most < 0 || most >= reserve)
		return strdup(FIX_HOST_FULL);
	return str_printf("%sset memory_reserve_mib in pyrod.conf to at most %lld and reload pyrod",
		ending_helps ? "stop other programs or machines on this host, or " : "",
		(long long)most);
}

/* mc: the machine that requests the memory, or NULL. */
static int check_memory(struct machines *ms, uid_t uid, uint64_t mem_mib, const struct machine *mc,
	struct error *err)
{
	uint64_t available = host_memory_available_mib(), promised = promised_mib(ms, mc);
	int64_t reserve = ms->m->config->memory_reserve_mib, most;
	_cleanup_free_ char *fix = NULL, *cause = NULL;

	if (host_memory_mib() == 0 || available == 0)
		return error_set(err, ERROR_INTERNAL, "/proc/meminfo cannot be read",
			error_errno_fix(-EMFILE), "cannot read the size of this host's memory");
	available -= MIN_OF(available, promised);
	if (mem_mib + (uint64_t)reserve <= available)
		return 0;
	most = most_of(ms, uid, mc).mem_mib;
	fix = most < MEM_MIB_MIN ? memory_fix(reserve, (int64_t)host_memory_mib(),
					   (int64_t)available, (int64_t)mem_mib)
				 : ask_for(MEMORY, most);
	cause = reserve > 0 ? str_printf("memory_reserve_mib in pyrod.conf keeps %lld MiB of it, "
					 "and the rest of the host's memory is in use",
				      (long long)reserve)
			    : strdup("the rest of the host's memory is in use");
	return error_set(err, ERROR_NO_MEMORY, cause, fix,
		"the host has %llu MiB of memory left, but the machine needs %llu",
		(unsigned long long)available, (unsigned long long)mem_mib);
}

int machines_check_limits(struct machines *ms, uid_t uid, bool least, struct error *err)
{
	const struct config *c = ms->m->config;
	const struct usage smallest = { 1, VCPU_MIN, MEM_MIB_MIN, DISK_MIB_MIN };
	const struct usage usual = { 1, c->default_vcpu_count, c->default_mem_mib,
		c->default_disk_mib };
	const struct usage *asked = least ? &smallest : &usual;
	int r = machines_check_size(ms, uid, asked->vcpus, asked->mem_mib, err);

	return r < 0 ? r : check_quotas(ms, uid, asked, NULL, err);
}

int machines_check_memory(struct machines *ms, uid_t uid, bool least, struct error *err)
{
	int64_t usual = ms->m->config->default_mem_mib;

	return check_memory(ms, uid, least ? MEM_MIB_MIN : (uint64_t)usual, NULL, err);
}

static int check_inodes(const char *dir, struct error *err)
{
	_cleanup_free_ char *fix = NULL;
	uint64_t n;
	int r = host_free_inodes(dir, &n);

	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, "check pyrod's directories",
			"cannot read the number of free inodes of %s", dir);
	if (n >= INODES_NEEDED)
		return 0;
	fix = str_printf(
		"delete at least %llu files there", (unsigned long long)(INODES_NEEDED - n));
	return error_set(err, ERROR_NO_SPACE, "a machine needs inodes for its files", fix,
		"only %llu inodes are free in %s", (unsigned long long)n, dir);
}

/* The fix that frees space; need is without the reserve. NULL when out of memory. */
static char *bytes_fix(uint64_t need, uint64_t reserve, uint64_t available, uint64_t total)
{
	if (reserve == 0 || need + reserve <= total)
		return str_printf("free at least %llu MiB there",
			(unsigned long long)((need + reserve - available + MIB - 1) / MIB));
	if (available < need)
		return str_printf("free at least %llu MiB there, set disk_reserve_mib in "
				  "pyrod.conf to 0 and reload pyrod",
			(unsigned long long)((need - available + MIB - 1) / MIB));
	return str_printf("set disk_reserve_mib in pyrod.conf to at most %llu and reload pyrod",
		(unsigned long long)((available - need) / 8 * 7 / MIB)); /* margin */
}

/* reserve: bytes of disk_reserve_mib, needed in addition. */
static int check_bytes(
	const char *dir, uint64_t need, uint64_t reserve, const char *why, struct error *err)
{
	_cleanup_free_ char *fix = NULL, *cause = NULL;
	uint64_t bytes, total;
	int r = host_free_bytes(dir, &bytes);

	if (r >= 0)
		r = host_total_bytes(dir, &total);

	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, "check pyrod's directories",
			"cannot read the free space of %s", dir);
	if (bytes >= need + reserve)
		return check_inodes(dir, err);
	fix = bytes_fix(need, reserve, bytes, total);
	cause = reserve > 0
			? str_printf("%s, and disk_reserve_mib in pyrod.conf keeps %llu MiB free",
				  why, (unsigned long long)(reserve / MIB))
			: strdup(why);
	return error_set(err, ERROR_NO_SPACE, cause, fix, "only %llu MiB of space are free in %s",
		(unsigned long long)(bytes / MIB), dir);
}

int machines_check_space(struct manager *m, struct error *err)
{
	uint64_t reserve = (uint64_t)m->config->disk_reserve_mib * MIB;
	int r = check_bytes(m->state_dir, DISK_MARGIN_MIB * MIB, reserve,
		"a machine needs space for its disk", err);

	return r < 0 ? r
		     : check_bytes(m->runtime_dir, RUN_DIR_BYTES, 0,
			       "a machine needs space for its sockets", err);
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
