/* SPDX-License-Identifier: MIT */
/*
 * pyro-agent: PID 1 of every guest, started by the kernel as /init of the initramfs. Boots, serves
 * the host until the machine ends, and resets it. The only file that exits.
 *
 *   pyro-agent --version
 *   pyro-agent --serve-fd N [--workspace DIR]
 *   /proc/1/exe -q -- NAME
 *
 * The last form is the kernel's request for a module (module.c). The second serves the same
 * protocol on a connected stream socket, as an ordinary process: no mounts, no reboot; commands run
 * as the caller's user if it is not root, in cgroups if a version 2 hierarchy is writable, else in
 * process groups; SETUP only sets the machine's id and SYNC. It exits with its socket and kills its
 * commands (without cgroups, only those that are still in their process group). For tests and for
 * hosts without a VM.
 */

#include "guest/cgroup.h"
#include "guest/end.h"
#include "guest/init.h"
#include "guest/loop.h"
#include "guest/machine.h"
#include "guest/module.h"
#include "guest/serve.h"

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <sys/prctl.h>

struct agent {
	struct loop *loop;   /* owned */
	struct serve *serve; /* owned */
	struct machine machine;
	struct end end;
	int cgroup_fd; /* owned; for --serve-fd */
	int result;
	bool broken; /* boot failed: only BYE remains to be sent */
};

static const char *arg_workspace = "/workspace";
static int arg_serve_fd = -1;

static void report(const char *what, int r)
{
	(void)dprintf(
		STDERR_FILENO, "pyro-agent: %s: %s\n", what ? what : "out of memory", strerror(-r));
}

/* PID 1 */

static int guest_setup(
	const struct msg_setup *m, int *ret_cgroup_fd, char **ret_what, void *userdata)
{
	struct agent *a = userdata;
	int r;

	if (a->broken) {
		*ret_what = strdup("the guest did not boot");
		return -EIO;
	}
	r = machine_setup(&a->machine, m, ret_what);
	if (r < 0)
		report(*ret_what, r);
	*ret_cgroup_fd = a->machine.cgroup_fd;
	return r;
}

static void guest_finish(void *userdata)
{
	struct agent *a = userdata;
	int r;

	machine_finish(&a->machine);
	r = devices_watch(&a->machine.devices, a->loop);
	if (r < 0)
		report("watch devices", r);
}

static void guest_shutdown(void *userdata)
{
	struct agent *a = userdata;

	end_begin(&a->end, BYE_SHUTDOWN);
}

static void guest_bye_sent(void *userdata)
{
	struct agent *a = userdata;

	end_bye_sent(&a->end);
}

static void guest_hangup(int r _unused_, void *userdata)
{
	struct agent *a = userdata;

	end_host_closed(&a->end);
}

static const struct serve_hooks guest_hooks = {
	.setup = guest_setup,
	.finish = guest_finish,
	.on_shutdown = guest_shutdown,
	.on_bye_sent = guest_bye_sent,
	.on_hangup = guest_hangup,
};

static void guest_reaped(void *userdata)
{
	struct agent *a = userdata;

	end_reaped(&a->end);
}

/* Handles the signals that halt, poweroff and reboot of systemd, sysvinit and busybox send to PID
 * 1. */
static void guest_signal(int signo, void *userdata)
{
	struct agent *a = userdata;
	int rt = signo - SIGRTMIN;

	if (signo == SIGTERM || signo == SIGINT || rt == 5 || rt == 15)
		end_begin(&a->end, BYE_REBOOT);
	else if (signo == SIGUSR1 || signo == SIGUSR2 || signo == SIGPWR || rt == 3 || rt == 4 ||
		 rt == 13 || rt == 14)
		end_begin(&a->end, BYE_POWEROFF);
}

static int start_serving(struct agent *a, int fd, const struct serve_hooks *hooks)
{
	const struct serve_params p = {
		.loop = a->loop,
		.fd = fd,
		.workspace = arg_workspace,
		.hooks = hooks,
		.userdata = a,
	};

	return serve_new(&p, &a->serve);
}

/* Runs the steps before READY. Reports a failed environment to the host, a missing port only on the
 * console. */
static int boot(struct agent *a)
{
	_cleanup_free_ char *what = NULL, *broken = NULL;
	_cleanup_close_ int port = -EBADF;
	int r, environment;

	r = init_system(&what);
	if (r < 0) {
		report(what, r);
		return r;
	}
	environment = init_environment(&a->machine.disks, &what);
	if (environment < 0) {
		report(what, environment);
		broken = str_printf("%s: %s", what ? what : "boot", strerror(-environment));
		free(TAKE_PTR(what));
	}
	r = init_port(&port, &what);
	if (r >= 0)
		r = loop_take_signals(a->loop, guest_signal, a);
	if (r >= 0)
		r = start_serving(a, port, &guest_hooks);
	if (r < 0) {
		report(what, r);
		return r;
	}
	TAKE_FD(port);
	end_init(&a->end, a->loop, &a->machine, a->serve);
	loop_set_reaped(a->loop, guest_reaped, a);
	a->broken = environment < 0;
	if (a->broken)
		end_error(&a->end, broken);
	return 0;
}

static _noreturn_ void run_guest(void)
{
	struct agent a = { .machine = MACHINE_INIT, .cgroup_fd = -EBADF };
	int r = loop_new(&a.loop);

	if (r >= 0)
		r = boot(&a);
	if (r >= 0)
		r = loop_run(a.loop);
	report("the agent cannot continue", r);
	end_reset();
}

/* --serve-fd */

static int plain_setup(const struct msg_setup *m _unused_, int *ret_cgroup_fd,
	char **ret_what _unused_, void *userdata)
{
	struct agent *a = userdata;

	*ret_cgroup_fd = a->cgroup_fd;
	return 0;
}

static void plain_shutdown(void *userdata)
{
	struct agent *a = userdata;

	serve_bye(a->serve, BYE_SHUTDOWN, NULL);
}

static void plain_stop(void *userdata)
{
	struct agent *a = userdata;

	loop_stop(a->loop);
}

static void plain_hangup(int r, void *userdata)
{
	struct agent *a = userdata;

	a->result = r;
	loop_stop(a->loop);
}

static void plain_signal(int signo, void *userdata)
{
	if (signo == SIGTERM || signo == SIGINT || signo == SIGHUP)
		plain_stop(userdata);
}

static const struct serve_hooks plain_hooks = {
	.setup = plain_setup,
	.on_shutdown = plain_shutdown,
	.on_bye_sent = plain_stop,
	.on_hangup = plain_hangup,
};

static int start_plain(struct agent *a, const char *cgroup_name)
{
	int r = fcntl(arg_serve_fd, F_GETFL);

	if (r < 0 || fcntl(arg_serve_fd, F_SETFL, r | O_NONBLOCK) < 0 ||
		fcntl(arg_serve_fd, F_SETFD, FD_CLOEXEC) < 0 ||
		prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return -errno;
	if (cgroup_root_own(cgroup_name, &a->cgroup_fd) < 0)
		a->cgroup_fd = -EBADF;
	r = loop_new(&a->loop);
	if (r >= 0)
		r = loop_take_signals(a->loop, plain_signal, a);
	if (r >= 0)
		r = start_serving(a, arg_serve_fd, &plain_hooks);
	return r;
}

static int run_plain(void)
{
	_cleanup_free_ char *name = str_printf("pyro-agent-%d", (int)getpid());
	struct agent a = { .machine = MACHINE_INIT, .cgroup_fd = -EBADF };
	int r = name ? start_plain(&a, name) : -ENOMEM;

	if (r >= 0)
		r = loop_run(a.loop);
	if (r >= 0)
		r = a.result;
	if (r < 0)
		report("serve", r);
	if (a.serve)
		serve_kill_commands(a.serve);
	serve_free(a.serve);
	loop_free(a.loop);
	if (a.cgroup_fd >= 0)
		cgroup_root_end(a.cgroup_fd, name);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static void usage(FILE *to)
{
	(void)fputs("usage: pyro-agent --version\n"
		    "       pyro-agent --serve-fd N [--workspace DIR]\n"
		    "The guest agent of pyro; as PID 1 it takes no arguments.\n",
		to);
}

/* Returns 1 to continue; else the process exits with *ret_status. */
static int parse_args(int argc, char **argv, int *ret_status)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'v' },
		{ "serve-fd", required_argument, NULL, 's' },
		{ "workspace", required_argument, NULL, 'w' },
		{ 0 },
	};
	uint64_t fd;
	int c;

	*ret_status = EXIT_SUCCESS;
	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (c == 'v') {
			(void)printf(
				"pyro-agent %s (protocol %d)\n", PYRO_VERSION, AGENT_PROTOCOL_MAX);
			return 0;
		}
		if (c == 'h') {
			usage(stdout);
			return 0;
		}
		if (c == 'w')
			arg_workspace = optarg;
		if (c == 's' && parse_u64(optarg, 0, 1U << 20, &fd) >= 0)
			arg_serve_fd = (int)fd;
		if (c == '?')
			break;
	}
	if (c < 0 && optind == argc && arg_serve_fd >= 0)
		return 1;
	usage(stderr);
	*ret_status = 2;
	return 0;
}

int main(int argc, char **argv)
{
	int status;

	if (getpid() != 1 && argc == 4 && streq(argv[1], "-q") && streq(argv[2], "--"))
		return module_main(argv[3]);
	/* The kernel passes unknown words of its command line to PID 1. */
	if (getpid() == 1 && (argc <= 1 || !startswith(argv[1], "--")))
		run_guest();
	if (parse_args(argc, argv, &status) <= 0)
		return status;
	return run_plain();
}
