/* SPDX-License-Identifier: MIT */
/*
 * The daemon's context object: its directories, its locks, and the subsystems in the order of their
 * dependencies. Created and freed by main.c. What must stay true: one daemon owns a state and a
 * cache directory (by locks that end with the process); no directory has a wider mode than 0700,
 * except the runtime directory of system mode; an unusable store degrades the daemon and does not
 * stop it.
 */

#include "daemon/manager.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

#include "daemon/account.h"
#include "daemon/config.h"
#include "daemon/core/core.h"
#include "daemon/machine/machine.h"
#include "daemon/image/confinement.h"
#include "daemon/image/environment.h"
#include "daemon/image/import-job.h"
#include "daemon/image/integrity.h"
#include "daemon/image/kernel.h"
#include "daemon/log.h"
#include "daemon/receiver.h"
#include "daemon/rpc/server.h"
#include "daemon/service.h"
#include "daemon/store/store.h"
#include "daemon/unit.h"
#include "daemon/writer.h"
#include "proto/host.h"

#define LOCK_TEXT_MAX  32
#define STATE_LOCK     "lock"
#define UID_NOBODY     65534 /* runs what needs no rights, if pyrod is root */
#define LOCK_WAIT_MSEC 1000
/* An orderly end: requests in progress are saved, receivers end. */
#define LOCK_STOP_WAIT_MSEC 30000
#define LOCK_STOPPING       "\nstopping\n" /* behind the pid */

/* Creates a directory with mode, and its parents with 0700 (by the umask). */
static int make_dirs(const char *path, mode_t mode)
{
	_cleanup_free_ char *copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	for (char *p = strchr(copy + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	if (mkdir(copy, 0700) < 0)
		return errno == EEXIST ? 0 : -errno;
	return chmod(copy, mode) < 0 ? -errno : 0;
}

/* The parent of the directories that the writer thread makes. */
static int make_transcripts(const struct manager *m)
{
	_cleanup_free_ char *path = str_printf("%s/transcripts", m->state_dir);

	return path ? make_dirs(path, 0700) : -ENOMEM;
}

static int make_place(const char *path, mode_t mode, const char *variable, struct error *err)
{
	struct stat st;
	char fix[160];
	(void)snprintf(fix, sizeof(fix),
		"make it a directory that the daemon's user owns, or set %s to another", variable);
	if (host_has_foreign_link(path))
		return error_set(err, ERROR_PERMISSION_DENIED,
			"the owner of the link can change its target", fix,
			"%s contains a symbolic link of another user", path);
	int r = make_dirs(path, mode);
	if (r < 0)
		return error_set_errno(
			err, ERROR_PERMISSION_DENIED, r, fix, "cannot create %s", path);
	if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return error_set(
			err, ERROR_INVALID_ARGUMENT, NULL, fix, "%s is not a directory", path);
	if (st.st_uid != geteuid())
		return error_set(err, ERROR_PERMISSION_DENIED, NULL, fix,
			"%s belongs to uid %u, not %u", path, st.st_uid, geteuid());
	return 0;
}

/* Returns a path from the environment, which must be absolute (for tests and uninstalled trees),
 * else the default. */
static int place(const char *variable, int (*fallback)(struct manager *m, char **ret),
	struct manager *m, char **ret, struct error *err)
{
	const char *given = getenv(variable);
	if (given && given[0] != '/' && given[0] != '\0')
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "give an absolute path",
			"%s is %.200s", variable, given);
	int r = 0;
	if (given && given[0])
		*ret = strdup(given);
	else
		r = fallback(m, ret);
	if (r >= 0 && !*ret)
		r = -ENOMEM;
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, "set it in the environment",
			"no default path for %s", variable);
	return 0;
}

static int default_state(struct manager *m, char **ret)
{
	return host_state_dir(m->system, ret);
}

static int default_runtime(struct manager *m, char **ret)
{
	return host_runtime_dir(m->system, getuid(), ret);
}

static int default_cache(struct manager *m, char **ret)
{
	return host_environment_cache(m->system, ret);
}

static int default_libexec(_unused_ struct manager *m, char **ret)
{
	*ret = strdup(PYRO_LIBEXECDIR);
	return *ret ? 0 : -ENOMEM;
}

static int default_agent(_unused_ struct manager *m, char **ret)
{
	*ret = strdup(PYRO_LIBEXECDIR "/pyro-agent");
	return *ret ? 0 : -ENOMEM;
}

static int find_socket(struct manager *m, const char *given, struct error *err)
{
	if (given && given[0] != '/')
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "give an absolute path",
			"--socket is %.200s", given);
	m->socket_path = given ? strdup(given) : str_printf("%s/pyrod.sock", m->runtime_dir);
	return m->socket_path ? 0 : error_no_memory(err, "out of memory");
}

static int find_places(struct manager *m, const char *socket_path, struct error *err)
{
	const struct {
		const char *variable;
		int (*fallback)(struct manager *m, char **ret);
		char **ret;
	} places[] = {
		{ "PYRO_STATE_DIR", default_state, &m->state_dir },
		{ "PYRO_RUNTIME_DIR", default_runtime, &m->runtime_dir },
		{ "PYRO_ENVIRONMENT_CACHE_DIR", default_cache, &m->cache_dir },
		{ "PYRO_LIBEXEC_DIR", default_libexec, &m->libexec_dir },
		{ "PYRO_AGENT", default_agent, &m->agent_path },
	};
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		int r = place(places[i].variable, places[i].fallback, m, places[i].ret, err);
		if (r < 0)
			return r;
	}
	return find_socket(m, socket_path, err);
}

static int make_places(struct manager *m, struct error *err)
{
	int r = make_place(m->state_dir, 0700, "PYRO_STATE_DIR", err);
	if (r >= 0)
		r = make_place(m->runtime_dir, m->system ? 0755 : 0700, "PYRO_RUNTIME_DIR", err);
	if (r >= 0)
		r = make_place(m->cache_dir, 0700, "PYRO_ENVIRONMENT_CACHE_DIR", err);
	return r;
}

/* Takes a record lock: unlike with flock(2), a child forked just before the daemon was killed does
 * not inherit it. */
static int try_lock(int fd, pid_t *ret_holder, bool *ret_stopping)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char text[LOCK_TEXT_MAX] = "";
	if (fcntl(fd, F_SETLK, &l) == 0)
		return 0;
	if (errno != EACCES && errno != EAGAIN)
		return -errno;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	text[MAX_OF(n, 0)] = '\0';
	*ret_stopping = strstr(text, LOCK_STOPPING) != NULL;
	text[strspn(text, "0123456789")] = '\0';
	uint64_t pid = 0;
	*ret_holder = parse_u64(text, 1, INT32_MAX, &pid) < 0 ? 0 : (pid_t)pid;
	return -EWOULDBLOCK;
}

static void await_end(pid_t pid, int timeout_msec)
{
	_cleanup_close_ int fd = pid > 0 ? pidfd_open(pid, 0) : -EBADF;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	if (fd >= 0)
		(void)poll(&p, 1, timeout_msec);
}

/* Waits for the daemon that holds the lock: briefly, since one that was just killed holds it until
 * it has exited; longer if it has recorded that it stops. */
static int wait_for_lock(int fd, pid_t *ret_holder)
{
	bool stopping = false;
	int r = try_lock(fd, ret_holder, &stopping);
	if (r == -EWOULDBLOCK) {
		await_end(*ret_holder, LOCK_WAIT_MSEC);
		r = try_lock(fd, ret_holder, &stopping);
	}
	if (r == -EWOULDBLOCK && stopping) {
		await_end(*ret_holder, LOCK_STOP_WAIT_MSEC);
		r = try_lock(fd, ret_holder, &stopping);
	}
	return r;
}

static int open_lock(const char *path, int *ret, struct error *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_set_errno(err, ERROR_PERMISSION_DENIED, -errno,
			"make that directory writable for the daemon's user", "cannot open %s",
			path);
	*ret = fd;
	return 0;
}

/* A daemon that stops cleanly empties its lock file: a pid in it means that the previous daemon was
 * killed. */
static void note_previous_end(const char *dir, int lock_fd)
{
	char text[LOCK_TEXT_MAX];
	ssize_t n = pread(lock_fd, text, sizeof(text) - 1, 0);
	uint64_t pid;
	if (n <= 0)
		return;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (parse_u64(text, 1, INT32_MAX, &pid) >= 0)
		log_warning("the previous pyrod in %s (pid %" PRIu64
			    ") did not stop cleanly: it was killed, or the host went down",
			dir, pid);
}

/* Records the pid of this daemon in its lock file, and whether it stops. */
static int write_lock(int fd, bool stopping)
{
	char text[LOCK_TEXT_MAX];
	int n = snprintf(text, sizeof(text), "%d%s", getpid(), stopping ? LOCK_STOPPING : "\n");

	if (pwrite(fd, text, (size_t)n, 0) != n)
		return -ENOSPC;
	return ftruncate(fd, n) < 0 ? -errno : 0;
}

/* A daemon that waits for the lock then waits for the end of this one. */
static void record_stopping(int fd)
{
	int r = fd >= 0 ? write_lock(fd, true) : 0;

	if (r < 0)
		log_warning_errno(r, "cannot record that this daemon stops");
}

static void release_lock(int *fd)
{
	if (*fd >= 0 && ftruncate(*fd, 0) < 0)
		log_warning_errno(-errno, "cannot record that this daemon stopped cleanly");
	*fd = fd_close(*fd);
}

/* Returns the fix for a lock that another pyrod holds; pid is 0 if unknown. NULL when out of
 * memory. */
static char *stop_fix(const char *otherwise, pid_t pid)
{
	char how[32] = "";
	if (pid > 0)
		(void)snprintf(how, sizeof(how), ": kill %d", pid);
	return str_printf("%s, or stop that pyrod first%s", otherwise, how);
}

static int take_lock(
	const char *dir, const char *name, const char *otherwise, int *ret, struct error *err)
{
	_cleanup_free_ char *path = str_printf("%s/%s", dir, name);
	_cleanup_close_ int fd = -EBADF;
	pid_t holder = 0;
	if (!path)
		return error_no_memory(err, "out of memory");
	int r = open_lock(path, &fd, err);
	if (r < 0)
		return r;
	r = wait_for_lock(fd, &holder);
	if (r == -EWOULDBLOCK) {
		_cleanup_free_ char *fix = stop_fix(otherwise, holder);
		return error_set(err, ERROR_WRONG_STATE, NULL, fix,
			"another pyrod (pid %d) uses %s", holder, dir);
	}
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r,
			"put that directory on a file system with locks", "cannot lock %s", path);
	/* Also take flock(1)'s lock, by which scripts wait for the daemon's end. Nobody else holds
	 * it for long. */
	if (flock(fd, LOCK_EX) < 0)
		return error_set_errno(err, ERROR_INTERNAL, -errno,
			"put that directory on a file system with locks", "cannot lock %s", path);
	if (streq(name, STATE_LOCK))
		note_previous_end(dir, fd);
	r = write_lock(fd, false);
	if (r < 0) /* the disk may be full: the lock holds */
		log_warning_errno(r, "cannot write %s", path);
	*ret = TAKE_FD(fd);
	return 0;
}

/* Locks the cache too: another daemon's prune does not know our machines, nor its start our
 * pulls. */
static int take_locks(struct manager *m, struct error *err)
{
	int r = take_lock(m->state_dir, STATE_LOCK, "use the running pyrod", &m->lock_fd, err);
	if (r < 0)
		return r;
	return take_lock(m->cache_dir, ".lock",
		"set PYRO_ENVIRONMENT_CACHE_DIR to a directory of its own", &m->cache_lock_fd, err);
}

/* Returns the command that replaces this daemon by one with the same options; NULL when out of
 * memory. */
static char *restart_command(const struct manager *m)
{
	if (units_manage(!m->system, "pyrod.service"))
		return str_printf("systemctl%s restart pyrod", m->system ? "" : " --user");
	_cleanup_free_ char *at = shell_quote(m->socket_path);
	_cleanup_free_ char *config = shell_quote(m->config_path ? m->config_path : "");
	if (!at || !config)
		return NULL;
	return str_printf("kill %d && pyrod --%s --socket %s%s%s --detach", getpid(),
		m->system ? "system" : "user", at, m->config_path ? " --config " : "",
		m->config_path ? config : "");
}

/* Completes the fix "move the store away" with a restart, as one command line. */
static void complete_fix(const struct manager *m, struct error *err)
{
	if (!err->fix || !startswith(err->fix, STORE_ASIDE))
		return;
	_cleanup_free_ char *restart = restart_command(m);
	_cleanup_free_ char *line = restart ? str_printf("%s && %s", err->fix, restart) : NULL;
	_cleanup_free_ char *quoted = line ? shell_quote(line) : NULL;
	char *fix = NULL;
	if (m->system && quoted) /* only root and pyro may enter the state directory */
		fix = str_printf("sudo sh -c %s", quoted);
	else if (!m->system)
		fix = TAKE_PTR(line);
	if (!fix)
		return; /* out of memory: keep the first half of the fix */
	free(err->fix);
	err->fix = fix;
}

/* Opens the store. If it is unusable, the daemon serves only system.*, which report the error and
 * its fix. */
static int open_store(struct manager *m, struct error *err)
{
	_cleanup_free_ char *path = str_printf("%s/pyro.db", m->state_dir);
	_cleanup_error_ struct error failed = ERROR_INIT;
	if (!path)
		return error_no_memory(err, "out of memory");
	if (store_new(m->event, path, &m->store, &failed) >= 0)
		return 0;
	m->store = NULL;
	if (!failed.set)
		(void)error_internal(&failed, NULL, "cannot open %s", path);
	if (failed.code == ERROR_NO_MEMORY) {
		int r = -error_code_errno(failed.code);
		error_move(err, &failed);
		return r;
	}
	log_full(LOG_ERR, 0, NULL, "only doctor is served: %s%s%s",
		failed.message ? failed.message : "no store", failed.cause ? ": " : "",
		failed.cause ? failed.cause : "");
	complete_fix(m, &failed);
	error_move(&m->degraded, &failed);
	return 0;
}

/* If pyrod is a unit of the system, it starts programs as units too. (A user's service manager
 * sandboxes nothing: the launcher's own sandbox is all there is, forked or not.) */
static int open_launcher(struct manager *m, struct error *err)
{
	int r = 0;
	if (m->system && units_manage(false, "pyrod.service"))
		r = units_new(m->event, false, &m->units);
	if (r >= 0)
		r = launcher_new(m->event, m->runtime_dir, m->units, &m->launcher);
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r,
			"make it writable for the daemon's user", "cannot listen in %s/launch",
			m->runtime_dir);
	return 0;
}

static void on_accounts_changed(void *userdata)
{
	struct manager *m = userdata;

	if (m->receivers)
		receivers_recount(m->receivers, m->accounts);
	if (m->server)
		server_recount(m->server);
}

/* Needs import_uid. A user's own daemon serves that uid and root alone, so it asks nothing. */
static int open_accounts(struct manager *m, struct error *err)
{
	_cleanup_free_ char *program = str_printf("%s/pyro-subid", m->libexec_dir);
	struct accounts_service service = {
		.event = m->event,
		.nsswitch_path = "/etc/nsswitch.conf",
		.program = program,
	};
	int r;

	accounts_watch(m->accounts, on_accounts_changed, m);
	if (!m->system)
		return 0;
	if (!program)
		return error_no_memory(err, "out of memory");
	if (geteuid() == 0) {
		service.uid = m->import_uid ? m->import_uid : UID_NOBODY;
		service.gid = m->import_uid ? m->import_gid : UID_NOBODY;
	}
	r = accounts_use_service(m->accounts, &service);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL,
			"cannot prepare to ask for the owners of uids");
	return 0;
}

static int open_subsystems(struct manager *m, struct error *err)
{
	int r = open_launcher(m, err);
	if (r >= 0)
		r = open_store(m, err);
	if (r >= 0) {
		r = make_transcripts(m);
		if (r >= 0)
			r = writer_new(m->event, &m->writer);
		if (r < 0)
			error_set_errno(err, error_code_for_errno(r), r, "restart pyrod",
				"cannot start the writer thread");
	}
	import_job_user(m);
	if (r >= 0)
		r = open_accounts(m, err);
	if (r >= 0 && integrity_new(m, &m->integrity) < 0)
		r = error_no_memory(err, "out of memory");
	if (r >= 0)
		r = kernels_new(m, &m->kernels, err);
	if (r >= 0)
		r = environments_new(m, &m->environments, err);
	if (r >= 0)
		r = confinement_ask(m->environments);
	if (r >= 0 && m->store)
		r = core_start(m, err);
	if (r >= 0 && m->store)
		environments_set_in_use(m->environments, machines_use_digest, m->machines);
	return r;
}

int manager_new(bool system, const char *socket_path, const char *config_path, struct manager **ret,
	struct error *err)
{
	_cleanup_(manager_freep) struct manager *m = calloc(1, sizeof(*m));
	if (!m)
		return error_no_memory(err, "out of memory");
	m->system = system;
	m->started_usec = now_usec();
	m->lock_fd = m->cache_lock_fd = -EBADF;
	int r = sd_event_new(&m->event);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "cannot create an event loop");
	if (config_path) {
		m->config_path = strdup(config_path);
		if (!m->config_path)
			return error_no_memory(err, "out of memory");
	}
	r = receivers_new(m->event, &m->receivers);
	if (r >= 0)
		r = accounts_new("/etc/subuid", "/etc/passwd", &m->accounts);
	if (r < 0)
		return error_set_errno(
			err, ERROR_INTERNAL, r, NULL, "cannot prepare to take descriptors");
	log_set_accounts(m->accounts, accounts_find);
	r = config_load(system, config_path, &m->config, err);
	if (r >= 0)
		r = find_places(m, socket_path, err);
	if (r >= 0)
		r = make_places(m, err);
	if (r >= 0)
		r = take_locks(m, err);
	if (r >= 0)
		r = open_subsystems(m, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(m);
	return 0;
}

int manager_reload(struct manager *m, struct error *err)
{
	struct config *c = NULL;
	int r = config_load(m->system, m->config_path, &c, err);
	if (r < 0)
		return r;
	config_free(m->config);
	m->config = c;
	return 0;
}

struct manager *manager_free(struct manager *m)
{
	if (!m)
		return NULL;
	record_stopping(m->cache_lock_fd);
	record_stopping(m->lock_fd);
	if (m->server)
		server_stop(m->server); /* ends the calls before the subsystems that serve them */
	core_end(m);
	m->environments = environments_free(m->environments);
	m->kernels = kernels_free(m->kernels);
	m->integrity = integrity_free(m->integrity);
	m->server = server_free(m->server);
	m->writer = writer_free(m->writer); /* finishes what the commands' ends have queued */
	m->store = store_free(m->store);
	m->launcher = launcher_free(m->launcher);
	m->units = units_free(m->units);
	m->receivers = receivers_free(m->receivers);
	log_set_accounts(NULL, NULL);
	m->accounts = accounts_free(m->accounts);
	config_free(m->config);
	error_clear(&m->degraded);
	free(m->state_dir);
	free(m->runtime_dir);
	free(m->cache_dir);
	free(m->libexec_dir);
	free(m->agent_path);
	free(m->socket_path);
	free(m->config_path);
	sd_event_unref(m->event);
	release_lock(&m->cache_lock_fd);
	release_lock(&m->lock_fd);
	free(m);
	return NULL;
}
