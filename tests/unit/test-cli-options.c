/* SPDX-License-Identifier: MIT */
/*
 * The command line by the interface table (client/options.c): which words are flags, which values
 * they set, and that every mistake is an error that names the value.
 */
#include "client/options.h"

#include <check.h>

#include "proto/api.h"
#include "proto/json.h"

static const struct verb verb_run = { NULL, "run", API_M_vm_run, NULL, true, false, NULL, "" };
static const struct verb verb_prune = { "env", "prune", API_M_env_prune, NULL, false, false, NULL,
	"" };
static const struct verb verb_doctor = { NULL, "doctor", API_M_system_doctor, NULL, false, false,
	NULL, "" };
static const struct verb verb_update = { "workspace", "update", API_M_workspace_update, NULL, false,
	true, NULL, "" };
static const struct verb verb_delete = { "workspace", "delete", API_M_workspace_delete, NULL, false,
	true, NULL, "" };
static const struct verb verb_wait = { "workspace", "wait", API_M_workspace_wait, NULL, false,
	false, NULL, "" };
static const struct verb verb_list = { "workspace", "list", API_M_workspace_list, NULL, false,
	false, NULL, "" };

/* Parses NULL-terminated words for v. Returns the params as text (owned by the caller), or NULL
 * with *err set. */
static char *parse(
	const struct verb *v, const char *const *words, struct cli *cli, struct error *err)
{
	_cleanup_(cmdline_done) struct cmdline line = { 0 };
	char *argv[32] = { (char[]){ "pyro" } };
	int argc = 1;

	for (; words[argc - 1]; argc++)
		argv[argc] = (char *)words[argc - 1]; /* only read */
	argv[argc] = NULL;
	int r = cmdline_parse(&line, cli, v, argc, argv, 1, err);
	if (r < 0) {
		ck_assert(err->set);
		return NULL;
	}
	return strdup(json_object_to_json_string_ext(line.params, JSON_C_TO_STRING_PLAIN));
}

#define WORDS(...) ((const char *const[]){ __VA_ARGS__, NULL })

START_TEST(test_good)
{
	static const struct {
		const struct verb *verb;
		const char *words[12], *params;
	} cases[] = {
		{ &verb_run, { "e", "ls" }, "{\"environment\":\"e\",\"command\":\"ls\"}" },
		{ &verb_run, { "e", "--", "ls" }, "{\"environment\":\"e\",\"command\":\"ls\"}" },
		{ &verb_run, { "--", "e", "ls" }, "{\"environment\":\"e\",\"command\":\"ls\"}" },
		{ &verb_run, { "e", "ls", "-i" }, "{\"environment\":\"e\",\"command\":\"ls -i\"}" },
		{ &verb_run, { "e", "ls", "--", "x" },
			"{\"environment\":\"e\",\"command\":\"ls -- x\"}" },
		{ &verb_run, { "-im2G", "e", "ls" },
			"{\"interactive\":true,\"mem_mib\":2048,\"environment\":\"e\",\"command\":\"ls\"}" },
		{ &verb_run, { "e", "--cpus=3", "ls" },
			"{\"vcpu_count\":3,\"environment\":\"e\",\"command\":\"ls\"}" },
		{ &verb_run, { "--vcpu-count", "3", "--cpus", "2", "e", "ls" },
			"{\"vcpu_count\":2,\"environment\":\"e\",\"command\":\"ls\"}" },
		{ &verb_run, { "-e", "A=1", "-eA=2=3", "--env=B=", "e", "ls" },
			"{\"env\":{\"A\":\"2=3\",\"B\":\"\"},\"environment\":\"e\",\"command\":\"ls\"}" },
		{ &verb_run, { "-e", "PYRO_TEST_SET", "-e", "PYRO_TEST_UNSET", "e", "ls" },
			"{\"env\":{\"PYRO_TEST_SET\":\"v\"},\"environment\":\"e\",\"command\":\"ls\"}" },
		{ &verb_run, { "--timeout", "1h", "--ttl-seconds", "0", "e", "ls" },
			"{\"timeout_seconds\":3600,\"ttl_seconds\":0,\"environment\":\"e\",\"command\":\"ls\"}" },
		{ &verb_run, { "--user", "me", "e", "ls" },
			"{\"user\":\"me\",\"environment\":\"e\",\"command\":\"ls\"}" },
		{ &verb_prune, { "--all", "--dry-run" }, "{\"all\":true,\"dry_run\":true}" },
		{ &verb_doctor, { "--no-probe" }, "{\"probe\":false}" },
		{ &verb_update,
			{ "-l", "a=1", "--label=b=", "--clear-label", "x", "--clear-label=y", "w" },
			"{\"labels\":{\"a\":\"1\",\"b\":\"\"},\"clear_labels\":[\"x\",\"y\"],"
			"\"workspace_id\":\"w\"}" },
		{ &verb_wait, { "--state", "failed", "--state=started", "--wait-ms", "7", "w" },
			"{\"states\":[\"failed\",\"started\"],\"wait_ms\":7,\"workspace_id\":\"w\"}" },
		{ &verb_list, { "--owner", "root" }, "{\"owner\":0}" },
		{ &verb_list, { "--owner", "4294967294" }, "{\"owner\":4294967294}" },
	};

	ck_assert_int_eq(setenv("PYRO_TEST_SET", "v", 1), 0);
	ck_assert_int_eq(unsetenv("PYRO_TEST_UNSET"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_error_ struct error err = ERROR_INIT;
		struct cli cli = { 0 };
		_cleanup_free_ char *params = parse(cases[i].verb, cases[i].words, &cli, &err);

		ck_assert_msg(params != NULL, "%zu: %s", i, err.message);
		ck_assert_str_eq(params, cases[i].params);
	}
}
END_TEST

START_TEST(test_bad)
{
	static const struct {
		const struct verb *verb;
		const char *words[8];
		enum error_code code;
		const char *says;
	} cases[] = {
		{ &verb_run, { NULL }, ERROR_USAGE, "ENVIRONMENT" },
		{ &verb_run, { "e" }, ERROR_USAGE, "CMD" },
		{ &verb_run, { "e", "" }, ERROR_INVALID_ARGUMENT, "empty" },
		{ &verb_run, { "-m" }, ERROR_USAGE, "-m" },
		{ &verb_run, { "-z", "e", "ls" }, ERROR_USAGE, "-z" },
		{ &verb_run, { "-iz", "e", "ls" }, ERROR_USAGE, "-z" },
		{ &verb_run, { "--interactive=yes", "e", "ls" }, ERROR_USAGE, "--interactive" },
		{ &verb_run, { "--stdio=0", "e", "ls" }, ERROR_USAGE, "--stdio" },
		{ &verb_run, { "--wait-ms=0", "e", "ls" }, ERROR_USAGE, "--wait-ms" },
		{ &verb_run, { "--environment=e", "ls" }, ERROR_USAGE, "--environment" },
		{ &verb_run, { "--cpus", "", "e", "ls" }, ERROR_INVALID_ARGUMENT, "''" },
		{ &verb_run, { "--cpus", "33", "e", "ls" }, ERROR_INVALID_ARGUMENT, "33" },
		{ &verb_run, { "--cpus", "99999999999999999999", "e", "ls" },
			ERROR_INVALID_ARGUMENT, "99999999999999999999" },
		{ &verb_run, { "-m127M", "e", "ls" }, ERROR_INVALID_ARGUMENT, "128" },
		{ &verb_run, { "--timeout=86401", "e", "ls" }, ERROR_INVALID_ARGUMENT, "86400" },
		{ &verb_run, { "-w", "", "e", "ls" }, ERROR_INVALID_ARGUMENT, "empty" },
		{ &verb_run, { "-w", "\xff", "e", "ls" }, ERROR_INVALID_ARGUMENT, "UTF-8" },
		{ &verb_run, { "-e", "A=\xff", "e", "ls" }, ERROR_INVALID_ARGUMENT, "UTF-8" },
		{ &verb_run, { "-e", "=1", "e", "ls" }, ERROR_INVALID_ARGUMENT, "=1" },
		{ &verb_run, { "-t", "e", "ls" }, ERROR_UNSUPPORTED, "-t" },
		{ &verb_run, { "--network", "e", "ls" }, ERROR_UNSUPPORTED, "--network" },
		{ &verb_run, { "--allow-host-compat", "e", "ls" }, ERROR_UNSUPPORTED,
			"host-compat" },
		{ &verb_prune, { "word" }, ERROR_USAGE, "word" },
		{ &verb_prune, { "--", "--all" }, ERROR_USAGE, "--all" },
		{ &verb_doctor, { "--probe" }, ERROR_USAGE, "--probe" },
		{ &verb_prune, { "--user" }, ERROR_USAGE, "before the command" },
		{ &verb_update, { "--label", "a", "w" }, ERROR_INVALID_ARGUMENT, "KEY=VALUE" },
		{ &verb_update, { "--label", "=a", "w" }, ERROR_INVALID_ARGUMENT, "name before" },
		{ &verb_update, { "--name", "A", "w" }, ERROR_INVALID_ARGUMENT,
			"'A' is not a name" },
		{ &verb_update, { "--clear-label", "\xff", "w" }, ERROR_INVALID_ARGUMENT, "UTF-8" },
		{ &verb_update, { "--name", "a" }, ERROR_USAGE, "WORKSPACE" },
		{ &verb_wait, { "--state", "created", "w" }, ERROR_INVALID_ARGUMENT,
			"one of started" },
		{ &verb_wait, { "w", "x" }, ERROR_USAGE, "unexpected word x" },
		{ &verb_list, { "--owner", "no such user" }, ERROR_INVALID_ARGUMENT, "a user" },
		{ &verb_list, { "--owner", "-1" }, ERROR_INVALID_ARGUMENT, "-1" },
		{ &verb_delete, { "--all", "w" }, ERROR_USAGE, "WORKSPACE" },
		{ &verb_delete, { NULL }, ERROR_USAGE, "WORKSPACE" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_error_ struct error err = ERROR_INIT;
		struct cli cli = { 0 };
		_cleanup_free_ char *params = parse(cases[i].verb, cases[i].words, &cli, &err);

		ck_assert_msg(params == NULL, "%zu: %s", i, params);
		ck_assert_msg(err.code == cases[i].code, "%zu: %s", i, err.message);
		ck_assert_msg(strstr(err.message, cases[i].says) ||
				      (err.cause && strstr(err.cause, cases[i].says)),
			"%zu: %s", i, err.message);
		ck_assert_msg(error_is_complete(&err), "%zu: %s", i, err.message);
	}
}
END_TEST

/* A verb of several objects keeps their words; each aim names one of them. */
START_TEST(test_several)
{
	_cleanup_(cmdline_done) struct cmdline line = { 0 };
	char *argv[] = { (char[]){ "pyro" }, (char[]){ "a" }, (char[]){ "--force" },
		(char[]){ "B" }, (char[]){ "c" }, NULL };
	_cleanup_error_ struct error err = ERROR_INIT;
	struct cli cli = { 0 };

	ck_assert_int_ge(cmdline_parse(&line, &cli, &verb_delete, 5, argv, 1, &err), 0);
	ck_assert_uint_eq(line.n_words, 3);
	for (size_t i = 0; i < 3; i++) {
		_cleanup_error_ struct error why = ERROR_INIT;
		bool good = i != 1; /* no name has a capital letter */

		ck_assert_int_eq(cmdline_aim(&line, line.words[i], &why) >= 0, good);
		ck_assert_int_eq(why.set, !good);
		if (good)
			ck_assert_str_eq(json_get_str(line.checked, "workspace_id", ""),
				argv[i == 0 ? 1 : 4]);
	}
	cmdline_done(&line);
	argv[1] = (char[]){ "--all" };
	ck_assert_int_ge(cmdline_parse(&line, &cli, &verb_delete, 2, argv, 1, &err), 0);
	ck_assert_uint_eq(line.extra & EXTRA_ALL, EXTRA_ALL);
	ck_assert_uint_eq(line.n_words, 0);
}
END_TEST

/* The fix of a wrong word is the complete corrected line. */
START_TEST(test_corrected)
{
	static const struct {
		const char *words[10];
		const char *fix;
	} cases[] = {
		{ { "-m", "x", "debian:12", "echo", "a b" }, "-m 1024M debian:12 echo 'a b'" },
		{ { "-mx", "e", "ls" }, "-m 1024M e ls" },
		{ { "-i", "--cpus=0", "--", "e", "ls" }, "-i --cpus 1 -- e ls" },
		{ { "--cpus", "99", "e", "ls" }, "--cpus 1 e ls" },
		{ { "--timeout", "5x", "e", "ls" }, "--timeout 30s e ls" },
		{ { "--timeout", "2d", "e", "ls" }, "--timeout 86400 e ls" },
		{ { "--ttl-seconds", "x", "e", "ls" }, "e ls" },
		{ { "--accelerator", "tcg", "e", "ls" }, "--accelerator auto e ls" },
		{ { "-e", "=x", "-q", "e", "--", "ls" }, "-q e -- ls" },
		{ { "-u", "", "e", "ls" }, "e ls" },
		{ { "-w", "", "e", "ls" }, "e ls" },
		{ { "-w", "\xff", "e", "ls" }, "e ls" },
		{ { "", "ls" }, "debian:12 ls" },
		{ { "e", "--", "" }, "e -- true" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_error_ struct error err = ERROR_INIT;
		_cleanup_free_ char *fix = str_printf("pyro %s", cases[i].fix);
		struct cli cli = { 0 };

		ck_assert_ptr_null(parse(&verb_run, cases[i].words, &cli, &err));
		ck_assert_pstr_eq(err.fix, fix);
	}
}
END_TEST

START_TEST(test_not_utf8)
{
	static const struct {
		const char *words[10];
		const char *message, *fix;
	} cases[] = {
		{ { "-q", "e", "--", "cat", "caf\xe9 '%" },
			"word 2 of the command is not UTF-8: 'caf\xe9 '%'",
			"printf 'cat \\047caf\\351 \\047\\134\\047\\047\\045\\047' | pyro -i -q e -- sh" },
		{ { "-i", "e", "caf\xe9" }, "word 1 of the command is not UTF-8: 'caf\xe9'",
			"name such bytes in one quoted word, as the shell's \"$(printf '\\351')\"" },
		{ { "-e", "A=b\xff", "e", "ls" }, "-e: the value of A is not UTF-8",
			"leave out -e A, and begin the command with: export A=\"$(printf 'b\\377')\";" },
		{ { "-m", "x", "e", "caf\xe9" }, "-m: 'x' is not a size like 2G or 512M",
			"give -m as 1024M" },
		{ { "-im", "x", "e", "ls" }, "-m: 'x' is not a size like 2G or 512M",
			"give -m as 1024M" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_error_ struct error err = ERROR_INIT;
		struct cli cli = { 0 };

		ck_assert_ptr_null(parse(&verb_run, cases[i].words, &cli, &err));
		ck_assert_pstr_eq(err.message, cases[i].message);
		ck_assert_pstr_eq(err.fix, cases[i].fix);
	}
}
END_TEST

START_TEST(test_globals)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	char *argv[] = { (char[]){ "--user" }, (char[]){ "--socket=/s" }, (char[]){ "-q" },
		(char[]){ "run" }, (char[]){ "--json" }, NULL };
	struct cli cli = { 0 };
	unsigned extra = 0;
	int i = 0;

	ck_assert_int_eq(globals_parse(&cli, NULL, 5, argv, &i, &extra, &err), 0);
	ck_assert_int_eq(i, 3);
	ck_assert(cli.mode == PYRO_USER && cli.quiet && !cli.json && !extra);
	ck_assert_str_eq(cli.socket, "/s");
}
END_TEST

START_TEST(test_globals_behind_the_verb)
{
	static const char *const late[][2] = { { "--system" }, { "--socket", "/s" } };
	_cleanup_error_ struct error err = ERROR_INIT;
	struct cli cli = { 0 };
	_cleanup_free_ char *params =
		parse(&verb_run, WORDS("--json", "-q", "--rm", "--init", "e", "ls"), &cli, &err);

	ck_assert_ptr_nonnull(params);
	ck_assert(cli.json && cli.quiet && cli.mode == PYRO_AUTO);
	for (size_t i = 0; i < ARRAY_SIZE(late); i++) {
		_cleanup_error_ struct error why = ERROR_INIT;

		ck_assert_ptr_null(parse(&verb_run,
			WORDS("e", late[i][0], late[i][1] ? late[i][1] : "ls"), &cli, &why));
		ck_assert_int_eq(why.code, ERROR_USAGE);
		ck_assert_ptr_nonnull(strstr(why.message, "before the command"));
		ck_assert(!cli.socket && cli.mode == PYRO_AUTO);
	}
}
END_TEST

START_TEST(test_help_wins)
{
	_cleanup_(cmdline_done) struct cmdline line = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;
	char *argv[] = { (char[]){ "--help" }, NULL };
	struct cli cli = { 0 };

	ck_assert_int_eq(cmdline_parse(&line, &cli, &verb_run, 1, argv, 0, &err), 0);
	ck_assert(line.extra & EXTRA_HELP);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cli-options");
	TCase *t = tcase_create("all");
	SRunner *sr;

	suite_add_tcase(s, t);
	tcase_add_test(t, test_good);
	tcase_add_test(t, test_bad);
	tcase_add_test(t, test_several);
	tcase_add_test(t, test_corrected);
	tcase_add_test(t, test_not_utf8);
	tcase_add_test(t, test_globals);
	tcase_add_test(t, test_globals_behind_the_verb);
	tcase_add_test(t, test_help_wins);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	srunner_free(sr);
	return 0;
}
