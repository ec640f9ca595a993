/* SPDX-License-Identifier: MIT */
/*
 * pyro-import environment: makes the image of a Debian environment from mmdebstrap's tar. Run by
 * pyrod for `pyro env pull`. This process and mmdebstrap download, the confined writer parses. Must
 * stay true: every word on mmdebstrap's command line was checked here, and the image is published
 * only when mmdebstrap has succeeded.
 */
#include "daemon/import/debootstrap.h"
#include "daemon/import/import.h"
#include "daemon/import/mirror.h"
#include "daemon/import/writer.h"
#include <getopt.h>

#define SUITE_MAX    64
#define PACKAGES_MAX (64 * 1024)

static bool only(const char *s, const char *set, size_t max)
{
	size_t n = strlen(s);
	return n > 0 && n <= max && strspn(s, set) == n;
}

static int check(const struct debootstrap_spec *spec, struct error *err)
{
	const char lower[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
	const char names[] = "abcdefghijklmnopqrstuvwxyz0123456789-+.,:";
	if (!only(spec->suite, lower, SUITE_MAX) || spec->suite[0] == '-')
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "name a suite as \"bookworm\"",
			"\"%s\" is not a Debian suite", spec->suite);
	if (spec->packages[0] &&
		(!only(spec->packages, names, PACKAGES_MAX) || spec->packages[0] == '-'))
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"separate package names by commas", "\"%s\" is not a list of packages",
			spec->packages);
	if (spec->mirror && !mirror_valid(spec->mirror))
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"set mirror= in pyrod.conf to an http, https or file URI",
			"\"%s\" is not the address of a mirror", spec->mirror);
	return 0;
}

/*
 * Waits for both. An error of mmdebstrap comes first, since a truncated tar only follows from it.
 */
static int wait_for_both(struct writer *w, struct debootstrap *d, struct error *err)
{
	_cleanup_error_ struct error tar_error = ERROR_INIT;
	const struct writer_beside beside = { .fd = debootstrap_messages_fd(d),
		.on_ready = debootstrap_read_messages,
		.userdata = d };
	int r = writer_wait(w, &beside, debootstrap_deadline(d), &tar_error);
	if (r < 0 && tar_error.code != ERROR_PULL_FAILED) {
		error_move(err, &tar_error); /* mmdebstrap is not waited for */
		return r;
	}
	int q = debootstrap_finish(d, err);
	if (q < 0)
		return q;
	if (r < 0)
		error_move(err, &tar_error);
	return r;
}

static int run(
	const struct debootstrap_spec *spec, const char *dir, json_object **ret, struct error *err)
{
	_cleanup_(writer_freep) struct writer *w = NULL;
	_cleanup_(debootstrap_freep) struct debootstrap *d = NULL;
	int r = check(spec, err);
	if (r < 0)
		return r;
	r = debootstrap_start(spec, &d, err);
	if (r < 0)
		return r;
	_cleanup_close_ int output = debootstrap_take_output(d);
	r = writer_start(dir, output, true, &w, err);
	output = fd_close(output); /* so that mmdebstrap gets SIGPIPE when the writer ends early */
	if (r < 0)
		return r;
	r = wait_for_both(w, d, err);
	d = debootstrap_free(d);
	return r < 0 ? r : writer_publish(w, ret, err);
}

int import_environment_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "suite", required_argument, NULL, 's' },
		{ "packages", required_argument, NULL, 'p' },
		{ "mirror", required_argument, NULL, 'm' },
		{ "output", required_argument, NULL, 'o' },
		{ 0 },
	};
	struct debootstrap_spec spec = { 0 };
	const char *output = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *result = NULL;
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case 's': spec.suite = optarg; break;
		case 'p': spec.packages = optarg; break;
		case 'm': spec.mirror = optarg; break;
		case 'o': output = optarg; break;
		default: return 2;
		}
	}
	if (!spec.suite || !spec.packages || !output || optind < argc) {
		fprintf(stderr, "usage: pyro-import environment --suite SUITE --packages A,B,... "
				"[--mirror URL] --output DIR\n");
		return 2;
	}
	return run(&spec, output, &result, &err) < 0 ? import_fail(&err) : import_succeed(result);
}
