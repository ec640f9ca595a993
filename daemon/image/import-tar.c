/* SPDX-License-Identifier: MIT */
/*
 * pyro-import tar: an image from a tar file or stdin. Used by tests and by imports of archives. Must stay
 * true: it is the same reader and writer as the environment verb's, only the source differs.
 */
#include "daemon/image/import.h"
#include "daemon/image/tar-read.h"
#include <fcntl.h>
#include <getopt.h>

#define READ_BYTES (256 * 1024)

struct file_input {
	int fd;
	uint8_t bytes[READ_BYTES];
};

static ssize_t on_input(void *userdata, const void **ret)
{
	struct file_input *in = userdata;
	ssize_t n;
	do {
		n = read(in->fd, in->bytes, sizeof(in->bytes));
	} while (n < 0 && errno == EINTR);
	*ret = in->bytes;
	return n < 0 ? -errno : n;
}

static int run(const char *input, const char *dir, json_object **ret, struct error *err)
{
	_cleanup_(image_done) struct image im = { .spool_fd = -EBADF };
	_cleanup_free_ struct file_input *in = malloc(sizeof(*in));
	_cleanup_close_ int fd =
		streq(input, "-") ? dup(STDIN_FILENO) : open(input, O_RDONLY | O_CLOEXEC);
	if (!in)
		return error_set(err, ERROR_NO_MEMORY, NULL, NULL, "no memory to read an archive");
	if (fd < 0)
		return error_set_errno(err, ERROR_INVALID_ARGUMENT, -errno,
			"name a tar file you can read", "cannot open \"%s\"", input);
	in->fd = fd;
	int r = image_init(&im, dir, err);
	if (r < 0)
		return r;
	import_progress("read", 0, NULL);
	struct tar_read tr = {
		.tree = im.tree, .spool_fd = im.spool_fd, .input = on_input, .userdata = in
	};
	r = tar_read(&tr, err);
	return r < 0 ? r : image_finish(&im, ret, err);
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
