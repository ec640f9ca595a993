/* SPDX-License-Identifier: MIT */
/*
 * The listening socket and the list of clients. Made by main.c before the loop runs.
 *
 * What must stay true:
 * - a client's identity comes from the kernel at accept (SO_PEERCRED, SO_PEERGROUPS) and is not
 *   read again;
 * - connections are limited per uid and in all;
 * - running out of descriptors pauses accepting, without a busy loop;
 * - a refused client gets the reason;
 * - a live daemon's socket is never taken over.
 */

#include "daemon/rpc/server.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "daemon/account.h"
#include "daemon/log.h"
#include "daemon/rpc/conn.h"
#include "proto/limits.h"

#define LISTEN_BACKLOG    128
#define ACCEPT_PAUSE_USEC USEC_PER_SEC
#define ACCEPTS_PER_RUN   16
#define GROUPS_MAX        65536 /* NGROUPS_MAX of Linux */
#define GROUP_USERS       "pyro"
#define GROUP_ADMINS      "pyro-admin"

struct server {
	struct manager *manager;         /* borrowed: owns this */
	const call_handler_fn *handlers; /* static: of each method */
	int fd;                          /* owned */
	int reserve;                 /* owned: closed to refuse a client when descriptors run out */
	char *bound;                 /* owned or NULL: the path to unlink at the end */
	sd_event_source *io, *pause; /* owned */
	TAILQ_HEAD(, conn) conns;
	struct call_list detached;  /* owned */
	struct json_parser *parser; /* owned */
	char *discover;             /* owned; NULL until first requested */
	size_t discover_n;
	size_t n_conns;
	bool has_admins;
	gid_t admins;
};

struct manager *server_manager(struct server *s)
{
	return s->manager;
}

const call_handler_fn *server_handlers(struct server *s)
{
	return s->handlers;
}

struct json_parser *server_parser(struct server *s)
{
	return s->parser;
}

int server_discover(struct server *s, const char **ret, size_t *ret_n)
{
	_cleanup_json_ json_object *o = NULL;
	size_t n = 0;
	if (!s->discover) {
		int r = api_openrpc(&o);
		if (r < 0)
			return r;
		const char *text = json_object_to_json_string_length(
			o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
		s->discover = text ? strdup(text) : NULL;
		if (!s->discover)
			return -ENOMEM;
		s->discover_n = n;
	}
	*ret = s->discover;
	*ret_n = s->discover_n;
	return 0;
}

struct call_list *server_detached(struct server *s)
{
	return &s->detached;
}

size_t server_connections(struct server *s)
{
	return s->n_conns;
}

static size_t connections_of(const struct server *s, uid_t account)
{
	size_t n = 0;
	struct conn *c;
	TAILQ_FOREACH (c, &s->conns, entry)
		n += c->peer.account == account;
	return n;
}

/* Updates the number of connections in each connection of the account. */
static void notify_siblings(struct server *s, uid_t account)
{
	size_t n = connections_of(s, account);
	struct conn *c;
	TAILQ_FOREACH (c, &s->conns, entry)
		if (c->peer.account == account)
			c->siblings = n;
}

void server_log_client(uid_t uid, pid_t pid, const char *what, const char *why)
{
	log_uid(LOG_INFO, 0, uid, "client uid=%u pid=%d %s: %s", uid, pid, what, why);
}

void server_add(struct server *s, struct conn *c)
{
	TAILQ_INSERT_TAIL(&s->conns, c, entry);
	s->n_conns++;
	notify_siblings(s, c->peer.account);
}

void server_remove(struct server *s, struct conn *c)
{
	TAILQ_REMOVE(&s->conns, c, entry);
	s->n_conns--;
	notify_siblings(s, c->peer.account);
}

void server_rest(struct server *s, uid_t account, uint64_t until_usec)
{
	struct conn *c;

	TAILQ_FOREACH (c, &s->conns, entry)
		if (c->peer.account == account)
			c->not_before = until_usec;
}

void server_recount(struct server *s)
{
	struct conn *c;

	TAILQ_FOREACH (c, &s->conns, entry)
		c->peer.account = accounts_find(s->manager->accounts, c->peer.uid);
	TAILQ_FOREACH (c, &s->conns, entry)
		c->siblings = connections_of(s, c->peer.account);
}

/* True if the peer had the group when it connected. */
static bool peer_in_group(int fd, gid_t primary, gid_t gid)
{
	if (primary == gid)
		return true;
	socklen_t size = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &size) == 0 || errno != ERANGE ||
		size > GROUPS_MAX * sizeof(gid_t))
		return false; /* no supplementary groups */
	_cleanup_free_ gid_t *groups = malloc(size);
	if (!groups || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
		return false;
	for (size_t i = 0; i < size / sizeof(gid_t); i++)
		if (groups[i] == gid)
			return true;
	return false;
}

static int read_peer(const struct server *s, int fd, struct peer *ret)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	*ret = (struct peer){ .uid = cred.uid, .pid = cred.pid };
	accounts_refresh(s->manager->accounts);
	ret->account = accounts_find(s->manager->accounts, cred.uid);
	ret->admin = cred.uid == 0 || cred.uid == getuid() ||
		     (s->has_admins && peer_in_group(fd, cred.gid, s->admins));
	return 0;
}

/* Sends one line with the reason, as far as a fresh socket's buffer takes it. */
static void send_error(int fd, const struct error *err)
{
	_cleanup_json_ json_object *o = json_object_new_object(), *e = json_error_object(err);
	if (!o || !e || json_add_str(o, "jsonrpc", "2.0") < 0 || json_add(o, "id", NULL) < 0 ||
		json_add(o, "error", TAKE_PTR(e)) < 0)
		return;
	_cleanup_free_ char *line =
		str_printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	if (line)
		(void)send(fd, line, strlen(line), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Checks whether this peer may connect now. */
static int admit(const struct server *s, const struct peer *p, struct error *err)
{
	if (!s->manager->system && p->uid != getuid() && p->uid != 0)
		return error_set(err, ERROR_PERMISSION_DENIED, NULL, "pyrod --user --detach",
			"this pyrod serves uid %u, not uid %u", getuid(), p->uid);
	size_t places = p->admin ? LIMIT_CONNECTIONS : LIMIT_CONNECTIONS - LIMIT_CONNECTIONS_ADMIN;
	if (s->n_conns >= places)
		return error_set(err, ERROR_QUOTA_EXCEEDED,
			p->admin ? NULL
				 : "the remaining connections are for root and group pyro-admin",
			"close a connection and try again",
			"pyrod has %zu connections, which is its limit", s->n_conns);
	char who[ACCOUNT_TEXT_SIZE];
	if (connections_of(s, p->account) >= LIMIT_CONNECTIONS_UID)
		return error_set(err, ERROR_QUOTA_EXCEEDED, NULL,
			"close a connection and try again", "%s %d connections, which is the limit",
			account_has(p->account, who), LIMIT_CONNECTIONS_UID);
	return 0;
}

/* Accepts the client. True when a connection has taken over fd. */
static bool welcome(struct server *s, int fd)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct peer peer = { .uid = (uid_t)-1 };
	struct conn *conn;
	int r = receivers_prepare(fd);
	if (r >= 0)
		r = read_peer(s, fd, &peer);
	if (r < 0) {
		log_warning_errno(r, "refused a client without credentials");
		return false;
	}
	if (admit(s, &peer, &err) < 0) {
		server_log_client(
			peer.uid, peer.pid, "refused", err.message ? err.message : "out of memory");
		send_error(fd, &err);
		return false;
	}
	r = conn_new(s, fd, &peer, &conn);
	if (r < 0) {
		(void)error_set_errno(
			&err, error_code_for_errno(r), r, NULL, "cannot serve this connection");
		log_uid(LOG_WARNING, r, peer.uid, "cannot serve client uid=%u pid=%d", peer.uid,
			peer.pid);
		send_error(fd, &err);
		return false;
	}
	return true;
}

/* Handles a lack of descriptors: refuses one client with the reserve, then waits a second. */
static void starved(struct server *s, int r)
{
	log_warning_errno(r, "cannot accept clients for a second");
	s->reserve = fd_close(s->reserve);
	int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		_cleanup_error_ struct error err = ERROR_INIT;
		(void)error_set(&err, ERROR_QUOTA_EXCEEDED, "its limit of open files is reached",
			"try again in a second, or raise LimitNOFILE",
			"pyrod has no descriptors left");
		send_error(fd, &err);
		receivers_close(s->manager->receivers, fd, true);
	}
	s->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (sd_event_source_set_time_relative(s->pause, ACCEPT_PAUSE_USEC) >= 0 &&
		sd_event_source_set_enabled(s->pause, SD_EVENT_ONESHOT) >= 0)
		(void)sd_event_source_set_enabled(s->io, SD_EVENT_OFF);
}

static int on_accept(
	_unused_ sd_event_source *src, int listen_fd, _unused_ uint32_t revents, void *userdata)
{
	struct server *s = userdata;
	for (int i = 0; i < ACCEPTS_PER_RUN; i++) {
		int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			if (!welcome(s, fd))
				receivers_close(s->manager->receivers, fd, false);
			continue;
		}
		int r = -errno;
		if (r == -EMFILE || r == -ENFILE || r == -ENOBUFS || r == -ENOMEM)
			starved(s, r);
		else if (r != -EAGAIN && r != -EINTR && r != -ECONNABORTED)
			log_warning_errno(r, "cannot accept a client");
		break;
	}
	return 0;
}

static int on_pause_end(_unused_ sd_event_source *src, _unused_ uint64_t usec, void *userdata)
{
	struct server *s = userdata;
	(void)sd_event_source_set_enabled(s->io, SD_EVENT_ON);
	return 0;
}

/* Returns -EADDRINUSE when a process listens at the path. *ret_pid is its pid, or 0 if none is
 * known. */
static int probe_path(const struct sockaddr_un *addr, pid_t *ret_pid)
{
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN) {
		/* When systemd listens, the pid is 1. */
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid > 1)
			*ret_pid = peer.pid;
		return -EADDRINUSE;
	}
	return errno == ENOENT || errno == ECONNREFUSED ? 0 : -errno;
}

/* Removes the socket of a dead daemon. Any other file at the path is an error. */
static int clear_path(const struct sockaddr_un *addr, struct error *err)
{
	struct stat st;
	const char *path = addr->sun_path;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0
				       : error_set_errno(err, ERROR_PERMISSION_DENIED, -errno,
						 "give --socket a path in a directory that you own",
						 "cannot examine %s", path);
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, ERROR_INVALID_ARGUMENT, "it is not a socket",
			"remove it or give --socket another path", "%s already exists", path);
	pid_t pid = 0;
	int r = probe_path(addr, &pid);
	if (r == -EADDRINUSE) {
		char fix[80] = "use the running pyrod, or stop it first";
		if (pid > 0)
			(void)snprintf(fix, sizeof(fix),
				"use the running pyrod, or stop it first: kill %d", pid);
		return error_set(
			err, ERROR_WRONG_STATE, NULL, fix, "another pyrod listens at %s", path);
	}
	if (r < 0)
		return error_set_errno(err, ERROR_PERMISSION_DENIED, r,
			"give --socket another path", "cannot determine whether %s is in use",
			path);
	if (unlink(path) < 0 && errno != ENOENT)
		return error_set_errno(err, ERROR_PERMISSION_DENIED, -errno, "remove it by hand",
			"cannot remove the unused socket %s", path);
	return 0;
}

/* System mode: sets 0660 and group pyro, if that exists. Without it only root can connect. */
static int open_to_group(const struct server *s, const char *path)
{
	if (!s->manager->system)
		return chmod(path, 0600) < 0 ? -errno : 0;
	const struct group *gr = getgrnam(GROUP_USERS);
	if (gr && gr->gr_gid != getegid() && chown(path, (uid_t)-1, gr->gr_gid) < 0)
		return -errno;
	return chmod(path, 0660) < 0 ? -errno : 0;
}

/* Creates the socket's folder, but not its parents. */
static int make_folder(const struct server *s, const char *path, struct error *err)
{
	const mode_t mode = s->manager->system ? 0755 : 0700;
	_cleanup_free_ char *dir = strdup(path), *fix = NULL;
	if (!dir)
		return error_no_memory(err, "out of memory");
	char *slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return 0;
	*slash = '\0';
	if (mkdir(dir, mode) == 0) /* overrides the umask */
		return chmod(dir, mode) < 0 ? -errno : 0;
	int r = -errno;
	if (r == -EEXIST)
		return 0;
	_cleanup_free_ char *quoted = shell_quote(dir);
	if (r == -ENOENT && quoted)
		fix = str_printf("mkdir -p %s, or give --socket another path", quoted);
	return error_set_errno(err, ERROR_PERMISSION_DENIED, r,
		fix ? fix : "give --socket a path in a directory that you own",
		"cannot create the directory %s", dir);
}

static int bind_path(struct server *s, const char *path, struct error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(addr.sun_path))
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "give --socket a shorter path",
			"the socket path %s is longer than %zu bytes", path,
			sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	int r = make_folder(s, path, err);
	if (r >= 0)
		r = clear_path(&addr, err);
	if (r < 0)
		return r;
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return error_set_errno(err, ERROR_INTERNAL, -errno, NULL, "cannot create a socket");
	if (bind(s->fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return error_set_errno(err, ERROR_PERMISSION_DENIED, -errno,
			"give --socket a path in a directory that you own", "cannot listen at %s",
			path);
	s->bound = strdup(path);
	if (!s->bound)
		return error_no_memory(err, "out of memory");
	r = open_to_group(s, path);
	if (r < 0)
		return error_set_errno(err, ERROR_PERMISSION_DENIED, r,
			"start pyrod as root or as a member of group pyro",
			"cannot give %s to group pyro", path);
	if (listen(s->fd, LISTEN_BACKLOG) < 0)
		return error_set_errno(
			err, ERROR_INTERNAL, -errno, NULL, "cannot listen at %s", path);
	return 0;
}

static int add_sources(struct server *s)
{
	sd_event *event = s->manager->event;
	int r = sd_event_add_io(event, &s->io, s->fd, EPOLLIN, on_accept, s);
	if (r < 0)
		return r;
	r = sd_event_add_time_relative(
		event, &s->pause, CLOCK_MONOTONIC, ACCEPT_PAUSE_USEC, 0, on_pause_end, s);
	if (r < 0)
		return r;
	r = sd_event_source_set_enabled(s->pause, SD_EVENT_OFF);
	if (r < 0)
		return r;
	s->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return s->reserve < 0 ? -errno : 0;
}

int server_new(struct manager *m, const call_handler_fn *handlers, int listen_fd,
	struct server **ret, struct error *err)
{
	_cleanup_(server_freep) struct server *s = calloc(1, sizeof(*s));
	if (!s)
		return error_no_memory(err, "out of memory");
	*s = (struct server){
		.manager = m, .handlers = handlers, .fd = listen_fd, .reserve = -EBADF
	};
	TAILQ_INIT(&s->conns);
	TAILQ_INIT(&s->detached);
	const struct group *gr =
		getgrnam(GROUP_ADMINS); /* before the loop runs, since NSS may block */
	if (gr) {
		s->has_admins = true;
		s->admins = gr->gr_gid;
	}
	int r = json_parser_new(&json_limits_request, &s->parser);
	if (r < 0)
		return error_no_memory(err, "out of memory");
	if (listen_fd < 0)
		r = bind_path(s, m->socket_path, err);
	else if (fcntl(listen_fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		r = error_set_errno(
			err, ERROR_INTERNAL, -errno, NULL, "cannot use the socket of systemd");
	if (r < 0)
		return r;
	r = add_sources(s);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "cannot watch the socket");
	*ret = TAKE_PTR(s);
	return 0;
}

void server_stop(struct server *s)
{
	struct conn *c;
	s->io = sd_event_source_disable_unref(s->io);
	s->pause = sd_event_source_disable_unref(s->pause);
	receivers_close_listener(s->manager->receivers, TAKE_FD(s->fd));
	if (s->bound && unlink(s->bound) < 0 && errno != ENOENT)
		log_warning_errno(-errno, "cannot remove %s", s->bound);
	free(TAKE_PTR(s->bound));
	while ((c = TAILQ_FIRST(&s->conns)))
		conn_free(c);
}

struct server *server_free(struct server *s)
{
	struct call *call;
	if (!s)
		return NULL;
	server_stop(s);
	while ((call = TAILQ_FIRST(&s->detached)))
		call_free(call);
	s->reserve = fd_close(s->reserve);
	json_parser_free(s->parser);
	free(s->discover);
	free(s);
	return NULL;
}
