/* SPDX-License-Identifier: MIT */
/*
 * The flag in a fix that gives a machine more: double where its owner's limits and the host allow
 * it, less where that still helps, or none. test-run.c tests which limit ended a command.
 */

#include "daemon/machine/limit.h"

#include <check.h>
#include <signal.h>

#include "daemon/core/core-internal.h"
#include "daemon/core/vm.h"
#include "daemon/machine/machine-internal.h"
#include "proto/host.h"
#include "tests/unit/core-fakes.h"

static sd_event *event;
static struct manager *m;
static struct machine *mc;

static void setup(void)
{
	struct vm_row row = { .id = "vm-0123456789ab",
		.owner_uid = 1000,
		.vcpu_count = 1,
		.mem_mib = 64,
		.disk_mib = 10240,
		.state = "created" };

	ck_assert_int_ge(sd_event_new(&event), 0);
	fake_reset(event);
	m = fake_manager(event);
	ck_assert_int_eq(core_start(m, NULL), 0);
	row.environment = strdup("debian:12");
	ck_assert_int_eq(machine_new(m->machines, &vm_owner, &row, &mc), 0);
	free(row.environment);
}

static void teardown(void)
{
	core_end(m);
	fake_manager_free(m);
	fake_done();
	event = sd_event_unref(event);
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

	limit_of(mc, &e, &l);
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
	mc->row.mem_mib = 512;
	m->config->max_memory_mib = 800;
	ck_assert_str_eq(flag_of(0, SIGKILL, ENDED_OOM_KILL, 0, 0), "-m 768M");
	m->config->max_memory_mib = 512;
	ck_assert_str_eq(flag_of(0, SIGKILL, ENDED_OOM_KILL, 0, 0), "");
	/* More than the host has. */
	mc->row.mem_mib = host_memory_mib();
	m->config->max_memory_mib = (int64_t)(8 * host_memory_mib());
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

	mc->row.disk_mib = 64;
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

	tcase_add_checked_fixture(tc, setup, teardown);
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
