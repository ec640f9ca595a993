/* SPDX-License-Identifier: MIT */
/*
 * Owns the choice of the guest kernel's source. Called by `pyro-import kernel`, unprivileged:
 * apt-get download needs no rights, and checks the package against the signed lists. The package is
 * never installed, since a cloud kernel on the host would become its default at the next boot
 * (design.md section 9).
 *
 * The host's own lists are only read. When they are missing or name a package that the mirror no
 * longer has, private lists are made below the work folder and removed with it.
 */

#include "daemon/import/kernel-source.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/import/mirror.h"
#include "daemon/import/program.h"
#include "daemon/import/vmlinux.h"
#include "proto/host.h"

#define META_PACKAGE "linux-image-cloud-amd64"
#define SUITE        "bookworm"
#define KEYRING      "/usr/share/keyrings/debian-archive-keyring.gpg"

#define QUERY_TIMEOUT_USEC    (60 * USEC_PER_SEC)
#define DOWNLOAD_TIMEOUT_USEC (900 * USEC_PER_SEC)
#define ARGS_MAX              32

/* One attempt with apt: with or without private lists. */
struct apt {
	const char *work;
	char *get, *cache; /* owned; paths of the tools */
	char *options[8];  /* owned; values of -o */
	size_t n_options;
	char *reason; /* owned; why the last step failed */
};

static void apt_done(struct apt *a)
{
	free(a->get);
	free(a->cache);
	for (size_t i = 0; i < a->n_options; i++)
		free(a->options[i]);
	free(a->reason);
}

static int apt_reason(struct apt *a, const char *reason, int r)
{
	free(a->reason);
	a->reason = strdup(reason);

	return a->reason ? r : -ENOMEM;
}

static int apt_option(struct apt *a, const char *key, const char *sub)
{
	char *option = str_printf("%s=%s%s", key, a->work, sub);

	if (!option)
		return -ENOMEM;
	if (a->n_options == ARRAY_SIZE(a->options)) {
		free(option);
		return -E2BIG;
	}
	a->options[a->n_options++] = option;

	return 0;
}

/*
 * Runs tool with the options and words (NULL-terminated); a status other than 0 is -EIO with a
 * reason.
 */
static int apt_run(struct apt *a, const char *tool, const char *const *words, uint64_t timeout_usec,
	char **ret_output)
{
	const char *argv[ARGS_MAX] = { tool, "-q" };
	_cleanup_free_ char *output = NULL;
	size_t n = 2;
	int r;

	for (size_t i = 0; i < a->n_options; i++) {
		argv[n++] = "-o";
		argv[n++] = a->options[i];
	}
	while (*words && n < ARGS_MAX - 1)
		argv[n++] = *words++;
	argv[n] = NULL;

	r = program_run(&(struct program){ .argv = argv,
				.cwd = a->work,
				.stdin_fd = -EBADF,
				.timeout_usec = timeout_usec },
		&output);
	if (output) {
		free(a->reason);
		a->reason = NULL;
		(void)fputs(output, stderr);
	}
	if (r > 0) {
		r = program_last_line(output, "E: ", &a->reason);
		return r < 0 ? r : -EIO;
	}
	if (r < 0)
		return r;
	if (ret_output)
		*ret_output = TAKE_PTR(output);

	return 0;
}

static bool package_name_valid(const char *s)
{
	static const char prefix[] = "linux-image-";

	if (!startswith(s, prefix) || strlen(s) > 100)
		return false;

	return vmlinux_version_valid(s + sizeof(prefix) - 1);
}

/* Finds the dependency of the meta package, from "Depends: linux-image-… (= …), …". */
static int apt_package(struct apt *a, char **ret)
{
	const char *const words[] = { "show", "--no-all-versions", META_PACKAGE, NULL };
	_cleanup_free_ char *output = NULL, *name = NULL;
	const char *p;
	int r;

	r = apt_run(a, a->cache, words, QUERY_TIMEOUT_USEC, &output);
	if (r < 0)
		return r;
	p = strstr(output, "\nDepends:");
	p = p ? strstr(p, "linux-image-") : NULL;
	name = p ? strndup(p, strcspn(p, " ,(|\n")) : NULL;
	if (!name || !package_name_valid(name)) {
		return apt_reason(a, "apt knows no package " META_PACKAGE, -ENOENT);
	}
	*ret = TAKE_PTR(name);

	return 0;
}

/* Finds the .deb that apt has written to the work folder. */
static int find_deb(const char *work, char **ret)
{
	struct dirent *de;
	DIR *d = opendir(work);
	int r = -ENOENT;

	if (!d)
		return -errno;
	while (r == -ENOENT && (de = readdir(d))) {
		size_t n = strlen(de->d_name);

		if (!startswith(de->d_name, "linux-image-") || n < 4 ||
			!streq(de->d_name + n - 4, ".deb"))
			continue;
		*ret = str_printf("%s/%s", work, de->d_name);
		r = *ret ? 0 : -ENOMEM;
	}
	(void)closedir(d);

	return r;
}

static int apt_download(struct apt *a, char **ret_deb, char **ret_package)
{
	_cleanup_free_ char *package = NULL;
	int r;

	r = apt_package(a, &package);
	if (r < 0)
		return r;
	r = apt_run(a, a->get, (const char *const[]){ "download", package, NULL },
		DOWNLOAD_TIMEOUT_USEC, NULL);
	if (r < 0)
		return r;
	r = find_deb(a->work, ret_deb);
	if (r < 0)
		return r;
	*ret_package = TAKE_PTR(package);

	return 0;
}

static int make_dirs(const char *work, const char *const *subs)
{
	for (; *subs; subs++) {
		_cleanup_free_ char *path = str_printf("%s%s", work, *subs);

		if (!path)
			return -ENOMEM;
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return -errno;
	}

	return 0;
}

/* Makes apt keep its lists below the work folder from now on. */
static int apt_private(struct apt *a)
{
	static const char *const dirs[] = { "/lists", "/lists/partial", "/cache", "/cache/archives",
		"/cache/archives/partial", NULL };
	int r;

	r = make_dirs(a->work, dirs);
	if (r < 0)
		return r;
	r = apt_option(a, "Dir::State::lists", "/lists");
	if (r < 0)
		return r;

	return apt_option(a, "Dir::Cache", "/cache");
}

/* Writes the mirror's lines of a sources.list to fd. */
static int write_sources(struct apt *a, const char *mirror, int fd)
{
	_cleanup_(mirror_done) struct mirror m = { 0 };
	char *lines[MIRROR_LINES];
	int n, r;

	r = mirror_configured(mirror, SUITE, a->work, &m);
	if (r < 0)
		return r;
	n = mirror_lines(&m, SUITE, "[signed-by=" KEYRING "] ", lines);
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = write_all(fd, lines[i], strlen(lines[i]));
		if (r == 0)
			r = write_all(fd, "\n", 1);
		free(lines[i]);
	}

	return n < 0 ? n : r;
}

static int apt_use_mirror(struct apt *a, const char *mirror)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -EBADF;
	int r;

	if (!mirror_valid(mirror))
		return apt_reason(a, "mirror= is not a URL", -EINVAL);
	path = str_printf("%s/sources.list", a->work);
	if (!path)
		return -ENOMEM;
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return -errno;
	r = write_sources(a, mirror, fd);
	if (r < 0)
		return r;
	r = apt_option(a, "Dir::Etc::sourcelist", "/sources.list");
	if (r < 0)
		return r;

	return apt_option(a, "Dir::Etc::sourceparts", "/no-parts");
}

/*
 * Takes the reason from apt-get's warnings: apt-get update succeeds even when no list was fetched.
 */
static int apt_update_and_download(struct apt *a, char **ret_deb, char **ret_package)
{
	static const char warning[] = "W: Failed to fetch ";
	_cleanup_free_ char *output = NULL, *why = NULL;
	int r;

	r = apt_run(
		a, a->get, (const char *const[]){ "update", NULL }, DOWNLOAD_TIMEOUT_USEC, &output);
	if (r < 0)
		return r;
	r = apt_download(a, ret_deb, ret_package);
	if (r < 0 && strstr(output, warning) && program_last_line(output, warning, &why) >= 0)
		return apt_reason(a, why, r);

	return r;
}

static int apt_fail(struct apt *a, int r, struct error *err)
{
	static const char fix[] =
		"Check the network, mirror= in pyrod.conf and the *_proxy variables of pyrod, or name a "
		"kernel with kernel= in pyrod.conf.";

	if (a->reason)
		return error_set(err, ERROR_PULL_FAILED, a->reason, fix,
			"Debian's cloud kernel could not be downloaded");

	return error_set_errno(
		err, ERROR_PULL_FAILED, r, fix, "Debian's cloud kernel could not be downloaded");
}

int kernel_source_download(
	const char *work, const char *mirror, char **ret_deb, char **ret_package, struct error *err)
{
	_cleanup_(apt_done) struct apt a = { .work = work };
	int r;

	if (host_find_program("apt-get", &a.get) < 0 ||
		host_find_program("apt-cache", &a.cache) < 0)
		return error_set(err, ERROR_PULL_FAILED, "This host has no apt.",
			"Name a kernel with kernel= in pyrod.conf, or make a /boot/vmlinuz-VERSION with "
			"its /lib/modules/VERSION readable for pyrod.",
			"Debian's cloud kernel could not be downloaded");

	r = apt_download(&a, ret_deb, ret_package);
	if (r == 0)
		return 0;
	r = apt_private(&a);
	if (r == 0)
		r = apt_update_and_download(&a, ret_deb, ret_package);
	if (r < 0 && mirror) {
		r = apt_use_mirror(&a, mirror);
		if (r == 0)
			r = apt_update_and_download(&a, ret_deb, ret_package);
	}

	return r < 0 ? apt_fail(&a, r, err) : 0;
}

int kernel_source_boot(char **ret_path, char **ret_modules)
{
	_cleanup_free_ char *best = NULL, *path = NULL, *modules = NULL;
	struct dirent *de;
	DIR *d = opendir("/boot");

	if (!d)
		return -errno;
	while ((de = readdir(d))) {
		_cleanup_free_ char *kernel = NULL, *dir = NULL;
		const char *version = de->d_name + strlen("vmlinuz-");

		if (!startswith(de->d_name, "vmlinuz-") || !vmlinux_version_valid(version))
			continue;
		kernel = str_printf("/boot/%s", de->d_name);
		dir = str_printf("/lib/modules/%s", version);
		if (!kernel || !dir || access(kernel, R_OK) < 0 || access(dir, R_OK | X_OK) < 0)
			continue;
		if (best && strverscmp(version, best) <= 0)
			continue;
		free(best);
		free(path);
		free(modules);
		best = strdup(version);
		path = TAKE_PTR(kernel);
		modules = TAKE_PTR(dir);
	}
	(void)closedir(d);
	if (!best)
		return -ENOENT;
	*ret_path = TAKE_PTR(path);
	*ret_modules = TAKE_PTR(modules);

	return 0;
}
