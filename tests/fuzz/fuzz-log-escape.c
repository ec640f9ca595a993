/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of both escapers: the daemon's log lines and the client's terminal text. The output
 * must be valid UTF-8 without control characters and bidi controls, and must fit. The first byte is
 * the size of the log's buffer. A log call makes one line on stderr and one record in the journal,
 * which is faked here; a field without newlines cannot forge another field.
 */

#include "client/text.h"
#include "daemon/log.h"

#include "proto/json.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Returns the scalar value at p; the text is valid. */
static uint32_t next_char(const uint8_t *p, size_t *ret_n)
{
	size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	uint32_t c = n == 1 ? p[0] : p[0] & (0x7fU >> n);

	for (size_t i = 1; i < n; i++)
		c = c << 6 | (p[i] & 0x3fU);
	*ret_n = n;
	return c;
}

static void check_safe(const char *text, bool newlines)
{
	const uint8_t *p = (const uint8_t *)text;
	size_t n;

	if (!json_utf8_valid(text, strlen(text)))
		abort();
	for (; *p; p += n) {
		uint32_t c = next_char(p, &n);

		if (newlines && c == '\n')
			continue;
		if (c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 ||
			c == 0x061c || c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) ||
			(c >= 0x2066 && c <= 0x2069))
			abort();
	}
}

static unsigned records;

/* Replaces the function of libsystemd that its macro calls. */
int sd_journal_sendv_with_location(_unused_ const char *file, _unused_ const char *line,
	_unused_ const char *func, const struct iovec *iov, int n)
{
	records++;
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *field = strndup(iov[i].iov_base, iov[i].iov_len);

		if (!field || strlen(field) != iov[i].iov_len)
			abort();
		check_safe(field, false);
	}
	return 0;
}

/* Returns the line that was written to stderr. */
static char *read_line(int fd)
{
	char line[64 * 1024];
	ssize_t n = pread(fd, line, sizeof(line) - 1, 0);

	if (n < 0)
		abort();
	line[n] = '\0';
	return strdup(line);
}

static void check_stderr(int fd, int error, const char *text)
{
	(void)log_full(LOG_ERR, error, NULL, "cannot start \"%s\"", text);
	_cleanup_free_ char *line = read_line(fd);
	size_t n = line ? strlen(line) : 0;

	if (n < 2 || line[n - 1] != '\n' || !startswith(line, "fuzz: cannot start \""))
		abort();
	line[n - 1] = '\0';
	check_safe(line, false);
}

static void check_journal(int fd, int error, const char *text)
{
	char stream[64];
	struct stat st;

	if (fstat(fd, &st) < 0)
		abort();
	(void)snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
		(unsigned long long)st.st_ino);
	(void)setenv("JOURNAL_STREAM", stream, 1);
	log_init("fuzz");
	_cleanup_free_ char *field = str_printf("PYRO_VM=%s", text);
	unsigned before = records;
	(void)log_full(LOG_INFO, error, text[0] ? field : NULL, "%s", text);
	(void)log_full(LOG_DEBUG, error, field, "%s", text); /* below the level */
	if (!field || records != before + 1)
		abort();
}

/* With stderr as a file, not a terminal. */
static void check_log(int error, const char *text)
{
	_cleanup_close_ int stderr_fd = dup(STDERR_FILENO);
	_cleanup_close_ int fd = memfd_create("stderr", MFD_CLOEXEC);

	if (stderr_fd < 0 || fd < 0 || dup2(fd, STDERR_FILENO) < 0)
		abort();
	(void)unsetenv("JOURNAL_STREAM");
	log_init("fuzz");
	log_set_level(LOG_INFO);
	check_stderr(fd, error, text);
	check_journal(fd, error, text);
	if (dup2(stderr_fd, STDERR_FILENO) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	size_t room = data[0], n;
	_cleanup_free_ char *out = malloc(room ? room : 1);
	_cleanup_free_ char *text = strndup((const char *)data + 1, size - 1);
	if (!out || !text)
		abort();
	check_log((int)room % 3 - 1, text);
	n = log_escape((const char *)data + 1, size - 1, out, room);
	if (room > 0) {
		if (n >= room || out[n] != '\0' || strlen(out) != n)
			abort();
		check_safe(out, false);
	} else if (n != 0) {
		abort();
	}
	_cleanup_free_ char *flat = text_escape(text, NULL), *indented = text_escape(text, "  ");
	if (!flat || !indented || text_is_utf8(text) != json_utf8_valid(text, strlen(text)))
		abort();
	check_safe(flat, false);
	check_safe(indented, true);
	return 0;
}
