/* SPDX-License-Identifier: MIT */
/*
 * Writes log lines: to the journal with structured fields if stderr is connected to it, else to
 * stderr, a terminal or a file. Called by main files, the dispatcher and event callbacks only. What
 * must stay true: one call is one record (untrusted text is escaped, so it contains no newline and
 * no terminal sequence); logging never makes its caller fail; no user can fill a disk with
 * messages, since each is limited (log-limit.h) and the daemon's own log file is rotated when it is
 * full.
 */

#include "daemon/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <time.h>

#include "daemon/log-limit.h"
#include "proto/utf8.h"

#define LINE_MAX_BYTES 4096      /* of one message, before escaping */
#define FILE_MAX_BYTES (8 * MIB) /* of the daemon's own log file and of its predecessor */

static const char *log_ident = "pyro";
static int log_level = LOG_INFO;
static bool log_journal;
static const struct accounts *log_accounts; /* borrowed: the manager's */
static uid_t (*log_find_account)(const struct accounts *a, uid_t uid);
static char *log_path;    /* owned, never freed; NULL: stderr is not our log file */
static uint64_t log_size; /* of the file at log_path; both used by the loop thread only */

/* True if stderr is the journal stream named by JOURNAL_STREAM=device:inode. */
static bool stderr_is_journal(void)
{
	unsigned long long dev, ino;
	struct stat st;
	const char *stream = getenv("JOURNAL_STREAM");
	/* NOLINTNEXTLINE(cert-err34-c): a value out of range compares as different */
	if (!stream || sscanf(stream, "%llu:%llu", &dev, &ino) != 2)
		return false;
	return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void log_init(const char *ident)
{
	log_ident = ident;
	log_journal = stderr_is_journal();
}

void log_set_level(int level)
{
	log_level = level;
}

void log_set_accounts(const struct accounts *a, uid_t (*find)(const struct accounts *a, uid_t uid))
{
	log_accounts = a;
	log_find_account = find;
}

/* True for control characters, line separators (U+2028/9) and bidi marks, embeddings and
 * isolates. */
static bool harmful(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 || c == 0x061c ||
	       c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) ||
	       (c >= 0x2066 && c <= 0x2069);
}

size_t log_escape(const char *s, size_t n, char *ret, size_t ret_size)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t at = 0;
	if (ret_size == 0)
		return 0;
	for (size_t i = 0; i < n;) {
		uint32_t c = 0;
		size_t len = utf8_decode(p + i, n - i, &c);
		bool raw = len > 0 && !harmful(c);
		size_t bytes = MAX_OF(len, (size_t)1), need = raw ? bytes : 4 * bytes;
		if (ret_size - at <= need)
			break;
		for (size_t k = 0; k < bytes; k++) {
			if (raw)
				ret[at++] = s[i + k];
			else
				at += (size_t)snprintf(ret + at, 5, "\\x%02x", p[i + k]);
		}
		i += bytes;
	}
	ret[at] = '\0';
	return at;
}

static void to_journal(int level, int error, const char *field, const char *text)
{
	char message[LINE_MAX_BYTES * 4 + 16], priority[24], ident[64], number[32];
	(void)snprintf(message, sizeof(message), "MESSAGE=%s", text);
	(void)snprintf(priority, sizeof(priority), "PRIORITY=%d", level);
	(void)snprintf(ident, sizeof(ident), "SYSLOG_IDENTIFIER=%s", log_ident);
	(void)snprintf(number, sizeof(number), "ERRNO=%d", error < 0 ? -error : error);
	struct iovec iov[5];
	int n = 0;
	iov[n++] = (struct iovec){ message, strlen(message) };
	iov[n++] = (struct iovec){ priority, strlen(priority) };
	iov[n++] = (struct iovec){ ident, strlen(ident) };
	if (error != 0)
		iov[n++] = (struct iovec){ number, strlen(number) };
	char escaped[512];
	if (field) {
		size_t len = log_escape(field, strlen(field), escaped, sizeof(escaped));
		iov[n++] = (struct iovec){ escaped, len };
	}
	(void)sd_journal_sendv(iov, n); /* there is nowhere else to report a failure */
}

int log_keep_file(const char *path)
{
	struct stat here, there;
	if (fstat(STDERR_FILENO, &here) < 0 || !S_ISREG(here.st_mode) || lstat(path, &there) < 0 ||
		here.st_dev != there.st_dev || here.st_ino != there.st_ino)
		return 0;
	free(log_path);
	log_path = strdup(path);
	log_size = (uint64_t)here.st_size;
	return log_path ? 1 : -ENOMEM;
}

/* Makes stderr, and stdout if it is the same file, the file that is now at log_path. Running
 * children keep the old one. */
int log_reopen(void)
{
	struct stat out, err, new;
	if (!log_path)
		return 0;
	_cleanup_close_ int fd =
		open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || fstat(fd, &new) < 0 || fstat(STDOUT_FILENO, &out) < 0 ||
		fstat(STDERR_FILENO, &err) < 0)
		return -errno;
	if (!S_ISREG(new.st_mode))
		return -EINVAL;
	if (out.st_dev == err.st_dev && out.st_ino == err.st_ino && dup2(fd, STDOUT_FILENO) < 0)
		return -errno;
	if (dup2(fd, STDERR_FILENO) < 0)
		return -errno;
	log_size = (uint64_t) new.st_size;
	return 0;
}

/* Renames a full log file to FILE.1 and opens a new one; on failure the file keeps growing. */
static void next_file(void)
{
	_cleanup_free_ char *old = str_printf("%s.1", log_path);
	log_size = 0;
	if (old && rename(log_path, old) >= 0)
		(void)log_reopen(); /* there is nowhere to report a failure */
}

/* Only lines in the daemon's own file have the time: the journal adds it, and a terminal's user
 * knows it. */
static void to_stderr(const char *text, size_t n)
{
	char stamp[32] = "";
	time_t now = time(NULL);
	struct tm tm;
	if (log_path && gmtime_r(&now, &tm) &&
		strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ ", &tm) == 0)
		stamp[0] = '\0';
	int written = dprintf(STDERR_FILENO, "%s%s: %.*s\n", stamp, log_ident, (int)n, text);
	log_size += (uint64_t)MAX_OF(written, 0);
	if (log_path && log_size >= FILE_MAX_BYTES)
		next_file();
}

/* Returns the path of the file behind stderr, quoted for the shell, or NULL. */
static char *log_file(void)
{
	char path[4096];
	struct stat st;
	ssize_t n = readlink("/proc/self/fd/2", path, sizeof(path) - 1);
	if (n <= 0 || fstat(STDERR_FILENO, &st) < 0 || !S_ISREG(st.st_mode))
		return NULL;
	path[n] = '\0';
	return shell_quote(path);
}

char *log_search(bool system, const char *word)
{
	if (log_journal)
		return str_printf("%s -u pyrod -g %s",
			system ? "sudo journalctl" : "journalctl --user", word);
	_cleanup_free_ char *file = log_file();
	return file ? str_printf("%sgrep %s %s", system ? "sudo " : "", word, file)
		    : str_printf("search for %s in what pyrod printed to its stderr", word);
}

/* Returns true if the message is to be logged; *ret_left_out as for log_limit_admit. */
static bool admit(int level, const char *fmt, const char *field, unsigned *ret_left_out)
{
	*ret_left_out = 0;
	return level <= log_level &&
	       (level >= LOG_DEBUG || log_limit_admit(fmt, field, now_usec(), ret_left_out));
}

static _printf_(5, 0) void write_line(
	int level, int error, const char *field, unsigned left_out, const char *fmt, va_list ap)
{
	int saved = errno;
	char raw[LINE_MAX_BYTES], text[LINE_MAX_BYTES * 4];
	int n = vsnprintf(raw, sizeof(raw), fmt, ap);
	size_t len = n < 0 ? 0 : MIN_OF((size_t)n, sizeof(raw) - 1);
	if (error != 0 && len < sizeof(raw) - 1) {
		char why[128];
		const char *desc = strerror_r(error < 0 ? -error : error, why, sizeof(why));
		n = snprintf(raw + len, sizeof(raw) - len, ": %s", desc);
		len = MIN_OF(len + (size_t)MAX_OF(n, 0), sizeof(raw) - 1);
	}
	if (left_out > 0 && len < sizeof(raw) - 1) {
		n = snprintf(raw + len, sizeof(raw) - len, " (%u similar messages were suppressed)",
			left_out);
		len = MIN_OF(len + (size_t)MAX_OF(n, 0), sizeof(raw) - 1);
	}
	(void)log_escape(raw, len, text, sizeof(text));
	if (log_journal)
		to_journal(level, error, field, text);
	else
		to_stderr(text, strlen(text));
	errno = saved;
}

void log_full(int level, int error, const char *field, const char *fmt, ...)
{
	unsigned left_out;
	va_list ap;
	if (!admit(level, fmt, field, &left_out))
		return;
	va_start(ap, fmt);
	write_line(level, error, field, left_out, fmt, ap);
	va_end(ap);
}

void log_uid(int level, int error, uid_t uid, const char *fmt, ...)
{
	char field[32];
	unsigned left_out;
	va_list ap;
	(void)snprintf(field, sizeof(field), "PYRO_UID=%u",
		log_accounts ? log_find_account(log_accounts, uid) : uid);
	if (!admit(level, fmt, field, &left_out))
		return;
	(void)snprintf(field, sizeof(field), "PYRO_UID=%u", uid);
	va_start(ap, fmt);
	write_line(level, error, field, left_out, fmt, ap);
	va_end(ap);
}
