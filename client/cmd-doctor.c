/* SPDX-License-Identifier: MIT */
/*
 * `pyro doctor`: asks the daemon what this host can do and prints the lines of contract.md section
 * 2, then each failed check with its fix. When the daemon does not answer, the client reports that
 * and makes checks of its own (doctor-local.c). The exit status is 1 unless the runtime is fit.
 */
#include "cmd.h"

#include "proto/json.h"

static const char *yes(json_object *o, const char *key)
{
	return out_bool(o, key, false) ? "yes" : "no";
}

/* Returns the member if it is "yes" or "no", and "unknown" for any other value. */
static const char *word(json_object *o, const char *key)
{
	static const char *const words[] = { "yes", "no" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (streq(out_member(o, key), words[i]))
			return words[i];
	return "unknown";
}

static bool is_fit(json_object *o)
{
	return out_bool(out_sub(o, "runtime"), "ok", false);
}

/* A runtime without a failed check is not yet fit: its verdict may be unknown. */
static const char *verdict(json_object *o)
{
	json_object *runtime = out_sub(o, "runtime");

	if (is_fit(o))
		return "PASS";
	return streq(out_member(runtime, "verdict"), "unknown") ? "UNKNOWN" : "FAIL";
}

static void print_checks(const struct cli *cli, json_object *checks)
{
	for (size_t i = 0; checks && i < json_object_array_length(checks); i++) {
		_cleanup_free_ char *aimed = NULL, *fix = NULL;
		json_object *check = json_object_array_get_idx(checks, i);

		if (out_bool(check, "ok", false))
			continue;
		out_text(stdout, out_member(check, "name"));
		fputs(": ", stdout);
		out_text(stdout, out_member(check, "detail"));
		putchar('\n');
		if (!out_member(check, "fix")[0])
			continue;
		aimed = cli_aim_fix(cli, out_member(check, "fix"));
		fix = aimed ? out_fix(aimed) : NULL;
		fputs("  fix: ", stdout);
		out_text(stdout, fix);
		putchar('\n');
	}
}

/* Prints what machines run on. For emulation adds the reason: the detail of the kvm check. */
static void print_accelerator(json_object *o)
{
	json_object *checks = out_array(out_sub(o, "runtime"), "checks");
	const char *name = out_member(o, "accelerator");

	if (!name[0])
		return;
	fputs("Accelerator: ", stdout);
	out_text(stdout, name);
	for (size_t i = 0; streq(name, "emulation") && i < json_object_array_length(checks); i++) {
		json_object *check = json_object_array_get_idx(checks, i);

		if (!streq(out_member(check, "name"), "kvm"))
			continue;
		fputs(": ", stdout);
		out_text(stdout, out_member(check, "detail"));
	}
	putchar('\n');
}

static void print_report(const struct cli *cli, json_object *o)
{
	const char *cache = out_member(o, "environment_cache");
	json_object *kvm = out_sub(o, "kvm"), *can = out_sub(o, "capabilities"),
		    *net = out_sub(o, "networking");

	fputs("Platform: ", stdout);
	out_text(stdout, out_member(o, "platform"));
	printf("\nRuntime: %s\n", verdict(o));
	printf("KVM: exists=%s readable=%s writable=%s\n", yes(kvm, "exists"), yes(kvm, "readable"),
		yes(kvm, "writable"));
	fputs("Environment cache: ", stdout);
	out_text(stdout, cache[0] ? cache : NULL);
	printf("\nCapabilities: vm_boot=%s guest_exec=%s guest_network=%s\n", word(can, "vm_boot"),
		word(can, "guest_exec"), word(can, "guest_network"));
	printf("Networking: tun=%s ip_forward=%s\n", yes(net, "tun"), yes(net, "ip_forward"));
	print_accelerator(o);
	print_checks(cli, out_array(out_sub(o, "runtime"), "checks"));
}

static json_object *without_daemon(struct session *s, const struct error *why)
{
	return doctor_local(s->cli, why);
}

static void print_doctor(struct session *s, json_object *o)
{
	if (s->failed.set)
		fputs("pyro: the daemon does not answer; these are the client's own checks\n",
			stderr);
	print_report(s->cli, o);
}

static int conclude(struct session *s _unused_, json_object *o)
{
	return is_fit(o) ? 0 : 1;
}

const struct waiting wait_doctor = {
	.timeout_sec = 420, /* the daemon reads all that is installed and boots a probe machine */
	.without = without_daemon,
	.print = print_doctor,
	.conclude = conclude,
};
