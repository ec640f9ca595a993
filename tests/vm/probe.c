/* SPDX-License-Identifier: MIT */
/*
 * A static program for environments without any others: prints for each path its type, mode, link
 * and file system, or its first line (behind "="). Built by test_odd_environments.py.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static void line_of(const char *path)
{
	char text[256];
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	printf("%s=%s\n", path, n < 0 ? strerror(errno) : text);
	if (fd >= 0)
		close(fd);
}

static void kind_of(const char *path)
{
	char link[256] = "";
	struct stat st;
	struct statfs fs;

	if (lstat(path, &st) < 0) {
		printf("%s: %s\n", path, strerror(errno));
		return;
	}
	if (S_ISLNK(st.st_mode))
		link[readlink(path, link, sizeof(link) - 1)] = '\0';
	printf("%s: %o%s%s", path, st.st_mode, *link ? " -> " : "", link);
	if (statfs(path, &fs) == 0)
		printf(" fs=%lx", (unsigned long)fs.f_type);
	printf("\n");
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (argv[i][0] == '=')
			line_of(argv[i] + 1);
		else
			kind_of(argv[i]);
	return 0;
}
