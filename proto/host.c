/* SPDX-License-Identifier: MIT */
/*
 * Capabilities and default paths of this host, read from the kernel and from files in /etc, without
 * libraries or NSS. The daemon, the launcher and `pyro doctor` call it and get the same answer, so
 * daemon and client agree on the socket's path without talking. It changes nothing on the host; it
 * only creates and closes one VM to see whether KVM works.
 */

#include "proto/host.h"
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <x86intrin.h>
#endif

#define SUBID_FIRST  100000                    /* SUB_UID_MIN of useradd */
#define TABLE_MAX    ((size_t)4 * 1024 * 1024) /* of /etc/passwd, /etc/subuid */
#define MEMINFO_MAX  ((size_t)64 * 1024)
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#if defined(__x86_64__)

bool host_cpu_virtualization(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid(1, &a, &b, &c, &d) && (c & (1U << 5))) /* VMX */
		return true;
	return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & (1U << 2)); /* SVM */
}

#else

bool host_cpu_virtualization(void)
{
	return false;
}

#endif

/* Creating and closing a VM takes the kernel some 20 ms on a busy host, and the daemon probes
 * before each boot. So success is cached until /dev/kvm is replaced or its owner or mode
 * changes. */
static int try_kvm_vm(int kvm)
{
	static struct stat good; /* the device that last created a VM */
	struct stat st;
	if (fstat(kvm, &st) < 0)
		return -errno;
	if (good.st_ino == st.st_ino && good.st_dev == st.st_dev &&
		good.st_ctim.tv_sec == st.st_ctim.tv_sec &&
		good.st_ctim.tv_nsec == st.st_ctim.tv_nsec)
		return 0;
	_cleanup_close_ int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		return -errno;
	good = st;
	return 0;
}

/*
 * KVM exists without VMX and SVM: the PVM back-end (kvm_pvm, seen in cloud sandboxes) answers and
 * creates VMs, but runs only kernels built for it; a stock kernel hangs before its first console
 * line.
 */
static int try_kvm(void)
{
	_cleanup_close_ int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		return -errno;
	int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
	if (version < 0)
		return -errno;
	if (version != KVM_API_VERSION)
		return -EPROTO;
	return host_cpu_virtualization() ? try_kvm_vm(kvm) : -EOPNOTSUPP;
}

void host_kvm_probe(struct host_kvm *ret)
{
	struct host_kvm k = { 0 };

	k.exists = faccessat(AT_FDCWD, "/dev/kvm", F_OK, AT_EACCESS) == 0;
	k.readable = faccessat(AT_FDCWD, "/dev/kvm", R_OK, AT_EACCESS) == 0;
	k.writable = faccessat(AT_FDCWD, "/dev/kvm", W_OK, AT_EACCESS) == 0;
	int r = try_kvm();
	k.usable = r >= 0;
	k.error = r < 0 ? -r : 0;
	*ret = k;
}

#if defined(__x86_64__)

struct tsc_sample {
	uint64_t tsc, nsec;
};

/* Reads both clocks at one moment: takes the try with the shortest interval, since an interrupt may
 * come between two readings. */
static struct tsc_sample tsc_sample(void)
{
	struct tsc_sample best = { 0 };
	uint64_t best_width = UINT64_MAX;

	for (int i = 0; i < 32; i++) {
		struct timespec ts;
		unsigned aux;
		uint64_t before = __rdtscp(&aux);
		(void)clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
		uint64_t width = __rdtscp(&aux) - before;
		if (width >= best_width)
			continue;
		best_width = width;
		best.tsc = before + width / 2;
		best.nsec = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	}
	return best;
}

static struct tsc_sample tsc_first;

void host_tsc_begin(void)
{
	tsc_first = tsc_sample();
}

static uint32_t tsc_measure(void)
{
	struct tsc_sample a = tsc_first.nsec > 0 ? tsc_first : tsc_sample(), b = tsc_sample();
	uint64_t enough = a.nsec + HOST_TSC_USEC * 1000;
	struct timespec wait = { 0 };

	/* The measurement needs elapsed time, so it sleeps; a signal does not shorten the sleep. */
	if (b.nsec < enough) {
		wait.tv_nsec = (long)(enough - b.nsec);
		while (clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, &wait) == EINTR)
			;
		b = tsc_sample();
	}
	if (b.nsec <= a.nsec || b.tsc <= a.tsc)
		return 0;
	return (uint32_t)((double)(b.tsc - a.tsc) * 1e6 / (double)(b.nsec - a.nsec) + 0.5);
}

#else

void host_tsc_begin(void)
{
}

static uint32_t tsc_measure(void)
{
	return 0;
}

#endif

uint32_t host_tsc_khz(void)
{
	/* The rate is a constant of the hardware: cached, so that only the first machine waits for
	 * it. */
	static _Atomic uint32_t cached;
	uint32_t khz = atomic_load(&cached);

	if (khz == 0) {
		khz = tsc_measure();
		atomic_store(&cached, khz);
	}
	return khz;
}

unsigned host_cpu_count(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		return (unsigned)CPU_COUNT(&set);
	/* It fails if the host has more CPUs than cpu_set_t has bits. */
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	return n > 0 ? (unsigned)n : 1;
}

/* Parses a line such as "MemTotal: 16315548 kB" and returns MiB; 0 on failure. */
static uint64_t meminfo_mib(const char *key)
{
	_cleanup_free_ char *text = NULL;

	if (read_file_at(AT_FDCWD, "/proc/meminfo", MEMINFO_MAX, &text, NULL) < 0)
		return 0;
	const char *at = strstr(text, key);
	return at ? strtoull(at + strlen(key), NULL, 10) / 1024 : 0;
}

uint64_t host_memory_mib(void)
{
	return meminfo_mib("MemTotal:");
}

uint64_t host_memory_available_mib(void)
{
	return meminfo_mib("MemAvailable:");
}

static bool is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
	       faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0;
}

int host_find_program(const char *name, char **ret)
{
	const char *dirs = getenv("PATH");

	if (strchr(name, '/')) {
		if (!is_program(name))
			return -ENOENT;
		*ret = strdup(name);
		return *ret ? 0 : -ENOMEM;
	}
	if (!*name)
		return -ENOENT;
	for (const char *at = dirs ? dirs : DEFAULT_PATH; *at; at += strspn(at, ":")) {
		size_t n = strcspn(at, ":");
		_cleanup_free_ char *path = str_printf("%.*s/%s", (int)n, at, name);
		if (!path)
			return -ENOMEM;
		at += n;
		/* Relative and empty entries are skipped: the daemon's working directory is
		 * arbitrary. */
		if (path[0] == '/' && n > 0 && is_program(path)) {
			*ret = TAKE_PTR(path);
			return 0;
		}
	}
	return -ENOENT;
}

/* Splits the line at colons; returns the number of fields, n + 1 if more than n. */
static size_t split_fields(char *line, char **fields, size_t n)
{
	size_t k = 0;

	while (line && k < n)
		fields[k++] = strsep(&line, ":");
	return line ? n + 1 : k;
}

/* Returns a field of the line of file whose third field is id; -ENOENT. */
static int table_field(const char *file, size_t n_fields, uint64_t id, size_t field, char **ret)
{
	_cleanup_free_ char *text = NULL;
	char *line;

	int r = read_file_at(AT_FDCWD, file, TABLE_MAX, &text, NULL);
	if (r < 0)
		return r;
	for (char *at = text; (line = strsep(&at, "\n"));) {
		char *fields[6];
		uint64_t found;
		if (split_fields(line, fields, n_fields) < n_fields ||
			parse_u64(fields[2], 0, UINT32_MAX, &found) < 0 || found != id)
			continue;
		*ret = strdup(fields[field]);
		return *ret ? 0 : -ENOMEM;
	}
	return -ENOENT;
}

/* Returns a field of the uid's line in /etc/passwd: 0 name, 5 home. */
static int passwd_field(uid_t uid, size_t field, char **ret)
{
	return table_field("/etc/passwd", 6, uid, field, ret);
}

int host_group_name(gid_t gid, char **ret)
{
	return table_field("/etc/group", 3, gid, 0, ret);
}

static bool subid_is_for(const char *owner, uid_t uid, const char *name)
{
	uint64_t id;

	if (name && streq(owner, name))
		return true;
	return parse_u64(owner, 0, UINT32_MAX, &id) == 0 && id == uid;
}

int host_subid(
	const char *file, uid_t uid, uint64_t min_count, uint64_t *ret_start, uint64_t *ret_count)
{
	_cleanup_free_ char *text = NULL, *name = NULL;
	char *line;

	int r = read_file_at(AT_FDCWD, file, TABLE_MAX, &text, NULL);
	if (r < 0)
		return r;
	r = passwd_field(uid, 0, &name);
	if (r < 0 && r != -ENOENT)
		return r;
	for (char *at = text; (line = strsep(&at, "\n"));) {
		char *fields[3];
		uint64_t start, count;
		if (split_fields(line, fields, ARRAY_SIZE(fields)) != ARRAY_SIZE(fields) ||
			!subid_is_for(fields[0], uid, name) ||
			parse_u64(fields[1], 0, UINT32_MAX, &start) < 0 ||
			parse_u64(fields[2], 1, UINT32_MAX, &count) < 0)
			continue;
		/* UINT32_MAX is not a valid id. */
		if (count < min_count || start + count > UINT32_MAX)
			continue;
		*ret_start = start;
		*ret_count = count;
		return 0;
	}
	return -ENOENT;
}

int host_user_name(uid_t uid, char **ret)
{
	return passwd_field(uid, 0, ret);
}

/* Raises *end to the first id above all ranges of file; an absent file has no ranges. */
static int subid_end(const char *file, uint64_t *end)
{
	_cleanup_free_ char *text = NULL;
	char *line;

	int r = read_file_at(AT_FDCWD, file, TABLE_MAX, &text, NULL);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	for (char *at = text; (line = strsep(&at, "\n"));) {
		char *fields[3];
		uint64_t start, count;
		if (split_fields(line, fields, ARRAY_SIZE(fields)) == ARRAY_SIZE(fields) &&
			parse_u64(fields[1], 0, UINT32_MAX, &start) == 0 &&
			parse_u64(fields[2], 1, UINT32_MAX, &count) == 0)
			*end = MAX_OF(*end, start + count);
	}
	return 0;
}

int host_subid_command(uid_t uid, uint64_t count, char **ret)
{
	_cleanup_free_ char *name = NULL;
	uint64_t start = SUBID_FIRST;

	int r = host_user_name(uid, &name);
	if (r >= 0)
		r = subid_end("/etc/subuid", &start);
	if (r >= 0)
		r = subid_end("/etc/subgid", &start);
	if (r < 0)
		return r;
	if (start + count > UINT32_MAX)
		return -ENOSPC;
	unsigned long long first = start, last = start + count - 1;
	*ret = str_printf("sudo usermod --add-subuids %llu-%llu --add-subgids %llu-%llu %s", first,
		last, first, last, name);
	return *ret ? 0 : -ENOMEM;
}

/* Calls statvfs on path, or on its nearest parent that exists. */
static int file_system(const char *path, struct statvfs *ret)
{
	if (path[0] != '/')
		return -EINVAL;
	_cleanup_free_ char *at = strdup(path);
	if (!at)
		return -ENOMEM;
	while (statvfs(at, ret) < 0) {
		char *slash = strrchr(at, '/');
		if (errno != ENOENT || streq(at, "/"))
			return -errno;
		slash[slash == at] = '\0';
	}
	return 0;
}

int host_free_bytes(const char *path, uint64_t *ret)
{
	struct statvfs st;
	int r = file_system(path, &st);

	if (r < 0)
		return r;
	*ret = (uint64_t)st.f_bavail * st.f_frsize;
	return 0;
}

int host_total_bytes(const char *path, uint64_t *ret)
{
	struct statvfs st;
	int r = file_system(path, &st);

	if (r < 0)
		return r;
	*ret = (uint64_t)st.f_blocks * st.f_frsize;
	return 0;
}

int host_free_inodes(const char *path, uint64_t *ret)
{
	struct statvfs st;
	int r = file_system(path, &st);

	if (r < 0)
		return r;
	*ret = st.f_files > 0 ? st.f_favail : UINT64_MAX;
	return 0;
}

/* A path that does not exist or cannot be examined counts as ours: using it fails with its own
 * error. */
static bool owner_is_ours(const char *path)
{
	struct stat link, st;

	if (lstat(path, &link) < 0 || stat(path, &st) < 0)
		return true;
	return (link.st_uid == 0 || link.st_uid == getuid()) &&
	       (st.st_uid == 0 || st.st_uid == getuid());
}

bool host_is_ours(const char *path, size_t from)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return false;
	for (size_t i = MAX_OF(from, (size_t)1); i < strlen(path); i++) {
		if (path[i] != '/')
			continue;
		copy[i] = '\0';
		if (!owner_is_ours(copy))
			return false;
		copy[i] = '/';
	}
	return owner_is_ours(copy);
}

static bool is_foreign_link(const char *path)
{
	struct stat st, root;

	if (lstat(path, &st) < 0 || !S_ISLNK(st.st_mode) || st.st_uid == 0 || st.st_uid == getuid())
		return false;
	/* In a user namespace without a mapping for root, root's files have the owner of the root
	 * directory. */
	return stat("/", &root) < 0 || st.st_uid != root.st_uid;
}

bool host_has_foreign_link(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return true;
	for (char *p = copy + 1; copy[0] && (p = strchr(p, '/')); p++) {
		*p = '\0';
		if (is_foreign_link(copy))
			return true;
		*p = '/';
	}
	return is_foreign_link(copy);
}

/* Returns home/below; -EPERM if a folder on the way belongs to another user. */
static int place_in_home(const char *home, const char *below, char **ret)
{
	_cleanup_free_ char *path = str_printf("%s/%s", streq(home, "/") ? "" : home, below);

	if (!path)
		return -ENOMEM;
	if (!host_is_ours(path, strlen(home)))
		return -EPERM;
	*ret = TAKE_PTR(path);
	return 0;
}

/*
 * Returns a path below the caller's home: HOME, else the one in /etc/passwd. HOME survives su(1)
 * and sudo(8) with some options and may be writable for others: another user's daemon there must
 * not be taken for the caller's.
 */
static int home_path(const char *below, char **ret)
{
	_cleanup_free_ char *from_passwd = NULL;
	const char *home = getenv("HOME");
	int r = home && home[0] == '/' ? place_in_home(home, below, ret) : -EPERM;

	if (r != -EPERM)
		return r;
	r = passwd_field(getuid(), 5, &from_passwd);
	return r < 0 ? r : place_in_home(from_passwd, below, ret);
}

static int copy_path(const char *path, char **ret)
{
	*ret = strdup(path);
	return *ret ? 0 : -ENOMEM;
}

int host_state_dir(bool system, char **ret)
{
	return system ? copy_path("/var/lib/pyro", ret) : home_path(".local/state/pyro", ret);
}

int host_environment_cache(bool system, char **ret)
{
	const char *dir = getenv("PYRO_ENVIRONMENT_CACHE_DIR");

	if (dir && *dir)
		return dir[0] == '/' ? copy_path(dir, ret) : -EINVAL;
	return system ? copy_path("/var/lib/pyro/environments", ret)
		      : home_path(".cache/pyro/environments", ret);
}

int host_runtime_dir(bool system, uid_t uid, char **ret)
{
	_cleanup_free_ char *run = NULL;
	struct stat st;

	if (system)
		return copy_path("/run/pyro", ret);
	run = str_printf("/run/user/%u", uid);
	if (!run)
		return -ENOMEM;
	/* Without logind the directory does not exist and a user cannot create it: use the state
	 * directory. */
	if (uid == getuid() && (stat(run, &st) < 0 || st.st_uid != uid))
		return home_path(".local/state/pyro/run", ret);
	*ret = str_printf("%s/pyro", run);
	return *ret ? 0 : -ENOMEM;
}

int host_socket_path(bool system, uid_t uid, char **ret)
{
	_cleanup_free_ char *dir = NULL;

	int r = host_runtime_dir(system, uid, &dir);
	if (r < 0)
		return r;
	*ret = str_printf("%s/pyrod.sock", dir);
	return *ret ? 0 : -ENOMEM;
}
