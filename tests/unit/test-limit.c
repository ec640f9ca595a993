/* SPDX-License-Identifier: MIT */
/*
 * The flag in a fix that gives a machine more: double where its owner's limits and the host allow
 * it, less where that still helps, or none. Which limit ended a command, and what its caller is
 * told of it, is in tests/t/test_hostile_agent.py.
 */

#include "daemon/machine/limit.h"

#include <check.h>
#include <signal.h>

#include "daemon/config.h"
#include "proto/host.h"
#include "tests/unit/machine-frame.h"

/* A machine of so much memory and disk. */
static void machine_of(uint64_t mem_mib, uint64_t disk_mib)
{
	if (the_machine())
		request(DELETE);
	create_of(mem_mib, disk_mib, false);
	settle();
	must_be(MACHINE_CREATED);
}

static void small_machine(void)
{
	setup();
	machine_of(64, 64); /* less than half of any file system that /tmp may be */
}

static const char *flag_of(
	uint8_t code, uint8_t signo, uint32_t flags, uint32_t pids, uint64_t seconds)
{
	static struct limit l;
	const struct msg_exit x = { .code = code, .signal = signo, .timed_out = seconds > 0 };
	const struct agent_ended ended = { flags, pids };
	const struct limit_end e = {
		.exit = &x, .ended = &ended, .timeout_usec = seconds * USEC_PER_SEC
	};

	limit_of(the_machine(), &e, &l);
	return l.flag;
}

START_TEST(timeouts)
{
	ck_assert_str_eq(flag_of(0, SIGKILL, 0, 0, 30), "--timeout 5m");
	ck_assert_str_eq(flag_of(0, SIGKILL, 0, 0, 2), "--timeout 20s");
	ck_assert_str_eq(flag_of(0, SIGKILL, 0, 0, 360), "--timeout 1h");
	ck_assert_str_eq(flag_of(0, SIGKILL, 0, 0, 100), "--timeout 1000s");
	ck_assert_str_eq(flag_of(0, SIGKILL, 0, 0, TIMEOUT_SECONDS_MAX / 10), "--timeout 24h");
	ck_assert_str_eq(flag_of(0, SIGKILL, 0, 0, TIMEOUT_SECONDS_MAX), "--timeout 0");
}
END_TEST

START_TEST(memory)
{
	ck_assert_uint_ge(host_memory_available_mib(), 128);
	ck_assert_str_eq(flag_of(0, SIGKILL, ENDED_OOM_KILL, 0, 0), "-m 128M");
	m->config->max_memory_mib = 128;
	ck_assert_str_eq(flag_of(0, SIGKILL, ENDED_OOM_KILL, 0, 0), "-m 128M");
	m->config->max_memory_mib = 127; /* less than a quarter more, in whole steps */
	ck_assert_str_eq(flag_of(0, SIGKILL, ENDED_OOM_KILL, 0, 0), "");
	m->config->max_memory_mib = 0;
	machine_of(512, 64);
	m->config->max_memory_mib = 800;
	ck_assert_str_eq(flag_of(0, SIGKILL, ENDED_OOM_KILL, 0, 0), "-m 768M");
	m->config->max_memory_mib = 512;
	ck_assert_str_eq(flag_of(0, SIGKILL, ENDED_OOM_KILL, 0, 0), "");
	/* The host keeps the rest. */
	m->config->max_memory_mib = (int64_t)(8 * host_memory_mib());
	ck_assert_str_eq(flag_of(0, SIGKILL, ENDED_OOM_KILL, 0, 0), "-m 1G");
	m->config->memory_reserve_mib = (int64_t)host_memory_mib();
	ck_assert_str_eq(flag_of(0, SIGKILL, ENDED_OOM_KILL, 0, 0), "");
}
END_TEST

START_TEST(pids)
{
	ck_assert_str_eq(flag_of(254, 0, ENDED_PIDS, 140, 0), "-m 128M");
	/* Limited by something else than memory: more memory would not help. */
	ck_assert_str_eq(flag_of(254, 0, ENDED_PIDS, 127, 0), "");
}
END_TEST

START_TEST(disk)
{
	uint64_t bytes = 0;

	machine_of(64, 64);
	ck_assert_int_eq(host_free_bytes(m->state_dir, &bytes), 0);
	ck_assert_uint_ge(bytes / MIB, 64);
	m->config->disk_reserve_mib = 0;
	ck_assert_str_eq(flag_of(1, 0, ENDED_DISK_FULL, 0, 0), "--disk-mib 128");
	m->config->max_disk_mib = 100;
	ck_assert_str_eq(flag_of(1, 0, ENDED_DISK_FULL, 0, 0), "--disk-mib 100");
	m->config->max_disk_mib = 70;
	ck_assert_str_eq(flag_of(1, 0, ENDED_DISK_FULL, 0, 0), "");
	m->config->max_disk_mib = 0;
	m->config->disk_reserve_mib = (int64_t)(bytes / MIB) * 2;
	ck_assert_str_eq(flag_of(1, 0, ENDED_DISK_FULL, 0, 0), "");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("limit");
	TCase *tc = tcase_create("limit");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(tc, small_machine, teardown);
	tcase_add_test(tc, timeouts);
	tcase_add_test(tc, memory);
	tcase_add_test(tc, pids);
	tcase_add_test(tc, disk);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}
