/* SPDX-License-Identifier: MIT */
/*
 * `pyro doctor`: asks the daemon what this host can do and prints the lines of contract.md section 2, then
 * each failed check with its fix. When the daemon does not answer it says so and looks for itself
 * (doctor-local.c). Exits 1 unless the runtime is fit.
 */
#include "cmd.h"

#include "client/output.h"
#include "proto/json.h"

#define DOCTOR_TIMEOUT_MSEC 420000 /* all that is installed is read, and a probe machine booted */

static const char *yes(json_object *o, const char *key)
{
	return json_object_get_boolean(json_get(o, key)) ? "yes" : "no";
}

/* What was shown; from a daemon that says it in another way nothing is known. */
static const char *word(json_object *o, const char *key)
{
	static const char *const words[] = { "yes", "no" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (streq(out_member(o, key), words[i]))
			return words[i];
	return "unknown";
}

/* That nothing failed is not yet a pass. */
static const char *verdict(json_object *runtime, bool ok)
{
	if (ok)
		return "PASS";
	return streq(out_member(runtime, "verdict"), "unknown") ? "UNKNOWN" : "FAIL";
}

static void print_checks(const struct cli *cli, json_object *checks)
{
	for (size_t i = 0; checks && i < json_object_array_length(checks); i++) {
		_cleanup_free_ char *aimed = NULL, *fix = NULL;
		json_object *check = json_object_array_get_idx(checks, i);

		if (json_object_get_boolean(json_get(check, "ok")))
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

/* What machines run on, and when it is not KVM, why: the detail of that check. */
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

static void print_report(const struct cli *cli, json_object *o, bool ok)
{
	const char *cache = out_member(o, "environment_cache");
	json_object *kvm = out_sub(o, "kvm"), *can = out_sub(o, "capabilities"),
		    *net = out_sub(o, "networking");

	fputs("Platform: ", stdout);
	out_text(stdout, out_member(o, "platform"));
	printf("\nRuntime: %s\n", verdict(out_sub(o, "runtime"), ok));
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

/* The daemon's report, or, with the reason in why, our own. */
static int get_report(
	const struct cli *cli, const struct cmdline *line, json_object **ret, struct error *why)
{
	_cleanup_(pyro_freep) struct pyro *p = NULL;
	int r = cli_connect(cli, &p, why);

	if (r >= 0)
		r = cli_call_within(p, "system.doctor", line->params, DOCTOR_TIMEOUT_MSEC, NULL,
			NULL, ret, why);
	if (r >= 0)
		return 0;
	*ret = doctor_local(cli, why);
	return *ret ? 0 : -ENOMEM;
}

int cmd_doctor(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	_cleanup_json_ json_object *o = NULL;
	bool ok;
	int r = get_report(cli, line, &o, &why);

	if (r < 0)
		return error_no_memory(err, "cannot look at this host");
	ok = json_object_get_boolean(json_get(out_sub(o, "runtime"), "ok"));
	if (cli->json) {
		out_json(o);
		return ok ? 0 : 1;
	}
	if (why.set)
		fputs("pyro: the daemon does not answer; these are the client's own checks\n",
			stderr);
	print_report(cli, o, ok);
	return ok ? 0 : 1;
}
