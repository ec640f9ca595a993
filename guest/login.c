/* SPDX-License-Identifier: MIT */
/*
 * Captures login environments, for exec.c. A profile is the guest's own program: its output is
 * bounded, it has 10 s, and its output before the marker is ignored. A failed capture is remembered
 * too, so that a broken profile delays only once. A capture is made again when a file that it came
 * from has changed.
 *
 * What must stay true: the agent itself looks only at files of its root and of the own disk. A file
 * system that a guest has mounted may hang, and with it the agent and the whole machine.
 */

#include "guest/login.h"

#include "guest/command.h"
#include "guest/spawn.h"
#include "guest/cgroup.h"
#include "proto/buf.h"
#include "proto/limits.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { LOGIN_USERS_MAX = 32, LOGIN_OUTPUT_MAX = 512 * 1024, PROFILES_MAX = 256 };
#define LOGIN_TIME_USEC (10 * USEC_PER_SEC)

#define MARKER "pyro-login-environment"
const char login_script[] = "printf '\\000" MARKER "\\000'; exec env -0";

TAILQ_HEAD(login_wait_list, login_wait);
TAILQ_HEAD(login_list, login);

/* Fingerprints of the files that a capture comes from. */
struct login_files {
	uint64_t system;
	uint64_t own; /* 0: the home was not looked at */
};

struct login {
	TAILQ_ENTRY(login) entry;
	struct logins *logins;        /* borrowed: the collection */
	struct user user;             /* owned */
	struct login_files files;     /* before it began */
	struct env env;               /* owned; valid when ok */
	struct login_wait_list waits; /* borrowed from their owners */
	struct buf out;               /* owned */
	int out_fd;                   /* owned */
	struct source out_source;
	struct child child;
	struct timer timer;
	bool done, ok, overflow;
};

struct logins {
	struct logins_params p;
	struct login_list list; /* owned */
	size_t n;
};

int logins_new(const struct logins_params *p, struct logins **ret)
{
	struct logins *ls = calloc(1, sizeof(*ls));

	if (!ls)
		return -ENOMEM;
	ls->p = *p;
	TAILQ_INIT(&ls->list);
	*ret = ls;
	return 0;
}

static void release(struct login *lg)
{
	struct loop *l = lg->logins->p.loop;

	loop_unwatch(l, &lg->out_source);
	loop_disarm(l, &lg->timer);
	loop_disown_child(l, &lg->child);
	lg->out_fd = fd_close(lg->out_fd);
	buf_done(&lg->out);
}

static struct login *login_free(struct login *lg)
{
	if (!lg)
		return NULL;
	release(lg);
	env_done(&lg->env);
	user_done(&lg->user);
	free(lg);
	return NULL;
}
DEFINE_CLEANUP(struct login *, login_free)

struct logins *logins_free(struct logins *ls)
{
	struct login *lg;

	while (ls && (lg = TAILQ_FIRST(&ls->list))) {
		TAILQ_REMOVE(&ls->list, lg, entry);
		login_free(lg);
	}
	free(ls);
	return NULL;
}

int login_parse(const uint8_t *p, size_t n, struct env *ret)
{
	static const char mark[] = "\0" MARKER; /* including the NUL at the end */
	static const char *const own[] = { "_", "SHLVL", "PWD", "OLDPWD" };
	_cleanup_env_ struct env e = { 0 };
	const uint8_t *at = n > 0 ? memmem(p, n, mark, sizeof(mark)) : NULL;
	const uint8_t *end = p + n;

	if (!at)
		return -EBADMSG;
	for (at += sizeof(mark); at < end;) {
		size_t left = (size_t)(end - at), len = strnlen((const char *)at, left);
		int r;
		if (len == left)
			return -EBADMSG;
		r = e.n < LIMIT_ENV_COUNT ? env_set(&e, (const char *)at) : -E2BIG;
		if (r < 0 && r != -EINVAL)
			return r;
		at += len + 1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		env_unset(&e, own[i]);
	*ret = e;
	e = (struct env){ 0 };
	return 0;
}

static void read_out(struct login *lg)
{
	ssize_t n;

	while (lg->out_fd >= 0 &&
		(n = buf_read_fd(&lg->out, lg->out_fd, LOGIN_OUTPUT_MAX)) != -EAGAIN) {
		if (n > 0)
			continue;
		loop_unwatch(lg->logins->p.loop, &lg->out_source);
		lg->out_fd = fd_close(lg->out_fd);
		lg->overflow = n == -ENOBUFS;
	}
}

static void on_out(struct source *s, uint32_t events _unused_)
{
	struct login *lg = s->userdata;

	read_out(lg);
	if (lg->overflow && lg->child.pid > 0)
		(void)kill(-lg->child.pid, SIGKILL);
}

static void on_timer(struct timer *t)
{
	struct login *lg = t->userdata;

	if (lg->child.pid > 0)
		(void)kill(-lg->child.pid, SIGKILL);
}

static void on_exit_(struct child *c, int status)
{
	struct login *lg = c->userdata;
	struct login_wait *w;

	read_out(lg);
	lg->ok = WIFEXITED(status) && WEXITSTATUS(status) == 0 && !lg->overflow &&
		 login_parse(buf_head(&lg->out), buf_len(&lg->out), &lg->env) >= 0;
	lg->done = true;
	release(lg);
	while ((w = TAILQ_FIRST(&lg->waits))) {
		logins_cancel(w);
		w->on_login(w, lg->ok ? &lg->env : NULL);
	}
}

#define FNV_START UINT64_C(0xcbf29ce484222325)

/* FNV-1a: http://www.isthe.com/chongo/tech/comp/fnv/ */
static void mix(uint64_t *h, uint64_t value)
{
	for (size_t i = 0; i < sizeof(value); i++)
		*h = (*h ^ (value >> 8 * i & 0xff)) * 0x100000001b3;
}

/* Refuses to enter another file system: there even a look may hang (openat2(2)). */
static int open_here(int dir_fd, const char *path, uint64_t flags)
{
	const struct open_how how = {
		.flags = flags | O_CLOEXEC,
		.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS,
	};
	long fd = syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

/* A file that is missing, or on another file system, always counts the same. */
static void mix_file(uint64_t *h, int dir_fd, const char *name)
{
	_cleanup_close_ int fd = open_here(dir_fd, name, O_PATH);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		mix(h, 0);
		return;
	}
	mix(h, st.st_dev);
	mix(h, st.st_ino);
	mix(h, (uint64_t)st.st_size);
	mix(h, (uint64_t)st.st_mtim.tv_sec);
	mix(h, (uint64_t)st.st_mtim.tv_nsec);
	mix(h, (uint64_t)st.st_ctim.tv_sec);
	mix(h, (uint64_t)st.st_ctim.tv_nsec);
}

/* The scripts of /etc/profile.d, in the order of the directory, which also counts. */
static void mix_profiles(uint64_t *h)
{
	int fd = open_here(AT_FDCWD, "/etc/profile.d", O_RDONLY | O_DIRECTORY);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;

	for (size_t n = 0; d && n < PROFILES_MAX && (e = readdir(d)); n++)
		if (e->d_name[0] != '.')
			mix_file(h, dirfd(d), e->d_name);
	if (d)
		(void)closedir(d);
	else
		fd_close(fd);
}

/* -errno if the home is neither on the root's file system nor on the own disk. */
static int open_home(const struct logins *ls, const char *home)
{
	size_t n = strlen(ls->p.workspace);
	int fd = open_here(AT_FDCWD, home, O_PATH);

	if (fd != -EXDEV || ls->p.disk_fd < 0 || strncmp(home, ls->p.workspace, n) != 0 ||
		(home[n] != '/' && home[n] != '\0'))
		return fd;
	home += n + strspn(home + n, "/");
	return open_here(ls->p.disk_fd, *home ? home : ".", O_PATH);
}

/* What a login shell of the user reads (bash(1), INVOCATION). */
static struct login_files login_files(const struct logins *ls, const struct user *u)
{
	static const char *const system[] = { "/etc/environment", "/etc/profile",
		"/etc/profile.d" };
	static const char *const own[] = { ".bash_profile", ".bash_login", ".profile", ".bashrc" };
	_cleanup_close_ int home = open_home(ls, u->home);
	struct login_files f = { .system = FNV_START, .own = home == -EXDEV ? 0 : FNV_START };

	for (size_t i = 0; i < ARRAY_SIZE(system); i++)
		mix_file(&f.system, AT_FDCWD, system[i]);
	mix_profiles(&f.system);
	for (size_t i = 0; home >= 0 && i < ARRAY_SIZE(own); i++)
		mix_file(&f.own, home, own[i]);
	return f;
}

/* A home that is not looked at counts as unchanged. */
static bool files_changed(const struct login *lg)
{
	struct login_files now = login_files(lg->logins, &lg->user);

	return now.system != lg->files.system || (now.own != 0 && now.own != lg->files.own);
}

static int copy_user(const struct user *u, struct user *ret)
{
	*ret = *u;
	ret->name = strdup(u->name);
	ret->home = strdup(u->home);
	ret->shell = strdup(u->shell);
	return ret->name && ret->home && ret->shell ? 0 : -ENOMEM;
}

/* Starts the capturing shell with wr as its stdout. */
static int start_shell(struct login *lg, const char *shell, int wr)
{
	_cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), cgroup = -EBADF,
			    status_fd = -EBADF;
	_cleanup_env_ struct env base = { 0 };
	char *argv[] = { (char *)shell, (char *)"-lc", (char *)login_script, NULL };
	struct spawn_params p = { .path = shell, .argv = argv, .user = &lg->user };
	pid_t pid;
	int r;

	if (null_fd < 0)
		return -errno;
	r = command_base_env(&lg->user, shell, &base);
	if (r >= 0 && lg->logins->p.cgroup_fd >= 0)
		r = cgroup_make(lg->logins->p.cgroup_fd, "login", lg->logins->p.pids_max, &cgroup);
	if (r < 0)
		return r;
	p.env = base.v;
	p.cwd = lg->user.home;
	p.cwd_or_root = true;
	p.fds[0] = null_fd;
	p.fds[1] = wr;
	p.fds[2] = null_fd;
	p.cgroup_fd = cgroup;
	r = spawn(&p, &pid, &status_fd);
	if (r < 0)
		return r;
	/* A child that fails before execve exits with 127: the capture fails. */
	lg->child = (struct child){ .on_exit = on_exit_, .userdata = lg };
	loop_own_child(lg->logins->p.loop, &lg->child, pid);
	return 0;
}

static int start(struct login *lg, const char *shell)
{
	_cleanup_close_ int wr = -EBADF;
	int fds[2], r;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	lg->out_fd = fds[0];
	wr = fds[1];
	if (fcntl(lg->out_fd, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	lg->out_source = (struct source){ .on_event = on_out, .userdata = lg };
	r = loop_watch(lg->logins->p.loop, &lg->out_source, lg->out_fd, EPOLLIN);
	if (r >= 0)
		r = start_shell(lg, shell, wr);
	if (r < 0)
		return r;
	lg->timer = (struct timer){ .on_timer = on_timer, .userdata = lg };
	loop_arm(lg->logins->p.loop, &lg->timer, now_usec() + LOGIN_TIME_USEC);
	return 0;
}

static int login_new(struct logins *ls, const struct user *u, const char *shell, struct login **ret)
{
	_cleanup_(login_freep) struct login *lg = calloc(1, sizeof(*lg));
	int r;

	if (!lg)
		return -ENOMEM;
	lg->logins = ls;
	lg->out_fd = -EBADF;
	TAILQ_INIT(&lg->waits);
	buf_init(&lg->out, LOGIN_OUTPUT_MAX);
	r = copy_user(u, &lg->user);
	lg->files = login_files(ls, u);
	if (r >= 0)
		r = start(lg, shell);
	if (r < 0)
		return r;
	TAILQ_INSERT_TAIL(&ls->list, lg, entry);
	ls->n++;
	*ret = TAKE_PTR(lg);
	return 0;
}

static struct login *find(struct logins *ls, const struct user *u)
{
	struct login *lg;

	TAILQ_FOREACH (lg, &ls->list, entry)
		if (lg->user.uid == u->uid && lg->user.gid == u->gid &&
			streq(lg->user.name, u->name))
			return lg;
	return NULL;
}

bool logins_known(struct logins *ls, const struct user *u)
{
	const struct login *lg = find(ls, u);

	return lg && (lg->ok || !lg->done);
}

/* Finds the user's capture or starts one; NULL if it is not possible. */
static int find_or_begin(struct logins *ls, const struct user *u, struct login **ret)
{
	const char *shell = command_shell();

	*ret = shell ? find(ls, u) : NULL;
	if (*ret && (*ret)->done && files_changed(*ret)) {
		TAILQ_REMOVE(&ls->list, *ret, entry);
		ls->n--;
		*ret = login_free(*ret);
	}
	if (*ret || !shell || ls->n >= LOGIN_USERS_MAX)
		return 0;
	return login_new(ls, u, shell, ret);
}

int logins_begin(struct logins *ls, const struct user *u)
{
	struct login *lg;

	return find_or_begin(ls, u, &lg);
}

int logins_get(
	struct logins *ls, const struct user *u, struct login_wait *w, const struct env **ret)
{
	struct login *lg;
	int r;

	*ret = NULL;
	r = find_or_begin(ls, u, &lg);
	if (r < 0)
		return r;
	if (!lg)
		return 1;
	if (lg->done) {
		*ret = lg->ok ? &lg->env : NULL;
		return 1;
	}
	w->login = lg;
	TAILQ_INSERT_TAIL(&lg->waits, w, entry);
	return 0;
}

void logins_cancel(struct login_wait *w)
{
	if (!w->login)
		return;
	TAILQ_REMOVE(&w->login->waits, w, entry);
	w->login = NULL;
}
