/* SPDX-License-Identifier: MIT */
/*
 * `pyro vm list` as a table, and the plain verbs, whose call and output follow from the interface table
 * alone: parameters from the command line, the result as "Label: value" lines. Called from the verb table.
 */
#include "cmd.h"

#include "client/output.h"
#include "proto/api.h"
#include "proto/json.h"

int cmd_plain(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	_cleanup_(pyro_freep) struct pyro *p = NULL;
	_cleanup_json_ json_object *result = NULL;
	int r = cli_connect(cli, &p, err);

	if (r >= 0)
		r = cli_call(p, api_methods[line->verb->method].name, line->params, NULL, NULL,
			&result, err);
	if (r < 0)
		return r;
	if (cli->json)
		out_json(result);
	else
		out_object(result);
	return 0;
}

int cmd_vm_list(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	static const char *const columns[] = { "vm_id", "state", "environment", "created_at",
		"expires_at" };
	_cleanup_(pyro_freep) struct pyro *p = NULL;
	_cleanup_json_ json_object *result = NULL;
	json_object *vms;
	int r = cli_connect(cli, &p, err);

	if (r >= 0)
		r = cli_call(p, "vm.list", line->params, NULL, NULL, &result, err);
	if (r < 0)
		return r;
	if (cli->json) {
		out_json(result);
		return 0;
	}
	vms = out_array(result, "vms");
	for (size_t i = 0; vms && i < json_object_array_length(vms); i++) {
		json_object *vm = json_object_array_get_idx(vms, i);

		for (size_t c = 0; c < ARRAY_SIZE(columns); c++) {
			const char *value = out_member(vm, columns[c]);

			if (c > 0)
				putchar(' ');
			out_text(stdout, value[0] ? value : NULL);
		}
		putchar('\n');
	}
	return 0;
}
