/* SPDX-License-Identifier: MIT */
/*
 * `pyro env list`, `pull`, `prune`: what contract.md section 2 prints for them. Called from the verb table.
 * Results go to stdout, phases to stderr; with --json the result object goes out as it came.
 */
#include "cmd.h"

#include "client/output.h"
#include "proto/json.h"

static const char *state_of(json_object *env)
{
	if (out_member(env, "damage")[0])
		return "damaged";
	return json_object_get_boolean(json_get(env, "installed")) ? "installed" : "not installed";
}

int cmd_env_list(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	_cleanup_(pyro_freep) struct pyro *p = NULL;
	_cleanup_json_ json_object *result = NULL;
	json_object *envs;
	int r = cli_connect(cli, &p, err);

	if (r >= 0)
		r = cli_call(p, "env.list", line->params, NULL, NULL, &result, err);
	if (r < 0)
		return r;
	if (cli->json) {
		out_json(result);
		return 0;
	}
	if (!cli->quiet) {
		fputs("Catalog version: ", stdout);
		out_text(stdout, out_member(result, "catalog_version"));
		putchar('\n');
	}
	envs = out_array(result, "environments");
	for (size_t i = 0; envs && i < json_object_array_length(envs); i++) {
		json_object *env = json_object_array_get_idx(envs, i);

		out_text(stdout, out_member(env, "name"));
		if (cli->quiet) {
			putchar('\n');
			continue;
		}
		printf(" [%s] ", state_of(env));
		out_text(stdout, out_member(env, "description"));
		putchar('\n');
	}
	return 0;
}

void cmd_on_pull(const char *json, void *userdata)
{
	struct out_progress *progress = userdata;
	_cleanup_json_ json_object *o = json_tokener_parse(json);
	const char *phase = out_member(o, "phase");
	json_object *percent = o ? json_get(o, "percent") : NULL;

	if (phase[0])
		out_pull_phase(progress, phase,
			json_object_is_type(percent, json_type_int) ? json_object_get_int(percent)
								    : -1);
}

int cmd_env_pull(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	_cleanup_(pyro_freep) struct pyro *p = NULL;
	_cleanup_json_ json_object *result = NULL;
	const char *name = json_get_str(line->checked, "environment", "");
	struct out_progress progress = { .cli = cli, .verb = "pull", .environment = name };
	int r = cli_connect(cli, &p, err);

	if (r >= 0) {
		out_pull_phase(&progress, "install", -1);
		r = cli_call(p, "env.pull", line->params, cmd_on_pull, &progress, &result, err);
	}
	out_progress_end(&progress);
	if (r < 0)
		return r;
	out_pull_phase(&progress, "ready", -1);
	if (cli->json) {
		out_json(result);
		return 0;
	}
	fputs("Pulled: ", stdout);
	out_text(stdout, name);
	putchar('\n');
	return 0;
}

/* Whether a label of env.prune's, "NAME (FOLDER)", is of this environment. */
static bool is_label_of(const char *label, const char *name)
{
	size_t n = strlen(name);

	return label && strncmp(label, name, n) == 0 && startswith(label + n, " (");
}

/* Says which installed environments a prune of all of them leaves, and why. */
static int note_kept(struct pyro *p, json_object *deleted, struct error *err)
{
	_cleanup_json_ json_object *result = NULL;
	int r = cli_call(p, "env.list", NULL, NULL, NULL, &result, err);
	json_object *envs = r < 0 ? NULL : out_array(result, "environments");

	for (size_t i = 0; envs && i < json_object_array_length(envs); i++) {
		json_object *env = json_object_array_get_idx(envs, i);
		const char *name = out_member(env, "name");
		bool goes = !json_get_bool(env, "installed", false);

		for (size_t k = 0; !goes && deleted && k < json_object_array_length(deleted); k++)
			goes = is_label_of(
				json_object_get_string(json_object_array_get_idx(deleted, k)),
				name);
		if (goes)
			continue;
		fputs("kept: ", stderr);
		out_text(stderr, name);
		fputs(", of which there are machines, or a pull is under way\n", stderr);
	}
	return r;
}

int cmd_env_prune(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	_cleanup_(pyro_freep) struct pyro *p = NULL;
	_cleanup_json_ json_object *result = NULL;
	bool dry_run = json_get_bool(line->checked, "dry_run", false);
	json_object *deleted;
	int r = cli_connect(cli, &p, err);

	if (r >= 0)
		r = cli_call(p, "env.prune", line->params, NULL, NULL, &result, err);
	if (r < 0)
		return r;
	if (cli->json) {
		out_json(result);
		return 0;
	}
	deleted = out_array(result, "deleted");
	for (size_t i = 0; deleted && i < json_object_array_length(deleted); i++) {
		fputs(dry_run ? "Would delete: " : "Deleted: ", stdout);
		out_text(stdout, json_object_get_string(json_object_array_get_idx(deleted, i)));
		putchar('\n');
	}
	printf("%s: %lld bytes\n", dry_run ? "Would free" : "Freed",
		(long long)json_object_get_int64(json_get(result, "bytes_freed")));
	if (!json_get_bool(result, "permitted", true))
		out_note(cli,
			"removing them is for root and group pyro-admin: sudo pyro env prune --all");
	if (json_get_bool(line->checked, "all", false) && !cli->quiet)
		return note_kept(p, deleted, err);
	return 0;
}
