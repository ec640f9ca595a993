/* SPDX-License-Identifier: MIT */
/*
 * Tells why a guest ended or does not answer: one line without control characters for the caller,
 * the end of its console for the log. Called by events.c and talk.c when they make the error.
 */

#include "daemon/machine/limit.h"
#include "daemon/machine/machine-internal.h"

#include "daemon/log.h"
#include "proto/deadline.h"

#define VMM_FIX        "sudo apt-get install --reinstall -y qemu-system-x86 qemu-system-data"
#define CONSOLE_LOGGED 4096 /* bytes: a panic with its call trace */
#define CONSOLE_LINES  40   /* fewer than LOG_LIMIT_BURST, so that the last are logged */

/* Returns the start of the last CONSOLE_LINES lines. */
static char *last_lines(char *text)
{
	char *p = text + strlen(text);

	for (int n = 0; p > text; p--)
		if (p[-1] == '\n' && p[0] != '\0' && ++n == CONSOLE_LINES)
			break;
	return p;
}

/* The guest chose the lines: each names its machine and counts towards its owner's log limit. */
static void log_console(struct machine *mc)
{
	_cleanup_free_ char *tail = NULL;
	char *rest, *line;

	if (vmm_console_tail(mc->process.vmm, CONSOLE_LOGGED, &tail) < 0)
		return;
	rest = last_lines(tail);
	while ((line = strsep(&rest, "\n")))
		if (line[0])
			log_uid(LOG_INFO, 0, mc->row.owner_uid, "%s: console: %s", mc->row.id,
				line);
}

char *machine_death_cause(struct machine *mc, const char *what)
{
	_cleanup_free_ char *line = NULL;

	log_console(mc);
	if (vmm_console_cause(mc->process.vmm, &line) < 0 || !line)
		return strdup(what);
	return str_printf("%s; its console shows: %s", what, line);
}

int machine_not_booted(const struct machine *mc, bool reset, struct error *err)
{
	const struct config *c = mc->machines->m->config;
	const char *vmm = vmm_version(mc->process.vmm);
	_cleanup_free_ char *cause = NULL, *fix = NULL;

	if (reset)
		cause = str_printf(
			"%s was reset by its guest before the kernel printed anything", vmm);
	else
		cause = str_printf("%s ran for %u s, and the guest's kernel printed nothing", vmm,
			(unsigned)(deadline_usec(DEADLINE_BOOT) / USEC_PER_SEC));
	if (c && c->qemu)
		fix = str_printf("remove qemu = %s from pyrod.conf and restart pyrod", c->qemu);
	else if (c && c->kernel)
		fix = str_printf("remove kernel = %s from pyrod.conf and restart pyrod", c->kernel);
	return error_set(err, ERROR_START_FAILED, cause, fix ? fix : VMM_FIX,
		"the VMM did not boot the kernel of machine %s", mc->row.id);
}

/* Out of memory: the flag for more. Anything else: the whole console in the log. */
char *machine_death_fix(struct machine *mc, const char *cause)
{
	char flag[32];

	if (cause && (strstr(cause, "Out of memory") || strstr(cause, "deadlocked on memory"))) {
		limit_more_memory(mc, flag);
		return flag[0] ? str_printf("give the machine more memory: %s", flag)
			       : strdup("let the command use less memory: this host has no more");
	}
	return log_search(mc->machines->m->system, mc->row.id);
}
