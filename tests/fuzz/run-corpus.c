/* SPDX-License-Identifier: MIT */
/*
 * The plain runner of a fuzz target: feeds it every file of the folders it is given, each in memory of
 * exactly its size so that a sanitizer sees a byte beyond. Linked in place of libFuzzer by
 * tests/fuzz/meson.build; a folder without files is a failure, since nothing would be proven.
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int feed(const char *path)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	_cleanup_free_ uint8_t *data = NULL;
	long size;

	if (!f || fseek(f, 0, SEEK_END) < 0 || (size = ftell(f)) < 0)
		return -errno;
	rewind(f);
	data = malloc((size_t)size);
	if (size > 0 && (!data || fread(data, 1, (size_t)size, f) != (size_t)size))
		return -EIO;
	(void)LLVMFuzzerTestOneInput(data, (size_t)size);
	return 0;
}

/* The number of files fed. */
static int feed_folder(const char *folder)
{
	DIR *d = opendir(folder);
	struct dirent *e;
	int n = 0, r = 0;

	if (!d)
		return -errno;
	while (r >= 0 && (e = readdir(d))) {
		_cleanup_free_ char *path = str_printf("%s/%s", folder, e->d_name);

		if (e->d_name[0] == '.')
			continue;
		r = path ? feed(path) : -ENOMEM;
		n++;
	}
	(void)closedir(d);
	return r < 0 ? r : n;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int n = feed_folder(argv[i]);

		if (n <= 0) {
			fprintf(stderr, "%s: %s\n", argv[i], n < 0 ? strerror(-n) : "no input");
			return EXIT_FAILURE;
		}
		printf("%s: %d inputs\n", argv[i], n);
	}
	return argc > 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}
