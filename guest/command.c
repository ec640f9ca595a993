/* SPDX-License-Identifier: MIT */
/*
 * Builds the arguments that run a shell line, for exec.c and login.c: with `/bin/bash`, else
 * `/bin/sh`; an environment with neither (a single static program) can run plain words. Starts no
 * process.
 */

#include "guest/command.h"

#include <sys/stat.h>

#define PATH_ROOT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define PATH_USER "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"

const char *command_shell(void)
{
	static const char *const shells[] = { "/bin/bash", "/bin/sh" };

	for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
		struct stat st;
		if (stat(shells[i], &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0111))
			return shells[i];
	}
	return NULL;
}

void command_free_argv(char **argv)
{
	for (size_t i = 0; argv && argv[i]; i++)
		free(argv[i]);
	free(argv);
}

static void argvp(char ***argv)
{
	command_free_argv(*argv);
}

/* Quotes text for a POSIX shell, always in single quotes. */
static char *quote(const char *text)
{
	char *out = malloc(4 * strlen(text) + 3), *p = out;

	if (!out)
		return NULL;
	*p++ = '\'';
	for (; *text; text++) {
		if (*text == '\'')
			p = stpcpy(p, "'\\''");
		else
			*p++ = *text;
	}
	*p++ = '\'';
	*p = '\0';
	return out;
}

static char *put_path_first(const char *path, const char *line)
{
	_cleanup_free_ char *quoted = quote(path);

	return quoted ? str_printf("export PATH=%s; %s", quoted, line) : NULL;
}

/*
 * Returns the line as the argument of -c. Puts a blank before a line that starts with - or +, which
 * shells take for options; not every shell accepts `-c -- LINE` (toybox).
 */
static char *line_word(const char *line)
{
	return str_printf("%s%s", line[0] == '-' || line[0] == '+' ? " " : "", line);
}

int command_argv(
	const char *shell, bool login, const char *line, const char *path_again, char ***ret_argv)
{
	_cleanup_(argvp) char **argv = NULL;

	if (!shell)
		return command_words(line, ret_argv);
	argv = calloc(4, sizeof(*argv));
	if (!argv)
		return -ENOMEM;
	argv[0] = strdup(shell);
	argv[1] = strdup(login ? "-lc" : "-c");
	argv[2] = login && path_again ? put_path_first(path_again, line) : line_word(line);
	if (!argv[0] || !argv[1] || !argv[2]) {
		for (size_t i = 0; i < 3; i++)
			free(TAKE_PTR(argv[i]));
		return -ENOMEM;
	}
	*ret_argv = TAKE_PTR(argv);
	return 0;
}

/* Reads a word at *line into out; returns 1, 0 at the end of the line, or -ENOEXEC. */
static int take_word(const char **line, char *out)
{
	const char *p = *line + strspn(*line, " \t\n");
	bool any = false;

	while (*p && !strchr(" \t\n", *p)) {
		any = true;
		if (*p == '\'' || *p == '"') {
			char mark = *p++;
			size_t n = strcspn(p, mark == '"' ? "\"$`\\" : "'");
			if (p[n] != mark)
				return -ENOEXEC;
			memcpy(out, p, n);
			out += n;
			p += n + 1;
		} else if (*p == '\\' && p[1]) {
			*out++ = p[1];
			p += 2;
		} else if (strchr("|&;<>()$`\\*?[#~{}!", *p)) {
			return -ENOEXEC;
		} else {
			*out++ = *p++;
		}
	}
	*out = '\0';
	*line = p;
	return any;
}

int command_words(const char *line, char ***ret_argv)
{
	_cleanup_(argvp) char **argv = NULL;
	_cleanup_free_ char *word = malloc(strlen(line) + 1);
	size_t n = 0;
	int r;

	if (!word)
		return -ENOMEM;
	while ((r = take_word(&line, word)) > 0) {
		char **more = reallocarray(argv, n + 2, sizeof(*argv));
		if (!more)
			return -ENOMEM;
		argv = more;
		argv[n] = strdup(word);
		if (!argv[n])
			return -ENOMEM;
		argv[++n] = NULL;
	}
	if (r < 0 || n == 0 || strchr(argv[0], '='))
		return -ENOEXEC;
	*ret_argv = TAKE_PTR(argv);
	return 0;
}

int command_base_env(const struct user *u, const char *shell, struct env *e)
{
	const struct {
		const char *key, *value;
	} base[] = {
		{ "HOME", u->home },
		{ "USER", u->name },
		{ "LOGNAME", u->name },
		{ "SHELL", shell ? shell : u->shell },
		{ "PATH", u->uid == 0 ? PATH_ROOT : PATH_USER },
		{ "LANG", "C.UTF-8" },
		/* the machine itself is the virtual environment */
		{ "PIP_BREAK_SYSTEM_PACKAGES", "1" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(base); i++) {
		int r = env_set_pair(e, base[i].key, base[i].value);
		if (r < 0)
			return r;
	}
	return 0;
}
