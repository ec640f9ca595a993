/* SPDX-License-Identifier: MIT */
/*
 * Two tables of words of other programs. Called by main.c for commands and by options.c for flags.
 * What must stay true: every fix is a line that runs as it stands. Where this version has no
 * counterpart, the cause says so and the fix is the nearest command.
 */
#include "foreign.h"

#define LIST "pyro vm list"

#define NO_TERMINAL \
	.cause = "this version runs commands without a terminal; a shell reads them from " \
		 "standard input", \
	.fix = "pyro run -i debian:12 -- sh"
#define NO_IMAGES \
	.cause = "environments come from the catalog: this version cannot build, import or " \
		 "export images", \
	.fix = "pyro env list"
#define NO_REGISTRY \
	.cause = "this version uses no registry: the environments of the catalog are made from " \
		 "Debian's packages", \
	.fix = "pyro env list"
#define NO_VOLUMES \
	.cause = "a machine shares no directory with the host: files go in and out by standard " \
		 "input and output", \
	.fix = "tar c . | pyro run -i debian:12 -- sh -c 'tar x && ls'"
#define NO_NETWORK .cause = "this version gives machines no network", .fix = "pyro --help"
#define NO_SINGLE_REMOVAL \
	.cause = "single environments cannot be removed: pruning removes all unused ones", \
	.fix = "pyro env prune --all --dry-run"
#define NO_LOGS \
	.cause = \
		"the output of a machine's only command goes to its caller; workspaces keep theirs", \
	.fix = "pyro run debian:12 -- uname -a | tee output"
#define NO_LOOK_INSIDE .cause = "this version does not show what runs in a machine", .fix = LIST
#define NO_RESTART \
	.cause = "a machine is restarted by pyro vm stop and pyro vm start, and keeps its disk", \
	.fix = LIST
#define NO_PAUSE \
	.cause = "a machine is stopped, and keeps its disk: pyro vm stop, later pyro vm start", \
	.fix = LIST
#define NO_CHANGE \
	.cause = "a machine cannot be changed after its creation", .fix = "pyro vm create --help"
#define LATER .cause = "it comes with a later version", .fix = "pyro --help"

#define AS(w, m) \
	{ \
		.words = (w), .means = (m) \
	}
#define OF_VM(w, m) \
	{ \
		.words = (w), .means = (m), .of_vm = true \
	}
#define NONE(w, ...) \
	{ \
		.words = (w), __VA_ARGS__ \
	}

static const struct foreign_word foreign_words[] = {
	{ .words = "images", .means = "env list", .runs = true },
	{ .words = "pull", .means = "env pull", .runs = true },
	{ .words = "info", .means = "doctor", .runs = true },
	NONE("version", .cause = "it is an option", .fix = "pyro --version"),
	NONE("ps", .cause = "workspaces are listed, and what runs in one by workspace exec-list",
		.fix = "pyro workspace list"),
	NONE("cp", .cause = "files go in and out by standard input and output",
		.fix = "tar c /etc/hostname | pyro run -i debian:12 -- tar xv"),
	OF_VM("exec", "vm exec"),
	AS("exec", "workspace exec"),
	AS("kill", "vm stop"),
	AS("halt", "vm stop"),
	AS("poweroff", "vm stop"),
	AS("shutdown", "vm stop"),
	AS("destroy", "vm delete"),
	AS("status", "vm status"),
	AS("show", "vm status"),
	OF_VM("inspect", "vm status"),
	AS("inspect", "env inspect"),
	NONE("top", NO_LOOK_INSIDE),
	NONE("stats", NO_LOOK_INSIDE),
	{ .words = "logs", .of_vm = true, NO_LOGS },
	AS("logs", "workspace logs"),
	{ .words = "log", .of_vm = true, NO_LOGS },
	AS("log", "workspace logs"),
	{ .words = "attach", .of_vm = true, NO_TERMINAL },
	AS("attach", "workspace exec-attach"),
	NONE("shell", NO_TERMINAL),
	NONE("sh", NO_TERMINAL),
	NONE("bash", NO_TERMINAL),
	NONE("enter", NO_TERMINAL),
	NONE("ssh", NO_TERMINAL),
	NONE("restart", NO_RESTART),
	NONE("reload", NO_RESTART),
	NONE("reboot", NO_RESTART),
	NONE("pause", NO_PAUSE),
	NONE("unpause", NO_PAUSE),
	NONE("suspend", NO_PAUSE),
	NONE("update", NO_CHANGE),
	NONE("rename", .cause = "machines have ids and no names in this version", .fix = LIST),
	AS("wait", "workspace exec-wait"),
	NONE("rmi", NO_SINGLE_REMOVAL),
	NONE("env rm", NO_SINGLE_REMOVAL),
	NONE("env delete", NO_SINGLE_REMOVAL),
	NONE("env remove", NO_SINGLE_REMOVAL),
	AS("vm run", "run"),
	AS("vm ps", "vm list"),
	NONE("env build", NO_IMAGES),
	NONE("env create", NO_IMAGES),
	NONE("env add", NO_IMAGES),
	NONE("build", NO_IMAGES),
	NONE("buildx", NO_IMAGES),
	NONE("commit", NO_IMAGES),
	NONE("tag", NO_IMAGES),
	NONE("save", NO_IMAGES),
	NONE("load", NO_IMAGES),
	NONE("import", NO_IMAGES),
	NONE("export", NO_IMAGES),
	NONE("history", NO_IMAGES),
	NONE("push", NO_REGISTRY),
	NONE("search", NO_REGISTRY),
	NONE("login", NO_REGISTRY),
	NONE("logout", NO_REGISTRY),
	NONE("registry", NO_REGISTRY),
	NONE("compose", .cause = "each machine is started separately",
		.fix = "pyro vm create --help"),
	NONE("network", NO_NETWORK),
	NONE("port", NO_NETWORK),
	NONE("volume", NO_VOLUMES),
	NONE("diff", .cause = "this version does not compare a machine with its environment",
		.fix = LIST),
	AS("image ls", "env list"),
	AS("image list", "env list"),
	AS("image pull", "env pull"),
	AS("image inspect", "env inspect"),
	AS("image prune", "env prune"),
	NONE("image rm", NO_SINGLE_REMOVAL),
	NONE("image remove", NO_SINGLE_REMOVAL),
	NONE("image", .cause = "images are environments here", .fix = "pyro env --help"),
	AS("container ls", "vm list"),
	AS("container list", "vm list"),
	AS("container ps", "vm list"),
	AS("container run", "run"),
	AS("container create", "vm create"),
	AS("container start", "vm start"),
	AS("container exec", "vm exec"),
	AS("container stop", "vm stop"),
	AS("container kill", "vm stop"),
	AS("container rm", "vm delete"),
	AS("container inspect", "vm status"),
	AS("container prune", "vm reap-expired"),
	NONE("container logs", NO_LOGS),
	NONE("container", .cause = "containers are machines here", .fix = "pyro vm --help"),
	AS("system prune", "env prune"),
	AS("system info", "doctor"),
	NONE("system", .cause = "pyro doctor checks this host", .fix = "pyro doctor"),
	NONE("demo", LATER),
	NONE("mcp", LATER),
	NONE("host", LATER),
	NONE("up", LATER),
	NONE("down", LATER),
	NONE("usage", LATER),
	NONE("events", LATER),
};

/* Returns 2 if `words` is both words, 1 if it is the first alone, else 0. */
static int matches(const char *words, const char *first, const char *second)
{
	size_t n = strlen(first);

	if (streq(words, first))
		return 1;
	return second && startswith(words, first) && words[n] == ' ' && streq(words + n + 1, second)
		       ? 2
		       : 0;
}

const struct foreign_word *foreign_word_find(const char *first, const char *second, bool vm)
{
	/* Rows of two words precede the row of their first word. */
	for (size_t i = 0; i < ARRAY_SIZE(foreign_words); i++)
		if (matches(foreign_words[i].words, first, second) &&
			(vm || !foreign_words[i].of_vm))
			return &foreign_words[i];
	return NULL;
}

#define NO_PORTS .cause = "this version gives machines no network", .fix = NULL
#define NO_NAMES .cause = "machines have ids and no names in this version", .fix = NULL
#define NO_DETACH \
	.cause = \
		"the machine is deleted with its command; pyro workspace exec -d runs one in the " \
		"background", \
	.fix = NULL
#define NO_ENTRYPOINT .cause = "the command is the words after ENVIRONMENT", .fix = NULL
#define NO_PRIVILEGE  .cause = "the command already runs as root in its own machine", .fix = NULL
#define NO_LIMIT      .cause = "a machine is limited by --cpus, -m and --disk-mib", .fix = NULL
#define NO_POLICY     .cause = "the machine is deleted when its command has ended", .fix = NULL
#define NO_FILE \
	.cause = "variables are given one by one: -e K=V, or -e K to copy yours", .fix = NULL
#define NO_PULL \
	.cause = "a missing environment is pulled; pyro env pull brings it up to date", .fix = NULL
#define NO_PLATFORM .cause = "a machine has the architecture of its host", .fix = NULL

#define FLAG(n, ...) \
	{ \
		.name = (n), __VA_ARGS__ \
	}
#define VALUE(n, ...) \
	{ \
		.name = (n), .takes_value = true, __VA_ARGS__ \
	}

static const struct foreign_flag foreign_flags[] = {
	{ .name = "--rm" }, /* for vm exec; run has --rm and --init of its own */
	{ .name = "--init" },
	{ .name = "--workdir", .takes_value = true, .means = "--cwd" },
	{ .name = "--storage-opt", .takes_value = true, NO_LIMIT },
	VALUE("-v", NO_VOLUMES),
	VALUE("--volume", NO_VOLUMES),
	VALUE("--mount", NO_VOLUMES),
	VALUE("--tmpfs", NO_VOLUMES),
	VALUE("--volumes-from", NO_VOLUMES),
	VALUE("-p", NO_PORTS),
	VALUE("--publish", NO_PORTS),
	VALUE("--expose", NO_PORTS),
	VALUE("--net", NO_PORTS),
	VALUE("--dns", NO_PORTS),
	VALUE("--add-host", NO_PORTS),
	VALUE("--link", NO_PORTS),
	FLAG("-P", NO_PORTS),
	FLAG("--publish-all", NO_PORTS),
	FLAG("-d", NO_DETACH),
	FLAG("--detach", NO_DETACH),
	VALUE("--name", NO_NAMES),
	VALUE("--hostname", NO_NAMES),
	VALUE("-l", NO_NAMES),
	VALUE("--label", NO_NAMES),
	VALUE("--entrypoint", NO_ENTRYPOINT),
	FLAG("--privileged", NO_PRIVILEGE),
	VALUE("--cap-add", NO_PRIVILEGE),
	VALUE("--cap-drop", NO_PRIVILEGE),
	VALUE("--security-opt", NO_PRIVILEGE),
	VALUE("--device", .cause = "a machine has none of the host's devices", .fix = NULL),
	VALUE("--gpus", .cause = "a machine has none of the host's devices", .fix = NULL),
	VALUE("--memory-swap", NO_LIMIT),
	VALUE("--shm-size", NO_LIMIT),
	VALUE("--ulimit", NO_LIMIT),
	VALUE("--pids-limit", NO_LIMIT),
	VALUE("--cpuset-cpus", NO_LIMIT),
	VALUE("--restart", NO_POLICY),
	VALUE("--env-file", NO_FILE),
	VALUE("--pull", NO_PULL),
	VALUE("--platform", NO_PLATFORM),
};

const struct foreign_flag *foreign_flag_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreign_flags); i++)
		if (streq(foreign_flags[i].name, name))
			return &foreign_flags[i];
	return NULL;
}
