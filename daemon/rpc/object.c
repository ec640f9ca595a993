/* SPDX-License-Identifier: MIT */
/*
 * Looks up the object of a method: which parameter names it, and how it is found for a caller.
 * Called by the dispatcher before each handler, and by handlers of kept calls.
 *
 * What must stay true: only this file of rpc/ looks up machines, workspaces and commands
 * (tests/lint/layers), always with the caller's uid, so that another user's is "not found"; a
 * method whose object has no row here does not compile; what root changes of another user's is
 * logged.
 */

#include <assert.h>

#include "daemon/core/command.h"
#include "daemon/core/run.h"
#include "daemon/core/vm.h"
#include "daemon/core/workspace.h"
#include "daemon/image/environment.h"
#include "daemon/log.h"
#include "daemon/rpc/conn.h"

typedef int (*find_fn)(struct call *c, const char *name, void **ret, struct error *err);

static int find_machine(struct call *c, const char *name, void **ret, struct error *err)
{
	struct machine *mc;
	int r = vm_find(c->manager->machines, name, c->uid, &mc, err);

	if (r >= 0)
		*ret = mc;
	return r;
}

static int find_workspace(struct call *c, const char *name, void **ret, struct error *err)
{
	struct workspace *ws;
	int r = workspace_find(c->manager, name, c->uid, &ws, err);

	if (r >= 0)
		*ret = ws;
	return r;
}

/* The command of a workspace, or else that of a run. */
static int find_exec(struct call *c, const char *name, void **ret, struct error *err)
{
	struct run *run = NULL;
	unsigned n = commands_find(c->manager, name, c->uid, &c->command);
	bool has_run = runs_find(c->manager, name, c->uid, &run, NULL) >= 0;

	if (n == 1 && !has_run) {
		*ret = c->command;
		return 0;
	}
	c->command = NULL;
	if (n == 0 && has_run) {
		*ret = run;
		return 0;
	}
	return error_set(err, ERROR_EXEC_NOT_FOUND,
		n > 0 ? "it matches several commands" : "it does not exist, or was forgotten",
		n > 0 ? "give the whole exec_id" : "pyro workspace list", "command %s not found",
		name);
}

static int find_environment(struct call *c, const char *name, void **ret, struct error *err)
{
	struct environment *env;
	int r = environments_find(c->manager->environments, name, &env, err);

	if (r >= 0)
		*ret = env;
	return r;
}

#define OBJECTS(X) \
	X(API_OBJ_VM, "vm_id", find_machine) \
	X(API_OBJ_WORKSPACE, "workspace_id", find_workspace) \
	X(API_OBJ_EXEC, "exec_id", find_exec) \
	X(API_OBJ_ENV, "environment", find_environment)

static const struct {
	const char *param;
	find_fn find;
} objects[API_OBJ_MAX] = {
#define X(object, param, find) [object] = { param, find },
	OBJECTS(X)
#undef X
};

enum {
#define X(object, param, find) HAS_##object = 1 << (object),
	OBJECTS(X)
#undef X
#define X(object, param, find) | HAS_##object
		HAS_ALL = 1 << API_OBJ_NONE OBJECTS(X)
#undef X
};
#define API_METHOD(symbol, name, object, ...) \
	static_assert((HAS_ALL >> (object)&1) == 1, "the object of " name " has no look-up");
#include "proto/api.def"
#undef API_METHOD

/* Logs what root changes of another user's. */
static void log_root(const struct call *c)
{
	const struct machine *mc = NULL;
	const char *id = NULL;
	uid_t owner = 0;

	if (c->uid != 0 || (c->method->hints & API_READ_ONLY))
		return;
	if (c->method->object == API_OBJ_WORKSPACE) {
		id = workspace_id(c->object);
		owner = workspace_owner_uid(c->object);
	} else if (c->method->object == API_OBJ_VM) {
		mc = c->object;
		id = machine_id(mc);
		owner = machine_row(mc)->owner_uid;
	}
	if (id && owner != 0)
		log_uid(LOG_NOTICE, 0, owner, "root: %s of %s", c->method->name, id);
}

int call_look_up(struct call *c, struct error *err)
{
	enum api_object object = c->method->object;
	const char *name;
	int r;

	if (object == API_OBJ_NONE)
		return 0;
	name = json_get_str(c->params, objects[object].param, NULL);
	assert(name); /* required by the table: tests/unit/test-api.c */
	r = objects[object].find(c, name, &c->object, err);
	if (r >= 0)
		log_root(c);
	return r;
}

int call_find_again(struct call *c, const char *id, struct error *err)
{
	assert(c->method->object != API_OBJ_NONE);
	return objects[c->method->object].find(c, id, &c->object, err);
}

static void *object_of(struct call *c, enum api_object object)
{
	assert(c->method->object == object && c->object);
	return c->object;
}

struct machine *call_machine(struct call *c)
{
	return object_of(c, API_OBJ_VM);
}

struct workspace *call_workspace(struct call *c)
{
	return object_of(c, API_OBJ_WORKSPACE);
}

struct run *call_run(struct call *c)
{
	return c->command ? NULL : object_of(c, API_OBJ_EXEC);
}

struct command *call_command(struct call *c)
{
	return c->command;
}

struct environment *call_environment(struct call *c)
{
	return object_of(c, API_OBJ_ENV);
}
