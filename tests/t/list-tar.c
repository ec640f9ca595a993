/* SPDX-License-Identifier: MIT */
/*
 * Prints the merged tree of the archive on stdin, for tests/t/test_tar_differential.py. One line
 * per name, sorted by directory, fields divided by tabs: path, type as tar prints it, permissions,
 * uid, gid, size or device numbers, node, seconds and nanoseconds of the mtime, sha256 of the
 * contents, link target. Paths and targets are in hex. For a refused archive: the line "refused",
 * and the error on stderr.
 */

#include <inttypes.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <sys/mman.h>

#include "daemon/import/tar-read.h"
#include "proto/limits.h"

static uint8_t input[65536];

static ssize_t on_input(void *userdata, const void **ret)
{
	(void)userdata;
	*ret = input;
	ssize_t n = read(STDIN_FILENO, input, sizeof(input));
	return n < 0 ? -errno : n;
}

static void print_hex(const char *s)
{
	for (; *s; s++)
		printf("%02x", (unsigned char)*s);
}

/* Hashes [from, to) of a file: bytes of the spool from `at`, or zeros. */
static void hash_bytes(struct sha256_ctx *c, int spool, uint64_t n, int64_t at)
{
	uint8_t bytes[TREE_BLOCK] = { 0 };

	while (n > 0) {
		size_t k = (size_t)MIN_OF(n, (uint64_t)sizeof(bytes));

		if (at >= 0 && pread(spool, bytes, k, at) != (ssize_t)k)
			exit(EXIT_FAILURE);
		sha256_update(c, k, bytes);
		at += at >= 0 ? (int64_t)k : 0;
		n -= k;
	}
}

static void print_contents(const struct tree_node *n, int spool)
{
	struct sha256_ctx c;
	uint8_t digest[SHA256_DIGEST_SIZE];
	uint64_t done = 0, at = n->spool;

	sha256_init(&c);
	for (uint32_t i = 0; i < n->n_segments; i++) {
		uint64_t first = (uint64_t)n->segments[i].first * TREE_BLOCK,
			 bytes = (uint64_t)n->segments[i].count * TREE_BLOCK;

		hash_bytes(&c, spool, first - done, -1);
		hash_bytes(&c, spool, MIN_OF(bytes, n->size - first), (int64_t)at);
		done = MIN_OF(first + bytes, n->size);
		at += bytes;
	}
	hash_bytes(&c, spool, n->size - done, -1);
	sha256_digest(&c, sizeof(digest), digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		printf("%02x", digest[i]);
}

static char type_letter(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR: return 'd';
	case S_IFLNK: return 'l';
	case S_IFCHR: return 'c';
	case S_IFBLK: return 'b';
	case S_IFIFO: return 'p';
	default: return '-';
	}
}

static void print_path(struct tree *t, const struct tree_entry *e)
{
	_cleanup_free_ char *dir = tree_path(t, e->parent);

	if (!dir)
		exit(EXIT_FAILURE);
	if (e->parent != TREE_ROOT) {
		print_hex(dir);
		print_hex("/");
	}
	print_hex(e->name);
}

static void print_entry(struct tree *t, const struct tree_entry *e, int spool)
{
	const struct tree_node *n = tree_node(t, e->node);
	char type = type_letter(n->mode);

	print_path(t, e);
	printf("\t%c\t%04o\t%u\t%u\t", type, n->mode & 07777, n->uid, n->gid);
	if (type == 'c' || type == 'b')
		printf("%u,%u", n->dev_major, n->dev_minor);
	else
		printf("%" PRIu64, type == '-' ? n->size : 0);
	printf("\t%u\t%" PRId64 "\t%u\t", e->node, n->mtime.sec, n->mtime.nsec);
	if (type == '-')
		print_contents(n, spool);
	printf("\t");
	print_hex(n->target ? n->target : "");
	printf("\n");
}

int main(void)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_(tree_freep) struct tree *t = NULL;
	_cleanup_close_ int spool = memfd_create("spool", MFD_CLOEXEC);
	struct tree_listing list = { 0 };

	if (spool < 0 || tree_new(&t) < 0)
		return EXIT_FAILURE;
	struct tar_read tr = { .tree = t, .spool_fd = spool, .input = on_input };
	if (tar_read(&tr, &err) < 0) {
		printf("refused\n");
		fprintf(stderr, "%s: %s\n", err.message, err.cause ? err.cause : "");
		return EXIT_SUCCESS;
	}
	if (tree_list(t, &list) < 0)
		return EXIT_FAILURE;
	for (size_t i = 0; i < list.n; i++)
		print_entry(t, list.entries[i], spool);
	tree_listing_done(&list);
	return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
