/* SPDX-License-Identifier: MIT */
/*
 * Serves the kernel's requests for modules: the kernel starts this program (kernel.modprobe) with
 * PID 1's root and without descriptors. Also reads modules.devname for machine.c.
 *
 * The indexes belong to the kernel package and are read as text, line by line; a name may come from
 * any process in the guest. modprobe.d, which kmod reads too, is ignored: docs/guest.md says why,
 * and how an environment can use its own modprobe.
 */

#include "guest/module.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#define MODULE_INIT_COMPRESSED_FILE 4 /* linux/module.h, since Linux 5.17 */
#define INDEX_MAX                   (64 * MIB)

enum { NAME_SIZE = 256, LINE_SIZE = 32 * 1024, MATCHES_MAX = 32, DEPTH_MAX = 8, SEEN_MAX = 64 };

/* The options of systemd's modprobe.d file in Debian (systemd.conf): create no devices at load. */
static const char *const fixed_options[][2] = {
	{ "bonding", "max_bonds=0" },
	{ "dummy", "numdummies=0" },
	{ "ifb", "numifbs=0" },
};

/* The kernel never requests br_netfilter, but container engines expect it with a bridge. */
static const char *const fixed_post[][2] = {
	{ "bridge", "br_netfilter" },
};

/* Mounted as systemd does once the module is loaded. */
static const char *const mounts[][3] = {
	{ "fuse", "fusectl", "/sys/fs/fuse/connections" },
	{ "configfs", "configfs", "/sys/kernel/config" },
	{ "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc" },
};

struct request {
	int dir_fd;          /* borrowed */
	module_load_fn load; /* with userdata */
	void *userdata;
	/* Each file is loaded once, also for modules that depend on each other. */
	struct {
		char name[NAME_SIZE];
		int result;
	} seen[SEEN_MAX];
	size_t n_seen;
};

/* Replaces dashes by underscores except inside brackets of a pattern. False if too long. */
static bool normalise(const char *in, size_t n, char out[static NAME_SIZE])
{
	bool inside = false;

	if (n >= NAME_SIZE)
		return false;
	for (size_t i = 0; i < n; i++) {
		inside = in[i] == '[' || (inside && in[i] != ']');
		out[i] = in[i] == '-' && !inside ? '_' : in[i];
	}
	out[n] = '\0';
	return true;
}

/* Extracts "nf_tables" from "kernel/net/netfilter/nf_tables.ko.xz". */
static bool name_of_path(const char *path, size_t n, char out[static NAME_SIZE])
{
	const char *base = memrchr(path, '/', n), *end;

	base = base ? base + 1 : path;
	n -= (size_t)(base - path);
	end = memmem(base, n, ".ko", 3);
	return end && end > base && normalise(base, (size_t)(end - base), out);
}

/* Calls fn for each line until it returns non-zero, which is the result. Skips lines above
 * LINE_SIZE. */
static int each_line(
	int dir_fd, const char *file, int (*fn)(char *line, void *userdata), void *userdata)
{
	_cleanup_close_ int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	_cleanup_free_ char *buf = malloc(LINE_SIZE);
	size_t n = 0;
	uint64_t total = 0;
	bool skip = false;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!buf)
		return -ENOMEM;
	for (;;) {
		ssize_t got = read(fd, buf + n, LINE_SIZE - n);
		char *line = buf, *end;
		if (got < 0)
			return -errno;
		n += (size_t)got;
		total += (uint64_t)got;
		if (total > INDEX_MAX)
			return -EFBIG;
		while ((end = memchr(line, '\n', n - (size_t)(line - buf)))) {
			int r = 0;
			*end = '\0';
			if (!skip && *line != '#')
				r = fn(line, userdata);
			if (r != 0)
				return r;
			skip = false;
			line = end + 1;
		}
		n -= (size_t)(line - buf);
		memmove(buf, line, n);
		if (got == 0)
			return 0;
		if (n == LINE_SIZE) {
			skip = true;
			n = 0;
		}
	}
}

/* modules.dep: the line of one module. */
struct find_dep {
	const char *name;
	char *line; /* owned */
};

static int on_dep(char *line, void *userdata)
{
	struct find_dep *f = userdata;
	size_t n = strcspn(line, ":");
	char name[NAME_SIZE];

	if (!line[n] || !name_of_path(line, n, name) || !streq(name, f->name))
		return 0;
	f->line = strdup(line);
	return f->line ? 1 : -ENOMEM;
}

/* modules.alias: every module of an alias, each once. */
struct find_alias {
	const char *name;
	char found[MATCHES_MAX][NAME_SIZE];
	size_t n;
};

static int on_alias(char *line, void *userdata)
{
	struct find_alias *f = userdata;
	char *pattern, *module, key[NAME_SIZE];

	if (!streq(strsep(&line, " ") ?: "", "alias"))
		return 0;
	pattern = strsep(&line, " ");
	module = strsep(&line, " ");
	/* Comparing the first letter rejects nearly all lines. */
	if (!pattern || !module || (*pattern != *f->name && !strchr("*?[-_", *pattern)) ||
		!normalise(pattern, strlen(pattern), key) || fnmatch(key, f->name, 0) != 0 ||
		!normalise(module, strlen(module), key))
		return 0;
	for (size_t i = 0; i < f->n; i++)
		if (streq(f->found[i], key))
			return 0;
	if (f->n < MATCHES_MAX)
		memcpy(f->found[f->n++], key, sizeof(key));
	return 0;
}

static int on_builtin(char *line, void *userdata)
{
	char name[NAME_SIZE];

	return name_of_path(line, strlen(line), name) && streq(name, userdata);
}

/* modules.softdep: the modules to load before and after one module. */
struct find_soft {
	const char *name;
	char pre[MATCHES_MAX][NAME_SIZE], post[MATCHES_MAX][NAME_SIZE];
	size_t n_pre, n_post;
};

static int on_softdep(char *line, void *userdata)
{
	struct find_soft *f = userdata;
	char *word, key[NAME_SIZE], (*list)[NAME_SIZE] = NULL;
	size_t *n = NULL;

	if (!streq(strsep(&line, " ") ?: "", "softdep"))
		return 0;
	word = strsep(&line, " ");
	if (!word || !normalise(word, strlen(word), key) || fnmatch(key, f->name, 0) != 0)
		return 0;
	while ((word = strsep(&line, " "))) {
		if (streq(word, "pre:")) {
			list = f->pre;
			n = &f->n_pre;
		} else if (streq(word, "post:")) {
			list = f->post;
			n = &f->n_post;
		} else if (list && *n < MATCHES_MAX && normalise(word, strlen(word), list[*n])) {
			*n += *list[*n] != '\0';
		}
	}
	return 0;
}

static int request(struct request *q, const char *name, unsigned depth);

static const char *options_of(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(fixed_options); i++)
		if (streq(fixed_options[i][0], name))
			return fixed_options[i][1];
	return "";
}

/* Loads a file and its soft dependencies, whose failure is ignored. */
static int load_with_soft(struct request *q, const char *path, const char *name, unsigned depth)
{
	_cleanup_free_ struct find_soft *soft = calloc(1, sizeof(*soft));
	int r;

	if (!soft)
		return -ENOMEM;
	soft->name = name;
	r = each_line(q->dir_fd, "modules.softdep", on_softdep, soft);
	if (r < 0)
		return r;
	for (size_t i = 0; i < soft->n_pre; i++)
		(void)request(q, soft->pre[i], depth + 1);
	r = q->load(q->dir_fd, path, name, options_of(name), q->userdata);
	if (r < 0 && r != -EEXIST)
		return r;
	for (size_t i = 0; i < soft->n_post; i++)
		(void)request(q, soft->post[i], depth + 1);
	for (size_t i = 0; i < ARRAY_SIZE(fixed_post); i++)
		if (streq(fixed_post[i][0], name))
			(void)request(q, fixed_post[i][1], depth + 1);
	return 0;
}

static int load_path(struct request *q, const char *path, unsigned depth)
{
	char name[NAME_SIZE];
	size_t i;

	if (!name_of_path(path, strlen(path), name))
		return -EBADMSG;
	for (i = 0; i < q->n_seen; i++)
		if (streq(q->seen[i].name, name))
			return q->seen[i].result;
	if (i == SEEN_MAX)
		return -E2BIG;
	memcpy(q->seen[i].name, name, sizeof(name));
	q->seen[i].result = 0;
	q->n_seen++;
	q->seen[i].result = load_with_soft(q, path, name, depth);
	return q->seen[i].result;
}

/* "PATH: DEP DEP…": depmod lists all dependencies, the deepest last. */
static int load_line(struct request *q, char *line, unsigned depth)
{
	char *deps = strchr(line, ':'), *last;
	int r;

	*deps++ = '\0';
	while ((last = strrchr(deps, ' '))) {
		if (last[1]) {
			r = load_path(q, last + 1, depth);
			if (r < 0)
				return r;
		}
		*last = '\0';
	}
	return load_path(q, line, depth);
}

/* Loads a module by name; -ENOENT if there is none. */
static int load_name(struct request *q, const char *name, unsigned depth)
{
	struct find_dep dep = { .name = name };
	_cleanup_free_ char *line = NULL;
	int r = each_line(q->dir_fd, "modules.dep", on_dep, &dep);

	line = dep.line;
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	return load_line(q, line, depth);
}

static int load_alias(struct request *q, const char *name, unsigned depth)
{
	_cleanup_free_ struct find_alias *alias = calloc(1, sizeof(*alias));
	int r, result = -ENOENT;

	if (!alias)
		return -ENOMEM;
	alias->name = name;
	r = each_line(q->dir_fd, "modules.alias", on_alias, alias);
	if (r < 0)
		return r;
	for (size_t i = 0; i < alias->n; i++) {
		r = load_name(q, alias->found[i], depth);
		if (r >= 0 || result == -ENOENT)
			result = r;
	}
	return result;
}

static int request(struct request *q, const char *name, unsigned depth)
{
	char key[NAME_SIZE];
	int r;

	if (depth > DEPTH_MAX)
		return -ELOOP;
	if (!*name || strchr(name, '/') || !normalise(name, strlen(name), key))
		return -ENOENT;
	r = load_name(q, key, depth);
	if (r == -ENOENT)
		r = load_alias(q, key, depth);
	if (r == -ENOENT && each_line(q->dir_fd, "modules.builtin", on_builtin, key) > 0)
		r = 0;
	return r;
}

int module_request(int dir_fd, const char *name, module_load_fn load, void *userdata)
{
	_cleanup_free_ struct request *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->dir_fd = dir_fd;
	q->load = load;
	q->userdata = userdata;
	return request(q, name, 0);
}

/* modules.devname: "fuse fuse c10:229". */
struct nodes {
	int (*fn)(const struct module_node *n, void *userdata);
	void *userdata;
};

static bool plain_path(const char *path)
{
	return *path && *path != '/' && *path != '.' && !strstr(path, "/.") &&
	       !strstr(path, "//") && path[strlen(path) - 1] != '/';
}

static int on_devname(char *line, void *userdata)
{
	struct nodes *nodes = userdata;
	struct module_node node = { 0 };
	char type, name[sizeof(node.name)];

	_Static_assert(sizeof(node.name) == 128, "as in the format");
	if (sscanf(line, "%*s %127s %c%u:%u", name, &type, &node.major, &node.minor) != 4 ||
		(type != 'c' && type != 'b') || !plain_path(name))
		return 0;
	memcpy(node.name, name, sizeof(name));
	node.type = type == 'c' ? S_IFCHR : S_IFBLK;
	return nodes->fn(&node, nodes->userdata);
}

int module_nodes(int dir_fd, int (*fn)(const struct module_node *n, void *userdata), void *userdata)
{
	struct nodes nodes = { .fn = fn, .userdata = userdata };

	return each_line(dir_fd, "modules.devname", on_devname, &nodes);
}

int module_dir(int fd)
{
	struct utsname u;
	int dir;

	if (uname(&u) < 0)
		return -errno;
	dir = openat(fd, u.release, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return dir < 0 ? -errno : dir;
}

static bool is_live(const char *name)
{
	_cleanup_free_ char *path = str_printf("/sys/module/%s/initstate", name), *state = NULL;

	return path && read_file_at(AT_FDCWD, path, 4096, &state, NULL) >= 0 &&
	       startswith(state, "live");
}

static void report(int kmsg, const char *name, int r)
{
	(void)dprintf(kmsg, "<4>pyro-agent: load module %s: %s\n", name, strerror(-r));
}

/* Mounts the file system that belongs to a module; NULL: all. Its mount point appears with the
 * module, so it hides nothing. */
static void mount_its_own(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++)
		if (!name || streq(mounts[i][0], name))
			(void)mount(mounts[i][1], mounts[i][2], mounts[i][1],
				MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

static int load_file(
	int dir_fd, const char *path, const char *name, const char *options, void *userdata)
{
	const int *kmsg = userdata;
	_cleanup_close_ int fd = -EBADF;
	size_t n = strlen(path);
	int r = 0;

	if (is_live(name))
		return 0;
	fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 ||
		syscall(SYS_finit_module, fd, options,
			n > 3 && streq(path + n - 3, ".ko") ? 0 : MODULE_INIT_COMPRESSED_FILE) < 0)
		r = errno == EEXIST ? 0 : -errno;
	if (r < 0)
		report(*kmsg, name, r);
	else
		mount_its_own(name);
	return r;
}

void module_mount_built_in(void)
{
	mount_its_own(NULL);
}

static int load_from(int modules_fd, const char *name)
{
	_cleanup_close_ int dir = module_dir(modules_fd),
			    kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

	return dir < 0 ? dir : module_request(dir, name, load_file, &kmsg);
}

int module_load(const char *name)
{
	return load_from(MODULES_FD, name);
}

int module_main(const char *name)
{
	_cleanup_free_ char *path = str_printf("/proc/1/fd/%d", MODULES_FD);
	_cleanup_close_ int modules = -EBADF;
	int r;

	/* The kernel passes no descriptors: open 0-2, so that no other file gets these numbers. */
	for (int fd = 0; fd >= 0 && fd <= STDERR_FILENO;)
		fd = open("/dev/null", O_RDWR);
	modules = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -EBADF;
	r = modules < 0 ? -errno : load_from(modules, name);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
