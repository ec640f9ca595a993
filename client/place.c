/* SPDX-License-Identifier: MIT */
/*
 * Examines a place where a daemon may listen, and makes the errors about it. Called by dial.c,
 * which decides where to look, and by libpyro for a daemon that does not answer. What must stay
 * true: nothing is sent to a socket that the user did not name, unless the caller, root or the
 * system daemon's user listens there. A fix changes, ends or replaces only what is known to be
 * pyro's, and leaves all else alone.
 */
#include "place.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "client/pyro.h"
#include "proto/host.h"
#include "proto/utf8.h"

#define SYSTEM_NAME "pyro" /* the group whose members may use the system's daemon */

static const char *sudo(void)
{
	return geteuid() == 0 ? "" : "sudo ";
}

static bool systemd_runs(void)
{
	return access("/run/systemd/system", F_OK) == 0;
}

/* Quotes path for a line to be pasted. Owned by the caller; NULL: unprintable, or out of memory. */
static char *paste(const char *path)
{
	for (const char *p = path; *p;) {
		size_t n = utf8_decode(p, strlen(p), NULL);

		if (n == 0 || (unsigned char)*p < 0x20 || *p == 0x7f)
			return NULL;
		p += n;
	}
	return shell_quote(path);
}

/* The folder that holds path. Owned by the caller; NULL when out of memory. */
static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash > path ? strndup(path, (size_t)(slash - path)) : strdup("/");
}

/*
 * Returns the uid that may listen at a place besides root: at the user's own place the user; at the
 * system's the owner of its folder, because only root can have made that in /run. With socket
 * activation the peer is systemd: root, or the user. In a user namespace that does not map root,
 * root and the folder's owner both show as the overflow uid (user_namespaces(7)).
 */
static uid_t believed(const struct dialled *d)
{
	_cleanup_free_ char *folder = d->system ? folder_of(d->path) : NULL;
	struct stat st;

	if (!d->system)
		return getuid();
	return folder && lstat(folder, &st) == 0 ? st.st_uid : 0;
}

static char *name_uid(uid_t uid)
{
	const struct passwd *pw = getpwuid(uid);

	return pw ? str_printf("%s (uid %u)", pw->pw_name, uid) : str_printf("uid %u", uid);
}

/* Returns the command that starts this place's daemon, owned. NULL: none, or out of memory. */
static char *start_command(const struct dialled *d, bool restart)
{
	_cleanup_free_ char *word = NULL, *folder = NULL;

	if (systemd_runs() && d->system)
		return str_printf("%ssystemctl %s pyrod", sudo(), restart ? "restart" : "start");
	if (d->system)
		return str_printf("%spyrod --system --detach", sudo());
	if (d->user)
		return strdup("pyrod --user --detach");
	word = paste(d->path);
	folder = folder_of(d->path);
	if (!word || !folder || access(folder, W_OK | X_OK) < 0 ||
		strlen(d->path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return NULL;
	return str_printf("pyrod --socket %s --detach", word);
}

/* Returns the fix for a path that is not the socket of a usable daemon. */
static const char *name_another(const struct dialled *d)
{
	switch (d->named) {
	case DIAL_OPTION: return "leave out --socket, or give it the socket of a daemon";
	case DIAL_VARIABLE: return "unset PYRO_SOCKET";
	default: return "pyro doctor";
	}
}

/* Returns the command that removes another user's socket, owned: from the system's place as root,
 * or from the caller's own folder. NULL: the folder is another user's, or out of memory. */
static char *clear_command(const struct dialled *d)
{
	_cleanup_free_ char *word = paste(d->path), *folder = folder_of(d->path), *place = NULL;
	struct stat st;

	place = folder ? paste(folder) : NULL;
	if (!word || !place)
		return NULL;
	if (d->system)
		return str_printf("%srm -f %s && %s%s", sudo(), word, sudo(),
			systemd_runs() ? "systemctl restart pyrod.socket pyrod.service"
				       : "pyrod --system --detach");
	if (stat(folder, &st) < 0 || st.st_uid != getuid())
		return NULL;
	return str_printf("chmod go-w %s && rm -f %s", place, word);
}

/* Reports that the socket is another user's. uid: its owner or listener; does: which of these. */
static int anothers(const struct dialled *d, uid_t uid, const char *does, struct error *err)
{
	_cleanup_free_ char *fix = clear_command(d), *who = name_uid(uid), *cause = NULL;
	const char *dir = getenv("PYRO_RUNTIME_DIR");

	cause = who ? str_printf("it %s %s", does, who) : NULL;
	return error_set(err, ERROR_PERMISSION_DENIED, cause,
		fix             ? fix
		: dir && dir[0] ? "unset PYRO_RUNTIME_DIR"
				: "set HOME to a directory in which only you can write",
		"the socket %s is another user's", d->path);
}

int place_check(const struct dialled *d, struct error *err)
{
	struct stat st;

	if (d->named != DIAL_FOUND || lstat(d->path, &st) < 0 || st.st_uid == 0 ||
		st.st_uid == believed(d))
		return 0;
	return anothers(d, st.st_uid, "belongs to", err);
}

int place_check_peer(const struct dialled *d, struct error *err)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (d->named != DIAL_FOUND)
		return 0;
	if (getsockopt(d->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return -errno;
	if (peer.uid == 0 || peer.uid == believed(d))
		return 0;
	return anothers(d, peer.uid, "is served by", err);
}

/* Returns the group whose members may use the socket: the socket's own unless root's, else pyro. */
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

/* Appends a command for root to the line, joined with && to the previous one. */
static int add_command(char **line, const char *command, const char *word, const char *object)
{
	char *more =
		str_printf("%s%ssudo %s%s%s%s%s", *line ? *line : "", *line ? " && " : "", command,
			word ? " " : "", word ? word : "", object ? " " : "", object ? object : "");

	if (!more)
		return -ENOMEM;
	free(*line);
	*line = more;
	return 0;
}

/* True if only root can replace what is at the path. */
static bool is_roots_alone(const char *path)
{
	_cleanup_free_ char *folder = folder_of(path);
	struct stat st;

	return folder && lstat(folder, &st) == 0 && st.st_uid == 0 && !(st.st_mode & 0022);
}

/* Appends commands that open the socket to its group. A restart under systemd makes it again.
 * Otherwise chgrp and chmod are used only where root alone can replace the file before they run. */
static int add_opening(
	char **line, const struct dialled *d, const struct stat *st, const struct group *g)
{
	_cleanup_free_ char *word = paste(d->path);
	int r = word ? 0 : -ENOMEM;

	if (r < 0)
		return r;
	if (d->system && systemd_runs())
		return add_command(line, "systemctl restart", "pyrod.socket", "pyrod.service");
	if (!is_roots_alone(d->path))
		return add_command(line, "rm -f", word, "&& sudo pyrod --system --detach");
	if (!g || st->st_gid != g->gr_gid)
		r = add_command(line, "chgrp", g ? g->gr_name : SYSTEM_NAME, word);
	if (r >= 0 && (st->st_mode & 0060) != 0060)
		r = add_command(line, "chmod", "g+rw", word);
	return r;
}

/* Finds the first reason for the refusal, and makes one line that fixes all reasons. */
static int refused_because(const struct dialled *d, const struct stat *st, const struct group *g,
	const struct passwd *pw, char **ret_cause, char **ret_fix)
{
	const char *group = g ? g->gr_name : SYSTEM_NAME;
	bool member = g && group_has_user(g, pw),
	     open = g && st->st_gid == g->gr_gid && (st->st_mode & 0060) == 0060;
	int r = 0;

	if (!g)
		r = add_command(ret_fix, "groupadd --system", group, NULL);
	if (r >= 0 && !open)
		r = add_opening(ret_fix, d, st, g);
	if (r >= 0 && !member)
		r = add_command(ret_fix, "usermod -aG", group, pw->pw_name);
	if (r < 0)
		return r;
	if (!*ret_fix)
		*ret_fix = str_printf("newgrp %s", group);
	*ret_cause =
		!g      ? str_printf("it is for group %s, which does not exist", group)
		: !open ? str_printf("it is not open to group %s", group)
		: member
			? str_printf("you are in group %s, but this login session began before you "
				     "were",
				  group)
			: str_printf("you are not in group %s (a change takes effect at the next "
				     "login)",
				  group);
	return *ret_fix && *ret_cause ? 0 : -ENOMEM;
}

static int set_refused(
	const char *path, const char *cause, const char *fix, const char *other, struct error *err)
{
	/* After '#' the shell reads a comment when the line is pasted. */
	_cleanup_free_ char *both = other ? str_printf("%s  # or: %s", fix, other) : NULL;

	return error_set(err, ERROR_PERMISSION_DENIED, cause, both ? both : fix,
		"no permission to use the socket %s", path);
}

/* Reports that the path leads through a folder that the caller may not enter. */
static int shut_out(const struct dialled *d, const char *other, struct error *err)
{
	_cleanup_free_ char *word = paste(d->path),
			    *fix = word ? str_printf("namei -l %s", word) : NULL;

	return set_refused(d->path, "you may not enter a directory on its path",
		fix ? fix : name_another(d), other, err);
}

/*
 * True if the socket belongs to a daemon that serves a group. Joining the group of any other socket
 * might give root's rights. Besides the system's place, this is a socket named pyrod.sock, owned by
 * root, where only root can have put it.
 */
static bool is_systems(const struct dialled *d)
{
	_cleanup_free_ char *word = paste(d->path);
	const char *slash = strrchr(d->path, '/');
	struct stat st;

	if (!word || lstat(d->path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	if (d->system)
		return st.st_uid == 0 || st.st_uid == believed(d);
	return slash && streq(slash, "/pyrod.sock") && st.st_uid == 0 && is_roots_alone(d->path);
}

static int refused(
	const struct dialled *d, const struct stat *st, const char *other, struct error *err)
{
	_cleanup_free_ char *cause = NULL, *fix = NULL, *who = NULL;
	const struct passwd *pw;
	int r;

	if (!is_systems(d)) {
		who = name_uid(st->st_uid);
		cause = who ? str_printf("it belongs to %s, and is not the system daemon's", who)
			    : NULL;
		return set_refused(d->path, cause, name_another(d), other, err);
	}
	pw = getpwuid(getuid());
	if (!pw)
		return set_refused(d->path, "this uid has no account, so it is in no group",
			"use pyro as a user with an account", other, err);
	r = refused_because(d, st, socket_group(st), pw, &cause, &fix);
	return r < 0 ? r : set_refused(d->path, cause, fix, other, err);
}

static const char *kind(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR: return "it is a directory";
	case S_IFREG: return "it is a file";
	case S_IFLNK: return "it is a broken symbolic link";
	case S_IFIFO: return "it is a pipe";
	default: return "it is a device";
	}
}

static int no_socket(const struct dialled *d, const struct stat *st, struct error *err)
{
	_cleanup_free_ char *word = paste(d->path), *start = start_command(d, false), *fix = NULL;

	if (d->named == DIAL_FOUND && word && start)
		fix = str_printf(
			"%smv -T %s %s.old && %s", d->system ? sudo() : "", word, word, start);
	return error_set(err, ERROR_DAEMON_UNREACHABLE, kind(st->st_mode),
		fix ? fix : name_another(d), "%s is not a socket", d->path);
}

/* True if a socket without a listener is that of a daemon that exited: by its place or its name. */
static bool is_dead_daemons(const struct dialled *d)
{
	const char *slash = strrchr(d->path, '/');

	return d->system || d->user || (slash && streq(slash, "/pyrod.sock"));
}

int place_failed(const struct dialled *d, int r, const char *other, struct error *err)
{
	_cleanup_free_ char *start = NULL;
	struct stat st = { .st_mode = 0 };
	bool exists = lstat(d->path, &st) == 0;

	if (exists && S_ISLNK(st.st_mode) && stat(d->path, &st) < 0)
		(void)lstat(d->path, &st);
	if (exists && !S_ISSOCK(st.st_mode))
		return no_socket(d, &st, err);
	if (r == -EAGAIN)
		return place_hung(d, err);
	if (r == -EACCES || r == -EPERM)
		return exists ? refused(d, &st, other, err) : shut_out(d, other, err);
	if (exists ? r == -ECONNREFUSED && is_dead_daemons(d) : r == -ENOENT)
		start = start_command(d, false);
	return error_set(err, ERROR_DAEMON_UNREACHABLE,
		r == -ENOENT || r == -ENOTDIR ? "the socket does not exist"
		: r == -ECONNREFUSED          ? "the daemon that listened there has ended"
					      : strerror(-r),
		start ? start : name_another(d), "pyrod does not run at %s", d->path);
}

static bool is_named(pid_t pid, const char *wanted)
{
	_cleanup_free_ char *path = str_printf("/proc/%d/comm", (int)pid), *name = NULL;
	size_t n = strlen(wanted);

	return path && read_file_at(AT_FDCWD, path, 64, &name, NULL) >= 0 &&
	       strncmp(name, wanted, n) == 0 && streq(name + n, "\n");
}

int place_hung(const struct dialled *d, struct error *err)
{
	_cleanup_free_ char *start = start_command(d, true), *fix = NULL;
	struct ucred peer = { .pid = 0 };
	socklen_t size = sizeof(peer);

	if (d->fd >= 0 && getsockopt(d->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		peer.pid = 0;
	/* Suggest to kill only pyrod. With socket activation the peer is systemd, the system's or
	 * the user's; at a place that the user named it may be any program. */
	if (peer.pid > 1 && is_named(peer.pid, "pyrod"))
		fix = str_printf("%skill -9 %d; %s", d->system ? sudo() : "", (int)peer.pid,
			start ? start : "pyrod");
	else if (d->user && peer.pid > 1 && is_named(peer.pid, "systemd"))
		fix = strdup("systemctl --user restart pyrod");
	else if (!d->system && !d->user)
		fix = strdup(name_another(d));
	return error_set(err, ERROR_DAEMON_UNREACHABLE, "it hangs, or the host is very busy",
		fix ? fix : start, "pyrod at %s did not answer within %d s", d->path,
		DIAL_TIMEOUT_SEC);
}
