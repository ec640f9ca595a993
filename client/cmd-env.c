/* SPDX-License-Identifier: MIT */
/*
 * Prints the results of `pyro env list`, `pull` and `prune` as contract.md section 2 says. Named by
 * the verb table; client/session.c waits. Results go to stdout, phases to stderr.
 */
#include "cmd.h"

#include <inttypes.h>

#include "proto/json.h"

static const char *state_of(json_object *env)
{
	if (out_member(env, "damage")[0])
		return "damaged";
	return out_bool(env, "installed", false) ? "installed" : "not installed";
}

static void print_list(struct session *s, json_object *result)
{
	json_object *envs = out_array(result, "environments");

	if (!s->cli->quiet) {
		fputs("Catalog version: ", stdout);
		out_text(stdout, out_member(result, "catalog_version"));
		putchar('\n');
	}
	for (size_t i = 0; envs && i < json_object_array_length(envs); i++) {
		json_object *env = json_object_array_get_idx(envs, i);

		out_text(stdout, out_member(env, "name"));
		if (!s->cli->quiet) {
			printf(" [%s] ", state_of(env));
			out_text(stdout, out_member(env, "description"));
		}
		putchar('\n');
	}
}

const struct waiting wait_env_list = { .print = print_list };

static void print_pulled(struct session *s, json_object *result _unused_)
{
	fputs("Pulled: ", stdout);
	out_text(stdout, s->progress.environment);
	putchar('\n');
}

const struct waiting wait_env_pull = {
	.tag = "pull",
	.first_phase = "install",
	.last_phase = "ready",
	.on_phase = session_pull_phase,
	.print = print_pulled,
};

/* True if label, "NAME (FOLDER)" in env.prune's result, names this environment. */
static bool is_label_of(const char *label, const char *name)
{
	size_t n = strlen(name);

	return label && strncmp(label, name, n) == 0 && startswith(label + n, " (");
}

/* Prints which installed environments `prune --all` keeps, and why. */
static void note_kept(struct session *s, json_object *deleted)
{
	_cleanup_json_ json_object *result = NULL;
	int r = session_ask(s, "env.list", NULL, &result);
	json_object *envs = r < 0 ? NULL : out_array(result, "environments");

	for (size_t i = 0; envs && i < json_object_array_length(envs); i++) {
		json_object *env = json_object_array_get_idx(envs, i);
		const char *name = out_member(env, "name");
		bool goes = !out_bool(env, "installed", false);

		for (size_t k = 0; !goes && deleted && k < json_object_array_length(deleted); k++)
			goes = is_label_of(
				json_object_get_string(json_object_array_get_idx(deleted, k)),
				name);
		if (goes)
			continue;
		fputs("kept: ", stderr);
		out_text(stderr, name);
		fputs(", because machines use it or a pull is in progress\n", stderr);
	}
}

static void print_pruned(struct session *s, json_object *result)
{
	bool dry_run = json_get_bool(s->line->checked, "dry_run", false);
	json_object *deleted = out_array(result, "deleted");

	for (size_t i = 0; deleted && i < json_object_array_length(deleted); i++) {
		fputs(dry_run ? "Would delete: " : "Deleted: ", stdout);
		out_text(stdout, json_object_get_string(json_object_array_get_idx(deleted, i)));
		putchar('\n');
	}
	printf("%s: %" PRId64 " bytes\n", dry_run ? "Would free" : "Freed",
		out_int(result, "bytes_freed", 0));
	if (!out_bool(result, "permitted", true))
		out_note(s->cli,
			"only root and group pyro-admin may remove them: sudo pyro env prune "
			"--all");
	if (json_get_bool(s->line->checked, "all", false) && !s->cli->quiet)
		note_kept(s, deleted);
}

const struct waiting wait_env_prune = { .print = print_pruned };
