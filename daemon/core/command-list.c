/* SPDX-License-Identifier: MIT */
/*
 * The commands of a workspace together: exec.list, and what a workspace's status shows of them.
 * Called by rpc/exec.c and workspace-json.c. What must stay true: a list fits a reply, however long
 * its commands are.
 */

#include "daemon/core/command-internal.h"
#include "proto/json.h"

static int append(json_object *list, json_object *o)
{
	if (json_object_array_add(list, o) >= 0)
		return 0;
	json_object_put(o);
	return -ENOMEM;
}

int commands_list_json(struct machine *mc, const char *id, json_object **ret)
{
	struct commands *cs = mc ? commands_of(mc) : NULL;
	_cleanup_json_ json_object *o = json_object_new_object();
	_cleanup_json_ json_object *list = json_object_new_array();
	const struct command *c;
	int r = o && list && (cs || !mc) ? 0 : -ENOMEM;

	for (c = cs && r >= 0 ? TAILQ_FIRST(&cs->queue) : NULL; c; c = TAILQ_NEXT(c, entry)) {
		json_object *one = NULL;

		r = command_json(c, &one);
		if (r >= 0)
			r = append(list, one);
		if (r < 0)
			return r;
	}
	if (r >= 0)
		r = json_add_str(o, "workspace_id", id);
	if (r >= 0)
		r = json_add_int(o, "count", (int64_t)json_object_array_length(list));
	if (r >= 0)
		r = json_add(o, "execs", TAKE_PTR(list));
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);
	return 0;
}

static json_object *running_json(const struct command *c)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	int r = o ? json_add_str(o, "exec_id", c->row.id) : -ENOMEM;

	if (r >= 0)
		r = command_add_shown(c, o);
	if (r >= 0)
		r = json_add_time(o, "started_at", c->row.started_usec);
	return r < 0 ? NULL : TAKE_PTR(o);
}

static int add_last(const struct command *c, json_object *o)
{
	_cleanup_json_ json_object *last = NULL;
	int r;

	if (!c)
		return json_add(o, "last_command", NULL);
	last = json_object_new_object();
	r = last ? json_add_str(last, "exec_id", c->row.id) : -ENOMEM;
	if (r >= 0)
		r = command_add_shown(c, last);
	if (r >= 0)
		r = json_add_str(last, "state", command_state_name(command_shown(c)));
	if (r >= 0)
		r = json_add(last, "exit_code", command_exit_code(c));
	return r < 0 ? r : json_add(o, "last_command", TAKE_PTR(last));
}

int commands_add_json(struct machine *mc, json_object *o)
{
	struct commands *cs = mc ? commands_of(mc) : NULL;
	_cleanup_json_ json_object *list = json_object_new_array();
	const struct command *c, *last = cs ? TAILQ_LAST(&cs->queue, command_queue) : NULL;
	int r = list && (cs || !mc) ? 0 : -ENOMEM;

	if (r < 0)
		return r;
	for (c = cs ? TAILQ_FIRST(&cs->queue) : NULL; c; c = TAILQ_NEXT(c, entry)) {
		json_object *one;

		if (command_shown(c) > COMMAND_RUNNING)
			continue;
		one = running_json(c);
		r = one ? append(list, one) : -ENOMEM;
		if (r < 0)
			return r;
	}
	r = json_add(o, "running", TAKE_PTR(list));
	if (r >= 0)
		r = json_add_int(o, "command_count", last ? (int64_t)last->row.sequence : 0);
	return r < 0 ? r : add_last(last, o);
}
