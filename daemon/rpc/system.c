/* SPDX-License-Identifier: MIT */
/*
 * Handlers of the daemon itself: system.ping, rpc.discover and cancel (system.doctor: probe.c).
 * Called by the dispatcher, also in a degraded daemon. What must stay true: ping answers from
 * memory.
 */

#include "daemon/rpc/call.h"
#include "daemon/rpc/conn.h"

int rpc_system_ping(struct call *c, _unused_ struct error *err)
{
	struct manager *m = call_manager(c);
	_cleanup_json_ json_object *o = json_object_new_object();
	uint64_t up = (now_usec() - m->started_usec) / USEC_PER_SEC;
	if (!o || json_add_str(o, "version", PYRO_VERSION) < 0 ||
		json_add_int(o, "api_version", API_VERSION) < 0 ||
		json_add_str(o, "mode", m->system ? "system" : "user") < 0 ||
		json_add_str(o, "socket", m->socket_path) < 0 ||
		json_add_int(o, "uid", call_uid(c)) < 0 || json_add_int(o, "pid", getpid()) < 0 ||
		json_add_int(o, "uptime_seconds", (int64_t)up) < 0)
		return -ENOMEM;
	call_reply(c, TAKE_PTR(o));
	return 0;
}

int rpc_rpc_discover(struct call *c, _unused_ struct error *err)
{
	const char *text;
	size_t n;
	int r = server_discover(c->server, &text, &n);
	if (r < 0)
		return r;
	call_reply_text(c, text, n);
	return 0;
}

int rpc_cancel(struct call *c, _unused_ struct error *err)
{
	struct call *other = dispatch_find(c->conn, call_value(c, "id"));
	_cleanup_json_ json_object *o = json_object_new_object();
	bool cancelled = other && other != c && call_cancel(other);
	if (!o || json_add_bool(o, "cancelled", cancelled) < 0)
		return -ENOMEM;
	call_reply(c, TAKE_PTR(o));
	return 0;
}
