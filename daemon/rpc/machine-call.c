/* SPDX-License-Identifier: MIT */
/*
 * What the handlers of machines and of workspaces share. Called by rpc/vm.c and rpc/workspace.c.
 *
 * What must stay true: a kept call is answered once, when what it waits for has happened, also for
 * a client that has gone: such a change goes on without its caller.
 */

#include "daemon/rpc/machine-call.h"

#include "daemon/store/store.h"

#define TTL_MARGIN_SECONDS 60 /* beyond the command's timeout */

static int refuse_machine(struct call *c, struct error *err)
{
	if (call_bool(c, "network"))
		return error_set(err, ERROR_UNSUPPORTED, "this version has no guest networks yet",
			"run it without network", "network=true is not supported");
	if (call_bool(c, "allow_host_compat"))
		return error_set(err, ERROR_UNSUPPORTED,
			"this version runs commands in machines only",
			"run it without allow_host_compat",
			"allow_host_compat=true is not supported");
	return 0;
}

/* Returns the TTL in seconds, 0: no limit (contract.md section 7.4). The default covers the
 * command's timeout; timeout -1: no command. */
static int64_t ttl_of(struct call *c, int64_t timeout)
{
	int64_t dflt = call_manager(c)->config->default_ttl_seconds;

	if (call_given(c, "ttl_seconds"))
		return call_int(c, "ttl_seconds");
	return dflt == 0 || timeout < 0 ? dflt : MAX_OF(dflt, timeout + TTL_MARGIN_SECONDS);
}

int machine_call_spec(struct call *c, int64_t timeout, struct machine_spec *ret, struct error *err)
{
	enum accelerator accelerator;
	int r = refuse_machine(c, err);

	if (r >= 0)
		r = machines_check_size(call_manager(c)->machines, call_uid(c),
			call_int(c, "vcpu_count"), call_int(c, "mem_mib"), err);
	if (r >= 0)
		r = accelerator_from_name(call_str(c, "accelerator"), &accelerator);
	if (r < 0)
		return r;
	*ret = (struct machine_spec){
		.environment = call_str(c, "environment"),
		.vcpu_count = (unsigned)call_int(c, "vcpu_count"),
		.mem_mib = (uint64_t)call_int(c, "mem_mib"),
		.disk_mib = (uint64_t)call_int(c, "disk_mib"),
		.ttl_seconds = ttl_of(c, timeout),
		.accelerator = accelerator,
		.owner_uid = call_uid(c),
	};
	return 0;
}

void machine_call_progress(struct call *c, const struct machine_progress *p)
{
	_cleanup_json_ json_object *o = json_object_new_object(), *percent = NULL;

	if (p->percent >= 0)
		percent = json_object_new_int(p->percent);
	if (!o || json_add_str(o, "phase", p->phase) < 0 ||
		json_add(o, "percent", TAKE_PTR(percent)) < 0 ||
		json_add_str(o, "detail", p->detail) < 0 ||
		(p->workspace_id && json_add_str(o, "workspace_id", p->workspace_id) < 0) ||
		(p->mc && (json_add_str(o, "accelerator", machine_row(p->mc)->accelerator) < 0 ||
				  json_add_str(o, "accelerator_reason",
					  machine_accelerator_reason(p->mc)) < 0)) ||
		json_add_str(o, "environment", call_str(c, "environment")) < 0)
		return; /* progress may be dropped */
	call_progress(c, TAKE_PTR(o));
}

void machine_call_reply(struct call *c, int r, json_object *o)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (r >= 0) {
		call_reply(c, o);
		return;
	}
	error_no_memory(&err, "cannot make the reply");
	call_fail(c, &err);
}

/* A state */

struct state_call {
	struct call *call; /* borrowed */
	char id[API_ID_SIZE];
	void (*reply)(struct call *c);
	json_object *if_deleted; /* owned or NULL */
};

static struct state_call *state_call_free(struct state_call *sc)
{
	if (sc)
		json_object_put(sc->if_deleted);
	free(sc);
	return NULL;
}
DEFINE_CLEANUP(struct state_call *, state_call_free)

struct state_call *state_call_new(
	struct call *c, const char *id, void (*reply)(struct call *c), json_object *if_deleted)
{
	struct state_call *sc = calloc(1, sizeof(*sc));

	if (!sc) {
		json_object_put(if_deleted);
		return NULL;
	}
	*sc = (struct state_call){ .call = c, .reply = reply, .if_deleted = if_deleted };
	(void)snprintf(sc->id, sizeof(sc->id), "%s", id);
	return sc;
}

void state_call_done(const struct error *err, void *userdata)
{
	_cleanup_(state_call_freep) struct state_call *sc = userdata;
	_cleanup_error_ struct error gone = ERROR_INIT;

	if (err && err->code == ERROR_CANCELLED && sc->if_deleted)
		call_reply(sc->call, TAKE_PTR(sc->if_deleted));
	else if (err)
		call_fail(sc->call, err);
	else if (call_find_again(sc->call, sc->id, &gone) < 0)
		call_fail(sc->call, &gone);
	else
		sc->reply(sc->call);
}

int state_call_begin(struct state_call *sc, int r)
{
	struct call *c = sc ? sc->call : NULL;

	if (r == 0) {
		call_keep_on(c, NULL, NULL);
		return 0;
	}
	if (r > 0)
		sc->reply(c);
	state_call_free(sc);
	return r < 0 ? r : 0;
}

/* A deletion */

struct delete_call {
	struct call *call;   /* borrowed */
	const char *id_name; /* static */
	char id[API_ID_SIZE];
};

struct delete_call *delete_call_new(struct call *c, const char *id_name, const char *id)
{
	struct delete_call *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->call = c;
	d->id_name = id_name;
	(void)snprintf(d->id, sizeof(d->id), "%s", id);
	call_keep_on(c, NULL, NULL); /* a deletion goes on without its caller */
	return d;
}

void delete_call_done(const struct error *err, void *userdata)
{
	_cleanup_free_ struct delete_call *d = userdata;
	_cleanup_json_ json_object *o = json_object_new_object();
	_cleanup_error_ struct error failed = ERROR_INIT;

	if (err && err->set) {
		call_fail(d->call, err);
		return;
	}
	if (!o || json_add_str(o, d->id_name, d->id) < 0 || json_add_bool(o, "deleted", true) < 0 ||
		json_add_str(o, "reason", "explicit_delete") < 0) {
		(void)error_no_memory(&failed, "%s is deleted", d->id);
		call_fail(d->call, &failed);
		return;
	}
	call_reply(d->call, TAKE_PTR(o));
}

int delete_call_begin(struct delete_call *d, int r)
{
	if (r < 0)
		free(d);
	return r;
}
