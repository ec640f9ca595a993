/* SPDX-License-Identifier: MIT */
/*
 * pyrod: options, signals, the socket (systemd's or its own), readiness, the watchdog, and the
 * loop. What must stay true: it reports readiness only when it serves; SIGTERM and SIGINT end it
 * cleanly; SIGHUP opens the log file and reads the configuration again, and an invalid one is
 * refused without effect; it feeds the watchdog only while the loop runs and the store thread
 * answers; a failure to start is one sentence with its fix, on stderr and in the journal.
 */

#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "daemon/config.h"
#include "daemon/crash.h"
#include "daemon/log.h"
#include "daemon/manager.h"
#include "daemon/rpc/server.h"
#include "daemon/store/store.h"
#include "proto/host.h"

#define SYSTEM_USER   "pyro"
#define NOFILE_WANTED 8192 /* the value of LimitNOFILE= in pyrod.service */

enum {
	ARG_VERSION = 256,
	ARG_CHECK_CONFIG,
	ARG_SOCKET,
	ARG_CONFIG,
	ARG_SYSTEM,
	ARG_USER,
	ARG_LEVEL,
	ARG_DETACH
};

static int arg_system = -1; /* -1: decided by the user it runs as */
static bool arg_check_config;
static bool arg_detach;
static const char *arg_socket;
static const char *arg_config;

/* The watchdog's timer; waiting: the store has not answered yet. */
struct watchdog {
	struct manager *manager; /* borrowed */
	sd_event_source *timer;  /* owned */
	uint64_t interval_usec;
	bool waiting;
};

static void help(void)
{
	printf("pyrod [OPTIONS]\n\n"
	       "Owns microVMs and serves them over one UNIX socket.\n\n"
	       "  --system           serve group pyro (default for root and user pyro)\n"
	       "  --user             serve only the user it runs as (default for others)\n"
	       "  --socket PATH      listen at PATH\n"
	       "  --config FILE      read FILE instead of pyrod.conf and conf.d\n"
	       "  --detach           return when it serves; it continues in the background\n"
	       "                     and logs to pyrod.log in its state directory\n"
	       "  --check-config     check the configuration and exit\n"
	       "  --log-level LEVEL  error, warning, info (default) or debug\n"
	       "  --version          print the version\n"
	       "  --help             print this\n\n"
	       "Example: pyrod --user --socket /tmp/pyro/pyrod.sock --detach\n");
}

static int parse_level(const char *text)
{
	static const struct {
		const char *name;
		int level;
	} levels[] = {
		{ "error", LOG_ERR },
		{ "warning", LOG_WARNING },
		{ "info", LOG_INFO },
		{ "debug", LOG_DEBUG },
	};
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
		if (streq(levels[i].name, text)) {
			log_set_level(levels[i].level);
			return 0;
		}
	fprintf(stderr, "pyrod: --log-level %s: use error, warning, info or debug\n", text);
	return -EINVAL;
}

/* Returns 1 to continue, 0 if done (--help), -EINVAL for wrong usage. */
static int parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "system", no_argument, NULL, ARG_SYSTEM },
		{ "user", no_argument, NULL, ARG_USER },
		{ "socket", required_argument, NULL, ARG_SOCKET },
		{ "config", required_argument, NULL, ARG_CONFIG },
		{ "check-config", no_argument, NULL, ARG_CHECK_CONFIG },
		{ "detach", no_argument, NULL, ARG_DETACH },
		{ "log-level", required_argument, NULL, ARG_LEVEL },
		{ "version", no_argument, NULL, ARG_VERSION },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;
	while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
		switch (c) {
		case 'h': help(); return 0;
		case ARG_VERSION: printf("pyrod %s\n", PYRO_VERSION); return 0;
		case ARG_SYSTEM: arg_system = 1; break;
		case ARG_USER: arg_system = 0; break;
		case ARG_SOCKET: arg_socket = optarg; break;
		case ARG_CONFIG: arg_config = optarg; break;
		case ARG_CHECK_CONFIG: arg_check_config = true; break;
		case ARG_DETACH: arg_detach = true; break;
		case ARG_LEVEL:
			if (parse_level(optarg) < 0)
				return -EINVAL;
			break;
		default: fprintf(stderr, "pyrod: try --help\n"); return -EINVAL;
		}
	if (optind < argc) {
		fprintf(stderr, "pyrod: unexpected argument %s; try --help\n", argv[optind]);
		return -EINVAL;
	}
	return 1;
}

static bool system_by_default(void)
{
	if (getuid() == 0)
		return true;
	const struct passwd *pw = getpwnam(SYSTEM_USER);
	return pw && pw->pw_uid == getuid();
}

/*
 * --detach: forks; the child becomes the daemon in a new session and gets the pipe in which it
 * reports that it serves. The parent waits until the daemon serves or has failed, and exits here
 * with the status. Called before threads exist.
 */
static int detach(void)
{
	int ready[2];
	if (pipe2(ready, O_CLOEXEC) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		(void)close(ready[0]);
		return setsid() < 0 ? -errno : ready[1];
	}
	(void)close(ready[1]);
	char said;
	_exit(read(ready[0], &said, 1) == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* Replaces the terminal by /dev/null and the log file. */
static int detach_terminal(const struct manager *m)
{
	_cleanup_free_ char *path = str_printf("%s/pyrod.log", m->state_dir);
	if (!path)
		return -ENOMEM;
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	_cleanup_close_ int log =
		open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (null < 0 || log < 0)
		return -errno;
	if (dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
		dup2(log, STDERR_FILENO) < 0)
		return -errno;
	log_init("pyrod");
	return 0;
}

/* The signals of a fault; systemd's watchdog sends ABRT. */
static const int fatal_signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP,
	SIGQUIT, SIGXCPU, SIGXFSZ, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF };

/* Writes one line, then takes the signal's default action. Async-signal-safe calls only. */
static void on_fatal(int signo)
{
	char line[] = "pyrod: ended by signal 00\n";
	line[sizeof(line) - 4] = (char)('0' + signo / 10 % 10);
	line[sizeof(line) - 3] = (char)('0' + signo % 10);
	(void)!write(STDERR_FILENO, line, sizeof(line) - 1);
	(void)raise(signo); /* SA_RESETHAND: unblocked when this returns */
}

static int watch_fatal_signals(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
		struct sigaction sa = { .sa_handler = on_fatal, .sa_flags = (int)SA_RESETHAND },
				 old;
		/* Keep the handler of a sanitizer. */
		if (sigaction(fatal_signals[i], NULL, &old) < 0 ||
			(old.sa_handler == SIG_DFL && sigaction(fatal_signals[i], &sa, NULL) < 0))
			return -errno;
	}
	return 0;
}

static void report(const struct error *err)
{
	log_full(LOG_ERR, 0, NULL, "%s%s%s%s%s%s", err->message ? err->message : "cannot start",
		err->cause ? ": " : "", err->cause ? err->cause : "", err->fix ? " (fix: " : "",
		err->fix ? err->fix : "", err->fix ? ")" : "");
}

/* Opens 0, 1 and 2 if they are closed, so that no other descriptor gets these numbers. */
static int open_stdio(void)
{
	int fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO)
		fd = open("/dev/null", O_RDWR);
	if (fd < 0)
		return -errno;
	return close(fd) < 0 ? -errno : 0;
}

/* 256 connections and the sockets of each machine need more than a shell's limit of 1024
 * (getrlimit(2)). */
static int raise_file_limit(void)
{
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return -errno;
	l.rlim_cur = MAX_OF(l.rlim_cur, MIN_OF(l.rlim_max, (rlim_t)NOFILE_WANTED));
	return setrlimit(RLIMIT_NOFILE, &l) < 0 ? -errno : 0;
}

/* SIGTERM and SIGINT end the loop, SIGHUP reloads; they are blocked before the first thread
 * starts. */
static int block_signals(void)
{
	const struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigset_t set;
	if (sigaction(SIGPIPE, &ignore, NULL) < 0 || sigemptyset(&set) < 0 ||
		sigaddset(&set, SIGTERM) < 0 || sigaddset(&set, SIGINT) < 0 ||
		sigaddset(&set, SIGHUP) < 0 || sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	return 0;
}

static void notify_ready(const struct manager *m)
{
	(void)sd_notifyf(false, "READY=1\nSTATUS=%s",
		m->degraded.set ? "Degraded: only doctor is served" : "Serving");
}

/* systemd.service(5): MONOTONIC_USEC distinguishes this reload from a previous one. */
static int on_hangup(
	_unused_ sd_event_source *s, _unused_ const struct signalfd_siginfo *si, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct manager *m = userdata;
	int r = log_reopen();
	if (r < 0)
		log_warning_errno(r, "cannot reopen pyrod.log in %s", m->state_dir);
	(void)sd_notifyf(false, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_usec());
	if (manager_reload(m, &err) < 0) {
		(void)error_prefix(&err, "the configuration is unchanged");
		report(&err);
	} else {
		log_info("configuration reloaded");
	}
	notify_ready(m);
	return 0;
}

static int watch_signals(struct manager *m)
{
	static const struct {
		int number;
		sd_event_signal_handler_t handler;
	} signals[] = {
		{ SIGTERM, NULL }, /* NULL: ends the loop */
		{ SIGINT, NULL },
		{ SIGHUP, on_hangup },
	};
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		/* Without a handler, userdata is the result of the loop. */
		int r = sd_event_add_signal(m->event, NULL, signals[i].number, signals[i].handler,
			signals[i].handler ? m : NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Returns the one socket passed by systemd, or -EBADF if it passes none. */
static int activated_socket(int *ret, struct error *err)
{
	int n = sd_listen_fds(true);
	*ret = -EBADF;
	if (n < 0)
		return error_set_errno(
			err, ERROR_INTERNAL, n, NULL, "cannot take systemd's socket");
	if (n == 0)
		return 0;
	if (n > 1 || sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_STREAM, 1, NULL, 0) <= 0)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"give pyrod.socket exactly one ListenStream= with a path",
			"systemd passes %d descriptors that are not one UNIX stream socket", n);
	*ret = SD_LISTEN_FDS_START;
	return 0;
}

/* Takes the socket's path from systemd's socket, for messages to clients. */
static int adopt_path(struct manager *m, int fd, struct error *err)
{
	struct sockaddr_un addr = { 0 };
	socklen_t len = sizeof(addr) - 1; /* keeps a NUL at the end */
	if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0)
		return error_set_errno(err, ERROR_INTERNAL, -errno, NULL, "cannot name the socket");
	if (addr.sun_path[0] != '/')
		return 0;
	char *path = strdup(addr.sun_path);
	if (!path)
		return error_no_memory(err, "out of memory");
	free(m->socket_path);
	m->socket_path = path;
	return 0;
}

static void on_store_alive(int r, _unused_ const struct error *err, void *userdata)
{
	struct watchdog *w = userdata;
	w->waiting = false;
	if (r >= 0)
		(void)sd_notify(false, "WATCHDOG=1");
}

static int on_watchdog(sd_event_source *s, _unused_ uint64_t usec, void *userdata)
{
	struct watchdog *w = userdata;
	if (!w->manager->store)
		(void)sd_notify(false, "WATCHDOG=1");
	else if (!w->waiting) {
		int r = store_ping(w->manager->store, on_store_alive, w);
		w->waiting = r >= 0;
		if (r < 0)
			log_warning_errno(r, "cannot ping the store");
	}
	int r = sd_event_source_set_time_relative(s, w->interval_usec);
	return r < 0 ? r : sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

/* Both the loop and the store thread must be alive to feed it; sd_event_set_watchdog would check
 * the loop only. */
static int start_watchdog(struct watchdog *w, struct manager *m)
{
	uint64_t limit = 0;
	int r = sd_watchdog_enabled(false, &limit);
	if (r <= 0)
		return r;
	w->manager = m;
	w->interval_usec = limit / 3;
	return sd_event_add_time_relative(
		m->event, &w->timer, CLOCK_MONOTONIC, w->interval_usec, 0, on_watchdog, w);
}

static int on_tsc(_unused_ sd_event_source *s, _unused_ uint64_t usec, _unused_ void *userdata)
{
	(void)host_tsc_khz();
	return 0;
}

static int start(struct manager *m, struct watchdog *w, struct error *err)
{
	int fd;
	int r = watch_signals(m);
	if (r >= 0)
		r = start_watchdog(w, m);
	/* Starts the TSC measurement now, so that the first machine need not wait for it. */
	host_tsc_begin();
	if (r >= 0)
		r = sd_event_add_time_relative(
			m->event, NULL, CLOCK_MONOTONIC, HOST_TSC_USEC, 0, on_tsc, NULL);
	if (r < 0)
		return error_set_errno(
			err, ERROR_INTERNAL, r, NULL, "cannot prepare the event loop");
	r = activated_socket(&fd, err);
	if (r >= 0 && fd >= 0)
		r = adopt_path(m, fd, err);
	return r < 0 ? r : server_new(m, rpc_handlers, fd, &m->server, err);
}

/* ready: the pipe of detach(), or -EBADF. */
static int serve(bool system, int ready, struct error *err)
{
	_cleanup_(manager_freep) struct manager *m = NULL;
	struct watchdog watchdog = { .waiting = false };
	crash_init();
	int r = manager_new(system, arg_socket, arg_config, &m, err);
	if (r >= 0)
		r = start(m, &watchdog, err);
	if (r < 0)
		return r;
	if (ready >= 0) {
		r = detach_terminal(m);
		if (r < 0)
			return error_set_errno(err, ERROR_INTERNAL, r, NULL,
				"cannot log to pyrod.log in %s", m->state_dir);
	}
	_cleanup_free_ char *log_file = str_printf("%s/pyrod.log", m->state_dir);
	if (!log_file || log_keep_file(log_file) < 0)
		return error_no_memory(err, "out of memory");
	log_info("pyrod %s serves %s at %s", PYRO_VERSION, system ? "the system" : "its user",
		m->socket_path);
	notify_ready(m);
	if (ready >= 0)
		r = write_all(ready, "R", 1);
	if (r < 0)
		log_warning_errno(r, "cannot report to the process that started pyrod");
	r = sd_event_loop(m->event);
	(void)sd_notify(false, "STOPPING=1");
	sd_event_source_disable_unref(watchdog.timer);
	log_info("pyrod is stopping");
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "the event loop failed");
	return 0;
}

static int check_config(bool system, struct error *err)
{
	_cleanup_(config_freep) struct config *c = NULL;
	int r = config_load(system, arg_config, &c, err);
	if (r < 0)
		return r;
	for (char **file = c->files; file && *file; file++)
		printf("%s: OK\n", *file);
	if (!c->files)
		printf("no configuration file: the defaults are used\n");
	return 0;
}

int main(int argc, char **argv)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	if (open_stdio() < 0)
		return EXIT_FAILURE;
	log_init("pyrod");
	int r = parse_options(argc, argv);
	if (r <= 0)
		return r < 0 ? 2 : EXIT_SUCCESS;
	(void)umask(0077);
	bool system = arg_system < 0 ? system_by_default() : arg_system > 0;
	_cleanup_close_ int ready = -EBADF;
	if (arg_detach && !arg_check_config)
		r = ready = detach();
	if (r >= 0)
		r = block_signals();
	if (r >= 0)
		r = watch_fatal_signals();
	if (r >= 0)
		r = raise_file_limit();
	if (r < 0)
		(void)error_set_errno(&err, ERROR_INTERNAL, r, NULL, "cannot prepare the process");
	else
		r = arg_check_config ? check_config(system, &err) : serve(system, ready, &err);
	if (r < 0) {
		report(&err);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
