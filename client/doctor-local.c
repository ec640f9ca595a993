/* SPDX-License-Identifier: MIT */
/*
 * The checks that `pyro doctor` makes without the daemon, in the form of system.doctor's result, so
 * that one function prints both. Called by cmd-doctor.c when the daemon does not answer. The checks
 * change nothing. Members that only the daemon knows are null; capabilities are unknown, because
 * only a machine can show them.
 */
#include "cmd.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "proto/host.h"
#include "proto/json.h"

#define FREE_WANTED_MIB \
	UINT64_C( \
		3584) /* MiB for a pull by the default settings: an environment, and 512 to spare */
#define SUBIDS_WANTED 65536

static int add_check(
	json_object *checks, const char *name, bool ok, const char *detail, const char *fix)
{
	_cleanup_json_ json_object *o = json_object_new_object();

	if (!o || json_add_str(o, "name", name) < 0 || json_add_bool(o, "ok", ok) < 0 ||
		json_add_str(o, "detail", detail) < 0 ||
		json_add_str(o, "fix", ok ? NULL : fix) < 0)
		return -ENOMEM;
	if (json_object_array_add(checks, o) < 0)
		return -ENOMEM;
	o = NULL;
	return 0;
}

static int check_daemon(json_object *checks, const struct error *why)
{
	_cleanup_free_ char *detail =
		str_printf("%s%s%s", why->message ? why->message : "no answer",
			why->cause ? ": " : "", why->cause ? why->cause : "");

	return add_check(checks, "daemon", false, detail, why->fix);
}

static int check_program(
	json_object *checks, const char *name, const char *program, const char *package)
{
	_cleanup_free_ char *path = NULL, *fix = str_printf("sudo apt-get install -y %s", package),
			    *lost = NULL;

	if (host_find_program(program, &path) >= 0)
		return add_check(checks, name, true, path, NULL);
	lost = str_printf("%s is not in PATH", program);
	return add_check(checks, name, false, lost, fix);
}

static int check_kvm(json_object *checks, const struct host_kvm *kvm)
{
	_cleanup_free_ char *detail = NULL;

	if (kvm->usable)
		return add_check(checks, "kvm", true, "usable", NULL);
	detail =
		str_printf("%s: machines run emulated, which is slower and not a security boundary",
			!kvm->exists ? "there is no /dev/kvm"
			: kvm->error ? strerror(kvm->error)
				     : "not usable by you");
	return add_check(checks, "kvm", true, detail, NULL);
}

/* Checks the ids of a user's own daemon; the system daemon imports as another user. */
static int check_subids(json_object *checks)
{
	static const char *const files[] = { "/etc/subuid", "/etc/subgid" };
	uint64_t start, count;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		_cleanup_free_ char *detail = NULL, *fix = NULL;

		if (host_subid(files[i], getuid(), SUBIDS_WANTED, &start, &count) >= 0 ||
			getuid() == 0)
			continue;
		detail = str_printf("%s has no range of %d ids for you", files[i], SUBIDS_WANTED);
		if (host_subid_command(getuid(), SUBIDS_WANTED, &fix) < 0)
			fix = strdup("use pyro as a user with an account");
		return add_check(checks, "subuid", false, detail, fix);
	}
	return add_check(checks, "subuid", true, "enough ids", NULL);
}

static int check_space(json_object *checks, const char *path)
{
	_cleanup_free_ char *detail = NULL, *fix = NULL;
	uint64_t bytes = 0, mib;
	int r = host_free_bytes(path, &bytes);

	if (r == -EACCES)
		return 0; /* a folder of the daemon's: report nothing */
	if (r < 0) {
		detail = str_printf("%s: %s", path, strerror(-r));
		return add_check(checks, "space", false, detail,
			"set PYRO_ENVIRONMENT_CACHE_DIR to a directory that you own");
	}
	mib = bytes / MIB;
	detail = str_printf("%" PRIu64 " MiB free for %s", mib, path);
	fix = str_printf("free at least %" PRIu64
			 " MiB there, or set PYRO_ENVIRONMENT_CACHE_DIR to another directory",
		FREE_WANTED_MIB - MIN_OF(mib, FREE_WANTED_MIB));
	return add_check(checks, "space", mib >= FREE_WANTED_MIB, detail, fix);
}

/* Reports that the folder of environments is unknown; r: why. */
static int check_cache(json_object *checks, int r)
{
	if (r == -EINVAL)
		return add_check(checks, "space", false,
			"PYRO_ENVIRONMENT_CACHE_DIR is not an absolute path",
			"set it to an absolute path, or unset it");
	return add_check(checks, "space", false, HOST_NO_HOME ": no directory for environments",
		"set HOME to the absolute path of your home directory");
}

static int add_kvm(json_object *o, const struct host_kvm *kvm)
{
	json_object *k = json_object_new_object();
	int r = json_add(o, "kvm", k);

	if (!k || r < 0)
		return -ENOMEM;
	if (json_add_bool(k, "exists", kvm->exists) < 0 ||
		json_add_bool(k, "readable", kvm->readable) < 0 ||
		json_add_bool(k, "writable", kvm->writable) < 0 ||
		json_add_bool(k, "usable", kvm->usable) < 0)
		return -ENOMEM;
	return 0;
}

static int add_bools(json_object *o, const char *key, const char *const *names, const bool *values)
{
	json_object *sub = json_object_new_object();
	int r = json_add(o, key, sub);

	if (!sub || r < 0)
		return -ENOMEM;
	for (size_t i = 0; names[i]; i++)
		if (json_add_bool(sub, names[i], values[i]) < 0)
			return -ENOMEM;
	return 0;
}

static int add_capabilities(json_object *o)
{
	static const char *const names[] = { "vm_boot", "guest_exec", "guest_network",
		"host_compat" };
	json_object *sub = json_object_new_object();
	int r = json_add(o, "capabilities", sub);

	if (!sub || r < 0)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (json_add_str(sub, names[i], "unknown") < 0)
			return -ENOMEM;
	return 0;
}

/* Adds the members that only the daemon knows, as null or empty. */
static int add_unknown(json_object *o)
{
	static const char *const objects[] = { "emulation", "accelerator", "kernel", "storage",
		"limits", "daemon" };
	static const char *const arrays[] = { "environments", "vmm" };

	for (size_t i = 0; i < ARRAY_SIZE(objects); i++)
		if (json_add(o, objects[i], NULL) < 0)
			return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(arrays); i++) {
		json_object *list = json_object_new_array();

		if (!list || json_add(o, arrays[i], list) < 0)
			return -ENOMEM;
	}
	return 0;
}

static bool ip_forward(void)
{
	_cleanup_free_ char *text = NULL;
	size_t n;

	return read_file_at(AT_FDCWD, "/proc/sys/net/ipv4/ip_forward", 16, &text, &n) >= 0 &&
	       text[0] == '1';
}

/* True if the system daemon's folders are meant: by flag; else for root, or if its socket is
 * usable. */
static bool system_places(const struct cli *cli)
{
	_cleanup_free_ char *path = NULL;

	if (cli->mode != PYRO_AUTO)
		return cli->mode == PYRO_SYSTEM;
	return getuid() == 0 ||
	       (host_socket_path(true, getuid(), &path) >= 0 && access(path, W_OK) == 0);
}

static int add_checks(
	json_object *o, const struct cli *cli, const struct error *why, const struct host_kvm *kvm)
{
	_cleanup_free_ char *cache = NULL;
	bool system = system_places(cli);
	int r = host_environment_cache(system, &cache);
	json_object *runtime = json_object_new_object(), *checks = json_object_new_array();

	if (r == -ENOMEM || json_add_str(o, "environment_cache", cache) < 0)
		return -ENOMEM;
	if (!runtime || !checks || json_add(o, "runtime", runtime) < 0 ||
		json_add_bool(runtime, "ok", false) < 0 ||
		json_add_str(runtime, "verdict", "fail") < 0 ||
		json_add(runtime, "checks", checks) < 0)
		return -ENOMEM;
	if (check_daemon(checks, why) < 0 || check_kvm(checks, kvm) < 0 ||
		check_program(checks, "qemu", "qemu-system-x86_64", "qemu-system-x86") < 0 ||
		check_program(checks, "mmdebstrap", "mmdebstrap", "mmdebstrap") < 0 ||
		check_program(checks, "uidmap", "newuidmap", "uidmap") < 0 ||
		(!system && check_subids(checks) < 0) ||
		(cache ? check_space(checks, cache) : check_cache(checks, r)) < 0)
		return -ENOMEM;
	return 0;
}

json_object *doctor_local(const struct cli *cli, const struct error *why)
{
	static const char *const networking[] = { "tun", "ip_forward", "nft", NULL };
	_cleanup_json_ json_object *o = json_object_new_object();
	_cleanup_free_ char *platform = NULL, *nft = NULL;
	struct host_kvm kvm;
	struct utsname u;
	bool net[] = { access("/dev/net/tun", R_OK | W_OK) == 0, ip_forward(),
		host_find_program("nft", &nft) >= 0 };

	host_kvm_probe(&kvm);
	if (!o || uname(&u) < 0)
		return NULL;
	platform = str_printf("linux-%s", u.machine);
	if (json_add_str(o, "platform", platform) < 0 || add_checks(o, cli, why, &kvm) < 0 ||
		add_kvm(o, &kvm) < 0 || add_capabilities(o) < 0 ||
		add_bools(o, "networking", networking, net) < 0 || add_unknown(o) < 0)
		return NULL;
	return TAKE_PTR(o);
}
