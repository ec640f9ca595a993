/* SPDX-License-Identifier: MIT */
/*
 * The sha256 of files and names, for all verbs of pyro-import.
 */
#include "daemon/import/import.h"
#include <nettle/sha2.h>

#define DIGEST_READ (1024 * 1024)

static void to_hex(struct sha256_ctx *ctx, char ret[IMPORT_SHA256_HEX])
{
	uint8_t digest[SHA256_DIGEST_SIZE];
	sha256_digest(ctx, sizeof(digest), digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		(void)snprintf(ret + 2 * i, 3, "%02x", digest[i]);
}

void import_sha256_hex(const void *p, size_t n, char ret[IMPORT_SHA256_HEX])
{
	struct sha256_ctx ctx;
	sha256_init(&ctx);
	sha256_update(&ctx, n, p);
	to_hex(&ctx, ret);
}

int import_digest(int fd, char ret[IMPORT_DIGEST_SIZE])
{
	_cleanup_free_ uint8_t *bytes = malloc(DIGEST_READ);
	struct sha256_ctx ctx;
	off_t at = 0;
	ssize_t n;
	if (!bytes)
		return -ENOMEM;
	sha256_init(&ctx);
	while ((n = pread(fd, bytes, DIGEST_READ, at)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		sha256_update(&ctx, n, bytes);
		at += n;
	}
	/* NOLINTNEXTLINE(bugprone-not-null-terminated-result): to_hex ends it */
	memcpy(ret, "sha256:", 7);
	to_hex(&ctx, ret + 7);
	return 0;
}
