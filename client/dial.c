/* SPDX-License-Identifier: MIT */
/*
 * Finds the daemon: the places of design.md section 2 in order, and for each way of failing one sentence
 * with the command that mends it. Called by libpyro's pyro_connect alone. An absent socket leads to the
 * next place. So does a system socket that refuses the caller, if the caller's own is there: the caller
 * cannot use the one and has made the other. Every other failure is an error, and a connection that was
 * lost is made again at the same place, or a caller would silently talk to another daemon than the one
 * that holds its work. Every wait is bounded.
 */
#include "dial.h"

#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include "client/pyro.h"
#include "proto/host.h"

#define SYSTEM_NAME "pyro" /* of the user the system's daemon runs as, and of its group */

void dialled_done(struct dialled *d)
{
	d->fd = fd_close(d->fd);
	free(TAKE_PTR(d->path));
}

int dial_path(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval timeout = { .tv_sec = DIAL_TIMEOUT_SEC };
	_cleanup_close_ int fd = -EBADF;
	int flags;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* connect() to a full backlog waits as long as SO_SNDTIMEO says, then gives EAGAIN (unix(7)). */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return TAKE_FD(fd);
}

static bool systemd_runs(void)
{
	return access("/run/systemd/system", F_OK) == 0;
}

/* The group whose members may use the socket: the socket's own, else pyro's. */
static const struct group *socket_group(const struct stat *st)
{
	const struct group *g = st->st_gid != 0 ? getgrgid(st->st_gid) : NULL;

	return g ? g : getgrnam(SYSTEM_NAME);
}

static bool group_has_user(const struct group *g, const struct passwd *pw)
{
	if (pw->pw_gid == g->gr_gid)
		return true;
	for (char **m = g->gr_mem; *m; m++)
		if (streq(*m, pw->pw_name))
			return true;
	return false;
}

/* Another user's own daemon serves nobody else, whatever its socket's mode. */
static bool is_anothers(const struct stat *st)
{
	const struct passwd *pw = getpwnam(SYSTEM_NAME);

	return st->st_uid != 0 && st->st_uid != getuid() && !(pw && pw->pw_uid == st->st_uid);
}

/* Adds a command for root to the line; it has to succeed for the next. */
static int add_command(char **line, const char *command, const char *group, const char *object)
{
	char *more = str_printf("%s%ssudo %s %s%s%s", *line ? *line : "", *line ? " && " : "",
		command, group ? group : "", group ? " " : "", object);

	if (!more)
		return -ENOMEM;
	free(*line);
	*line = more;
	return 0;
}

/* What is in the way, the nearest first, and the one line that mends it all. */
static int refused_because(const char *path, const struct stat *st, const struct group *g,
	const struct passwd *pw, char **ret_cause, char **ret_fix)
{
	const char *group = g ? g->gr_name : SYSTEM_NAME;
	bool member = g && group_has_user(g, pw), open = (st->st_mode & 0060) == 0060;
	_cleanup_free_ char *word = shell_quote(path);
	int r = word ? 0 : -ENOMEM;

	if (!g)
		r = r < 0 ? r : add_command(ret_fix, "groupadd --system", NULL, group);
	if (!g || st->st_gid != g->gr_gid)
		r = r < 0 ? r : add_command(ret_fix, "chgrp", group, word);
	if (!open)
		r = r < 0 ? r : add_command(ret_fix, "chmod", "g+rw", word);
	if (!member)
		r = r < 0 ? r : add_command(ret_fix, "usermod -aG", group, pw->pw_name);
	if (r < 0)
		return r;
	if (!*ret_fix)
		*ret_fix = str_printf("newgrp %s", group);
	*ret_cause =
		!g ? str_printf("it is for group %s, which does not exist", group)
		: !open || st->st_gid != g->gr_gid ? str_printf("it is not open to group %s", group)
		: member
			? str_printf("you are in group %s, but this login began before that", group)
			: str_printf("you are not in group %s (which counts from the next "
				     "login on)",
				  group);
	return *ret_fix && *ret_cause ? 0 : -ENOMEM;
}

static int set_refused(
	const char *path, const char *cause, const char *fix, const char *other, struct error *err)
{
	/* The rest is a comment to the shell into which the line is pasted. */
	_cleanup_free_ char *both = other ? str_printf("%s  # or: %s", fix, other) : NULL;

	return error_set(err, ERROR_PERMISSION_DENIED, cause, both ? both : fix,
		"no permission to use the socket %s", path);
}

/* other: what may be done as well as to get into the socket, or NULL. */
static int refused(const char *path, const char *other, struct error *err)
{
	_cleanup_free_ char *cause = NULL, *fix = NULL, *word = NULL;
	const struct passwd *pw;
	struct stat st;
	int r;

	if (stat(path, &st) < 0) {
		word = shell_quote(path);
		fix = word ? str_printf("namei -l %s", word) : NULL;
		if (!fix)
			return -ENOMEM;
		return set_refused(
			path, "a folder on the way to it may not be entered", fix, other, err);
	}
	if (is_anothers(&st))
		return set_refused(path, "it is another user's own daemon",
			other ? other
			      : "leave out --socket, --system and PYRO_SOCKET, to use a daemon of "
				"yours",
			NULL, err);
	pw = getpwuid(getuid());
	if (!pw)
		return set_refused(path, "this uid has no account, so it is in no group",
			"use pyro as a user with an account", other, err);
	r = refused_because(path, &st, socket_group(&st), pw, &cause, &fix);
	return r < 0 ? r : set_refused(path, cause, fix, other, err);
}

static const char *sudo(void)
{
	return geteuid() == 0 ? "" : "sudo ";
}

/* The command that starts the daemon of this place. *ret may be NULL: out of memory. */
static char *start_command(const struct dialled *d, bool restart)
{
	_cleanup_free_ char *word = NULL;

	if (systemd_runs() && d->system)
		return str_printf("%ssystemctl %s pyrod", sudo(), restart ? "restart" : "start");
	if (d->system)
		return str_printf("%spyrod --system --detach", sudo());
	if (d->user)
		return strdup("pyrod --user --detach");
	word = shell_quote(d->path);
	return word ? str_printf("pyrod --socket %s --detach", word) : NULL;
}

static int not_there(const struct dialled *d, int r, struct error *err)
{
	_cleanup_free_ char *fix = start_command(d, false);
	const char *cause = r == -ENOENT         ? "there is no such socket"
			    : r == -ECONNREFUSED ? "nobody listens there: the daemon has ended"
						 : strerror(-r);

	return error_set(
		err, ERROR_DAEMON_UNREACHABLE, cause, fix, "pyrod does not run at %s", d->path);
}

int dial_hung(const struct dialled *d, struct error *err)
{
	_cleanup_free_ char *start = start_command(d, true), *fix = NULL;
	struct ucred peer = { .pid = 0 };
	socklen_t size = sizeof(peer);

	if (d->fd >= 0 && getsockopt(d->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		peer.pid = 0;
	/* With socket activation the peer is systemd (1): never to be killed. */
	if (!(systemd_runs() && d->system) && peer.pid > 1)
		fix = str_printf("%skill -9 %d; %s", d->system ? sudo() : "", (int)peer.pid,
			start ? start : "pyrod");
	return error_set(err, ERROR_DAEMON_UNREACHABLE, "it hangs, or the host is very busy",
		fix ? fix : start, "pyrod at %s did not answer within %d s", d->path,
		DIAL_TIMEOUT_SEC);
}

/* Tries d->path. 0 done, -ENOENT nothing there (no error set), else the error. other: see refused(). */
static int try_place(struct dialled *d, const char *other, struct error *err)
{
	int r = dial_path(d->path);

	if (r >= 0) {
		d->fd = r;
		return 0;
	}
	if (r == -ENOENT || r == -ENOTDIR)
		return -ENOENT;
	if (r == -EACCES || r == -EPERM)
		return refused(d->path, other, err);
	if (r == -EAGAIN)
		return dial_hung(d, err);
	return not_there(d, r, err);
}

/* True if path is the standard place of that mode's daemon. */
static bool is_place(const char *path, bool system)
{
	_cleanup_free_ char *place = NULL;

	return host_socket_path(system, getuid(), &place) >= 0 && streq(path, place);
}

/* Absolute, so that the commands we print work from anywhere. */
static int absolute(const char *path, char **ret)
{
	char cwd[PATH_MAX];

	*ret = path[0] == '/' || !getcwd(cwd, sizeof(cwd)) ? strdup(path)
							   : str_printf("%s/%s", cwd, path);
	return *ret ? 0 : -ENOMEM;
}

static int dial_given(const char *path, struct dialled *ret, struct error *err)
{
	int r = absolute(path, &ret->path);

	if (r < 0)
		return r;
	ret->system = is_place(ret->path, true);
	ret->user = is_place(ret->path, false);
	r = try_place(ret, NULL, err);
	return r == -ENOENT ? not_there(ret, r, err) : r;
}

static int dial_system(struct dialled *ret, const char *other, struct error *err)
{
	int r = host_socket_path(true, getuid(), &ret->path);

	if (r < 0)
		return r;
	ret->system = true;
	return try_place(ret, other, err);
}

/* As pyrod itself chooses it, PYRO_RUNTIME_DIR first: a daemon started by us inherits that. */
static int user_socket(char **ret, struct error *err)
{
	const char *dir = getenv("PYRO_RUNTIME_DIR");
	int r;

	if (!dir || !dir[0]) {
		r = host_socket_path(false, getuid(), ret);
		if (r >= 0 || r == -ENOMEM)
			return r;
		return error_set(err, ERROR_DAEMON_UNREACHABLE,
			"HOME is no absolute path and your uid has no account",
			"set HOME to the absolute path of your home directory",
			"no place for the socket of a daemon of yours");
	}
	*ret = str_printf("%s/pyrod.sock", dir);
	return *ret ? 0 : -ENOMEM;
}

/* The user's own daemon: started when absent or dead, if start says so. */
static int dial_user(bool start, struct dialled *ret, struct error *err)
{
	int r = user_socket(&ret->path, err);

	if (r < 0)
		return r;
	ret->user = true;
	ret->start = start;
	r = dial_path(ret->path);
	if (r >= 0) {
		ret->fd = r;
		return 0;
	}
	if (start && (r == -ENOENT || r == -ENOTDIR || r == -ECONNREFUSED)) {
		r = autostart(ret->path, err);
		if (r < 0)
			return r;
	}
	r = try_place(ret, NULL, err);
	return r == -ENOENT ? not_there(ret, r, err) : r;
}

/* No socket was found and root asks: root's daemon is the system's. */
static int dial_for_root(const struct dialled *system, struct dialled *ret, struct error *err)
{
	_cleanup_error_ struct error user_err = ERROR_INIT;
	int r = dial_user(false, ret, &user_err);

	if (r < 0 && (!ret->path || access(ret->path, F_OK) < 0))
		return not_there(system, -ENOENT, err);
	if (r < 0)
		error_move(err, &user_err);
	return r;
}

/* The system daemon, else the user's. */
static int dial_auto(bool start, struct dialled *ret, struct error *err)
{
	_cleanup_(dialled_done) struct dialled system = { .fd = -EBADF };
	_cleanup_error_ struct error system_err = ERROR_INIT, no_place = ERROR_INIT;
	_cleanup_free_ char *own = NULL;
	int r = user_socket(&own, &no_place);

	if (r == -ENOMEM)
		return r;
	r = dial_system(&system, own ? "pyro --user ..., which starts a daemon of your own" : NULL,
		&system_err);
	if (r >= 0) {
		*ret = system;
		system = (struct dialled){ .fd = -EBADF };
		return 0;
	}
	if (r == -ENOENT && !system_err.set)
		return getuid() == 0 ? dial_for_root(&system, ret, err)
				     : dial_user(start, ret, err);
	if (system_err.set && system_err.code == ERROR_PERMISSION_DENIED && own &&
		access(own, F_OK) == 0)
		return dial_user(start, ret, err);
	if (system_err.set)
		error_move(err, &system_err);
	return r;
}

int dial(const char *socket, int mode, struct dialled *ret, struct error *err)
{
	_cleanup_(dialled_done) struct dialled d = { .fd = -EBADF };
	const char *env = getenv("PYRO_SOCKET");
	bool start = !(mode & PYRO_NO_START);
	int r;

	mode &= PYRO_MODE_MASK;
	if (!socket && mode == PYRO_AUTO && env && env[0])
		socket = env;
	if (socket) {
		r = dial_given(socket, &d, err);
	} else if (mode == PYRO_SYSTEM) {
		r = dial_system(&d, NULL, err);
		if (r == -ENOENT && !err->set)
			r = not_there(&d, r, err);
	} else if (mode == PYRO_USER) {
		r = dial_user(start, &d, err);
	} else {
		r = dial_auto(start, &d, err);
	}
	if (r < 0)
		return error_set_errno(err, ERROR_DAEMON_UNREACHABLE, r,
			error_errno_fix(r) ? NULL : "pyro doctor", "cannot reach pyrod");
	*ret = d;
	d = (struct dialled){ .fd = -EBADF };
	return 0;
}

int dial_again(const struct dialled *lost, struct dialled *ret, struct error *err)
{
	_cleanup_(dialled_done) struct dialled d = { .fd = -EBADF };
	int r = lost->start ? dial_user(true, &d, err) : dial_given(lost->path, &d, err);

	if (r < 0)
		return error_set_errno(
			err, ERROR_DAEMON_UNREACHABLE, r, NULL, "cannot reach pyrod");
	*ret = d;
	d = (struct dialled){ .fd = -EBADF };
	return 0;
}
