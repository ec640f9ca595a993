/* SPDX-License-Identifier: MIT */
/*
 * The report of system.doctor (contract.md section 4): every check with its finding and the command
 * that fixes it. Called by rpc/probe.c.
 *
 * What must stay true:
 * - it works in a degraded daemon and reports why that is degraded;
 * - nothing here starts a process or changes anything;
 * - a capability is `yes` only if a machine has proven it, and what was not tried does not pass;
 * - missing KVM is not a failure but is reported;
 * - nothing is reported about other users.
 */

#include "daemon/rpc/doctor.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "daemon/config.h"
#include "daemon/machine/machine.h"
#include "daemon/image/confinement.h"
#include "daemon/image/environment.h"
#include "daemon/image/kernel.h"
#include "daemon/service.h"
#include "daemon/vmm/vmm.h"
#include "proto/host.h"

#define SUBID_COUNT    65536 /* ids that mmdebstrap's unshare mode needs */
#define CACHE_SCAN_MAX 10000 /* entries of the cache looked at */

#define PULL_FIX "pyro env pull debian:12"

static const char *const capability_names[] = { "unknown", "no", "yes" };
static_assert(ARRAY_SIZE(capability_names) == CAPABILITY_MAX, "a name for each capability");

struct doctor {
	struct manager *m;   /* borrowed */
	uid_t uid;           /* whose limits count */
	uid_t viewer;        /* whose machines are reported; 0: all users' */
	json_object *o;      /* owned: the result */
	json_object *checks; /* owned */
	bool ok;             /* every check that could be made passed */
	bool hindered;       /* a failed check keeps every machine from starting */
	bool qemu_usable;
	char *damage_fix; /* owned or NULL: for the first damaged file */
	bool kernel_obtainable;
	bool shown; /* a machine has run a command, nothing changed since */
	int r;      /* first failure to build the result */
};

static void doctor_done(struct doctor *d)
{
	json_object_put(d->o);
	json_object_put(d->checks);
	free(d->damage_fix);
}

static void keep_first(struct doctor *d, int r)
{
	if (r < 0 && d->r >= 0)
		d->r = r;
}

static void check(struct doctor *d, const char *name, bool ok, const char *fix, const char *fmt,
	...) _printf_(5, 6);
static void check(
	struct doctor *d, const char *name, bool ok, const char *fix, const char *fmt, ...)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	char detail[1024];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(detail, sizeof(detail), fmt, ap);
	va_end(ap);
	d->ok = d->ok && ok;
	if (!o || json_add_str(o, "name", name) < 0 || json_add_bool(o, "ok", ok) < 0 ||
		json_add_str(o, "detail", detail) < 0 || json_add_str(o, "fix", fix) < 0 ||
		json_object_array_add(d->checks, json_object_get(o)) < 0)
		keep_first(d, -ENOMEM);
}

/* Adds a check from the error that a start would fail with. */
static void check_error(
	struct doctor *d, const char *name, const struct error *err, const char *good)
{
	if (err->set)
		check(d, name, false, err->fix, "%s%s%s",
			err->message ? err->message : "out of memory", err->cause ? ": " : "",
			err->cause ? err->cause : "");
	else
		check(d, name, true, NULL, "%s", good ? good : "well");
}

/* The same, for a check that every machine needs to start. */
static void need(struct doctor *d, const char *name, const struct error *err, const char *good)
{
	d->hindered = d->hindered || err->set;
	check_error(d, name, err, good);
}

/* Notes a damaged file; copies fix. */
static void note_damage(struct doctor *d, const char *fix)
{
	if (d->damage_fix)
		return;
	d->damage_fix = strdup(fix);
	if (!d->damage_fix)
		keep_first(d, -ENOMEM);
}

/* Adds a member. val NULL means out of memory, not null. */
static void add(struct doctor *d, const char *key, json_object *val)
{
	keep_first(d, val ? json_add(d->o, key, val) : -ENOMEM);
}

/* {"a": true, "b": false} */
static void add_bools(
	struct doctor *d, const char *key, size_t n, const char *const *names, const bool *values)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	for (size_t i = 0; o && i < n; i++)
		keep_first(d, json_add_bool(o, names[i], values[i]));
	add(d, key, TAKE_PTR(o));
}

static void report_kvm(struct doctor *d)
{
	static const char *const names[] = { "exists", "readable", "writable", "usable" };
	_cleanup_error_ struct error err = ERROR_INIT;
	enum accelerator used;
	struct host_kvm kvm;
	host_kvm_probe(&kvm);
	add_bools(d, "kvm", ARRAY_SIZE(names), names,
		(const bool[]){ kvm.exists, kvm.readable, kvm.writable, kvm.usable });
	if (vmm_resolve_accelerator(ACCELERATOR_KVM, &used, NULL, &err) >= 0)
		check(d, "kvm", true, NULL, "usable");
	else
		check(d, "kvm", true, err.fix,
			"KVM is not usable: %s%s%s%s; machines work, but slowly, and are not a "
			"security boundary",
			err.cause ? err.cause : err.message, kvm.error ? " (" : "",
			kvm.error ? strerror(kvm.error) : "", kvm.error ? ")" : "");
}

static int vmm_json(const char *name, const struct vmm_probe *p, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object(), *list = json_object_new_array();
	if (!o || !list || json_add_str(o, "name", name) < 0 ||
		json_add_str(o, "version", p->version) < 0 ||
		json_add_str(o, "path", p->path) < 0 || json_add_bool(o, "usable", p->usable) < 0 ||
		json_add_str(o, "reason", p->reason) < 0 ||
		json_add(o, "advisories", TAKE_PTR(list)) < 0)
		return -ENOMEM;
	*ret = TAKE_PTR(o);
	return 0;
}

static void report_vmm(struct doctor *d, json_object *list, const struct vmm_driver *driver)
{
	_cleanup_(vmm_probe_done) struct vmm_probe p = { .usable = false };
	_cleanup_json_ json_object *o = NULL;
	int r = driver->probe(d->m, false, &p);
	if (streq(driver->name, "qemu")) {
		d->qemu_usable = r >= 0 && p.usable;
		d->hindered = d->hindered || !d->qemu_usable;
		check(d, "qemu", d->qemu_usable, d->qemu_usable ? NULL : p.fix, "%s",
			d->qemu_usable ? (p.version ? p.version : "usable")
			: p.reason     ? p.reason
				       : "qemu-system-x86_64 cannot be used");
	}
	r = vmm_json(driver->name, &p, &o);
	if (r >= 0 && json_object_array_add(list, json_object_get(o)) < 0)
		r = -ENOMEM;
	keep_first(d, r);
}

static void report_vmms(struct doctor *d)
{
	static const char *const names[] = { "available" };
	_cleanup_json_ json_object *list = json_object_new_array();
	_cleanup_error_ struct error err = ERROR_INIT;
	enum accelerator used;
	const char *reason;
	for (size_t i = 0; list && vmm_drivers[i]; i++)
		report_vmm(d, list, vmm_drivers[i]);
	add(d, "vmm", TAKE_PTR(list));
	add_bools(d, "emulation", 1, names, &d->qemu_usable);
	if (d->qemu_usable &&
		vmm_resolve_accelerator(d->m->config->accelerator, &used, &reason, &err) >= 0)
		keep_first(d, json_add_str(d->o, "accelerator", accelerator_name(used)));
	else
		keep_first(d, json_add(d->o, "accelerator", NULL));
	if (err.set)
		need(d, "accelerator", &err, NULL);
}

/* Reports whether the kernel limits a VMM, or only QEMU does. Never a failure: it depends on the
 * kind of host. */
static void check_limits(struct doctor *d)
{
	int r = d->m->units ? launcher_limits(d->m->launcher) : 0;
	const char *why = d->m->units ? "systemd cannot enforce them with this kernel's cgroups"
				      : "pyrod is not a system service of systemd";
	if (r > 0)
		check(d, "unit_limits", true, NULL,
			"the kernel enforces the memory, CPU and task limits of each machine's "
			"unit");
	else if (r == 0)
		check(d, "unit_limits", true, NULL,
			"only QEMU enforces the memory and vCPUs of machines: %s", why);
	else
		check(d, "unit_limits", true, NULL, "not known before the first machine");
}

static bool have_program(const char *name)
{
	_cleanup_free_ char *path = NULL;
	return host_find_program(name, &path) >= 0;
}

static void check_program(struct doctor *d, const char *name, const char *program, const char *fix)
{
	bool have = have_program(program);
	check(d, name, have, have ? NULL : fix, "%s is %sinstalled", program, have ? "" : "not ");
}

/* Checks the subordinate ids of pyro-import's user, which building an environment without root
 * needs. */
static void check_subids(struct doctor *d)
{
	uid_t uid = d->m->import_uid ? d->m->import_uid : getuid();
	uint64_t start, count;
	if (uid == 0) {
		check(d, "subuid", true, NULL, "not needed: pyrod runs as root");
		return;
	}
	bool uids = host_subid("/etc/subuid", uid, SUBID_COUNT, &start, &count) >= 0;
	bool gids = host_subid("/etc/subgid", uid, SUBID_COUNT, &start, &count) >= 0;
	if (uids && gids) {
		check(d, "subuid", true, NULL, "uid %u has %d subordinate ids", uid, SUBID_COUNT);
		return;
	}
	_cleanup_free_ char *fix = NULL;
	if (host_subid_command(uid, SUBID_COUNT, &fix) < 0)
		fix = strdup("run pyrod as a user with an account");
	check(d, "subuid", false, fix, "uid %u has no %d subordinate ids in /etc/%s", uid,
		SUBID_COUNT, uids ? "subgid" : "subuid");
}

static void check_builders(struct doctor *d)
{
	check_program(d, "mmdebstrap", "mmdebstrap", "sudo apt-get install -y mmdebstrap");
	if (getuid() != 0 || d->m->import_uid != 0)
		check_program(d, "uidmap", "newuidmap", "sudo apt-get install -y uidmap");
	check_subids(d);
}

static void report_kernel(struct doctor *d)
{
	const char *hash = d->m->kernels ? kernels_current(d->m->kernels) : NULL;
	const char *version = hash ? kernels_current_version(d->m->kernels) : NULL;
	_cleanup_json_ json_object *o = json_object_new_object();
	bool apt = have_program("apt-get");
	if (!o || json_add_str(o, "path", hash ? kernels_current_path(d->m->kernels) : NULL) < 0 ||
		json_add_str(o, "version", version) < 0)
		keep_first(d, -ENOMEM);
	add(d, "kernel", TAKE_PTR(o));
	check(d, "apt", apt || hash || d->m->config->kernel,
		apt || hash || d->m->config->kernel
			? NULL
			: "set kernel= in pyrod.conf to the path of a bzImage or vmlinux",
		"apt-get is %sinstalled%s", apt ? "" : "not ",
		d->m->config->kernel ? "; pyrod.conf names a kernel" : "");
	d->kernel_obtainable = hash || apt || d->m->config->kernel;
	const char *damage = hash ? kernels_damage(d->m->kernels, hash) : NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	d->hindered = d->hindered || damage;
	if (damage)
		note_damage(d, PULL_FIX);
	if (d->m->kernels && kernels_is_configured(d->m->kernels, &err) < 0)
		need(d, "kernel", &err, NULL);
	else if (hash)
		check(d, "kernel", !damage, damage ? PULL_FIX : NULL, "%s%s%s",
			version ? version : hash, damage ? " is damaged: " : "",
			damage ? damage : "");
	else
		check(d, "kernel", d->kernel_obtainable, PULL_FIX,
			"the kernel store is empty; the first pull fills it");
}

/* Finds leftovers of interrupted pulls: staging folders older than this daemon, and images with
 * parts missing. */
static bool is_leftover(struct manager *m, int dir_fd, const char *name)
{
	struct stat st;
	char part[300];
	uint64_t started = wall_usec() - (now_usec() - m->started_usec);
	if (startswith(name, ".staging-"))
		return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		       (uint64_t)st.st_mtim.tv_sec * USEC_PER_SEC < started;
	if (!startswith(name, "sha256-"))
		return false;
	(void)snprintf(part, sizeof(part), "%s/image.ext4", name);
	if (fstatat(dir_fd, part, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return true;
	(void)snprintf(part, sizeof(part), "%s/meta.json", name);
	if (fstatat(dir_fd, part, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return false;
	(void)snprintf(part, sizeof(part), "%s/damaged.json", name); /* has its own check */
	return fstatat(dir_fd, part, &st, AT_SYMLINK_NOFOLLOW) < 0;
}

static void dir_closep(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}

static void check_cache(struct doctor *d)
{
	_cleanup_(dir_closep) DIR *dir = opendir(d->m->cache_dir);
	size_t leftovers = 0, seen = 0;
	struct dirent *e;
	if (!dir) {
		bool absent = errno == ENOENT;
		check(d, "environment_cache", absent,
			absent ? NULL : "make it readable for the daemon's user", "%s: %s",
			d->m->cache_dir, absent ? "empty" : strerror(errno));
		return;
	}
	while ((e = readdir(dir)) && seen++ < CACHE_SCAN_MAX)
		leftovers += is_leftover(d->m, dirfd(dir), e->d_name);
	check(d, "environment_cache", leftovers == 0, leftovers > 0 ? "pyro env prune" : NULL,
		"%s: %zu leftover%s of interrupted pulls", d->m->cache_dir, leftovers,
		leftovers == 1 ? "" : "s");
}

static void check_imports(struct doctor *d)
{
	_cleanup_free_ char *detail = NULL;
	const char *fix;
	if (!d->m->environments || !confinement_is_known(d->m->environments))
		return; /* not known yet: no check */
	bool good = confinement_describe(d->m->environments, &detail, &fix);
	check(d, "import_sandbox", good, fix, "%s", detail ? detail : "out of memory");
}

/* Checks the programs that every start uses; check_imports() has tried pyro-import. */
static void check_programs(struct doctor *d)
{
	_cleanup_free_ char *launcher = str_printf("%s/pyro-vmm", d->m->libexec_dir);
	_cleanup_error_ struct error err = ERROR_INIT;

	if (!launcher) {
		keep_first(d, -ENOMEM);
		return;
	}
	if (access(launcher, X_OK) < 0)
		error_set_errno(&err, ERROR_START_FAILED, -errno,
			"Install pyro again: pyro-vmm must be in its libexec folder.",
			"Cannot start %s", launcher);
	else if (access(d->m->agent_path, R_OK) < 0)
		error_set_errno(&err, ERROR_START_FAILED, -errno,
			"Install pyro again: its guest agent is missing.", "Cannot read %s",
			d->m->agent_path);
	need(d, "programs", &err, "pyro-vmm and the guest's agent are installed");
}

static void check_state_dir(struct doctor *d)
{
	bool good = access(d->m->state_dir, R_OK | W_OK | X_OK) == 0;
	d->hindered = d->hindered || !good;
	check(d, "state_dir", good, good ? NULL : "make it writable for the daemon's user",
		"%s%s%s", d->m->state_dir, good ? "" : ": ", good ? "" : strerror(errno));
}

static void check_store(struct doctor *d)
{
	const struct error *e = &d->m->degraded;
	d->hindered = d->hindered || e->set;
	check(d, "store", !e->set, e->set ? e->fix : NULL, "%s%s%s",
		e->set ? (e->message ? e->message : "it cannot be used") : "open",
		e->set && e->cause ? ": " : "", e->set && e->cause ? e->cause : "");
}

/* Returns the limits per user and in total, in the words of pyrod.conf. Owned by the caller; NULL
 * when out of memory. */
static char *limits_text(const struct manager *m)
{
	const struct config *c = m->config;
	struct user_limits max;

	machines_user_limits(m, &max);
	return str_printf("room for a machine of the default size; each user: max_machines=%" PRId64
			  " max_vcpus=%" PRId64 " max_memory_mib=%" PRId64 " max_disk_mib=%" PRId64
			  "; all users: total_machines=%" PRId64 " total_vcpus=%" PRId64
			  " total_memory_mib=%" PRId64 " total_disk_mib=%" PRId64 " (0: no limit)",
		c->max_machines, max.vcpus, max.mem_mib, max.disk_mib, c->total_machines,
		c->total_vcpus, max.total_mem_mib, c->total_disk_mib);
}

/* Checks the limits and memory for a machine of the default size. The host is hindered only if the
 * smallest machine does not fit either. */
static void check_limits_and_memory(struct doctor *d)
{
	struct machines *ms = d->m->machines;
	_cleanup_error_ struct error limits = ERROR_INIT, memory = ERROR_INIT;
	_cleanup_free_ char *text = limits_text(d->m);
	if (!ms)
		return; /* reported by check_store */
	(void)machines_check_limits(ms, d->uid, false, &limits);
	(void)machines_check_memory(ms, d->uid, false, &memory);
	d->hindered = d->hindered || machines_check_limits(ms, d->uid, true, NULL) < 0 ||
		      machines_check_memory(ms, d->uid, true, NULL) < 0;
	check_error(d, "limits", &limits, text);
	check_error(d, "memory", &memory, "enough for a machine of the default size");
}

/* Checks free space, with the errors of a start or a pull. The pull is checked only while no
 * environment is installed. */
static void check_room(struct doctor *d, uint64_t bytes, bool installed)
{
	_cleanup_error_ struct error disk = ERROR_INIT, pull = ERROR_INIT;
	_cleanup_free_ char *good =
		str_printf("%" PRIu64 " MiB are free at %s", bytes / MIB, d->m->state_dir);
	(void)machines_check_space(d->m, &disk);
	need(d, "disk_space", &disk, good ? good : "enough");
	if (!installed && d->m->environments) {
		(void)environments_check_space(d->m->environments, &pull);
		need(d, "pull_space", &pull, "enough for an environment");
	}
	check_limits_and_memory(d);
}

static void report_storage(struct doctor *d, size_t installed)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	uint64_t bytes = 0;
	int r = host_free_bytes(d->m->state_dir, &bytes);
	size_t machines = d->m->machines ? machines_count(d->m->machines, d->viewer) : 0;
	json_object *number = r >= 0 ? json_object_new_int64((int64_t)bytes) : NULL;
	if (!o || json_add_str(o, "path", d->m->state_dir) < 0 || json_add(o, "free", number) < 0 ||
		json_add_int(o, "machines", (int64_t)machines) < 0 ||
		json_add_int(o, "environments", (int64_t)installed) < 0 ||
		json_add_int(o, "templates", 0) < 0)
		keep_first(d, -ENOMEM);
	add(d, "storage", TAKE_PTR(o));
	check_room(d, bytes, installed > 0);
}

/* Reports an environment that is in the cache but damaged or incomplete. True when every start from
 * it is refused; an incomplete one is pulled by the next start. */
static bool check_environment(struct doctor *d, const char *name)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct environment *env;
	if (environments_find(d->m->environments, name, &env, &err) < 0)
		return false;
	const char *damage = environment_damage(env);
	_cleanup_free_ char *fix = str_printf("pyro env pull %s", name);
	const struct error *failure = environment_failure(env);
	if (damage && environment_is_damaged(env))
		note_damage(d, fix ? fix : PULL_FIX);
	if (damage) {
		check(d, "environment", false, fix, "%s: %s", name, damage);
	} else if (failure) {
		check_error(d, "environment", failure, NULL);
	}
	return environment_is_damaged(env);
}

/* Reports the environments of env.list. Returns the number of installed ones. */
static size_t report_environments(struct doctor *d)
{
	_cleanup_json_ json_object *all = NULL;
	size_t installed = 0, damaged = 0;
	int r = d->m->environments ? environments_list_json(d->m->environments, &all) : 0;
	keep_first(d, r);
	json_object *list = json_get(all, "environments");
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		json_object *e = json_object_array_get_idx(list, i);
		installed += json_get_bool(e, "installed", false);
		damaged += check_environment(d, json_get_str(e, "name", ""));
	}
	d->hindered = d->hindered || (installed == 0 && damaged > 0);
	add(d, "environments", list ? json_object_get(list) : json_object_new_array());
	return installed;
}

/* True when a file of /proc holds "1". */
static bool flag_file(const char *path)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	return read_file_at(AT_FDCWD, path, 64, &text, &n) >= 0 && text[0] == '1';
}

static void report_networking(struct doctor *d)
{
	static const char *const names[] = { "tun", "ip_forward", "nft" };
	add_bools(d, "networking", ARRAY_SIZE(names), names,
		(const bool[]){ access("/dev/net/tun", R_OK | W_OK) == 0,
			flag_file("/proc/sys/net/ipv4/ip_forward"), have_program("nft") });
}

static void report_limits(struct doctor *d)
{
	const struct config *c = d->m->config;
	_cleanup_json_ json_object *o = json_object_new_object();
	struct user_limits max;

	machines_user_limits(d->m, &max);
	if (!o || json_add_int(o, "max_machines", c->max_machines) < 0 ||
		json_add_int(o, "max_vcpus", max.vcpus) < 0 ||
		json_add_int(o, "max_memory_mib", max.mem_mib) < 0 ||
		json_add_int(o, "max_disk_mib", max.disk_mib) < 0 ||
		json_add_int(o, "total_machines", c->total_machines) < 0 ||
		json_add_int(o, "total_vcpus", c->total_vcpus) < 0 ||
		json_add_int(o, "total_memory_mib", max.total_mem_mib) < 0 ||
		json_add_int(o, "total_disk_mib", c->total_disk_mib) < 0 ||
		json_add_int(o, "memory_reserve_mib", c->memory_reserve_mib) < 0 ||
		json_add_int(o, "disk_reserve_mib", c->disk_reserve_mib) < 0 ||
		json_add_int(o, "output_limit_mib", c->output_limit_mib) < 0)
		keep_first(d, -ENOMEM);
	add(d, "limits", TAKE_PTR(o));
}

static void report_daemon(struct doctor *d)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	uint64_t up = (now_usec() - d->m->started_usec) / USEC_PER_SEC;
	if (!o || json_add_str(o, "version", PYRO_VERSION) < 0 ||
		json_add_int(o, "pid", getpid()) < 0 ||
		json_add_int(o, "uptime_seconds", (int64_t)up) < 0 ||
		json_add_str(o, "socket", d->m->socket_path) < 0)
		keep_first(d, -ENOMEM);
	add(d, "daemon", TAKE_PTR(o));
}

/* Checks that the installed files are unchanged: passes only if they were read. Each damaged one
 * has a check of its own. */
static void check_integrity(struct doctor *d, const struct doctor_probe *p)
{
	if (p->unread)
		check_error(d, "integrity", p->unread, NULL);
	else if (d->damage_fix)
		check(d, "integrity", false, d->damage_fix,
			"the sha256 of an installed file has changed");
	else if (p->read)
		check(d, "integrity", true, NULL,
			"the sha256 of every installed file is unchanged");
}

static void add_capabilities(struct doctor *d, const struct doctor_probe *p)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	const struct {
		const char *name;
		enum capability can;
	} rows[] = {
		{ "vm_boot", d->hindered ? CAPABILITY_NO : p->booted },
		{ "guest_exec", d->hindered ? CAPABILITY_NO : p->executed },
		{ "guest_network", CAPABILITY_NO }, /* this version has none */
		{ "host_compat", CAPABILITY_NO },   /* the same */
	};
	for (size_t i = 0; o && i < ARRAY_SIZE(rows); i++)
		keep_first(d, json_add_str(o, rows[i].name, capability_names[rows[i].can]));
	add(d, "capabilities", TAKE_PTR(o));
}

/* Reports the probe machine. A probe that was not tried does not pass, and does not fail the
 * report. */
static void report_probe(struct doctor *d, const struct doctor_probe *p)
{
	bool ok = d->ok;
	d->shown = p->executed == CAPABILITY_YES;
	check(d, "probe_machine", d->shown, d->shown ? NULL : p->fix, "%s", p->detail);
	if (!p->tried)
		d->ok = ok;
	add_capabilities(d, p);
}

static void report_runtime(struct doctor *d)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	const char *verdict = !d->ok ? "fail" : d->shown ? "pass" : "unknown";
	if (!o || json_add_bool(o, "ok", d->ok && d->shown) < 0 ||
		json_add_str(o, "verdict", verdict) < 0 ||
		json_add(o, "checks", json_object_get(d->checks)) < 0)
		keep_first(d, -ENOMEM);
	add(d, "runtime", TAKE_PTR(o));
}

int doctor_report(struct manager *m, uid_t uid, uid_t viewer, const struct doctor_probe *probe,
	json_object **ret)
{
	_cleanup_(doctor_done) struct doctor d = {
		.m = m,
		.uid = uid,
		.viewer = viewer,
		.o = json_object_new_object(),
		.checks = json_object_new_array(),
		.ok = true,
	};
	if (!d.o || !d.checks)
		return -ENOMEM;
	keep_first(&d, json_add_str(d.o, "platform", "linux-x86_64"));
	report_kvm(&d);
	report_vmms(&d);
	check_limits(&d);
	check_builders(&d);
	check_programs(&d);
	report_kernel(&d);
	check_state_dir(&d);
	check_store(&d);
	check_cache(&d);
	check_imports(&d);
	report_storage(&d, report_environments(&d));
	check_integrity(&d, probe);
	report_networking(&d);
	report_limits(&d);
	report_daemon(&d);
	report_probe(&d, probe);
	keep_first(&d, json_add_str(d.o, "environment_cache", m->cache_dir));
	report_runtime(&d);
	if (d.r < 0)
		return d.r;
	*ret = TAKE_PTR(d.o);
	return 0;
}
