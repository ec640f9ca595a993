/* SPDX-License-Identifier: MIT */
/*
 * Finds the daemon: tries the places of design.md section 2 in order. Called only by pyro_connect()
 * and pyro_connect_again(); place.c makes the errors about a place. At a place that the user did
 * not name, nothing is sent to a listener unless place.c trusts it. An absent socket leads to the
 * next place. So does a system socket that refuses the caller, if the caller's own socket exists.
 * Every other failure is an error. A lost connection is renewed only at the same place, or the
 * caller would silently talk to a daemon that does not hold its work. Every wait is bounded.
 */
#include "dial.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "client/place.h"
#include "client/pyro.h"
#include "proto/host.h"

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
	/* connect() to a full backlog waits for SO_SNDTIMEO, then gives EAGAIN (unix(7)). */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return TAKE_FD(fd);
}

/* Connects to d->path if place.c trusts its listener. Returns 0 or -errno; err is set only for what
 * place.c refuses. */
static int open_place(struct dialled *d, struct error *err)
{
	int r = place_check(d, err);

	if (r < 0)
		return r;
	r = dial_path(d->path);
	if (r < 0)
		return r;
	d->fd = r;
	r = place_check_peer(d, err);
	if (r < 0)
		d->fd = fd_close(d->fd);
	return r;
}

/* Tries d->path. Returns 0, -ENOENT if nothing is there (err not set), or another -errno with err
 * set. other: see place_failed(). */
static int try_place(struct dialled *d, const char *other, struct error *err)
{
	int r = open_place(d, err);

	if (r >= 0 || err->set)
		return r;
	if (r == -ENOENT || r == -ENOTDIR)
		return -ENOENT;
	return place_failed(d, r, other, err);
}

/* True if path is the default socket of the system's daemon, or of the user's. */
static bool is_place(const char *path, bool system)
{
	_cleanup_free_ char *place = NULL;

	return host_socket_path(system, getuid(), &place) >= 0 && streq(path, place);
}

/* Makes path absolute, so that printed commands work in any directory. */
static int absolute(const char *path, char **ret)
{
	char cwd[PATH_MAX];

	*ret = path[0] == '/' || !getcwd(cwd, sizeof(cwd)) ? strdup(path)
							   : str_printf("%s/%s", cwd, path);
	return *ret ? 0 : -ENOMEM;
}

static int dial_given(
	const char *path, enum dial_named named, struct dialled *ret, struct error *err)
{
	int r;

	if (path[0] == '\0') /* from --socket: an empty PYRO_SOCKET is ignored */
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "leave out --socket",
			"the path of the socket is empty");
	r = absolute(path, &ret->path);
	if (r < 0)
		return r;
	ret->named = named;
	ret->system = is_place(ret->path, true);
	ret->user = is_place(ret->path, false);
	r = try_place(ret, NULL, err);
	return r == -ENOENT ? place_failed(ret, r, NULL, err) : r;
}

static int dial_system(struct dialled *ret, const char *other, struct error *err)
{
	int r = host_socket_path(true, getuid(), &ret->path);

	if (r < 0)
		return r;
	ret->system = true;
	return try_place(ret, other, err);
}

/* Chooses the user's socket as pyrod does: PYRO_RUNTIME_DIR first, which a daemon started here
 * inherits. */
static int user_socket(char **ret, struct error *err)
{
	const char *dir = getenv("PYRO_RUNTIME_DIR");
	int r;

	if (!dir || !dir[0]) {
		r = host_socket_path(false, getuid(), ret);
		if (r >= 0 || r == -ENOMEM)
			return r;
		return error_set(err, ERROR_DAEMON_UNREACHABLE, HOST_NO_HOME,
			"set HOME to the absolute path of your home directory",
			"no directory for the socket of your own daemon");
	}
	if (!host_is_ours(dir, strlen(dir)) || host_has_foreign_link(dir))
		return error_set(err, ERROR_PERMISSION_DENIED,
			"the directory or a link on its path belongs to another user",
			"unset PYRO_RUNTIME_DIR",
			"PYRO_RUNTIME_DIR=%s cannot hold the socket of your own daemon", dir);
	*ret = str_printf("%s/pyrod.sock", dir);
	return *ret ? 0 : -ENOMEM;
}

/* Connects to the user's own daemon. If start is set, starts it when absent or dead. */
static int dial_user(bool start, struct dialled *ret, struct error *err)
{
	int r = user_socket(&ret->path, err);

	if (r < 0)
		return r;
	ret->user = true;
	ret->start = start;
	r = open_place(ret, err);
	if (r >= 0 || err->set)
		return r;
	if (start && (r == -ENOENT || r == -ENOTDIR || r == -ECONNREFUSED)) {
		r = autostart(ret->path, err);
		if (r < 0)
			return r;
	}
	r = try_place(ret, NULL, err);
	return r == -ENOENT ? place_failed(ret, r, NULL, err) : r;
}

/* Handles an absent system socket for root: uses root's own daemon if its socket exists, else
 * reports the system's place, because root's daemon is the system's. */
static int dial_for_root(const struct dialled *system, struct dialled *ret, struct error *err)
{
	_cleanup_error_ struct error user_err = ERROR_INIT;
	int r = dial_user(false, ret, &user_err);

	if (r < 0 && (!ret->path || access(ret->path, F_OK) < 0))
		return place_failed(system, -ENOENT, NULL, err);
	if (r < 0)
		error_move(err, &user_err);
	return r;
}

/* Connects to the system daemon, else to the user's. */
static int dial_auto(bool start, struct dialled *ret, struct error *err)
{
	_cleanup_(dialled_done) struct dialled system = { .fd = -EBADF };
	_cleanup_error_ struct error system_err = ERROR_INIT, no_place = ERROR_INIT;
	_cleanup_free_ char *own = NULL;
	int r = user_socket(&own, &no_place);

	if (r == -ENOMEM)
		return r;
	r = dial_system(
		&system, own ? "pyro --user ..., which starts your own daemon" : NULL, &system_err);
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
	enum dial_named named = socket ? DIAL_OPTION : DIAL_VARIABLE;
	bool start = !(mode & PYRO_NO_START);
	int r;

	mode &= PYRO_MODE_MASK;
	if (!socket && mode == PYRO_AUTO && env && env[0])
		socket = env;
	if (socket) {
		r = dial_given(socket, named, &d, err);
	} else if (mode == PYRO_SYSTEM) {
		r = dial_system(&d, NULL, err);
		if (r == -ENOENT && !err->set)
			r = place_failed(&d, r, NULL, err);
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
	int r;

	if (lost->start) {
		r = dial_user(true, &d, err);
	} else {
		d.named = lost->named;
		d.system = lost->system;
		d.user = lost->user;
		d.path = strdup(lost->path);
		r = d.path ? try_place(&d, NULL, err) : -ENOMEM;
		if (r == -ENOENT)
			r = place_failed(&d, r, NULL, err);
	}
	if (r < 0)
		return error_set_errno(
			err, ERROR_DAEMON_UNREACHABLE, r, NULL, "cannot reach pyrod");
	*ret = d;
	d = (struct dialled){ .fd = -EBADF };
	return 0;
}
