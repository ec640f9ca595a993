/* SPDX-License-Identifier: MIT */
/*
 * pyro-import tar: makes an image from a tar file or stdin. Used by tests and by imports of
 * archives. Must stay true: it uses the same confined writer as the environment verb.
 */
#include "daemon/import/import.h"
#include "daemon/import/writer.h"
#include <fcntl.h>
#include <getopt.h>

#define TIME_LIMIT (3600 * USEC_PER_SEC) /* includes the time of the program that writes to stdin */

static int run(const char *input, const char *dir, json_object **ret, struct error *err)
{
	_cleanup_(writer_freep) struct writer *w = NULL;
	_cleanup_close_ int fd =
		streq(input, "-") ? dup(STDIN_FILENO) : open(input, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_set_errno(err, ERROR_INVALID_ARGUMENT, -errno,
			"name a tar file you can read", "cannot open \"%s\"", input);
	int r = writer_start(dir, fd, false, &w, err);
	if (r < 0)
		return r;
	import_progress("read", 0, NULL);
	r = writer_wait(w, NULL, now_usec() + TIME_LIMIT, err);
	return r < 0 ? r : writer_publish(w, ret, err);
}

int import_tar_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "input", required_argument, NULL, 'i' },
		{ "output", required_argument, NULL, 'o' },
		{ 0 },
	};
	const char *input = NULL, *output = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *result = NULL;
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (c == 'i')
			input = optarg;
		else if (c == 'o')
			output = optarg;
		else
			return 2;
	}
	if (!input || !output || optind < argc) {
		fprintf(stderr, "usage: pyro-import tar --input FILE|- --output DIR\n");
		return 2;
	}
	return run(input, output, &result, &err) < 0 ? import_fail(&err) : import_succeed(result);
}

/* pyro-import sandbox: reports the layers that the image writer's sandbox lacks on this host. */
int import_sandbox_main(int argc, char **argv _unused_)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *result = NULL;
	if (argc > 1)
		return 2;
	return writer_probe(&result, &err) < 0 ? import_fail(&err) : import_succeed(result);
}
