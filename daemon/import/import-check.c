/* SPDX-License-Identifier: MIT */
/*
 * pyro-import check: reads the files installed in the working directory and says whether they are
 * intact. Run as a job by integrity.c. For an environment it reads the image, whose sha256 names
 * the environment. For a kernel it reads the files that meta.json lists, the vmlinux (its sha256
 * begins with the kernel's hash), and the initramfs that the command line names.
 *
 * Must stay true: a file that cannot be read counts as damaged only for an error of the file
 * system; anything else is an error of the check.
 */
#include "daemon/import/import.h"

#include <fcntl.h>
#include <sys/stat.h>

#define META_MAX    (256 * 1024)
#define FIX_READ    "make what is installed readable for the user that pyro-import runs as"
#define META_DAMAGE IMPORT_META " is not what was installed"

static bool is_damage(int r)
{
	return r == -ENOENT || r == -EIO || r == -EUCLEAN || r == -EBADMSG || r == -ELOOP ||
	       r == -ENXIO || r == -ENODATA;
}

/* Reports a damage; text is owned by the callee, NULL when out of memory. */
static int found(char **ret, char *text, struct error *err)
{
	*ret = text;
	return text ? 0 : error_no_memory(err, "Cannot check");
}

/* Compares the beginning of the file's digest with digest; *ret stays NULL when they match. */
static int check_file(const char *name, const char *digest, char **ret, struct error *err)
{
	_cleanup_close_ int fd =
		open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	char now[IMPORT_DIGEST_SIZE] = "";
	struct stat st;
	int r = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;

	if (r == 0 && S_ISREG(st.st_mode))
		r = import_digest(fd, now);
	if (r < 0 && !is_damage(r))
		return error_set_errno(
			err, error_code_for_errno(r), r, FIX_READ, "Cannot read %s", name);
	if (r == -ENOENT)
		return found(ret, str_printf("%s is missing", name), err);
	if (r < 0)
		return found(ret, str_printf("%s cannot be read: %s", name, strerror(-r)), err);
	return startswith(now, digest)
		       ? 0
		       : found(ret, str_printf("%s is not what was installed", name), err);
}

static bool is_digest(const char *s)
{
	return startswith(s, "sha256:") && strspn(s + 7, "0123456789abcdef") == strlen(s + 7);
}

/* True for a valid entry of the list of files in a kernel's meta.json. */
static bool is_listed(const char *name, json_object *digest)
{
	if (startswith(name, "boot/"))
		name += 5;
	return name[0] != '.' && name[0] != '\0' && !strchr(name, '/') &&
	       json_object_is_type(digest, json_type_string) &&
	       is_digest(json_object_get_string(digest));
}

static int check_listed(json_object *files, char **ret, struct error *err)
{
	json_object_object_foreach(files, name, digest)
	{
		int r;

		if (!is_listed(name, digest))
			return found(ret, strdup(META_DAMAGE), err);
		r = check_file(name, json_object_get_string(digest), ret, err);
		if (r < 0 || *ret)
			return r;
	}
	return 0;
}

/*
 * Reads the list of files from meta.json, or from damaged.json in a damaged folder. *ret is NULL
 * where it has none (an older pyro); returns 1 when the file is damaged.
 */
static int read_meta(json_object **ret, struct error *err)
{
	_cleanup_json_ json_object *o = NULL;
	_cleanup_free_ char *text = NULL;
	json_object *files;
	size_t n;
	int r = read_file_at(AT_FDCWD, IMPORT_META, META_MAX, &text, &n);

	if (r == -ENOENT)
		r = read_file_at(AT_FDCWD, IMPORT_DAMAGED, META_MAX, &text, &n);
	*ret = NULL;
	if (r < 0 && !is_damage(r) && r != -EFBIG)
		return error_set_errno(
			err, error_code_for_errno(r), r, FIX_READ, "Cannot read " IMPORT_META);
	if (r < 0 || json_parse(text, n, &json_limits_request, &o, NULL) < 0)
		return 1;
	files = json_object_is_type(o, json_type_object) ? json_get(o, "files") : NULL;
	if (files && !json_object_is_type(files, json_type_object))
		return 1;
	*ret = json_object_get(files);
	return 0;
}

static int check_kernel(const char *hash, const char *initrd, const char *initrd_digest, char **ret,
	struct error *err)
{
	_cleanup_free_ char *digest = str_printf("sha256:%s", hash);
	_cleanup_json_ json_object *files = NULL;
	int r = digest ? check_file(IMPORT_VMLINUX, digest, ret, err)
		       : error_no_memory(err, "Cannot check");

	if (r < 0 || *ret)
		return r;
	if (initrd) {
		r = check_file(initrd, initrd_digest, ret, err);
		if (r < 0 || *ret)
			return r;
	}
	r = read_meta(&files, err);
	if (r < 0)
		return r;
	if (r > 0)
		return found(ret, strdup(META_DAMAGE), err);
	return files ? check_listed(files, ret, err) : 0;
}

static bool are_words(int argc, char **argv)
{
	if (argc == 2 && is_digest(argv[1]))
		return strlen(argv[1]) == IMPORT_DIGEST_SIZE - 1;
	if (argc != 2 && argc != 4)
		return false;
	if (strlen(argv[1]) != IMPORT_HASH_DIGITS ||
		strspn(argv[1], "0123456789abcdef") != strlen(argv[1]))
		return false;
	return argc == 2 || (!strchr(argv[2], '/') && is_digest(argv[3]));
}

int import_check_main(int argc, char **argv)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_json_ json_object *o = json_object_new_object();
	_cleanup_free_ char *damage = NULL;
	int r;

	if (!are_words(argc, argv)) {
		fprintf(stderr, "usage: pyro-import check sha256:HEX | HASH [INITRD sha256:HEX]\n");
		return 2;
	}
	if (is_digest(argv[1]))
		r = check_file(IMPORT_IMAGE, argv[1], &damage, &err);
	else
		r = check_kernel(argv[1], argc == 4 ? argv[2] : NULL, argc == 4 ? argv[3] : NULL,
			&damage, &err);
	if (r >= 0 && (!o || json_add_str(o, "damaged", damage) < 0))
		r = error_no_memory(&err, "Cannot check");
	return r < 0 ? import_fail(&err) : import_succeed(TAKE_PTR(o));
}
