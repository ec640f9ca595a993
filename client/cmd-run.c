/* SPDX-License-Identifier: MIT */
/*
 * `pyro run` and `pyro vm exec`: reports on one command, in a machine of its own or in an existing
 * one. Named by the verb table; client/session.c waits. The exit status is the guest's (contract.md
 * section 1).
 */
#include "cmd.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "proto/host.h"
#include "proto/json.h"

/* True the first time that a machine of this user is emulated. A file in the state directory
 * records it. */
static bool first_emulation(void)
{
	_cleanup_free_ char *dir = NULL, *path = NULL;
	_cleanup_close_ int fd = -EBADF;
	const char *home = getenv("HOME");

	if (!home || access(home, W_OK) < 0 || host_state_dir(false, &dir) < 0)
		return true;
	path = str_printf("%s/emulation-noted", dir);
	if (!path)
		return true;
	for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		(void)mkdir(path, 0700); /* if it fails, open() fails too */
		*p = '/';
	}
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd >= 0;
}

void note_emulation(const struct session *s, json_object *progress)
{
	const char *reason = out_member(progress, "accelerator_reason");
	const char *fix = "use a host with hardware virtualization; emulation works, but slowly";
	struct host_kvm kvm;

	if (s->cli->quiet || !streq(out_member(progress, "accelerator"), "emulation") || !reason[0])
		return;
	if (host_cpu_virtualization()) {
		host_kvm_probe(&kvm);
		fix = kvm.exists ? "pyro doctor" : "sudo modprobe -a kvm_intel kvm_amd";
	} else if (!first_emulation()) {
		return;
	}
	fprintf(stderr, "[%s] note accelerator=emulation reason=\"", s->wait->tag);
	out_text(stderr, reason);
	fprintf(stderr, "\" fix=\"%s\"\n", fix);
}

static void show_phase(struct session *s, const char *phase, json_object *o)
{
	const char *tag = s->wait->tag;
	bool create = streq(phase, "create");

	if (!create && !streq(phase, "start") && !streq(phase, "execute")) {
		session_pull_phase(s, phase, o);
		return;
	}
	out_progress_end(&s->progress);
	if (streq(s->progress.phase, phase))
		return;
	(void)snprintf(s->progress.phase, sizeof(s->progress.phase), "%s", phase);
	if (streq(phase, "start"))
		note_emulation(s, o);
	if (s->cli->quiet)
		return;
	fprintf(stderr, "[%s] phase=%s %s=", tag, phase, create ? "environment" : "vm_id");
	out_text(stderr, create ? s->progress.environment : s->vm_id);
	fputc('\n', stderr);
}

/* Reports the limit that ended the command or one of its processes, and the flag that raises it.
 * Prints only if show is set. Returns true if there is such a limit. */
static bool report_limit(const struct session *s, bool show)
{
	json_object *limit = out_sub(s->result, "limit");
	const char *name = out_member(limit, "name"), *flag = out_member(limit, "flag");
	/* A machine's limits are flags of the verb that makes it. */
	const char *noun = flag[0] ? s->line->verb->noun : NULL;
	const char *verb = !noun                      ? ""
			   : streq(noun, "workspace") ? "pyro workspace create "
						      : "pyro vm create ";
	const char *unit = " MiB", *what;

	if (streq(name, "mem_mib")) {
		what = "out of memory";
	} else if (streq(name, "disk_mib")) {
		what = "its disk is full";
	} else if (streq(name, "pids")) {
		what = "too many processes";
		unit = "";
	} else {
		return false;
	}
	if (!show)
		return true;
	fprintf(stderr, "%s: %s (limit %" PRId64 "%s; %s",
		out_member(s->result, "ended_by")[0] ? "command ended"
						     : "a process of the command was killed",
		what, out_int(limit, "value", 0), unit, verb);
	out_text(stderr, flag[0] ? flag : "this host has no more");
	fputs(")\n", stderr);
	return true;
}

static void report_timeout(const struct session *s)
{
	json_object *limit = out_sub(s->result, "limit");
	const char *flag = out_member(limit, "flag");
	/* exec-wait and exec-attach do not know how the command was started. */
	bool starts = json_get(s->line->checked, "timeout_seconds");

	fprintf(stderr, "command timed out after %" PRId64 "s",
		starts ? json_get_int(s->line->checked, "timeout_seconds", 0)
		       : out_int(limit, "value", 0));
	if (starts && !json_get(s->line->params, "timeout_seconds") && flag[0]) {
		fputs(" (the default; ", stderr);
		out_text(stderr, flag);
		fputc(')', stderr);
	}
	fputc('\n', stderr);
}

int command_report_end(struct session *s)
{
	int64_t code = out_int(s->result, "exit_code", -1);
	bool timed_out = out_bool(s->result, "timed_out", false);

	if (timed_out || report_limit(s, false) || !s->cli->quiet)
		session_end_line(s);
	if (timed_out)
		report_timeout(s);
	else
		(void)report_limit(s, true);
	return code < 0 || code > UINT8_MAX ? EXIT_PYRO : (int)code; /* not a status */
}

static int conclude(struct session *s, json_object *result)
{
	bool entered = s->line->verb->noun;
	const char *subject = entered ? "vm_id" : "environment";
	int status = command_report_end(s);

	if (s->cli->quiet)
		return status;
	fprintf(stderr, "[%s] %s=", s->wait->tag, subject);
	out_text(stderr, out_member(result, subject));
	fputs(" execution_mode=", stderr);
	out_text(stderr, out_member(result, "execution_mode"));
	fprintf(stderr, " exit_code=%d duration_ms=%" PRId64, status,
		out_int(result, "duration_ms", 0));
	/* The machine of `vm exec` existed before and is deleted with the command. */
	if (entered)
		fprintf(stderr, " deleted=%s",
			out_bool(out_sub(result, "cleanup"), "deleted", false) ? "true" : "false");
	fputc('\n', stderr);
	return status;
}

#define ONE_COMMAND \
	.live = true, .on_phase = show_phase, .conclude = conclude, \
	.unconfirmed = "the machine's deletion was not confirmed; pyrod deletes it within 10 s"

const struct waiting wait_run = { .tag = "run", ONE_COMMAND };
const struct waiting wait_vm_exec = { .tag = "vm-exec", ONE_COMMAND };
