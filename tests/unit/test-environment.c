/* SPDX-License-Identifier: MIT */
/*
 * Tests of the environment cache, the kernel store and disks (daemon/image/{environment,pull,prune,
 * kernel,disk,install}.c). pyro-import is a shell script of the test: the file "mode" selects what
 * it does, and it waits at the FIFO "gate" if there is one, so that a test can act in the middle of
 * a pull. Every wait runs the event loop with a deadline.
 */

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#include <check.h>
#include <systemd/sd-event.h>

#include "daemon/config.h"
#include "daemon/image/disk.h"
#include "daemon/image/environment.h"
#include "daemon/image/kernel.h"
#include "daemon/manager.h"
#include "proto/api.h"
#include "proto/json.h"

#define DEADLINE_USEC (30 * USEC_PER_SEC)
#define HEX           "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define DIGEST        "sha256:" HEX
#define NEWER         "sha256:eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"

static const char script[] =
	"#!/bin/sh\n"
	"D=%s\n"
	"mode=$(cat $D/mode)\n"
	"verb=$1\n"
	"echo $verb >> $D/calls; [ ! -e $D/who ] || id -u >> $D/who\n"
	"while [ $# -gt 0 ]; do case $1 in --output) out=$2;; --kernel) from=$2;; esac; shift; done\n"
	"case $verb in\n"
	"kernel)\n"
	"  echo '{\"phase\":\"kernel\",\"percent\":10,\"detail\":\"x\"}'\n"
	"  [ $mode = kernel-fail ] && { echo '{\"error\":{\"code\":\"pull_failed\",\"message\":\"no kernel\","
	"\"cause\":\"no apt\",\"fix\":\"kernel=\"}}'; exit 1; }\n"
	"  mkdir $out/boot; echo K > $out/vmlinux; echo '{}' > $out/meta.json; : > $out/boot/order\n"
	"  echo '{\"result\":{\"hash\":\"00112233aabbccdd\",\"version\":\"6.1.0-test\"}}';;\n"
	"initramfs)\n"
	"  [ -e $from/vmlinux ] || exit 3\n"
	"  echo I > $out; echo '{\"result\":{\"initrd\":\"x\",\"size_bytes\":2,\"digest\":\"" DIGEST
	"\"}}';;\n"
	"check)\n"
	"  [ -e $D/gate ] && read x < $D/gate\n"
	"  [ $mode = check-fail ] && exit 9\n"
	"  echo '{\"result\":{\"damaged\":'$(cat $D/damaged)'}}';;\n"
	"disk) [ $mode = disk-fail ] && { echo '{\"error\":{\"code\":\"no_space\",\"message\":\"no blank\"}}';"
	" exit 1; }\n"
	"  [ $mode = disk-killed ] && kill -9 $$\n"
	"  truncate -s 8M $out; printf 'blank' | dd of=$out bs=1 seek=4194304 conv=notrunc 2>/dev/null\n"
	"  echo '{\"result\":{}}';;\n"
	"environment)\n"
	"  echo '{\"phase\":\"install\",\"percent\":null,\"detail\":null}'\n"
	"  for gate in gate image-gate; do [ -e $D/$gate ] && read x < $D/$gate; done\n"
	"  mode=$(cat $D/mode)\n"
	"  case $mode in\n"
	"  chatty) for i in 1 2 3 4 5 6 7 8 9 10; do\n"
	"    echo '{\"phase\":\"write\",\"percent\":'$i'0,\"detail\":null}'; done; exit 9;;\n"
	"  fail) echo 'E: tool' >&2; echo '{\"error\":{\"code\":\"pull_failed\",\"message\":\"mirror is"
	" away\",\"cause\":\"could not resolve\",\"fix\":\"mirror=\"}}'; exit 1;;\n"
	"  garbage) echo 'not json'; echo '{\"result\":{}}';;\n"
	"  silent) ;;\n"
	"  signal) kill -9 $$;;\n"
	"  status) echo 'line one' >&2; echo 'the reason' >&2; exit 9;;\n"
	"  lies) echo '{\"result\":{\"digest\":\"" DIGEST "\",\"size_bytes\":99}}';;\n"
	"  digest) echo abc > $out/image.ext4; echo '{\"result\":{\"digest\":\"sha256:../../x\","
	"\"size_bytes\":4}}';;\n"
	"  newer) echo abc > $out/image.ext4\n"
	"    echo '{\"result\":{\"digest\":\"" NEWER "\",\"size_bytes\":4,\"packages\":[]}}';;\n"
	"  link) ln -s /etc/hostname $out/extra; echo abc > $out/image.ext4\n"
	"    echo '{\"result\":{\"digest\":\"" DIGEST "\",\"size_bytes\":4}}';;\n"
	"  *) echo abc > $out/image.ext4\n"
	"    echo '{\"phase\":\"write\",\"percent\":90,\"detail\":\"d\"}'\n"
	"    echo '{\"result\":{\"digest\":\"" DIGEST "\",\"size_bytes\":4,\"packages\":[]}}';;\n"
	"  esac;;\n"
	"esac\n";

static struct {
	char dir[64];
	struct manager m;
	struct config config;
} t;

/* What a waiter was notified of. */
struct heard {
	unsigned done, progress;
	bool installed_phase, kernel_phase, ready_phase;
	struct error err;
	struct pull_wait *wait;
	struct pull_wait *leave; /* freed at the first progress */
	bool keep;               /* on_done leaves wait to be freed later */
	json_object *result;
};

static char *path_of(const char *name)
{
	static char paths[8][256];
	static unsigned next;
	char *p = paths[next++ % 8];

	ck_assert_int_lt(
		snprintf(p, sizeof(paths[0]), "%s/%s", t.dir, name), (int)sizeof(paths[0]));

	return p;
}

static void put(const char *name, const char *text)
{
	FILE *f = fopen(path_of(name), "we");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static bool there(const char *name)
{
	return access(path_of(name), F_OK) == 0;
}

static unsigned calls(const char *verb)
{
	_cleanup_free_ char *text = NULL;
	unsigned count = 0;
	char *save = NULL;
	size_t n;

	if (read_file_at(AT_FDCWD, path_of("calls"), 65536, &text, &n) < 0)
		return 0;
	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
		count += streq(l, verb);

	return count;
}

static void turn(uint64_t deadline)
{
	ck_assert_uint_lt(now_usec(), deadline);
	ck_assert_int_ge(sd_event_run(t.m.event, 20000), 0);
}

static unsigned staging_count(const char *dir)
{
	_cleanup_free_ char *pattern = NULL;
	unsigned n = 0;
	FILE *f;
	int c;

	pattern = str_printf("ls -A %s/%s | grep -c '^.staging-'", t.dir, dir);
	f = popen(pattern, "re");
	while ((c = fgetc(f)) != EOF)
		if (c >= '0' && c <= '9')
			n = n * 10 + (unsigned)(c - '0');
	(void)pclose(f);

	return n;
}

static void wait_no_staging(const char *dir)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;

	while (staging_count(dir) > 0)
		turn(deadline);
}

static void start_all(void)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_int_ge(sd_event_new(&t.m.event), 0);
	ck_assert_int_eq(integrity_new(&t.m, &t.m.integrity), 0);
	ck_assert_int_eq(kernels_new(&t.m, &t.m.kernels, &err), 0);
	ck_assert_int_eq(environments_new(&t.m, &t.m.environments, &err), 0);
}

static void stop_all(void)
{
	t.m.environments = environments_free(t.m.environments);
	t.m.kernels = kernels_free(t.m.kernels);
	t.m.integrity = integrity_free(t.m.integrity);
	t.m.event = sd_event_unref(t.m.event);
}

static void setup(void)
{
	_cleanup_free_ char *text = NULL;

	strcpy(t.dir, "/tmp/pyro-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(t.dir));
	ck_assert_int_eq(chmod(t.dir, 0755), 0);
	text = str_printf(script, t.dir);
	put("pyro-import", text);
	ck_assert_int_eq(chmod(path_of("pyro-import"), 0755), 0);
	put("mode", "ok");
	put("damaged", "null");
	put("agent", "agent");
	ck_assert_int_eq(mkdir(path_of("cache"), 0755), 0);
	t.config = (struct config){ 0 };
	t.m = (struct manager){
		.config = &t.config,
		.state_dir = strdup(t.dir),
		.cache_dir = strdup(path_of("cache")),
		.libexec_dir = strdup(t.dir),
		.agent_path = strdup(path_of("agent")),
	};
	start_all();
}

static int remove_one(const char *path, const struct stat *st _unused_, int type _unused_,
	struct FTW *ftw _unused_)
{
	return remove(path);
}

static void teardown(void)
{
	stop_all();
	free(t.m.state_dir);
	free(t.m.cache_dir);
	free(t.m.libexec_dir);
	free(t.m.agent_path);
	(void)nftw(t.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void on_progress(const struct pull_progress *p, void *userdata)
{
	struct heard *h = userdata;

	h->progress++;
	h->kernel_phase = h->kernel_phase || streq(p->phase, "kernel");
	h->installed_phase = h->installed_phase || streq(p->phase, "install");
	h->ready_phase = h->ready_phase || streq(p->phase, "ready");
	h->leave = pull_wait_free(h->leave);
}

static void on_done(const struct error *err, void *userdata)
{
	struct heard *h = userdata;

	h->done++;
	if (err)
		ck_assert_int_eq(error_copy(&h->err, err), 0);
	if (!h->keep)
		h->wait = pull_wait_free(h->wait);
}

static void on_plain_done(const struct error *err, void *userdata)
{
	struct heard *h = userdata;

	h->done++;
	if (err)
		ck_assert_int_eq(error_copy(&h->err, err), 0);
}

static void until_done(struct heard *h)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;

	while (h->done == 0)
		turn(deadline);
	ck_assert_uint_eq(h->done, 1);
}

static struct environment *env_of(const char *name)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct environment *env = NULL;

	ck_assert_int_eq(environments_find(t.m.environments, name, &env, &err), 0);

	return env;
}

static void pull(const char *name, bool force, struct heard *h)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_int_eq(environment_pull(env_of(name), force ? PULL_FORCED : PULL_ASKED,
				 on_progress, on_done, h, &h->wait, &err),
		0);
	ck_assert_uint_eq(h->done, 0);
}

static void open_the_gate(const char *name)
{
	int fd = open(path_of(name), O_WRONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write_all(fd, "\n", 1), 0);
	ck_assert_int_eq(close(fd), 0);
	ck_assert_int_eq(unlink(path_of(name)), 0);
}

static void open_gate(void)
{
	open_the_gate("gate");
}

static void make_gate(void)
{
	ck_assert_int_eq(mkfifo(path_of("gate"), 0644), 0);
}

static void until_in_install(struct heard *h)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;

	while (calls("environment") == 0 || !h->installed_phase)
		turn(deadline);
}

START_TEST(installs)
{
	_cleanup_json_ json_object *list = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard h = { 0 };
	int fd = -EBADF, method = api_find("env.list");

	ck_assert(!environment_installed(env_of("debian:12")));
	pull("debian:12", false, &h);
	until_done(&h);
	ck_assert(!h.err.set);
	ck_assert(h.kernel_phase && h.installed_phase && h.ready_phase);
	ck_assert(environment_installed(env_of("debian:12")));
	ck_assert(!environment_installed(env_of("debian:12-base")));
	ck_assert_str_eq(environment_digest(env_of("debian:12")), DIGEST);
	ck_assert(there("cache/debian:12.json") && there("cache/sha256-" HEX "/meta.json"));
	ck_assert_uint_eq(staging_count("cache"), 0);
	ck_assert_int_eq(environments_open_image(t.m.environments, DIGEST, &fd, &err), 0);
	ck_assert_int_eq(close(fd), 0);
	ck_assert_int_lt(
		environments_open_image(t.m.environments, "sha256:../../../etc/shadow", &fd, &err),
		0);
	ck_assert_int_eq(environments_list_json(t.m.environments, &list), 0);
	error_clear(&err);
	ck_assert_msg(
		api_check_result(api_methods[method].result, list, &err) == 0, "%s", err.message);

	/* The same after a restart. */
	stop_all();
	start_all();
	ck_assert(environment_installed(env_of("debian:12")));
	ck_assert_str_eq(kernels_current(t.m.kernels), "00112233aabbccdd");
	ck_assert_str_eq(kernels_current_version(t.m.kernels), "6.1.0-test");
}
END_TEST

START_TEST(installed_answers_later_without_work)
{
	struct heard h = { .keep = true }, again = { 0 }, forced = { 0 };

	pull("debian:12", false, &h);
	until_done(&h);
	h.wait = pull_wait_free(h.wait);
	pull("debian:12", false, &again);
	until_done(&again);
	ck_assert(!again.err.set);
	ck_assert_uint_eq(calls("environment"), 1);
	ck_assert_uint_eq(calls("kernel"), 1);
	pull("debian:12", true, &forced);
	until_done(&forced);
	ck_assert(!forced.err.set);
	ck_assert_uint_eq(calls("environment"), 2);
	ck_assert(environment_installed(env_of("debian:12")));
}
END_TEST

START_TEST(two_share_one_pull_and_one_leaves)
{
	struct heard a = { 0 }, b = { 0 }, c = { 0 };

	make_gate();
	pull("debian:12", false, &a);
	pull("debian:12", false, &b);
	pull("debian:12", false, &c);
	/* a makes c leave during a's own progress report. */
	a.leave = TAKE_PTR(c.wait);
	until_in_install(&a);
	b.wait = pull_wait_free(b.wait);
	open_gate();
	until_done(&a);
	ck_assert(!a.err.set);
	ck_assert_uint_eq(b.done + c.done, 0);
	ck_assert_uint_eq(calls("environment"), 1);
}
END_TEST

START_TEST(goes_on_when_all_leave)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;
	struct heard h = { 0 };

	make_gate();
	pull("debian:12", false, &h);
	until_in_install(&h);
	h.wait = pull_wait_free(h.wait);
	open_gate();
	while (!environment_installed(env_of("debian:12")))
		turn(deadline);
	ck_assert_uint_eq(h.done, 0);
}
END_TEST

/* An installed environment is used while it is built again, and after that build has failed too. */
START_TEST(a_forced_pull_holds_up_nobody)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard first = { 0 }, forced = { 0 }, asked = { 0 }, used = { 0 };
	int fd = -EBADF;

	pull("debian:12", false, &first);
	until_done(&first);
	ck_assert_int_eq(mkfifo(path_of("image-gate"), 0644), 0);
	pull("debian:12", true, &forced);
	until_in_install(&forced);
	pull("debian:12", false, &asked);
	until_done(&asked);
	ck_assert_int_eq(environment_pull(env_of("debian:12"), PULL_FOR_USE, on_progress, on_done,
				 &used, &used.wait, &err),
		0);
	until_done(&used);
	ck_assert(!asked.err.set && !used.err.set);
	ck_assert(!asked.installed_phase && !used.installed_phase);
	ck_assert_uint_eq(forced.done, 0);
	put("mode", "fail");
	open_the_gate("image-gate");
	until_done(&forced);
	ck_assert_int_eq(forced.err.code, ERROR_PULL_FAILED);
	ck_assert_int_eq(environments_open_image(t.m.environments, DIGEST, &fd, &err), 0);
	ck_assert_int_eq(close(fd), 0);
	error_clear(&forced.err);
}
END_TEST

/* Two forced pulls share one build, and so do callers that have nothing installed to use. */
START_TEST(forced_pulls_are_shared)
{
	struct heard first = { 0 }, a = { 0 }, b = { 0 }, c = { 0 };

	make_gate();
	pull("debian:12", false, &first);
	pull("debian:12", true, &a);
	until_in_install(&first);
	pull("debian:12", false, &b);
	pull("debian:12", true, &c);
	open_gate();
	until_done(&first);
	until_done(&a);
	until_done(&b);
	until_done(&c);
	ck_assert(!first.err.set && !a.err.set && !b.err.set && !c.err.set);
	ck_assert_uint_eq(calls("environment"), 1);
}
END_TEST

/* Returns the processor time of ten progress reports to n waiters. */
static uint64_t time_of_progress(unsigned n)
{
	struct heard *h = calloc(n, sizeof(*h));
	struct timespec begin, end;

	ck_assert_ptr_nonnull(h);
	make_gate();
	for (unsigned i = 0; i < n; i++)
		pull("debian:12", false, &h[i]);
	until_in_install(&h[0]);
	open_gate();
	ck_assert_int_eq(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin), 0);
	until_done(&h[n - 1]);
	ck_assert_int_eq(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end), 0);
	for (unsigned i = 0; i < n; i++) {
		ck_assert_uint_eq(h[i].done, 1);
		ck_assert_uint_ge(h[i].progress, 11);
		error_clear(&h[i].err);
	}
	free(h);

	return (uint64_t)(end.tv_sec - begin.tv_sec) * USEC_PER_SEC +
	       (uint64_t)(end.tv_nsec - begin.tv_nsec + 999) / 1000;
}

/* Thirty times the waiters take thirty times as long, not nine hundred times. */
START_TEST(progress_costs_one_step_for_each_waiter)
{
	uint64_t few, many;

	put("mode", "chatty");
	few = time_of_progress(400);
	many = time_of_progress(12000);
	ck_assert_msg(many < 120 * few, "400 waiters: %ju us, 12000: %ju us", (uintmax_t)few,
		(uintmax_t)many);
}
END_TEST

static const struct {
	const char *mode;
	enum error_code code;
	const char *message, *cause; /* parts */
} failures[] = {
	{ "fail", ERROR_PULL_FAILED, "mirror is away", "could not resolve" },
	{ "garbage", ERROR_INTERNAL, "pyro-import failed", "does not understand" },
	{ "silent", ERROR_INTERNAL, "pyro-import failed", "without a result" },
	{ "signal", ERROR_PULL_FAILED, "pyro-import failed", "signal 9" },
	{ "status", ERROR_PULL_FAILED, "pyro-import failed", "the reason" },
	{ "lies", ERROR_PULL_FAILED, "is incomplete", "does not exist" },
	{ "digest", ERROR_PULL_FAILED, "is incomplete", "does not exist" },
	{ "link", ERROR_INTERNAL, "Cannot install", NULL },
	{ "kernel-fail", ERROR_PULL_FAILED, "no kernel", "no apt" },
};

START_TEST(failures_install_nothing)
{
	struct heard h = { 0 }, again = { 0 };

	put("mode", failures[_i].mode);
	pull("debian:12", false, &h);
	until_done(&h);
	ck_assert(h.err.set);
	ck_assert_msg(h.err.code == failures[_i].code, "%s: %s", failures[_i].mode, h.err.message);
	ck_assert_ptr_nonnull(strstr(h.err.message, failures[_i].message));
	if (failures[_i].cause)
		ck_assert_msg(strstr(h.err.cause, failures[_i].cause), "%s", h.err.cause);
	ck_assert(startswith(h.err.message, "Cannot pull debian:12: "));
	ck_assert_str_eq(environment_failure(env_of("debian:12"))->message, h.err.message);
	error_clear(&h.err);
	ck_assert(!environment_installed(env_of("debian:12")));
	wait_no_staging("cache");
	wait_no_staging("kernels");
	ck_assert(!there("cache/debian:12.json"));

	/* It does not count for the next pull. */
	put("mode", "ok");
	pull("debian:12", false, &again);
	until_done(&again);
	ck_assert(!again.err.set);
	ck_assert(environment_installed(env_of("debian:12")));
	ck_assert_ptr_null(environment_failure(env_of("debian:12")));
}
END_TEST

START_TEST(interrupted_pull_leaves_nothing)
{
	struct heard h = { 0 };

	make_gate();
	pull("debian:12", false, &h);
	until_in_install(&h);
	ck_assert_uint_eq(staging_count("cache"), 1);
	stop_all();
	ck_assert_uint_eq(h.done, 0);
	h.wait = pull_wait_free(h.wait);
	start_all();
	ck_assert(!environment_installed(env_of("debian:12")));
	wait_no_staging("cache");
}
END_TEST

START_TEST(half_installed_is_not_installed)
{
	static const char *const broken[] = { "cache/sha256-" HEX "/image.ext4",
		"cache/sha256-" HEX "/meta.json", "cache/debian:12.json" };
	struct heard h = { 0 }, again = { 0 };

	pull("debian:12", false, &h);
	until_done(&h);
	if (_i < 3)
		put(broken[_i], "damaged");
	else
		ck_assert_int_eq(unlink(path_of(broken[_i - 3])), 0);
	stop_all();
	start_all();
	ck_assert(!environment_installed(env_of("debian:12")));
	/* Without the name the image is superseded, not half-installed. */
	if (_i < 5)
		ck_assert_ptr_nonnull(environment_damage(env_of("debian:12")));
	pull("debian:12", false, &again);
	until_done(&again);
	ck_assert(!again.err.set);
	ck_assert(environment_installed(env_of("debian:12")));
	ck_assert_ptr_null(environment_damage(env_of("debian:12")));
}
END_TEST

START_TEST(no_space_is_told_first)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard h = { 0 };

	t.config.disk_reserve_mib = INT64_C(1) << 40;
	ck_assert_int_eq(environment_pull(env_of("debian:12"), PULL_FOR_USE, on_progress, on_done,
				 &h, &h.wait, &err),
		-ENOSPC);
	ck_assert_int_eq(err.code, ERROR_NO_SPACE);
	ck_assert_ptr_nonnull(strstr(err.cause, t.m.cache_dir));
	ck_assert_uint_eq(calls("kernel"), 0);
}
END_TEST

static void on_pruned(json_object *result, const struct error *err, void *userdata)
{
	struct heard *h = userdata;

	h->done++;
	h->result = result;
	if (err)
		ck_assert_int_eq(error_copy(&h->err, err), 0);
}

static bool in_use(const char *digest, void *userdata)
{
	return userdata && streq(digest, userdata);
}

static void prune(bool all, bool dry_run, const char *used, int expect)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard h = { 0 };
	int method = api_find("env.prune");

	environments_set_in_use(t.m.environments, in_use, (void *)used);
	ck_assert_int_eq(
		environments_prune(t.m.environments, all, dry_run, on_pruned, &h, &err), 0);
	ck_assert_uint_eq(h.done, 0);
	until_done(&h);
	ck_assert(!h.err.set);
	ck_assert_int_eq(json_add_bool(h.result, "permitted", true), 0); /* the handler's */
	ck_assert_msg(api_check_result(api_methods[method].result, h.result, &err) == 0, "%s",
		err.message);
	ck_assert_int_eq(json_get_int(h.result, "count", -1), expect);
	json_object_put(h.result);
}

static bool kernel_in_use(const char *digest, void *userdata)
{
	ck_assert(startswith(digest, "sha256:") || strlen(digest) == 16);
	return streq(digest, "1111111111111111") && userdata;
}

START_TEST(prunes_kernels)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard h = { 0 }, pruned = { 0 };

	ck_assert_int_eq(mkdir(path_of("kernels/1111111111111111"), 0755), 0);
	ck_assert_int_eq(mkdir(path_of("kernels/2222222222222222"), 0755), 0);
	ck_assert_int_eq(mkdir(path_of("kernels/unrelated"), 0755), 0);
	put("kernels/2222222222222222/vmlinux", "a kernel that Debian has replaced");
	/* Without a current kernel no kernel is superseded. */
	prune(false, false, NULL, 0);
	pull("debian:12", false, &h);
	until_done(&h);
	environments_set_in_use(t.m.environments, kernel_in_use, &t);
	ck_assert_int_eq(
		environments_prune(t.m.environments, false, false, on_pruned, &pruned, &err), 0);
	until_done(&pruned);
	ck_assert_int_eq(json_get_int(pruned.result, "count", -1), 1);
	ck_assert_int_gt(json_get_int(pruned.result, "bytes_freed", -1), 0);
	ck_assert_str_eq(json_object_get_string(
				 json_object_array_get_idx(json_get(pruned.result, "deleted"), 0)),
		"kernel-2222222222222222");
	json_object_put(pruned.result);
	ck_assert(!there("kernels/2222222222222222") && there("kernels/1111111111111111"));
	ck_assert(there("kernels/00112233aabbccdd/vmlinux") && there("kernels/unrelated"));
}
END_TEST

START_TEST(cache_gone_under_the_daemon)
{
	struct heard h = { 0 }, again = { 0 };

	pull("debian:12", false, &h);
	until_done(&h);
	ck_assert_int_eq(nftw(path_of("cache"), remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
	ck_assert(!environment_installed(env_of("debian:12")));
	prune(true, false, NULL, 0);
	pull("debian:12", false, &again);
	until_done(&again);
	ck_assert_msg(!again.err.set, "%s", again.err.message);
	ck_assert_uint_eq(calls("environment"), 2);
	ck_assert(environment_installed(env_of("debian:12")) && there("cache/debian:12.json"));
}
END_TEST

#define OLD "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"

START_TEST(prunes)
{
	struct heard h = { 0 };

	pull("debian:12", false, &h);
	until_done(&h);
	ck_assert_int_eq(mkdir(path_of("cache/sha256-" OLD), 0755), 0);
	put("cache/sha256-" OLD "/image.ext4", "old");
	ck_assert_int_eq(mkdir(path_of("cache/.staging-dead"), 0755), 0);
	put("cache/.staging-dead/image.ext4", "dead");
	ck_assert_int_eq(symlink(path_of("agent"), path_of("cache/.staging-dead/link")), 0);
	put("cache/unrelated", "kept");

	prune(false, true, NULL, 2);
	ck_assert(there("cache/.staging-dead") && there("cache/sha256-" OLD));
	prune(true, true, NULL, 3);
	ck_assert(environment_installed(env_of("debian:12")));
	prune(false, false, "sha256:" OLD, 1);
	ck_assert(!there("cache/.staging-dead") && there("cache/sha256-" OLD) && there("agent"));
	prune(false, false, NULL, 1);
	ck_assert(!there("cache/sha256-" OLD));
	prune(true, false, DIGEST, 0);
	ck_assert(environment_installed(env_of("debian:12")));
	prune(true, false, NULL, 1);
	ck_assert(!environment_installed(env_of("debian:12")));
	ck_assert(!there("cache/sha256-" HEX) && !there("cache/debian:12.json"));
	ck_assert(there("cache/unrelated"));
}
END_TEST

static void until_gone(const char *name)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;

	while (there(name))
		turn(deadline);
}

/* 0: no machine uses it, so the pull deletes it; 1: a machine uses it; 2: a machine uses it, and a
 * pull runs when that machine is deleted. */
START_TEST(superseded_goes_when_unused)
{
	struct heard h = { 0 }, newer = { 0 }, forced = { 0 };

	pull("debian:12", false, &h);
	until_done(&h);
	environments_set_in_use(t.m.environments, in_use, _i > 0 ? (void *)DIGEST : NULL);
	put("mode", "newer");
	pull("debian:12", true, &newer);
	until_done(&newer);
	ck_assert_msg(!newer.err.set, "%s", newer.err.message);
	ck_assert_str_eq(environment_digest(env_of("debian:12")), NEWER);
	if (_i > 0) {
		prune(false, false, DIGEST, 0);
		ck_assert(there("cache/sha256-" HEX "/image.ext4"));
		environments_release(t.m.environments, DIGEST); /* another machine still uses it */
		if (_i > 1) {
			make_gate();
			pull("debian:12-base", false, &forced);
			until_in_install(&forced);
		}
		environments_set_in_use(t.m.environments, in_use, NULL);
		environments_release(t.m.environments, DIGEST);
		if (_i > 1) {
			put("mode", "fail");
			open_gate();
			until_done(&forced);
			error_clear(&forced.err);
		}
	}
	until_gone("cache/sha256-" HEX);
	environments_release(t.m.environments, NEWER);
	ck_assert(environment_installed(env_of("debian:12")));
	wait_no_staging("cache");
	prune(false, true, NULL, 0);
}
END_TEST

START_TEST(prune_spares_a_pull_under_way)
{
	struct heard h = { 0 };

	make_gate();
	pull("debian:12", false, &h);
	until_in_install(&h);
	prune(true, false, NULL, 0);
	open_gate();
	until_done(&h);
	ck_assert(!h.err.set);
}
END_TEST

/* Returns the name of the only staging folder in the cache. */
static void staging_name(char *ret, size_t n)
{
	DIR *d = opendir(path_of("cache"));
	struct dirent *de;

	ck_assert_ptr_nonnull(d);
	ret[0] = '\0';
	while ((de = readdir(d)))
		if (startswith(de->d_name, ".staging-"))
			ck_assert_int_lt(snprintf(ret, n, "%s", de->d_name), (int)n);
	(void)closedir(d);
	ck_assert(ret[0]);
}

/* While install.c copies another user's files and writes the name: both are beside the staging
 * folder. */
START_TEST(prune_spares_an_installation_under_way)
{
	char staging[64], own[96], ref[96];
	struct heard h = { 0 };

	make_gate();
	pull("debian:12", false, &h);
	until_in_install(&h);
	staging_name(staging, sizeof(staging));
	(void)snprintf(own, sizeof(own), "cache/%s.own", staging);
	(void)snprintf(ref, sizeof(ref), "cache/.staging-ref-%s", staging + strlen(".staging-"));
	ck_assert_int_eq(mkdir(path_of(own), 0700), 0);
	put(ref, "{}");
	ck_assert_int_eq(mkdir(path_of("cache/.staging-dead"), 0755), 0);
	prune(true, false, NULL, 1);
	ck_assert(there(own) && there(ref) && !there("cache/.staging-dead"));
	open_gate();
	until_done(&h);
	ck_assert(!h.err.set && !there(ref));
	prune(false, false, NULL, 1);
	ck_assert(!there(own));
}
END_TEST

static const struct {
	const char *name;
	enum error_code code;
	const char *cause; /* its prefix */
} names[] = {
	{ "python:3.12", ERROR_ENVIRONMENT_UNKNOWN, "it is not in the catalog" },
	{ "grafana/grafana", ERROR_ENVIRONMENT_UNKNOWN, "it is not in the catalog" },
	{ "debian:13", ERROR_ENVIRONMENT_UNKNOWN, "did you mean debian:12?" },
	{ "debain:12-build", ERROR_ENVIRONMENT_UNKNOWN, "did you mean debian:12-build?" },
	{ "", ERROR_ENVIRONMENT_UNKNOWN, "it is not in the catalog" },
	{ "Debian:12 \x1b[31m", ERROR_ENVIRONMENT_UNKNOWN, "it is not in the catalog" },
	{ "../../etc", ERROR_UNSUPPORTED, "this pyrod cannot" },
	{ "docker.io/library/python:3.12", ERROR_UNSUPPORTED, "this pyrod cannot" },
	{ "localhost/x", ERROR_UNSUPPORTED, "this pyrod cannot" },
	{ "host:5000/x", ERROR_UNSUPPORTED, "this pyrod cannot" },
};

START_TEST(names_that_are_not_in_the_catalog)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct environment *env = NULL;

	ck_assert_int_lt(environments_find(t.m.environments, names[_i].name, &env, &err), 0);
	ck_assert_int_eq(err.code, names[_i].code);
	ck_assert_msg(startswith(err.cause, names[_i].cause), "%s", err.cause);
	ck_assert_str_eq(err.fix, "use one of: debian:12, debian:12-base, debian:12-build");
	ck_assert_ptr_null(env);
}
END_TEST

static void ensure(void)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard a = { 0 }, b = { 0 };

	ck_assert_int_eq(kernels_ensure(t.m.kernels, NULL, on_plain_done, &a, &err), 0);
	ck_assert_int_eq(kernels_ensure(t.m.kernels, NULL, on_plain_done, &b, &err), 0);
	ck_assert_uint_eq(a.done + b.done, 0);
	until_done(&a);
	until_done(&b);
	ck_assert_msg(!a.err.set && !b.err.set, "%s", a.err.message);
}

START_TEST(kernels)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct kernel_files f = KERNEL_FILES_INIT;
	uint64_t deadline = now_usec() + DEADLINE_USEC;

	ck_assert_ptr_null(kernels_current(t.m.kernels));
	ensure();
	ensure();
	ck_assert_uint_eq(calls("kernel"), 1);
	ck_assert_uint_eq(calls("initramfs"), 1);
	ck_assert_int_eq(kernels_open(t.m.kernels, kernels_current(t.m.kernels), &f, &err), 0);
	ck_assert_int_ge(f.vmlinux_fd, 0);
	ck_assert_int_ge(f.initrd_fd, 0);
	ck_assert_int_eq(f.modules_fd, -EBADF);
	kernel_files_done(&f);
	ck_assert_int_lt(kernels_open(t.m.kernels, "../../..", &f, &err), 0);

	/* A new agent gets a new initramfs of the same kernel; the old one is deleted. */
	put("agent", "another agent");
	ensure();
	ck_assert_uint_eq(calls("kernel"), 1);
	ck_assert_uint_eq(calls("initramfs"), 2);
	ck_assert_int_eq(kernels_open(t.m.kernels, "00112233aabbccdd", &f, &err), 0);
	kernel_files_done(&f);

	/* kernel= of the configuration, and a change of that file. */
	put("bzImage", "one");
	t.config.kernel = path_of("bzImage");
	ensure();
	ck_assert_uint_eq(calls("kernel"), 2);
	ensure();
	ck_assert_uint_eq(calls("kernel"), 2);
	put("bzImage", "another");
	ensure();
	ck_assert_uint_eq(calls("kernel"), 3);

	/* A missing file is built again. */
	t.config.kernel = NULL;
	ck_assert_int_eq(unlink(path_of("kernels/00112233aabbccdd/vmlinux")), 0);
	ensure();
	ck_assert_uint_eq(calls("kernel"), 4);
	while (staging_count("kernels") > 0)
		turn(deadline);
}
END_TEST

static int pack(const char *hash, struct heard *h, struct error *err)
{
	return kernels_pack(t.m.kernels, hash, on_plain_done, h, err);
}

/* A machine made before an upgrade starts: its kernel is packed with the new agent, even if it is
 * not the current one. */
START_TEST(kernels_of_earlier_machines)
{
	static const char *const current = "00112233aabbccdd", *const old = "ffeeddccbbaa9988";
	_cleanup_error_ struct error err = ERROR_INIT, none = ERROR_INIT;
	struct heard a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
	struct kernel_files f = KERNEL_FILES_INIT;

	ensure();
	ck_assert_int_eq(pack(current, &a, &err), 1);
	ck_assert_int_eq(mkdir(path_of("kernels/ffeeddccbbaa9988"), 0755), 0);
	put("kernels/ffeeddccbbaa9988/vmlinux", "K");
	put("kernels/ffeeddccbbaa9988/initrd-0123456789abcdef", "of the earlier agent");
	put("agent", "another agent");

	/* Many requests at once: one job for each kernel, and a caller that left is not
	 * notified. */
	ck_assert_int_eq(pack(old, &a, &err), 0);
	ck_assert_int_eq(pack(current, &b, &err), 0);
	ck_assert_int_eq(pack(old, &c, &err), 0);
	ck_assert_int_eq(pack(current, &d, &err), 0);
	kernels_forget(t.m.kernels, &d);
	until_done(&a);
	ck_assert_uint_eq(c.done, 1);
	ck_assert_uint_eq(b.done, 0);
	until_done(&b);
	ck_assert_msg(!a.err.set && !b.err.set && !c.err.set, "%s", a.err.message);
	ck_assert_uint_eq(d.done, 0);
	ck_assert_uint_eq(calls("initramfs"), 3);
	ck_assert_uint_eq(calls("kernel"), 1);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(kernels_open(t.m.kernels, i ? old : current, &f, &err), 0);
		kernel_files_done(&f);
	}
	ck_assert(!there("kernels/ffeeddccbbaa9988/initrd-0123456789abcdef"));
	ck_assert_str_eq(kernels_current(t.m.kernels), current);

	ck_assert_int_lt(pack("0000000000000000", &a, &none), 0);
	ck_assert_int_eq(none.code, ERROR_START_FAILED);
	ck_assert_int_eq(pack(old, &a, &err), 1); /* and the failed job is done */
}
END_TEST

/* One job fails, the next one still runs. */
START_TEST(kernel_work_goes_on_after_a_failure)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard gone = { 0 }, good = { 0 };

	ensure();
	ck_assert_int_eq(mkdir(path_of("kernels/ffeeddccbbaa9988"), 0755), 0);
	put("agent", "another agent");
	ck_assert_int_eq(pack("ffeeddccbbaa9988", &gone, &err), 0); /* without a vmlinux */
	ck_assert_int_eq(pack("00112233aabbccdd", &good, &err), 0);
	until_done(&gone);
	ck_assert_int_eq(gone.err.code, ERROR_START_FAILED);
	error_clear(&gone.err);
	until_done(&good);
	ck_assert_msg(!good.err.set, "%s", good.err.message);
	ensure();
	ck_assert_uint_eq(calls("initramfs"), 3);
}
END_TEST

START_TEST(missing_agent_is_told)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard h = { 0 };

	ck_assert_int_eq(unlink(path_of("agent")), 0);
	ck_assert_int_lt(kernels_ensure(t.m.kernels, NULL, on_plain_done, &h, &err), 0);
	ck_assert_int_eq(err.code, ERROR_START_FAILED);
	ck_assert_ptr_nonnull(err.fix);
	ck_assert_uint_eq(h.done, 0);
}
END_TEST

/* Checks of installed files */

#define KERNEL "00112233aabbccdd"

static void read_image(bool again, struct heard *h)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_int_eq(
		environments_check_image(t.m.environments, DIGEST, again, on_plain_done, h, &err),
		0);
	ck_assert_uint_eq(h->done, 0);
	until_done(h);
}

static void read_kernel(struct heard *h)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_int_eq(kernels_check(t.m.kernels, KERNEL, true, on_plain_done, h, &err), 0);
	until_done(h);
}

static void install_it(void)
{
	struct heard h = { 0 };

	pull("debian:12", false, &h);
	until_done(&h);
	ck_assert_msg(!h.err.set, "%s", h.err.message);
}

/* Returns the error with which its use by a machine is refused. */
static void use_is_refused(const char *message, const char *cause)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard h = { 0 };

	ck_assert_int_lt(environment_pull(env_of("debian:12"), PULL_FOR_USE, on_progress, on_done,
				 &h, &h.wait, &err),
		0);
	ck_assert_int_eq(err.code, ERROR_START_FAILED);
	ck_assert_str_eq(err.message, message);
	ck_assert_str_eq(err.cause, cause);
	ck_assert_str_eq(err.fix, "pyro env pull debian:12");
}

START_TEST(whole_is_read_once)
{
	struct heard a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
	uint64_t before = now_usec();

	install_it();
	ck_assert_uint_eq(environments_image_whole_usec(t.m.environments, DIGEST), 0);
	read_image(false, &a);
	ck_assert(!a.err.set);
	ck_assert_uint_ge(environments_image_whole_usec(t.m.environments, DIGEST), before);
	ck_assert_ptr_null(environments_image_damage(t.m.environments, DIGEST));
	read_image(false, &b);
	ck_assert_uint_eq(calls("check"), 1);
	read_image(true, &c);
	ck_assert_uint_eq(calls("check"), 2);
	/* A replaced file counts as not checked. */
	put("cache/sha256-" HEX "/image.ext4", "xyz");
	ck_assert_uint_eq(environments_image_whole_usec(t.m.environments, DIGEST), 0);
	read_image(false, &d);
	ck_assert_uint_eq(calls("check"), 3);
}
END_TEST

START_TEST(checks_are_shared)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard first = { 0 }, joined = { 0 }, left = { 0 }, own = { 0 };
	uint64_t deadline = now_usec() + DEADLINE_USEC;

	install_it();
	make_gate();
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(
			environments_check_image(t.m.environments, DIGEST, false, on_plain_done,
				i == 0   ? &first
				: i == 1 ? &joined
					 : &left,
				&err),
			0);
	while (calls("check") == 0)
		turn(deadline);
	/* This caller needs a check that starts from now on, so it joins none. */
	ck_assert_int_eq(
		environments_check_image(t.m.environments, DIGEST, true, on_plain_done, &own, &err),
		0);
	integrity_forget(t.m.integrity, &left);
	open_gate();
	until_done(&first);
	ck_assert_uint_eq(joined.done, 1);
	ck_assert_uint_eq(own.done, 0);
	until_done(&own);
	ck_assert_uint_eq(calls("check"), 2);
	ck_assert_uint_eq(left.done, 0);
}
END_TEST

START_TEST(a_check_that_cannot_be_made_is_no_verdict)
{
	struct heard h = { 0 };

	install_it();
	put("mode", "check-fail");
	read_image(true, &h);
	ck_assert_int_eq(h.err.code, ERROR_INTERNAL);
	error_clear(&h.err);
	ck_assert(environment_installed(env_of("debian:12")));
	ck_assert_uint_eq(environments_image_whole_usec(t.m.environments, DIGEST), 0);
}
END_TEST

/* The damage is known after a restart, the image is not used, and the pull that its error names
 * builds it again. */
START_TEST(damaged_image)
{
	static const char said[] = "image.ext4 is not what was installed";
	struct heard h = { 0 }, again = { 0 };

	install_it();
	put("damaged", "\"image.ext4 is not what was installed\"");
	read_image(true, &h);
	ck_assert(!h.err.set);
	for (int i = 0; i < 2; i++) {
		ck_assert(!environment_installed(env_of("debian:12")));
		ck_assert(environment_is_damaged(env_of("debian:12")));
		use_is_refused("environment debian:12 is damaged",
			i == 0 ? said : "it is not what was installed");
		ck_assert(there("cache/sha256-" HEX "/damaged.json"));
		ck_assert(!there("cache/sha256-" HEX "/meta.json"));
		prune(false, true, NULL, 0); /* kept: an environment's fix names it */
		stop_all();
		start_all();
	}
	put("damaged", "null");
	if (_i == 0) {
		pull("debian:12", false, &again);
		until_done(&again);
		ck_assert_uint_eq(calls("environment"), 2);
	} else { /* repaired by hand: the next check notices */
		read_image(true, &again);
		ck_assert_uint_eq(calls("environment"), 1);
	}
	ck_assert_msg(!again.err.set, "%s", again.err.message);
	ck_assert(environment_installed(env_of("debian:12")));
	ck_assert(there("cache/sha256-" HEX "/meta.json"));
	ck_assert(!there("cache/sha256-" HEX "/damaged.json"));
}
END_TEST

START_TEST(damaged_kernel)
{
	static const char said[] = "modules.ext4 is not what was installed";
	struct heard h = { 0 }, again = { 0 };

	install_it();
	put("damaged", "\"modules.ext4 is not what was installed\"");
	read_kernel(&h);
	for (int i = 0; i < 2; i++) {
		ck_assert_str_eq(kernels_damage(t.m.kernels, KERNEL),
			i == 0 ? said : "it is not what was installed");
		use_is_refused("the kernel is damaged", kernels_damage(t.m.kernels, KERNEL));
		ck_assert(there("kernels/" KERNEL "/damaged.json"));
		stop_all();
		start_all();
	}
	put("damaged", "null");
	pull("debian:12", false, &again);
	until_done(&again);
	ck_assert_msg(!again.err.set, "%s", again.err.message);
	ck_assert_uint_eq(calls("kernel"), 2);
	ck_assert_uint_eq(calls("environment"), 1); /* which was intact */
	ck_assert_ptr_null(kernels_damage(t.m.kernels, KERNEL));
}
END_TEST

/* A forced pull checks the kernel, and fetches it again only if that is damaged. */
START_TEST(forced_pull_reads_the_kernel)
{
	struct heard h = { 0 };

	install_it();
	if (_i == 1)
		put("damaged", "\"vmlinux is not what was installed\"");
	pull("debian:12", true, &h);
	until_done(&h);
	ck_assert_msg(!h.err.set, "%s", h.err.message);
	ck_assert_uint_eq(calls("check"), 1);
	ck_assert_uint_eq(calls("kernel"), 1 + _i);
	ck_assert_uint_eq(calls("environment"), 2);
}
END_TEST

/* The initramfs is built from local files: the next start builds it again, without a pull. */
START_TEST(damaged_initramfs)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard h = { 0 }, packed = { 0 };

	install_it();
	ck_assert_int_eq(pack(KERNEL, &packed, &err), 1);
	put("damaged", "\"initrd-0123456789abcdef is not what was installed\"");
	read_kernel(&h);
	ck_assert_ptr_null(kernels_damage(t.m.kernels, KERNEL));
	ck_assert_ptr_nonnull(kernels_initrd_damage(t.m.kernels, KERNEL));
	ck_assert(there("kernels/" KERNEL "/meta.json"));
	ck_assert_int_eq(pack(KERNEL, &packed, &err), 0);
	until_done(&packed);
	ck_assert_msg(!packed.err.set, "%s", packed.err.message);
	ck_assert_ptr_null(kernels_initrd_damage(t.m.kernels, KERNEL));
	ck_assert_uint_eq(calls("initramfs"), 2);
	ck_assert_uint_eq(calls("kernel"), 1);
}
END_TEST

/* Modified after its installation: not used before it is checked. */
START_TEST(written_to_is_suspect)
{
	struct heard h = { 0 };

	install_it();
	ck_assert(!environments_image_is_suspect(t.m.environments, DIGEST));
	ck_assert(!kernels_is_suspect(t.m.kernels, KERNEL));
	put("cache/sha256-" HEX "/image.ext4", "abd");
	put("kernels/" KERNEL "/vmlinux", "L");
	ck_assert(environments_image_is_suspect(t.m.environments, DIGEST));
	ck_assert(kernels_is_suspect(t.m.kernels, KERNEL));
	/* The same bytes, e.g. copied without their times: the next daemon does not check again. */
	read_image(true, &h);
	ck_assert(!environments_image_is_suspect(t.m.environments, DIGEST));
	stop_all();
	start_all();
	ck_assert(!environments_image_is_suspect(t.m.environments, DIGEST));
	ck_assert(kernels_is_suspect(t.m.kernels, KERNEL));
}
END_TEST

static void make_disk_of(const char *name, uint64_t mib)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard h = { 0 };
	struct disk_op *op = NULL;

	ck_assert_int_eq(disk_create(&t.m, path_of(name), mib, on_plain_done, &h, &op, &err), 0);
	until_done(&h);
	ck_assert_msg(!h.err.set, "%s", h.err.message);
	op = disk_op_free(op);
}

static void make_disk(const char *name)
{
	make_disk_of(name, 64);
}

START_TEST(disks_are_sparse_copies)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	char text[8] = { 0 };
	struct stat st;
	int fd;

	make_disk("a.ext4");
	make_disk("b.ext4");
	ck_assert_uint_eq(calls("disk"), 1);
	ck_assert_int_eq(stat(path_of("b.ext4"), &st), 0);
	ck_assert_int_eq(st.st_size, 8 << 20);
	ck_assert_int_lt(st.st_blocks * 512, 1 << 20);
	fd = open(path_of("b.ext4"), O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(pread(fd, text, 5, 4 << 20), 5);
	ck_assert_str_eq(text, "blank");
	ck_assert_int_eq(close(fd), 0);
	ck_assert(!there("b.ext4.part"));
}
END_TEST

/* Uses one size after the other: the blanks used last are kept, in the order of their use. */
START_TEST(blanks_are_few)
{
	char name[48];

	for (uint64_t mib = 64; mib < 84; mib++) {
		make_disk("often.ext4");
		make_disk_of("once.ext4", mib);
	}
	ck_assert_uint_eq(calls("disk"), 20);
	for (uint64_t mib = 64; mib < 84; mib++) {
		(void)snprintf(name, sizeof(name), "disks/blank-%" PRIu64 ".ext4", mib);
		ck_assert_msg(there(name) == (mib == 64 || mib > 80), "%s", name);
	}
}
END_TEST

static void fail_to_make_disk(const char *mode, enum error_code code, const char *message)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard h = { 0 };
	struct disk_op *op = NULL;

	put("mode", mode);
	ck_assert_int_eq(disk_create(&t.m, path_of("a"), 64, on_plain_done, &h, &op, &err), 0);
	until_done(&h);
	ck_assert_int_eq(h.err.code, code);
	ck_assert_str_eq(h.err.message, message);
	ck_assert(!there("a") && !there("a.part") && !there("disks/blank-64.ext4"));
	ck_assert_uint_eq(staging_count("disks"), 0);
	error_clear(&h.err);
	op = disk_op_free(op);
}

START_TEST(failed_blank_leaves_nothing)
{
	fail_to_make_disk("disk-fail", ERROR_NO_SPACE, "no blank");
	fail_to_make_disk("disk-killed", ERROR_START_FAILED, "pyro-import failed");

	put("mode", "ok");
	make_disk("a");
	ck_assert(there("a"));
}
END_TEST

static void ck_assert_ours(const char *name)
{
	struct stat st;

	ck_assert_msg(lstat(path_of(name), &st) == 0, "%s: %s", name, strerror(errno));
	ck_assert_uint_eq(st.st_uid, 0);
}

/* pyro-import cannot reach the daemon's folders by path, but works in them, and its files end up
 * owned by the daemon. */
START_TEST(import_runs_as_its_own_user)
{
	static const char *const closed[] = { "cache", "kernels", "disks" };
	_cleanup_free_ char *who = NULL;
	struct heard h = { 0 };
	size_t n;

	if (geteuid() != 0)
		return;
	t.m.import_uid = t.m.import_gid = 61184;
	put("calls", "");
	put("who", "");
	ck_assert_int_eq(chmod(path_of("calls"), 0666), 0);
	ck_assert_int_eq(chmod(path_of("who"), 0666), 0);
	ck_assert_int_eq(mkdir(path_of("disks"), 0700), 0);
	for (size_t i = 0; i < ARRAY_SIZE(closed); i++)
		ck_assert_int_eq(chmod(path_of(closed[i]), 0700), 0);

	pull("debian:12", false, &h);
	until_done(&h);
	ck_assert_msg(!h.err.set, "%s: %s", h.err.message, h.err.cause);
	put("agent", "another agent");
	ensure();
	ck_assert_uint_eq(calls("initramfs"), 2);
	make_disk("a");
	ck_assert_int_eq(read_file_at(AT_FDCWD, path_of("who"), 4096, &who, &n), 0);
	ck_assert_str_eq(who, "61184\n61184\n61184\n61184\n61184\n");
	ck_assert_ours("kernels/00112233aabbccdd/vmlinux");
	ck_assert_ours("cache/sha256-" HEX "/image.ext4");
	ck_assert_ours("disks/blank-64.ext4");
	wait_no_staging("kernels");
	wait_no_staging("cache");
	wait_no_staging("disks");
}
END_TEST

START_TEST(disk_sizes_and_places_are_checked)
{
	_cleanup_error_ struct error err = ERROR_INIT, late = ERROR_INIT;
	struct heard h = { 0 };
	struct disk_op *op = NULL;

	ck_assert_int_eq(disk_create(&t.m, path_of("x"), 0, on_plain_done, &h, &op, &err), -EINVAL);
	ck_assert_ptr_null(op);
	ck_assert_int_eq(
		disk_create(&t.m, path_of("nowhere/x"), 64, on_plain_done, &h, &op, &late), 0);
	until_done(&h);
	ck_assert(h.err.set);
	error_clear(&h.err);
	op = disk_op_free(op);
}
END_TEST

static void on_done_free(const struct error *err, void *userdata)
{
	struct disk_op **op = userdata;

	ck_assert_ptr_null(err);
	*op = disk_op_free(*op);
}

/* Cancelled before the end, at the end, and after it. */
START_TEST(disk_ops_can_go_at_any_time)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	uint64_t deadline = now_usec() + DEADLINE_USEC;
	struct disk_op *before = NULL, *within = NULL;
	struct heard h = { 0 };

	make_disk("after.ext4");
	ck_assert_int_eq(
		disk_create(&t.m, path_of("before"), 64, on_plain_done, &h, &before, &err), 0);
	before = disk_op_free(before);
	ck_assert_int_eq(
		disk_create(&t.m, path_of("within"), 64, on_done_free, &within, &within, &err), 0);
	while (within || !there("before"))
		turn(deadline);
	ck_assert_uint_eq(h.done, 0);
	before = disk_op_free(NULL);
	make_disk("after.ext4");
}
END_TEST

START_TEST(removes_without_following_links)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct heard h = { 0 }, none = { 0 };
	struct disk_op *op = NULL;

	ck_assert_int_eq(mkdir(path_of("vm"), 0755), 0);
	ck_assert_int_eq(mkdir(path_of("vm/sub"), 0755), 0);
	ck_assert_int_eq(mkdir(path_of("kept"), 0755), 0);
	put("vm/sub/file", "x");
	put("kept/file", "x");
	ck_assert_int_eq(symlink(path_of("kept"), path_of("vm/link")), 0);
	ck_assert_int_eq(disk_remove(&t.m, path_of("vm"), on_plain_done, &h, &op, &err), 0);
	until_done(&h);
	ck_assert(!h.err.set);
	ck_assert(!there("vm") && there("kept/file"));
	op = disk_op_free(op);
	/* Removing a missing file succeeds. */
	ck_assert_int_eq(disk_remove(&t.m, path_of("vm"), on_plain_done, &none, &op, &err), 0);
	until_done(&none);
	ck_assert(!none.err.set);
	op = disk_op_free(op);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("environment");
	TCase *tc = tcase_create("environment");
	SRunner *sr;

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, installs);
	tcase_add_test(tc, installed_answers_later_without_work);
	tcase_add_test(tc, two_share_one_pull_and_one_leaves);
	tcase_add_test(tc, a_forced_pull_holds_up_nobody);
	tcase_add_test(tc, forced_pulls_are_shared);
	tcase_add_test(tc, progress_costs_one_step_for_each_waiter);
	tcase_add_test(tc, goes_on_when_all_leave);
	tcase_add_loop_test(tc, failures_install_nothing, 0, ARRAY_SIZE(failures));
	tcase_add_test(tc, interrupted_pull_leaves_nothing);
	tcase_add_loop_test(tc, half_installed_is_not_installed, 0, 6);
	tcase_add_test(tc, no_space_is_told_first);
	tcase_add_test(tc, prunes);
	tcase_add_test(tc, prunes_kernels);
	tcase_add_test(tc, cache_gone_under_the_daemon);
	tcase_add_loop_test(tc, superseded_goes_when_unused, 0, 3);
	tcase_add_test(tc, prune_spares_a_pull_under_way);
	tcase_add_test(tc, prune_spares_an_installation_under_way);
	tcase_add_loop_test(tc, names_that_are_not_in_the_catalog, 0, ARRAY_SIZE(names));
	tcase_add_test(tc, kernels);
	tcase_add_test(tc, kernels_of_earlier_machines);
	tcase_add_test(tc, kernel_work_goes_on_after_a_failure);
	tcase_add_test(tc, missing_agent_is_told);
	tcase_add_test(tc, whole_is_read_once);
	tcase_add_test(tc, checks_are_shared);
	tcase_add_test(tc, a_check_that_cannot_be_made_is_no_verdict);
	tcase_add_loop_test(tc, damaged_image, 0, 2);
	tcase_add_test(tc, damaged_kernel);
	tcase_add_loop_test(tc, forced_pull_reads_the_kernel, 0, 2);
	tcase_add_test(tc, damaged_initramfs);
	tcase_add_test(tc, written_to_is_suspect);
	tcase_add_test(tc, disks_are_sparse_copies);
	tcase_add_test(tc, blanks_are_few);
	tcase_add_test(tc, failed_blank_leaves_nothing);
	tcase_add_test(tc, import_runs_as_its_own_user);
	tcase_add_test(tc, disk_sizes_and_places_are_checked);
	tcase_add_test(tc, disk_ops_can_go_at_any_time);
	tcase_add_test(tc, removes_without_following_links);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);

	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
