/* SPDX-License-Identifier: MIT */
/*
 * The interface table: parameters and results of every row of api.def. Read by the daemon's
 * dispatcher, the CLI (flags, help), the documentation and the tests; api-check.c checks values
 * against it. What must stay true: a field is described here and nowhere else; within an
 * api_version fields are only added; a result lists every field of a reply, and absent ones are
 * null.
 */

#include "proto/api.h"

#include "proto/limits.h"

#define FIELDS_END \
	{ \
		.name = NULL \
	}

static const char *const id_vm[] = { "vm", NULL };
static const char *const id_exec[] = { "exec", NULL };
static const char *const id_workspace[] = { "workspace", NULL };
static const char *const names_mode[] = { "system", "user", NULL };
static const char *const names_signal[] = { "INT", "TERM", "HUP", "KILL", "QUIT", "USR1", "USR2",
	NULL };
static const char *const names_accelerator[] = { "auto", "kvm", "emulation", NULL };
static const char *const names_accelerator_used[] = { "kvm", "emulation", NULL };
static const char *const names_start_mode[] = { "cold", "template", "pool", "resume", NULL };
static const char *const names_execution_mode[] = { "guest_vsock", "guest_serial", "host_compat",
	NULL };
static const char *const names_run_state[] = { "preparing", "running", "exited", "lost", NULL };
static const char *const names_ended_by[] = { "timeout", "signal", "memory", "pids", "disk",
	"output", "cancelled", NULL };
static const char *const names_stream[] = { "both", "stdout", "stderr", NULL };
static const char *const names_encoding[] = { "text", "base64", NULL };
static const char *const names_limit[] = { "timeout_seconds", "mem_mib", "pids", "disk_mib", NULL };
static const char *const names_capability[] = { "yes", "no", "unknown", NULL };
static const char *const names_verdict[] = { "pass", "fail", "unknown", NULL };
static const char *const names_stop_reason[] = { "user", "guest", "memory", "retention",
	"host_shutdown", NULL };
static const char *const names_stop_reason_given[] = { "user", "host_shutdown", NULL };
static const char *const names_waited_state[] = { "started", "stopped", "failed", NULL };
static const char *const names_pause_reason[] = { "idle", "disk_full", NULL };
static const char *const names_vm_state[] = { "preparing", "created", "started", "suspended",
	"stopped", "failed", "unknown", NULL };

static const char *const names_seed_mode[] = { "empty", "directory", "git", "tar_archive", NULL };

static const struct api_field no_fields[] = { FIELDS_END };
static const struct api_field string_element[] = { { .name = "element", .type = API_STRING },
	FIELDS_END };

/* system */

#define system_ping_params no_fields
static const struct api_field system_ping_result[] = {
	{ .name = "version", .type = API_STRING, .help = "The daemon's version." },
	{ .name = "api_version", .type = API_INT, .min = 1, .max = 1000000 },
	{ .name = "mode", .type = API_ENUM, .names = names_mode },
	{ .name = "socket", .type = API_STRING, .help = "The path it listens on." },
	{ .name = "uid",
		.type = API_INT,
		.max = UINT32_MAX,
		.help = "The caller, as the kernel says." },
	{ .name = "pid", .type = API_INT, .max = INT32_MAX, .help = "The daemon's process." },
	{ .name = "uptime_seconds", .type = API_INT, .max = INT64_MAX },
	FIELDS_END,
};

static const struct api_field system_doctor_params[] = {
	{ .name = "probe",
		.type = API_BOOL,
		.flags = API_NEGATED,
		.dflt = "true",
		.help = "Run `true` in a probe machine after reading all that is installed." },
	FIELDS_END,
};

static const struct api_field check_fields[] = {
	{ .name = "name", .type = API_STRING },
	{ .name = "ok", .type = API_BOOL, .help = "False also for a check that was not run." },
	{ .name = "detail", .type = API_STRING, .help = "What was found." },
	{ .name = "fix", .type = API_STRING, .flags = API_NULLABLE, .help = "How to fix it." },
	FIELDS_END,
};
static const struct api_field check_element[] = {
	{ .name = "element", .type = API_OBJECT, .sub = check_fields },
	FIELDS_END,
};
static const struct api_field runtime_fields[] = {
	{ .name = "ok", .type = API_BOOL, .help = "The verdict is pass." },
	{ .name = "verdict",
		.type = API_ENUM,
		.names = names_verdict,
		.help = "unknown: no check failed, and no machine has run here yet." },
	{ .name = "checks", .type = API_ARRAY, .sub = check_element },
	FIELDS_END,
};
static const struct api_field kvm_fields[] = {
	{ .name = "exists", .type = API_BOOL },
	{ .name = "readable", .type = API_BOOL },
	{ .name = "writable", .type = API_BOOL },
	{ .name = "usable", .type = API_BOOL },
	FIELDS_END,
};
static const struct api_field emulation_fields[] = {
	{ .name = "available", .type = API_BOOL },
	FIELDS_END,
};
#define CAPABILITY(n) \
	{ \
		.name = (n), .type = API_ENUM, .names = names_capability, \
		.help = "yes: done since kernel, image, VMM or accelerator last changed." \
	}
static const struct api_field capability_fields[] = {
	CAPABILITY("vm_boot"),
	CAPABILITY("guest_exec"),
	CAPABILITY("guest_network"),
	CAPABILITY("host_compat"),
	FIELDS_END,
};
static const struct api_field networking_fields[] = {
	{ .name = "tun", .type = API_BOOL },
	{ .name = "ip_forward", .type = API_BOOL },
	{ .name = "nft", .type = API_BOOL },
	FIELDS_END,
};
static const struct api_field vmm_fields[] = {
	{ .name = "name", .type = API_STRING },
	{ .name = "version", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "path", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "usable", .type = API_BOOL },
	{ .name = "reason", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "advisories", .type = API_ARRAY, .sub = string_element },
	FIELDS_END,
};
static const struct api_field vmm_element[] = {
	{ .name = "element", .type = API_OBJECT, .sub = vmm_fields },
	FIELDS_END,
};
static const struct api_field kernel_fields[] = {
	{ .name = "path", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "version", .type = API_STRING, .flags = API_NULLABLE },
	FIELDS_END,
};
static const struct api_field storage_fields[] = {
	{ .name = "path", .type = API_STRING },
	{ .name = "free",
		.type = API_INT,
		.flags = API_NULLABLE,
		.max = INT64_MAX,
		.help = "Bytes." },
	{ .name = "machines",
		.type = API_INT,
		.max = INT64_MAX,
		.help = "Yours; everyone's for root and group pyro-admin." },
	{ .name = "environments", .type = API_INT, .max = INT64_MAX, .help = "Installed ones." },
	{ .name = "templates", .type = API_INT, .max = INT64_MAX },
	FIELDS_END,
};
static const struct api_field limit_fields[] = {
	{ .name = "max_machines", .type = API_INT, .max = INT64_MAX },
	{ .name = "max_vcpus", .type = API_INT, .max = INT64_MAX },
	{ .name = "max_memory_mib", .type = API_INT, .max = INT64_MAX },
	{ .name = "max_disk_mib", .type = API_INT, .max = INT64_MAX },
	{ .name = "total_machines",
		.type = API_INT,
		.max = INT64_MAX,
		.help = "The totals are for all users together; 0: no limit." },
	{ .name = "total_vcpus", .type = API_INT, .max = INT64_MAX },
	{ .name = "total_memory_mib", .type = API_INT, .max = INT64_MAX },
	{ .name = "total_disk_mib", .type = API_INT, .max = INT64_MAX },
	{ .name = "memory_reserve_mib", .type = API_INT, .max = INT64_MAX },
	{ .name = "disk_reserve_mib", .type = API_INT, .max = INT64_MAX },
	{ .name = "output_limit_mib", .type = API_INT, .max = INT64_MAX },
	FIELDS_END,
};
static const struct api_field daemon_fields[] = {
	{ .name = "version", .type = API_STRING },
	{ .name = "pid", .type = API_INT, .max = INT32_MAX },
	{ .name = "uptime_seconds", .type = API_INT, .max = INT64_MAX },
	{ .name = "socket", .type = API_STRING },
	FIELDS_END,
};

#define rpc_discover_params no_fields
static const struct api_field openrpc_info_fields[] = {
	{ .name = "title", .type = API_STRING },
	{ .name = "description", .type = API_STRING },
	{ .name = "version", .type = API_STRING, .help = "The daemon's." },
	{ .name = "license", .type = API_JSON },
	{ .name = "x-pyro-api-version", .type = API_INT, .min = 1, .max = 1000000 },
	FIELDS_END,
};
static const struct api_field openrpc_method_element[] = {
	{ .name = "element", .type = API_JSON, .help = "A Method Object of OpenRPC." },
	FIELDS_END,
};
static const struct api_field rpc_discover_result[] = {
	{ .name = "openrpc", .type = API_STRING, .help = "The version of OpenRPC." },
	{ .name = "info", .type = API_OBJECT, .sub = openrpc_info_fields },
	{ .name = "methods", .type = API_ARRAY, .sub = openrpc_method_element },
	{ .name = "components", .type = API_JSON, .help = "The errors that methods refer to." },
	FIELDS_END,
};

/* The id of a request of this connection: a string or an integer, as JSON-RPC allows. */
static const struct api_field cancel_params[] = {
	{ .name = "id", .type = API_CALL_ID, .flags = API_REQUIRED, .help = "The call to cancel." },
	FIELDS_END,
};
static const struct api_field cancel_result[] = {
	{ .name = "cancelled",
		.type = API_BOOL,
		.help = "False: no such call is running, or it cannot be interrupted." },
	FIELDS_END,
};

/* env */

static const struct api_field env_fields[] = {
	{ .name = "name", .type = API_STRING },
	{ .name = "version",
		.type = API_STRING,
		.flags = API_NULLABLE,
		.help = "Of the installed image, as are the packages; else of what a pull installs." },
	{ .name = "description", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "installed", .type = API_BOOL },
	{ .name = "digest", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "size_bytes", .type = API_INT, .flags = API_NULLABLE, .max = INT64_MAX },
	{ .name = "source", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "packages", .type = API_ARRAY, .sub = string_element },
	{ .name = "path", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "kernel", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "pulled_at", .type = API_TIME, .flags = API_NULLABLE },
	{ .name = "damage",
		.type = API_STRING,
		.flags = API_NULLABLE,
		.help = "The damaged part of the installation; env.pull repairs it." },
	FIELDS_END,
};
static const struct api_field env_element[] = {
	{ .name = "element", .type = API_OBJECT, .sub = env_fields },
	FIELDS_END,
};

#define FIELD_ENVIRONMENT \
	{ \
		.name = "environment", .type = API_STRING, .flags = API_REQUIRED | API_POSITIONAL, \
		.min = 1, .max = 255, .help = "A name of the catalog, such as debian:12." \
	}

#define env_list_params             no_fields
#define vm_list_environments_params no_fields
#define vm_list_environments_result env_list_result
static const struct api_field env_list_result[] = {
	{ .name = "catalog_version", .type = API_STRING },
	{ .name = "environments", .type = API_ARRAY, .sub = env_element },
	FIELDS_END,
};

/* The client's own report (client/doctor-local.c) has null where it cannot know; a daemon's is
 * complete. */
static const struct api_field system_doctor_result[] = {
	{ .name = "platform", .type = API_STRING },
	{ .name = "runtime", .type = API_OBJECT, .sub = runtime_fields },
	{ .name = "kvm", .type = API_OBJECT, .sub = kvm_fields },
	{ .name = "emulation", .type = API_OBJECT, .flags = API_NULLABLE, .sub = emulation_fields },
	{ .name = "accelerator",
		.type = API_ENUM,
		.flags = API_NULLABLE,
		.names = names_accelerator_used,
		.help = "What `auto` selects; null when no machine can run." },
	{ .name = "capabilities", .type = API_OBJECT, .sub = capability_fields },
	{ .name = "networking", .type = API_OBJECT, .sub = networking_fields },
	{ .name = "environment_cache", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "environments", .type = API_ARRAY, .sub = env_element },
	{ .name = "vmm", .type = API_ARRAY, .sub = vmm_element },
	{ .name = "kernel", .type = API_OBJECT, .flags = API_NULLABLE, .sub = kernel_fields },
	{ .name = "storage", .type = API_OBJECT, .flags = API_NULLABLE, .sub = storage_fields },
	{ .name = "limits", .type = API_OBJECT, .flags = API_NULLABLE, .sub = limit_fields },
	{ .name = "daemon", .type = API_OBJECT, .flags = API_NULLABLE, .sub = daemon_fields },
	FIELDS_END,
};

static const struct api_field env_pull_params[] = {
	FIELD_ENVIRONMENT,
	{ .name = "force",
		.type = API_BOOL,
		.dflt = "false",
		.help = "Reinstall it: root, pyro-admin; anyone if it is damaged." },
	FIELDS_END,
};
#define env_pull_result env_fields

static const struct api_field env_inspect_params[] = { FIELD_ENVIRONMENT, FIELDS_END };
#define env_inspect_result env_fields

static const struct api_field env_prune_params[] = {
	{ .name = "all",
		.type = API_BOOL,
		.dflt = "false",
		.help = "Also remove installed environments that no machine uses." },
	{ .name = "dry_run",
		.type = API_BOOL,
		.dflt = "false",
		.help = "Only list what would be removed." },
	FIELDS_END,
};
static const struct api_field env_prune_result[] = {
	{ .name = "deleted", .type = API_ARRAY, .sub = string_element },
	{ .name = "count", .type = API_INT, .max = INT64_MAX },
	{ .name = "bytes_freed", .type = API_INT, .max = INT64_MAX },
	{ .name = "permitted",
		.type = API_BOOL,
		.help = "False in a dry run: you may not remove this." },
	FIELDS_END,
};

/* vm */

#define FIELD_VCPU_COUNT \
	{ \
		.name = "vcpu_count", .type = API_INT, .dflt = "1", .min = VCPU_MIN, \
		.max = VCPU_MAX, .cli = "cpus", .help = "Virtual CPUs." \
	}

#define FIELD_MEM_MIB \
	{ \
		.name = "mem_mib", .type = API_INT, .dflt = "1024", .min = MEM_MIB_MIN, \
		.max = MEM_MIB_MAX, .cli = "-m,memory", .help = "Memory in MiB." \
	}

#define FIELD_DISK_MIB \
	{ \
		.name = "disk_mib", .type = API_INT, .dflt = "10240", .min = DISK_MIB_MIN, \
		.max = DISK_MIB_MAX, \
		.help = "Size of the machine's own disk in MiB; it is sparse." \
	}

#define FIELD_NETWORK \
	{ \
		.name = "network", .type = API_BOOL, .dflt = "false", \
		.help = "Connect it to the network (not in this version)." \
	}

#define FIELD_ALLOW_HOST_COMPAT \
	{ \
		.name = "allow_host_compat", .type = API_BOOL, .dflt = "false", \
		.help = "Allow running without a machine where none can run (not in this version)." \
	}

#define FIELD_ACCELERATOR \
	{ \
		.name = "accelerator", .type = API_ENUM, .dflt = "\"auto\"", \
		.names = names_accelerator, .help = "auto takes KVM when it is usable." \
	}

#define FIELD_COMMAND \
	{ \
		.name = "command", .type = API_STRING, \
		.flags = API_REQUIRED | API_POSITIONAL | API_REST, .min = 1, \
		.max = LIMIT_COMMAND_BYTES - 1, .help = "One shell line." \
	}

#define FIELD_TIMEOUT_SECONDS \
	{ \
		.name = "timeout_seconds", .type = API_INT, .dflt = "30", \
		.max = TIMEOUT_SECONDS_MAX, .cli = "timeout", \
		.help = "Ends the command this long after its start; 0: never." \
	}

#define FIELD_CWD \
	{ \
		.name = "cwd", .type = API_STRING, .dflt = "\"/workspace\"", .min = 1, \
		.max = 4095, .cli = "-w", .help = "Where the command runs." \
	}

#define FIELD_USER \
	{ \
		.name = "user", .type = API_STRING, .dflt = "\"root\"", .min = 1, .max = 255, \
		.cli = "-u", .help = "The user it runs as: a name or a number of the guest." \
	}

#define FIELD_ENV \
	{ \
		.name = "env", .type = API_OBJECT, .dflt = "{}", .max = LIMIT_ENV_COUNT, \
		.cli = "-e", .help = "Environment variables." \
	}

#define FIELD_STDIN \
	{ \
		.name = "stdin", .type = API_STRING, .flags = API_NULLABLE | API_NO_CLI | API_NUL, \
		.max = LIMIT_REQUEST_BYTES, \
		.help = "The text of its standard input, without stdio." \
	}

#define FIELD_INTERACTIVE \
	{ \
		.name = "interactive", .type = API_BOOL, .dflt = "false", .flags = API_NO_MCP, \
		.cli = "-i", \
		.help = "Pass on the caller's standard input; else the command's is /dev/null." \
	}

#define FIELD_STDIO \
	{ \
		.name = "stdio", .type = API_FD, \
		.flags = API_NULLABLE | API_LIVE | API_NO_MCP | API_NO_CLI, .client = "stdio", \
		.help = "Carries stdin, stdout and stderr live; else the reply carries the output." \
	}

#define FIELDS_MACHINE \
	FIELD_VCPU_COUNT, FIELD_MEM_MIB, FIELD_DISK_MIB, FIELD_NETWORK, FIELD_ALLOW_HOST_COMPAT, \
		FIELD_ACCELERATOR
#define FIELDS_COMMAND \
	FIELD_TIMEOUT_SECONDS, FIELD_CWD, FIELD_USER, FIELD_ENV, FIELD_STDIN, FIELD_INTERACTIVE, \
		FIELD_STDIO

static const struct api_field vm_run_params[] = {
	FIELD_ENVIRONMENT,
	FIELD_COMMAND,
	FIELDS_MACHINE,
	FIELDS_COMMAND,
	{ .name = "ttl_seconds",
		.type = API_INT,
		.flags = API_NULLABLE,
		.max = TTL_SECONDS_MAX,
		.help = "Deletes the machine this long after its creation; 0: never. Unless given, "
			"default_ttl_seconds of pyrod.conf (600) or the timeout and a minute, whichever "
			"is more." },
	{ .name = "wait_ms",
		.type = API_INT,
		.flags = API_NULLABLE | API_NO_CLI,
		.max = INT64_C(1000) * TIMEOUT_SECONDS_MAX,
		.help = "Answer by then even if the command has not ended." },
	FIELDS_END,
};

static const struct api_field cleanup_fields[] = {
	{ .name = "deleted", .type = API_BOOL },
	{ .name = "reason", .type = API_STRING },
	{ .name = "vm_id", .type = API_ID, .names = id_vm },
	FIELDS_END,
};
static const struct api_field limit_named_fields[] = {
	{ .name = "name", .type = API_ENUM, .names = names_limit },
	{ .name = "value", .type = API_INT, .max = INT64_MAX },
	{ .name = "flag",
		.type = API_STRING,
		.flags = API_NULLABLE,
		.help = "How to raise it; null when this host allows no more." },
	FIELDS_END,
};
/* How a command ended. */
#define FIELDS_OUTCOME \
	{ .name = "exit_code", \
		.type = API_INT, \
		.flags = API_NULLABLE, \
		.max = 255, \
		.help = "128+N when signal N ended it, 124 when it timed out." }, \
		{ .name = "duration_ms", .type = API_INT, .max = INT64_MAX }, \
		{ .name = "timed_out", .type = API_BOOL }, \
		{ .name = "ended_by", \
			.type = API_ENUM, \
			.flags = API_NULLABLE, \
			.names = names_ended_by, \
			.help = "What ended it; null when it ended by itself." }, \
		{ .name = "limit", \
			.type = API_OBJECT, \
			.flags = API_NULLABLE, \
			.sub = limit_named_fields, \
			.help = "The limit that ended it, or a process of it before it failed." }, \
		{ .name = "background_left", \
			.type = API_BOOL, \
			.flags = API_NULLABLE, \
			.help = "Processes of it still ran after its end; null when the guest does not say." }, \
		{ .name = "stdout_bytes", .type = API_INT, .max = INT64_MAX }, \
	{ \
		.name = "stderr_bytes", .type = API_INT, .max = INT64_MAX \
	}
/* The output that a reply carries. */
#define FIELDS_OUTPUT \
	{ .name = "stdout", \
		.type = API_STRING, \
		.flags = API_NULLABLE | API_NUL, \
		.help = "Null with live stdio." }, \
		{ .name = "stderr", .type = API_STRING, .flags = API_NULLABLE | API_NUL }, \
		{ .name = "truncated", .type = API_BOOL }, \
	{ \
		.name = "binary", .type = API_BOOL, .flags = API_OPTIONAL, \
		.help = "Only when output was not UTF-8: U+FFFD replaces invalid bytes." \
	}

static const struct api_field vm_run_result[] = {
	{ .name = "environment", .type = API_STRING },
	{ .name = "environment_version", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "command", .type = API_STRING },
	{ .name = "vm_id", .type = API_ID, .names = id_vm },
	{ .name = "exec_id", .type = API_ID, .names = id_exec },
	{ .name = "state", .type = API_ENUM, .names = names_run_state },
	{ .name = "execution_mode", .type = API_ENUM, .names = names_execution_mode },
	{ .name = "accelerator", .type = API_ENUM, .names = names_accelerator_used },
	{ .name = "start_mode", .type = API_ENUM, .names = names_start_mode },
	FIELDS_OUTCOME,
	FIELDS_OUTPUT,
	{ .name = "cleanup", .type = API_OBJECT, .sub = cleanup_fields },
	FIELDS_END,
};

#define FIELDS_VM { .name = "vm_id", .type = API_ID, .names = id_vm }, FIELDS_STATE
/* Of a machine and of a workspace. */
#define FIELDS_STATE \
	{ .name = "environment", .type = API_STRING }, \
		{ .name = "environment_version", \
			.type = API_STRING, \
			.flags = API_NULLABLE, \
			.help = "Of the image it was made from, as in `env.list`." }, \
		{ .name = "state", .type = API_ENUM, .names = names_vm_state }, \
		{ .name = "stop_reason", \
			.type = API_ENUM, \
			.flags = API_NULLABLE, \
			.names = names_stop_reason, \
			.help = "Why it is stopped." }, \
		{ .name = "pause_reason", \
			.type = API_ENUM, \
			.flags = API_NULLABLE, \
			.names = names_pause_reason, \
			.help = "Why its vCPUs are paused; it continues by itself." }, \
		{ .name = "vcpu_count", .type = API_INT, .max = VCPU_MAX }, \
		{ .name = "mem_mib", .type = API_INT, .max = INT64_MAX }, \
		{ .name = "disk_mib", .type = API_INT, .max = INT64_MAX }, \
		{ .name = "ttl_seconds", .type = API_INT, .max = TTL_SECONDS_MAX }, \
		{ .name = "created_at", .type = API_TIME }, \
		{ .name = "expires_at", .type = API_TIME, .flags = API_NULLABLE }, \
		{ .name = "network_enabled", .type = API_BOOL }, \
		{ .name = "network_policy", .type = API_STRING, .flags = API_NULLABLE }, \
		{ .name = "allow_host_compat", .type = API_BOOL }, \
		{ .name = "guest_ip", .type = API_STRING, .flags = API_NULLABLE }, \
		{ .name = "tap_name", .type = API_STRING, .flags = API_NULLABLE }, \
		{ .name = "execution_mode", \
			.type = API_ENUM, \
			.flags = API_NULLABLE, \
			.names = names_execution_mode }, \
		{ .name = "accelerator", \
			.type = API_ENUM, \
			.flags = API_NULLABLE, \
			.names = names_accelerator }, \
		{ .name = "start_mode", \
			.type = API_ENUM, \
			.flags = API_NULLABLE, \
			.names = names_start_mode }, \
		{ .name = "last_error", .type = API_STRING, .flags = API_NULLABLE }, \
	{ \
		.name = "owner_uid", .type = API_INT, .max = UINT32_MAX \
	}

static const struct api_field vm_fields[] = {
	FIELDS_VM,
	FIELDS_END,
};
static const struct api_field vm_element[] = {
	{ .name = "element", .type = API_OBJECT, .sub = vm_fields },
	FIELDS_END,
};

#define FIELD_VM_ID \
	{ \
		.name = "vm_id", .type = API_ID, .flags = API_REQUIRED | API_POSITIONAL, \
		.names = id_vm, .help = "The machine: its id or a unique prefix of it." \
	}

static const struct api_field vm_create_params[] = {
	FIELD_ENVIRONMENT,
	FIELDS_MACHINE,
	{ .name = "ttl_seconds",
		.type = API_INT,
		.flags = API_NULLABLE,
		.max = TTL_SECONDS_MAX,
		.help = "Deletes the machine this long after its creation; 0: never. Unless given, "
			"default_ttl_seconds of pyrod.conf (600)." },
	FIELDS_END,
};
#define vm_create_result vm_fields

static const struct api_field vm_start_params[] = { FIELD_VM_ID, FIELDS_END };
#define vm_start_result vm_fields

#define FIELD_STOP_REASON \
	{ \
		.name = "reason", .type = API_ENUM, .dflt = "\"user\"", .flags = API_NO_MCP, \
		.names = names_stop_reason_given, .help = "Kept as its `stop_reason`." \
	}

static const struct api_field vm_stop_params[] = { FIELD_VM_ID, FIELD_STOP_REASON, FIELDS_END };
static const struct api_field vm_stop_result[] = {
	FIELDS_VM,
	{ .name = "cleanup",
		.type = API_OBJECT,
		.flags = API_OPTIONAL,
		.sub = cleanup_fields,
		.help = "Only when its command was under way: the machine has gone with it, and its disk." },
	FIELDS_END,
};

static const struct api_field vm_exec_params[] = {
	FIELD_VM_ID,
	FIELD_COMMAND,
	FIELDS_COMMAND,
	FIELDS_END,
};
#define vm_exec_result vm_run_result

static const struct api_field port_fields[] = {
	{ .name = "host", .type = API_STRING },
	{ .name = "host_port", .type = API_INT, .min = 1, .max = UINT16_MAX },
	{ .name = "guest_port", .type = API_INT, .min = 1, .max = UINT16_MAX },
	{ .name = "protocol", .type = API_STRING },
	FIELDS_END,
};
static const struct api_field port_element[] = {
	{ .name = "element", .type = API_OBJECT, .sub = port_fields },
	FIELDS_END,
};
static const struct api_field vm_network_info_params[] = { FIELD_VM_ID, FIELDS_END };
static const struct api_field vm_network_info_result[] = {
	{ .name = "vm_id", .type = API_ID, .names = id_vm },
	{ .name = "network_enabled", .type = API_BOOL },
	{ .name = "network_policy", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "tap_name", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "guest_ip", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "gateway_ip", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "subnet_cidr", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "mac_address", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "dns_servers", .type = API_ARRAY, .sub = string_element },
	{ .name = "ports", .type = API_ARRAY, .sub = port_element },
	{ .name = "outbound_connectivity_expected", .type = API_BOOL },
	{ .name = "reason",
		.type = API_STRING,
		.flags = API_NULLABLE,
		.help = "Why it reaches no network outside." },
	FIELDS_END,
};

static const struct api_field vm_list_params[] = {
	{ .name = "all_users",
		.type = API_BOOL,
		.dflt = "false",
		.flags = API_NO_MCP,
		.help = "Those of all users; for root." },
	FIELDS_END,
};
static const struct api_field vm_list_result[] = {
	{ .name = "count", .type = API_INT, .max = INT64_MAX },
	{ .name = "vms", .type = API_ARRAY, .sub = vm_element, .help = "Last activity first." },
	FIELDS_END,
};

static const struct api_field vm_status_params[] = { FIELD_VM_ID, FIELDS_END };
#define vm_status_result vm_fields

static const struct api_field vm_delete_params[] = { FIELD_VM_ID, FIELDS_END };
static const struct api_field vm_delete_result[] = {
	{ .name = "vm_id", .type = API_ID, .names = id_vm },
	{ .name = "deleted", .type = API_BOOL },
	{ .name = "reason", .type = API_STRING, .help = "`explicit_delete`." },
	FIELDS_END,
};

#define vm_reap_expired_params no_fields
static const struct api_field vm_reap_expired_result[] = {
	{ .name = "count", .type = API_INT, .max = INT64_MAX },
	{ .name = "deleted_vm_ids", .type = API_ARRAY, .sub = string_element },
	FIELDS_END,
};

/* workspace */

static const struct api_field seed_skipped_fields[] = {
	{ .name = "path", .type = API_STRING },
	{ .name = "reason", .type = API_STRING },
	FIELDS_END,
};
static const struct api_field seed_skipped_element[] = {
	{ .name = "element", .type = API_OBJECT, .sub = seed_skipped_fields },
	FIELDS_END,
};
static const struct api_field workspace_seed_fields[] = {
	{ .name = "mode", .type = API_ENUM, .names = names_seed_mode },
	{ .name = "seed_path", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "destination", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "entry_count", .type = API_INT, .max = INT64_MAX },
	{ .name = "bytes_written", .type = API_INT, .max = INT64_MAX },
	{ .name = "skipped", .type = API_ARRAY, .sub = seed_skipped_element },
	FIELDS_END,
};
static const struct api_field changed_fields[] = {
	{ .name = "added", .type = API_INT, .max = INT64_MAX },
	{ .name = "modified", .type = API_INT, .max = INT64_MAX },
	{ .name = "deleted", .type = API_INT, .max = INT64_MAX },
	FIELDS_END,
};
static const struct api_field running_fields[] = {
	{ .name = "exec_id", .type = API_ID, .names = id_exec },
	{ .name = "command", .type = API_STRING },
	{ .name = "started_at", .type = API_TIME, .flags = API_NULLABLE },
	FIELDS_END,
};
static const struct api_field running_element[] = {
	{ .name = "element", .type = API_OBJECT, .sub = running_fields },
	FIELDS_END,
};
static const struct api_field workspace_fields[] = {
	{ .name = "workspace_id", .type = API_ID, .names = id_workspace },
	{ .name = "name", .type = API_NAME, .flags = API_NULLABLE },
	{ .name = "labels", .type = API_OBJECT, .max = LIMIT_LABELS },
	{ .name = "shared", .type = API_BOOL, .help = "MCP clients may use it." },
	FIELDS_STATE,
	{ .name = "workspace_path", .type = API_STRING, .help = "In the guest." },
	{ .name = "workspace_seed",
		.type = API_OBJECT,
		.sub = workspace_seed_fields,
		.help = "What it was filled with (nothing in this version)." },
	{ .name = "changed",
		.type = API_OBJECT,
		.flags = API_NULLABLE,
		.sub = changed_fields,
		.help = "Since its seed; null: not known." },
	{ .name = "last_activity_at", .type = API_TIME },
	{ .name = "deletes_at", .type = API_TIME, .flags = API_NULLABLE },
	{ .name = "command_count", .type = API_INT, .max = INT64_MAX },
	{ .name = "last_command", .type = API_JSON, .flags = API_NULLABLE },
	{ .name = "shells", .type = API_ARRAY, .sub = string_element },
	{ .name = "running", .type = API_ARRAY, .sub = running_element },
	{ .name = "disk_used_bytes",
		.type = API_INT,
		.flags = API_NULLABLE,
		.max = INT64_MAX,
		.help = "Of the host's disk." },
	{ .name = "owner",
		.type = API_STRING,
		.flags = API_NULLABLE,
		.help = "The name of owner_uid (null in this version)." },
	{ .name = "created_by", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "phase",
		.type = API_STRING,
		.flags = API_OPTIONAL,
		.help = "Only while it is being created: of its pull, `create` or `start`." },
	{ .name = "percent",
		.type = API_INT,
		.flags = API_NULLABLE | API_OPTIONAL,
		.max = 100,
		.help = "Of the phase; null: not known." },
	FIELDS_END,
};
static const struct api_field workspace_element[] = {
	{ .name = "element", .type = API_OBJECT, .sub = workspace_fields },
	FIELDS_END,
};

#define FIELD_WORKSPACE_ID \
	{ \
		.name = "workspace_id", .type = API_REF, .flags = API_REQUIRED | API_POSITIONAL, \
		.names = id_workspace, \
		.help = "The workspace: its name, its id or a unique prefix of that." \
	}

#define FIELD_LABELS(text) \
	{ \
		.name = "labels", .type = API_OBJECT, .dflt = "{}", .max = LIMIT_LABELS, \
		.cli = "label,-l", .help = (text) \
	}

static const struct api_field workspace_create_params[] = {
	FIELD_ENVIRONMENT,
	FIELDS_MACHINE,
	{ .name = "ttl_seconds",
		.type = API_INT,
		.flags = API_NULLABLE,
		.max = TTL_SECONDS_MAX,
		.help = "Kept for later versions: nothing ends an idle workspace in this one." },
	{ .name = "name",
		.type = API_NAME,
		.flags = API_NULLABLE,
		.help = "Names it beside its id; unique among your workspaces." },
	FIELD_LABELS("KEY=VALUE, to find it again by."),
	{ .name = "wait_ms",
		.type = API_INT,
		.flags = API_NULLABLE | API_NO_CLI,
		.max = INT64_C(1000) * TIMEOUT_SECONDS_MAX,
		.help = "Answer by then even if it has not started; the creation goes on." },
	FIELDS_END,
};
#define workspace_create_result workspace_fields

static const struct api_field workspace_list_params[] = {
	FIELD_LABELS("Only those that have this KEY=VALUE."),
	{ .name = "all_users",
		.type = API_BOOL,
		.dflt = "false",
		.flags = API_NO_MCP,
		.help = "Those of all users; for root." },
	{ .name = "owner",
		.type = API_INT,
		.flags = API_NULLABLE | API_NO_MCP,
		.max = UINT32_MAX,
		.help = "Those of this user, by its uid; for root." },
	FIELDS_END,
};
static const struct api_field workspace_list_result[] = {
	{ .name = "count", .type = API_INT, .max = INT64_MAX },
	{ .name = "workspaces",
		.type = API_ARRAY,
		.sub = workspace_element,
		.help = "Last activity first. In a list above 2 MiB `running` is empty and "
			"`last_command` null." },
	{ .name = "truncated",
		.type = API_BOOL,
		.flags = API_OPTIONAL,
		.help = "true: the rest does not fit a reply; ask for one owner or with labels." },
	FIELDS_END,
};

static const struct api_field workspace_status_params[] = { FIELD_WORKSPACE_ID, FIELDS_END };
#define workspace_status_result workspace_fields

static const struct api_field workspace_start_params[] = { FIELD_WORKSPACE_ID, FIELDS_END };
#define workspace_start_result workspace_fields

static const struct api_field workspace_stop_params[] = {
	FIELD_WORKSPACE_ID,
	{ .name = "force",
		.type = API_BOOL,
		.dflt = "false",
		.help = "End it at once, as by a power cut, also while it is being stopped." },
	FIELD_STOP_REASON,
	FIELDS_END,
};
#define workspace_stop_result workspace_fields

static const struct api_field waited_state_element[] = {
	{ .name = "element", .type = API_ENUM, .names = names_waited_state },
	FIELDS_END,
};
static const struct api_field workspace_wait_params[] = {
	FIELD_WORKSPACE_ID,
	{ .name = "states",
		.type = API_ARRAY,
		.dflt = "[\"started\"]",
		.max = ARRAY_SIZE(names_waited_state) - 1,
		.sub = waited_state_element,
		.cli = "state",
		.help = "Wait for one of these: started, stopped, failed. A workspace that has failed "
			"is an error unless that is one of them." },
	{ .name = "wait_ms",
		.type = API_INT,
		.flags = API_NULLABLE,
		.max = INT64_C(1000) * TIMEOUT_SECONDS_MAX,
		.help = "Answer by then, with its present state." },
	FIELDS_END,
};
#define workspace_wait_result workspace_fields

static const struct api_field workspace_update_params[] = {
	FIELD_WORKSPACE_ID,
	{ .name = "name", .type = API_NAME, .flags = API_NULLABLE, .help = "Its new name." },
	{ .name = "clear_name", .type = API_BOOL, .dflt = "false", .help = "Take its name away." },
	FIELD_LABELS("KEY=VALUE, added or replaced."),
	{ .name = "clear_labels",
		.type = API_ARRAY,
		.dflt = "[]",
		.max = LIMIT_LABELS,
		.sub = string_element,
		.cli = "clear-label",
		.help = "The key of a label to remove." },
	FIELDS_END,
};
#define workspace_update_result workspace_fields

static const struct api_field workspace_share_params[] = { FIELD_WORKSPACE_ID, FIELDS_END };
#define workspace_share_result workspace_fields

static const struct api_field workspace_delete_params[] = {
	FIELD_WORKSPACE_ID,
	{ .name = "force",
		.type = API_BOOL,
		.dflt = "false",
		.help = "Also if it has changes (which this version deletes in any case)." },
	FIELDS_END,
};
static const struct api_field workspace_delete_result[] = {
	{ .name = "workspace_id", .type = API_ID, .names = id_workspace },
	{ .name = "deleted", .type = API_BOOL },
	{ .name = "reason", .type = API_STRING, .help = "`explicit_delete`." },
	FIELDS_END,
};

/* file */

static const char *const names_artifact_type[] = { "file", "directory", "symlink", "other", NULL };

#define FIELD_PATH(text) \
	{ \
		.name = "path", .type = API_STRING, .flags = API_REQUIRED | API_POSITIONAL, \
		.min = 1, .max = 4096, .help = (text) \
	}
#define FIELDS_FILE \
	{ .name = "workspace_id", .type = API_ID, .names = id_workspace }, \
	{ \
		.name = "path", .type = API_STRING, .help = "Absolute." \
	}
#define FIELD_BINARY(text) \
	{ \
		.name = "binary", .type = API_BOOL, .flags = API_OPTIONAL, .help = (text) \
	}

static const struct api_field file_list_params[] = {
	FIELD_WORKSPACE_ID,
	FIELD_PATH("A folder: absolute, or relative to /workspace."),
	{ .name = "recursive",
		.type = API_BOOL,
		.dflt = "false",
		.help = "Also what is in its folders; links are not followed." },
	FIELDS_END,
};
static const struct api_field entry_fields[] = {
	{ .name = "path", .type = API_STRING, .help = "Absolute." },
	{ .name = "artifact_type", .type = API_ENUM, .names = names_artifact_type },
	{ .name = "size_bytes", .type = API_INT, .max = INT64_MAX },
	{ .name = "link_target", .type = API_STRING, .flags = API_NULLABLE },
	FIELD_BINARY("Its name or target is not UTF-8, and has U+FFFD instead."),
	FIELDS_END,
};
static const struct api_field entry_element[] = {
	{ .name = "element", .type = API_OBJECT, .sub = entry_fields },
	FIELDS_END,
};
static const struct api_field file_list_result[] = {
	FIELDS_FILE,
	{ .name = "recursive", .type = API_BOOL },
	{ .name = "entries",
		.type = API_ARRAY,
		.sub = entry_element,
		.help = "Sorted by name; a folder before what is in it." },
	{ .name = "truncated",
		.type = API_BOOL,
		.help = "Some are left out: beyond 10,000 or 1 MiB, or unreadable." },
	FIELDS_END,
};

static const struct api_field file_read_params[] = {
	FIELD_WORKSPACE_ID,
	FIELD_PATH("A file: absolute, or relative to /workspace."),
	{ .name = "max_bytes",
		.type = API_INT,
		.dflt = "65536",
		.min = 1,
		.max = LIMIT_FILE_BYTES,
		.help = "Read at most this much." },
	{ .name = "start_line",
		.type = API_INT,
		.flags = API_NULLABLE,
		.min = 1,
		.max = INT32_MAX,
		.help = "Begin with this line." },
	{ .name = "max_lines",
		.type = API_INT,
		.flags = API_NULLABLE,
		.min = 1,
		.max = INT32_MAX,
		.help = "Read at most so many lines." },
	FIELDS_END,
};
static const struct api_field file_read_result[] = {
	FIELDS_FILE,
	{ .name = "size_bytes", .type = API_INT, .max = INT64_MAX, .help = "Of the whole file." },
	{ .name = "max_bytes", .type = API_INT, .max = LIMIT_FILE_BYTES },
	{ .name = "content", .type = API_STRING, .flags = API_NUL },
	{ .name = "truncated",
		.type = API_BOOL,
		.help = "Cut at max_bytes, or at the size of a reply: more was asked for." },
	{ .name = "start_line", .type = API_INT, .max = INT64_MAX },
	{ .name = "end_line",
		.type = API_INT,
		.max = INT64_MAX,
		.help = "The last line in content; start_line - 1 if there is none." },
	{ .name = "total_lines",
		.type = API_INT,
		.flags = API_NULLABLE,
		.max = INT64_MAX,
		.help = "Null: not counted, beyond 16 MiB." },
	FIELD_BINARY("It is not UTF-8, and has U+FFFD where it is not."),
	FIELDS_END,
};

static const struct api_field file_write_params[] = {
	FIELD_WORKSPACE_ID,
	FIELD_PATH("A file: absolute, or relative to /workspace. A new one gets mode 644; one "
		   "that is there is replaced at once, and keeps its mode and owner."),
	{ .name = "text",
		.type = API_STRING,
		.flags = API_REQUIRED | API_NUL,
		.help = "Its new contents." },
	FIELDS_END,
};
static const struct api_field file_write_result[] = {
	FIELDS_FILE,
	{ .name = "size_bytes", .type = API_INT, .max = INT64_MAX },
	{ .name = "bytes_written", .type = API_INT, .max = INT64_MAX },
	FIELDS_END,
};

static const struct api_field file_edit_params[] = {
	FIELD_WORKSPACE_ID,
	FIELD_PATH("A file of at most 16 MiB: absolute, or relative to /workspace."),
	{ .name = "old_text",
		.type = API_STRING,
		.flags = API_REQUIRED | API_NUL,
		.min = 1,
		.cli = "old",
		.help = "What is replaced. It must occur exactly once." },
	{ .name = "new_text",
		.type = API_STRING,
		.flags = API_REQUIRED | API_NUL,
		.cli = "new",
		.help = "What takes its place; may be empty." },
	{ .name = "replace_all",
		.type = API_BOOL,
		.dflt = "false",
		.cli = "all",
		.help = "Replace it wherever it occurs." },
	FIELDS_END,
};
static const struct api_field file_edit_result[] = {
	FIELDS_FILE,
	{ .name = "size_bytes", .type = API_INT, .max = INT64_MAX },
	{ .name = "bytes_written", .type = API_INT, .max = INT64_MAX },
	{ .name = "replacements", .type = API_INT, .max = INT64_MAX },
	FIELDS_END,
};

/* exec */

#define FIELD_EXEC_ID \
	{ \
		.name = "exec_id", .type = API_ID, .flags = API_REQUIRED | API_POSITIONAL, \
		.names = id_exec, .help = "The command: its id or a unique prefix of it." \
	}

#define FIELD_WAIT_MS(text) \
	{ \
		.name = "wait_ms", .type = API_INT, .flags = API_NULLABLE | API_NO_CLI, \
		.max = INT64_C(1000) * TIMEOUT_SECONDS_MAX, .help = (text) \
	}

static const struct api_field workspace_exec_params[] = {
	FIELD_WORKSPACE_ID,
	FIELD_COMMAND,
	{ .name = "timeout_seconds",
		.type = API_INT,
		.dflt = "600",
		.max = TIMEOUT_SECONDS_MAX,
		.cli = "timeout",
		.help = "Ends the command this long after its start; 0: never." },
	FIELD_CWD,
	FIELD_USER,
	FIELD_ENV,
	FIELD_STDIN,
	{ .name = "interactive",
		.type = API_BOOL,
		.dflt = "false",
		.flags = API_NO_MCP,
		.cli = "-i",
		.help = "Pass on the caller's standard input, or with background leave it open "
			"for exec.write; else it is /dev/null." },
	FIELD_STDIO,
	{ .name = "background",
		.type = API_BOOL,
		.dflt = "false",
		.cli = "-d,detach",
		.help = "Answer when it has started. It goes on, and exec.read reads its output." },
	FIELD_WAIT_MS("Answer by then even if it has not ended; it goes on."),
	FIELDS_END,
};

#define FIELDS_EXEC \
	{ .name = "workspace_id", .type = API_ID, .names = id_workspace }, \
		{ .name = "exec_id", .type = API_ID, .names = id_exec }, \
		{ .name = "sequence", \
			.type = API_INT, \
			.max = INT64_MAX, \
			.help = "Its number in the workspace, from 1." }, \
		{ .name = "command", .type = API_STRING }, { .name = "cwd", .type = API_STRING }, \
		{ .name = "user", .type = API_STRING }, \
		{ .name = "state", .type = API_ENUM, .names = names_run_state }, \
		{ .name = "started_at", .type = API_TIME, .help = "When it was requested." }, \
		{ .name = "ended_at", .type = API_TIME, .flags = API_NULLABLE }, \
		{ .name = "execution_mode", \
			.type = API_ENUM, \
			.flags = API_NULLABLE, \
			.names = names_execution_mode }, \
		FIELDS_OUTCOME

static const struct api_field workspace_exec_result[] = {
	FIELDS_EXEC,
	{ .name = "environment", .type = API_STRING },
	{ .name = "environment_version", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "accelerator",
		.type = API_ENUM,
		.flags = API_NULLABLE,
		.names = names_accelerator_used },
	{ .name = "start_mode",
		.type = API_ENUM,
		.flags = API_NULLABLE,
		.names = names_start_mode },
	FIELDS_OUTPUT,
	FIELDS_END,
};

static const struct api_field exec_fields[] = {
	FIELDS_EXEC,
	FIELDS_END,
};
static const struct api_field exec_element[] = {
	{ .name = "element", .type = API_OBJECT, .sub = exec_fields },
	FIELDS_END,
};
static const struct api_field exec_list_params[] = { FIELD_WORKSPACE_ID, FIELDS_END };
static const struct api_field exec_list_result[] = {
	{ .name = "workspace_id", .type = API_ID, .names = id_workspace },
	{ .name = "count", .type = API_INT, .max = INT64_MAX },
	{ .name = "execs",
		.type = API_ARRAY,
		.sub = exec_element,
		.help = "Oldest first; a command longer than 1 KiB is cut." },
	FIELDS_END,
};

static const struct api_field exec_wait_params[] = {
	FIELD_EXEC_ID,
	FIELD_WAIT_MS("Answer by then even if it has not ended."),
	FIELDS_END,
};
#define exec_wait_result workspace_exec_result

static const struct api_field exec_read_params[] = {
	FIELD_EXEC_ID,
	{ .name = "stream", .type = API_ENUM, .dflt = "\"both\"", .names = names_stream },
	{ .name = "cursor",
		.type = API_INT,
		.dflt = "0",
		.min = -INT64_C(9007199254740991),
		.max = INT64_C(9007199254740991),
		.help = "Where to begin: bytes of both streams in order of arrival; negative: that "
			"many before the end." },
	{ .name = "since",
		.type = API_TIME,
		.flags = API_NULLABLE | API_NO_CLI,
		.help = "Leave out what arrived before this time." },
	{ .name = "max_chars",
		.type = API_INT,
		.dflt = "65536",
		.min = 1,
		.max = LIMIT_READ_CHARS,
		.help = "At most so many characters; bytes with base64." },
	{ .name = "wait_ms",
		.type = API_INT,
		.dflt = "0",
		.flags = API_NO_CLI,
		.max = INT64_C(1000) * TIMEOUT_SECONDS_MAX,
		.help = "Wait so long for output after the cursor, or for its end." },
	{ .name = "encoding", .type = API_ENUM, .dflt = "\"text\"", .names = names_encoding },
	FIELDS_END,
};
static const struct api_field exec_read_result[] = {
	{ .name = "exec_id", .type = API_ID, .names = id_exec },
	{ .name = "state", .type = API_ENUM, .names = names_run_state },
	{ .name = "stream", .type = API_ENUM, .names = names_stream },
	{ .name = "output", .type = API_STRING, .flags = API_NUL },
	{ .name = "binary",
		.type = API_BOOL,
		.flags = API_OPTIONAL,
		.help = "Only when output was not UTF-8: U+FFFD replaces invalid bytes." },
	{ .name = "cursor", .type = API_INT, .max = INT64_MAX, .help = "Where output begins." },
	{ .name = "next_cursor",
		.type = API_INT,
		.max = INT64_MAX,
		.help = "Where the next read goes on." },
	{ .name = "earliest",
		.type = API_INT,
		.max = INT64_MAX,
		.help = "The first byte that is still kept." },
	{ .name = "gap_bytes",
		.type = API_INT,
		.max = INT64_MAX,
		.help = "Bytes before `output` that are not kept." },
	{ .name = "exit_code", .type = API_INT, .flags = API_NULLABLE, .max = 255 },
	{ .name = "timed_out", .type = API_BOOL },
	{ .name = "ended_by", .type = API_ENUM, .flags = API_NULLABLE, .names = names_ended_by },
	{ .name = "truncated", .type = API_BOOL, .help = "There is more at next_cursor." },
	FIELDS_END,
};

static const struct api_field exec_write_params[] = {
	FIELD_EXEC_ID,
	{ .name = "data",
		.type = API_STRING,
		.flags = API_NULLABLE | API_NUL,
		.max = STREAM_WINDOW,
		.cli = "input",
		.help = "Goes to its standard input." },
	{ .name = "eof", .type = API_BOOL, .dflt = "false", .help = "Then end its input." },
	FIELDS_END,
};
static const struct api_field exec_write_result[] = {
	{ .name = "exec_id", .type = API_ID, .names = id_exec },
	{ .name = "input_length",
		.type = API_INT,
		.max = INT64_MAX,
		.help = "Bytes that the guest has accepted, within 10 s." },
	FIELDS_END,
};

static const struct api_field exec_signal_params[] = {
	FIELD_EXEC_ID,
	{ .name = "signal_name",
		.type = API_ENUM,
		.dflt = "\"INT\"",
		.names = names_signal,
		.cli = "signal",
		.help = "Goes to the foreground process group." },
	FIELDS_END,
};
static const struct api_field exec_signal_result[] = {
	{ .name = "exec_id", .type = API_ID, .names = id_exec },
	{ .name = "signal", .type = API_ENUM, .names = names_signal },
	FIELDS_END,
};

static const struct api_field exec_attach_params[] = {
	FIELD_EXEC_ID,
	{ .name = "read_only",
		.type = API_BOOL,
		.dflt = "false",
		.flags = API_NO_MCP,
		.help = "Send no input, so that another caller may." },
	{ .name = "stdout_offset",
		.type = API_INT,
		.flags = API_NULLABLE | API_NO_CLI,
		.max = INT64_MAX,
		.help = "How many bytes of stdout a caller that continues has. Null: a new caller, "
			"which gets all that is kept." },
	{ .name = "stderr_offset",
		.type = API_INT,
		.flags = API_NULLABLE | API_NO_CLI,
		.max = INT64_MAX,
		.help = "How many bytes of stderr the caller has." },
	{ .name = "stdio",
		.type = API_FD,
		.flags = API_REQUIRED | API_LIVE | API_NO_MCP | API_NO_CLI,
		.client = "stdio",
		.help = "Carries stdin, stdout and stderr live; its first ACK says from where "
			"stdin goes on." },
	FIELDS_END,
};
/* Of vm.run or workspace.exec, whichever started it. */
static const struct api_field exec_attach_result[] = {
	{ .name = "vm_id", .type = API_ID, .flags = API_OPTIONAL, .names = id_vm },
	{ .name = "cleanup", .type = API_OBJECT, .flags = API_OPTIONAL, .sub = cleanup_fields },
	{ .name = "workspace_id", .type = API_ID, .flags = API_OPTIONAL, .names = id_workspace },
	{ .name = "sequence", .type = API_INT, .flags = API_OPTIONAL, .max = INT64_MAX },
	{ .name = "cwd", .type = API_STRING, .flags = API_OPTIONAL },
	{ .name = "user", .type = API_STRING, .flags = API_OPTIONAL },
	{ .name = "started_at", .type = API_TIME, .flags = API_OPTIONAL },
	{ .name = "ended_at", .type = API_TIME, .flags = API_OPTIONAL | API_NULLABLE },
	{ .name = "environment", .type = API_STRING },
	{ .name = "environment_version", .type = API_STRING, .flags = API_NULLABLE },
	{ .name = "command", .type = API_STRING },
	{ .name = "exec_id", .type = API_ID, .names = id_exec },
	{ .name = "state", .type = API_ENUM, .names = names_run_state },
	{ .name = "execution_mode",
		.type = API_ENUM,
		.flags = API_NULLABLE,
		.names = names_execution_mode },
	{ .name = "accelerator",
		.type = API_ENUM,
		.flags = API_NULLABLE,
		.names = names_accelerator_used },
	{ .name = "start_mode",
		.type = API_ENUM,
		.flags = API_NULLABLE,
		.names = names_start_mode },
	FIELDS_OUTCOME,
	FIELDS_OUTPUT,
	FIELDS_END,
};

const struct api_method api_methods[] = {
#define API_METHOD(sym, method, obj, rgt, lif, hnt, hlp) \
	{ \
		.name = (method), \
		.symbol = #sym, \
		.object = (obj), \
		.right = (rgt), \
		.life = (lif), \
		.hints = (hnt), \
		.params = sym##_params, \
		.result = sym##_result, \
		.help = (hlp), \
	},
#include "proto/api.def"
#undef API_METHOD
};
const size_t api_n_methods = ARRAY_SIZE(api_methods);
_Static_assert(ARRAY_SIZE(api_methods) == API_M_MAX, "one row for each index");

int api_find(const char *method)
{
	for (size_t i = 0; i < api_n_methods; i++)
		if (streq(api_methods[i].name, method))
			return (int)i;
	return -ENOENT;
}

const char *api_id_prefix(const char *kind)
{
	static const struct {
		const char *kind, *prefix;
	} prefixes[] = {
		{ "vm", "vm-" },
		{ "workspace", "ws-" },
		{ "shell", "sh-" },
		{ "exec", "ex-" },
	};
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (streq(prefixes[i].kind, kind))
			return prefixes[i].prefix;
	return NULL;
}

void api_new_id(const char *prefix, char ret[API_ID_SIZE])
{
	uint8_t bytes[6];
	random_bytes(bytes, sizeof(bytes));
	(void)snprintf(ret, API_ID_SIZE, "%.3s%02x%02x%02x%02x%02x%02x", prefix, bytes[0], bytes[1],
		bytes[2], bytes[3], bytes[4], bytes[5]);
}
