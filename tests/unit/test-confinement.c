/* SPDX-License-Identifier: MIT */
/*
 * What doctor reports about the sandbox of imports, against a pyro-import that is a shell script of
 * the test: unknown before the answer, complete, without layers, unavailable. Run by `meson test`.
 */
#include "daemon/config.h"
#include "daemon/image/confinement.h"
#include "daemon/image/kernel.h"
#include <check.h>
#include <ftw.h>
#include <sys/stat.h>
#include <systemd/sd-event.h>

#define DEADLINE_USEC (30 * USEC_PER_SEC)

static struct manager m;
static struct config config;
static char dir[] = "/tmp/pyro-test-XXXXXX";

static char *path_of(const char *name)
{
	static char path[256];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void script(const char *line)
{
	FILE *f = fopen(path_of("pyro-import"), "we");
	ck_assert_ptr_nonnull(f);
	fprintf(f, "#!/bin/sh\n%s\n", line);
	ck_assert_int_eq(fclose(f), 0);
	ck_assert_int_eq(chmod(path_of("pyro-import"), 0755), 0);
}

static void setup(void)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	m = (struct manager){ .config = &config,
		.state_dir = strdup(dir),
		.libexec_dir = strdup(dir),
		.agent_path = strdup(path_of("agent")),
		.cache_dir = strdup(path_of("cache")) };
	ck_assert_int_ge(sd_event_new(&m.event), 0);
	ck_assert_int_eq(integrity_new(&m, &m.integrity), 0);
	ck_assert_int_eq(kernels_new(&m, &m.kernels, &err), 0);
	ck_assert_int_eq(environments_new(&m, &m.environments, &err), 0);
}

static int remove_one(const char *path, const struct stat *st _unused_, int type _unused_,
	struct FTW *ftw _unused_)
{
	return remove(path);
}

static void teardown(void)
{
	m.environments = environments_free(m.environments);
	m.kernels = kernels_free(m.kernels);
	m.integrity = integrity_free(m.integrity);
	m.event = sd_event_unref(m.event);
	free(m.state_dir);
	free(m.libexec_dir);
	free(m.agent_path);
	free(m.cache_dir);
	(void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Runs the loop until doctor's line contains the word. Returns whether the check passed. */
static bool until_says(const char *word)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;
	for (;;) {
		_cleanup_free_ char *detail = NULL;
		const char *fix;
		bool good = confinement_describe(m.environments, &detail, &fix);
		if (strstr(detail, word)) {
			ck_assert(good || fix);
			return good;
		}
		ck_assert_msg(now_usec() < deadline, "it says: %s", detail);
		ck_assert_int_ge(sd_event_run(m.event, deadline - now_usec()), 0);
	}
}

START_TEST(unknown_then_whole)
{
	ck_assert(until_says("not yet"));
	script("echo '{\"result\":{\"unconfined\":[]}}'");
	ck_assert_int_eq(confinement_ask(m.environments), 0);
	ck_assert(until_says("not yet"));
	ck_assert(until_says("without network, files and other processes"));
}
END_TEST

START_TEST(missing_layers_are_named)
{
	script("echo '{\"result\":{\"unconfined\":[\"PID namespace (why)\",\"Land\\u001block\"]}}'");
	ck_assert_int_eq(confinement_ask(m.environments), 0);
	ck_assert(until_says("without: PID namespace (why), Land\\x1block;"));
}
END_TEST

START_TEST(a_pull_updates_it)
{
	_cleanup_json_ json_object *worse = json_tokener_parse("{\"unconfined\":[\"Landlock\"]}"),
				   *odd = json_tokener_parse("{\"unconfined\":{}}");
	script("echo '{\"result\":{\"unconfined\":[]}}'");
	confinement_take(m.environments, worse); /* not queried yet: nothing to report */
	ck_assert_int_eq(confinement_ask(m.environments), 0);
	ck_assert(until_says("without network"));
	confinement_take(m.environments, worse);
	ck_assert(until_says("without: Landlock;"));
	confinement_take(m.environments, odd);
	ck_assert(until_says("without: Landlock;"));
}
END_TEST

START_TEST(none_at_all_is_a_failed_check)
{
	script("echo '{\"error\":{\"code\":\"pull_failed\",\"message\":\"no filter\",\"cause\":\"old\","
	       "\"fix\":\"new\"}}'; exit 1");
	ck_assert_int_eq(confinement_ask(m.environments), 0);
	ck_assert(!until_says("no filter: old"));
}
END_TEST

START_TEST(no_program_is_a_failed_check)
{
	ck_assert_int_eq(confinement_ask(m.environments), 0);
	ck_assert(!until_says("Cannot start"));
}
END_TEST

static void on_known(const struct error *err, void *userdata)
{
	ck_assert_ptr_null(err);
	ck_assert(confinement_is_known(m.environments));
	++*(int *)userdata;
}

/* A waiter is notified once, also when the answer is invalid, so that no caller waits for ever. */
START_TEST(an_answer_is_waited_for)
{
	int told = 0, left = 0;
	script(_i == 0    ? "echo '{\"result\":{\"unconfined\":[]}}'"
		: _i == 1 ? "echo '{\"result\":{\"unconfined\":7}}'"
			  : "exit 9");
	ck_assert_int_eq(confinement_ask(m.environments), 0);
	ck_assert(!confinement_is_known(m.environments));
	ck_assert_int_eq(confinement_wait(m.environments, on_known, &told), 1);
	ck_assert_int_eq(confinement_wait(m.environments, on_known, &left), 1);
	confinement_forget(m.environments, &left);
	ck_assert(until_says(_i == 0 ? "without network" : "failed") == (_i == 0));
	ck_assert_int_eq(told, 1);
	ck_assert_int_eq(left, 0);
	ck_assert_int_eq(confinement_wait(m.environments, on_known, &told), 0);
}
END_TEST

START_TEST(ended_while_it_is_asked)
{
	script("exec sleep 1000");
	ck_assert_int_eq(confinement_ask(m.environments), 0);
	ck_assert_int_ge(
		sd_event_run(m.event, 0), 0); /* no other work is pending: it is queried now */
	ck_assert(until_says("not yet"));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("confinement");
	TCase *tc = tcase_create("confinement");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, unknown_then_whole);
	tcase_add_test(tc, missing_layers_are_named);
	tcase_add_test(tc, a_pull_updates_it);
	tcase_add_test(tc, none_at_all_is_a_failed_check);
	tcase_add_test(tc, no_program_is_a_failed_check);
	tcase_add_loop_test(tc, an_answer_is_waited_for, 0, 3);
	tcase_add_test(tc, ended_while_it_is_asked);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
