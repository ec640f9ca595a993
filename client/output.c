/* SPDX-License-Identifier: MIT */
/*
 * Prints for the CLI: errors as three lines or as JSON, phase lines, plain objects. Called by every
 * command. Data goes to stdout and everything else to stderr. Text from outside passes text_escape
 * first, so that no name, path or console line can control the terminal. stdio's own stdout loses
 * what a non-blocking descriptor does not take, and the errno of a failed write. The stdout made
 * here waits, and keeps the first failure.
 */
#include "output.h"

#include <poll.h>
#include <stdarg.h>

#include "client/text.h"
#include "proto/json.h"
#include "proto/utf8.h"

#define BAR           "####################"
#define PRINT_PERCENT 10
#define PRINT_USEC    (10 * USEC_PER_SEC)
#define BAR_WIDTH     20

/* Writes for fopencookie(3). Returns n, or the number of bytes written before the failure. */
static ssize_t write_stdout(void *cookie, const char *bytes, size_t n)
{
	struct pollfd pfd = { .fd = STDOUT_FILENO, .events = POLLOUT };
	int *error = cookie;
	size_t done = 0;

	while (done < n && *error == 0) {
		ssize_t r = write(STDOUT_FILENO, bytes + done, n - done);

		if (r >= 0)
			done += (size_t)r;
		else if (errno == EAGAIN)
			(void)poll(&pfd, 1, -1); /* the next write() reports errors */
		else if (errno != EINTR)
			*error = -errno;
	}
	return (ssize_t)done;
}

int out_begin(int *ret_error)
{
	_cleanup_fclose_ FILE *f =
		fopencookie(ret_error, "w", (cookie_io_functions_t){ .write = write_stdout });

	if (!f)
		return -ENOMEM;
	if (isatty(STDOUT_FILENO) && setvbuf(f, NULL, _IOLBF, 0) != 0)
		return -ENOMEM;
	*ret_error = 0;
	stdout = TAKE_PTR(f);
	return 0;
}

void out_text(FILE *f, const char *s)
{
	_cleanup_free_ char *safe = s ? text_escape(s, NULL) : NULL;

	fputs(safe ? safe : "-", f);
}

static void put_labelled(const char *label, const char *s)
{
	_cleanup_free_ char *safe = NULL;

	if (!s || s[0] == '\0')
		return;
	safe = text_escape(s, "         ");
	fprintf(stderr, "  %s: %s\n", label, safe ? safe : "out of memory");
}

char *out_fix(const char *fix)
{
	static const char sudo[] = "sudo ";
	char *copy = strdup(fix), *to = copy;
	bool begins = true;

	if (!copy || geteuid() != 0)
		return copy;
	while (*fix) {
		if (begins && startswith(fix, sudo)) {
			fix += strlen(sudo);
			continue;
		}
		begins = *fix == ';' || *fix == '&' || *fix == '|' || (begins && *fix == ' ');
		*to++ = *fix++;
	}
	*to = '\0';
	return copy;
}

json_object *out_error_json(const struct error *err)
{
	_cleanup_json_ json_object *outer = json_object_new_object();
	json_object *o = json_object_new_object();

	if (!outer || !o || json_add_bool(outer, "ok", false) < 0 ||
		json_add(outer, "error", o) < 0)
		return NULL;
	if (json_add_str(o, "code", error_code_name(err->code)) < 0 ||
		json_add_str(o, "message", err->message) < 0 ||
		json_add_str(o, "cause", err->cause) < 0 || json_add_str(o, "fix", err->fix) < 0 ||
		json_add_bool(o, "retryable", error_code_retryable(err->code)) < 0 ||
		json_add(o, "data", NULL) < 0)
		return NULL;
	return TAKE_PTR(outer);
}

/* o may contain words of the command line and paths, which need not be UTF-8. */
void out_json(json_object *o)
{
	_cleanup_free_ char *repaired = NULL, *safe = NULL;
	bool terminal = isatty(STDOUT_FILENO);
	int form = terminal ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED
			    : JSON_C_TO_STRING_PLAIN;
	const char *text = json_object_to_json_string_ext(o, form | JSON_C_TO_STRING_NOSLASHESCAPE);

	if (text && !text_is_utf8(text))
		text = repaired = utf8_repair(text);
	if (text && terminal)
		text = safe = text_escape_json(text);
	puts(text ? text
		  : "{\"ok\":false,\"error\":{\"code\":\"internal\",\"message\":\"out of memory\"}}");
}

void out_error(const struct cli *cli, const struct error *err)
{
	_cleanup_json_ json_object *o = NULL;
	_cleanup_free_ char *message = NULL, *fix = NULL;

	if (cli->json) {
		o = out_error_json(err);
		out_json(o);
		return;
	}
	message = text_escape(err->message ? err->message : error_code_name(err->code), "  ");
	fflush(stdout);
	fprintf(stderr, "pyro: %s\n", message ? message : "out of memory");
	put_labelled("cause", err->cause);
	fix = err->fix ? out_fix(err->fix) : NULL;
	put_labelled("fix", fix);
}

void out_note(const struct cli *cli, const char *fmt, ...)
{
	va_list ap;

	if (cli->quiet)
		return;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

const char *out_member(json_object *o, const char *key)
{
	json_object *v = NULL;

	if (!o || !json_object_object_get_ex(o, key, &v) ||
		!json_object_is_type(v, json_type_string))
		return "";
	return json_object_get_string(v);
}

int64_t out_int(json_object *o, const char *key, int64_t dflt)
{
	json_object *v = json_get(o, key);

	return json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : dflt;
}

bool out_bool(json_object *o, const char *key, bool dflt)
{
	json_object *v = json_get(o, key);

	return json_object_is_type(v, json_type_boolean) ? json_object_get_boolean(v) : dflt;
}

json_object *out_array(json_object *o, const char *key)
{
	json_object *v = json_get(o, key);

	return json_object_is_type(v, json_type_array) ? v : NULL;
}

json_object *out_sub(json_object *o, const char *key)
{
	json_object *v = json_get(o, key);

	return json_object_is_type(v, json_type_object) ? v : NULL;
}

/* Prints "vm_id" as "VM ID", "network_enabled" as "Network enabled". */
static void put_name(const char *name)
{
	static const char *const words[][2] = { { "vm", "VM" }, { "id", "ID" }, { "ip", "IP" },
		{ "cidr", "CIDR" }, { "mac", "MAC" }, { "dns", "DNS" }, { "tap", "TAP" } };
	bool first = true;

	while (*name) {
		size_t n = strcspn(name, "_"), known = 0;

		while (known < ARRAY_SIZE(words) &&
			!(strlen(words[known][0]) == n && startswith(name, words[known][0])))
			known++;
		if (!first)
			putchar(' ');
		if (known < ARRAY_SIZE(words))
			fputs(words[known][1], stdout);
		else if (first && *name >= 'a' && *name <= 'z')
			printf("%c%.*s", *name - 'a' + 'A', (int)(n - 1), name + 1);
		else
			printf("%.*s", (int)n, name);
		first = false;
		name += n + (name[n] == '_');
	}
}

/* Prints strings as text, lists of strings with spaces between, and the rest as JSON. */
static void put_value(json_object *v)
{
	if (!v) {
		putchar('-');
	} else if (json_object_is_type(v, json_type_string)) {
		out_text(stdout, json_object_get_string(v));
	} else if (json_object_is_type(v, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(v); i++) {
			if (i > 0)
				putchar(' ');
			out_text(stdout, json_object_get_string(json_object_array_get_idx(v, i)));
		}
	} else {
		out_text(stdout, json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN));
	}
}

void out_line(const char *label, const char *value)
{
	printf("%s: ", label);
	out_text(stdout, value[0] ? value : NULL);
	putchar('\n');
}

void out_object(json_object *o)
{
	json_object_object_foreach(o, key, v)
	{
		_cleanup_free_ char *name = text_escape(key, NULL);

		put_name(name ? name : "?");
		fputs(": ", stdout);
		put_value(v);
		putchar('\n');
	}
}

/* Returns a cell as escaped text; "-" for null. Owned by the caller. */
static char *cell(json_object *row, const struct out_column *c)
{
	json_object *v = json_get(row, c->key);

	if (!v)
		return strdup("-");
	return text_escape(json_object_is_type(v, json_type_string)
				   ? json_object_get_string(v)
				   : json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN),
		NULL);
}

static size_t column_width(json_object *rows, const struct out_column *c)
{
	size_t width = strlen(c->heading);

	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		_cleanup_free_ char *text = cell(json_object_array_get_idx(rows, i), c);

		width = MAX_OF(width, text ? strlen(text) : 0);
	}
	return width;
}

static void put_table(json_object *rows, const struct out_column *columns, size_t n)
{
	for (size_t c = 0; c < n; c++)
		printf("%-*s%s", c + 1 < n ? (int)column_width(rows, &columns[c]) : 0,
			columns[c].heading, c + 1 < n ? "  " : "\n");
	for (size_t i = 0; i < json_object_array_length(rows); i++)
		for (size_t c = 0; c < n; c++) {
			_cleanup_free_ char *text =
				cell(json_object_array_get_idx(rows, i), &columns[c]);

			printf("%-*s%s", c + 1 < n ? (int)column_width(rows, &columns[c]) : 0,
				text ? text : "?", c + 1 < n ? "  " : "\n");
		}
}

void out_list(const struct cli *cli, json_object *rows, const struct out_column *columns, size_t n,
	const char *when_empty)
{
	size_t n_rows = rows ? json_object_array_length(rows) : 0;

	if (n_rows == 0) {
		out_note(cli, "%s", when_empty);
		return;
	}
	if (!cli->quiet && isatty(STDOUT_FILENO)) {
		put_table(rows, columns, n);
		return;
	}
	for (size_t i = 0; i < n_rows; i++)
		for (size_t c = 0; c < (cli->quiet ? 1 : n); c++) {
			_cleanup_free_ char *text =
				cell(json_object_array_get_idx(rows, i), &columns[c]);

			if (!cli->quiet)
				printf("%s=", columns[c].key);
			printf("%s%s", text ? text : "?", c + 1 < n && !cli->quiet ? " " : "\n");
		}
}

void out_progress_end(struct out_progress *p)
{
	if (p->drawn)
		fputs("\r\033[K", stderr);
	p->drawn = false;
}

/* True if a line may be redrawn: on a capable terminal, unless NO_COLOR is set (no-color.org). */
static bool may_draw(void)
{
	const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

	return !(no_color && no_color[0]) && !(term && streq(term, "dumb")) &&
	       isatty(STDERR_FILENO);
}

/* Draws "[pull] debian:12: write [#####     ] 50%". */
static void draw_bar(struct out_progress *p, const char *phase, int percent)
{
	_cleanup_free_ char *name = text_escape(phase, NULL),
			    *env = text_escape(p->environment, NULL);
	int done = percent * BAR_WIDTH / 100;

	fprintf(stderr, "\r[pull] %s: %s", env ? env : "?", name ? name : "?");
	if (percent >= 0)
		fprintf(stderr, " [%.*s%*s] %d%%", done, BAR, BAR_WIDTH - done, "", percent);
	fputs("\033[K", stderr);
	p->drawn = true;
}

/* Prints progress on a new step, after PRINT_PERCENT more percent, or after PRINT_USEC. */
static void print_step(struct out_progress *p, const char *phase, int percent)
{
	_cleanup_free_ char *step = text_escape(phase, NULL),
			    *env = text_escape(p->environment, NULL);
	uint64_t now = now_usec();
	char text[32] = "";

	if (!step || !env)
		return;
	if (strncmp(p->step, phase, sizeof(p->step) - 1) == 0 &&
		percent < p->percent + PRINT_PERCENT && now - p->printed_usec < PRINT_USEC)
		return;
	(void)snprintf(p->step, sizeof(p->step), "%s", phase);
	p->percent = percent;
	p->printed_usec = now;
	if (percent >= 0)
		(void)snprintf(text, sizeof(text), " percent=%d", MIN_OF(percent, 100));
	out_note(p->cli, "[pull] phase=install environment=%s step=%s%s seconds=%llu", env, step,
		text, (unsigned long long)((now - p->begin_usec) / USEC_PER_SEC));
}

void out_pull_phase(struct out_progress *p, const char *phase, int percent)
{
	_cleanup_free_ char *env = NULL;
	bool ready = streq(phase, "ready");

	if (p->cli->quiet)
		return;
	if (may_draw()) {
		if (ready)
			out_progress_end(p);
		else
			draw_bar(p, phase, MIN_OF(percent, 100));
	}
	/* Lines know the phases install and ready; kernel and write are steps of install. */
	if (streq(p->phase, ready ? "ready" : "install")) {
		if (!may_draw() && !ready)
			print_step(p, phase, percent);
		return;
	}
	(void)snprintf(p->phase, sizeof(p->phase), "%s", ready ? "ready" : "install");
	env = text_escape(p->environment, NULL);
	if (!may_draw() && env)
		out_note(p->cli, "[pull] phase=%s environment=%s", p->phase, env);
	p->begin_usec = p->printed_usec = now_usec();
	if (!may_draw() && !ready && percent >= 0)
		print_step(p, phase, percent);
}
