/* SPDX-License-Identifier: MIT */
/*
 * Runs a fuzz target without libFuzzer: passes it every file of the given folders, each in an
 * allocation of exactly its size so that a sanitizer sees a byte out of bounds. Linked by
 * tests/fuzz/meson.build. A folder without files is a failure, since it would prove nothing.
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

/* Returns the number of files. */
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
