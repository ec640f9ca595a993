/* SPDX-License-Identifier: MIT */
/*
 * Captures login environments, for exec.c. A profile is the guest's own program: its output is
 * bounded, it has 10 s, and its output before the marker is ignored. A failed capture is remembered
 * too, so that a broken profile delays only once. A capture is made again when a file that it came
 * from has changed.
 */

#include "guest/login.h"

#include "guest/command.h"
#include "guest/spawn.h"
#include "guest/cgroup.h"
#include "proto/buf.h"
#include "proto/limits.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { LOGIN_USERS_MAX = 32, LOGIN_OUTPUT_MAX = 512 * 1024, PROFILES_MAX = 256 };
#define LOGIN_TIME_USEC (10 * USEC_PER_SEC)

#define MARKER "pyro-login-environment"
const char login_script[] = "printf '\\000" MARKER "\\000'; exec env -0";

TAILQ_HEAD(login_wait_list, login_wait);
TAILQ_HEAD(login_list, login);

struct login {
	TAILQ_ENTRY(login) entry;
	struct logins *logins;        /* borrowed: the collection */
	struct user user;             /* owned */
	uint64_t files;               /* fingerprint of its files before it began */
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
	struct loop *loop; /* borrowed */
	int cgroup_fd;     /* borrowed: the common node, or -EBADF */
	uint32_t pids_max;
	struct login_list list; /* owned */
	size_t n;
};

int logins_new(struct loop *l, int cgroup_fd, uint32_t pids_max, struct logins **ret)
{
	struct logins *ls = calloc(1, sizeof(*ls));

	if (!ls)
		return -ENOMEM;
	ls->loop = l;
	ls->cgroup_fd = cgroup_fd;
	ls->pids_max = pids_max;
	TAILQ_INIT(&ls->list);
	*ret = ls;
	return 0;
}

static void release(struct login *lg)
{
	struct loop *l = lg->logins->loop;

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
		loop_unwatch(lg->logins->loop, &lg->out_source);
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

/* FNV-1a: http://www.isthe.com/chongo/tech/comp/fnv/ */
static void mix(uint64_t *h, uint64_t value)
{
	for (size_t i = 0; i < sizeof(value); i++)
		*h = (*h ^ (value >> 8 * i & 0xff)) * 0x100000001b3;
}

static void mix_file(uint64_t *h, int dir_fd, const char *name)
{
	struct stat st;

	if (fstatat(dir_fd, name, &st, 0) < 0) {
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
	DIR *d = opendir("/etc/profile.d");
	struct dirent *e;

	for (size_t n = 0; d && n < PROFILES_MAX && (e = readdir(d)); n++)
		if (e->d_name[0] != '.')
			mix_file(h, dirfd(d), e->d_name);
	if (d)
		(void)closedir(d);
}

/* A fingerprint of what a login shell of the user reads (bash(1), INVOCATION). */
static uint64_t login_files(const struct user *u)
{
	static const char *const system[] = { "/etc/environment", "/etc/profile",
		"/etc/profile.d" };
	static const char *const own[] = { ".bash_profile", ".bash_login", ".profile", ".bashrc" };
	_cleanup_close_ int home = open(u->home, O_PATH | O_DIRECTORY | O_CLOEXEC);
	uint64_t h = 0xcbf29ce484222325;

	for (size_t i = 0; i < ARRAY_SIZE(system); i++)
		mix_file(&h, AT_FDCWD, system[i]);
	mix_profiles(&h);
	for (size_t i = 0; home >= 0 && i < ARRAY_SIZE(own); i++)
		mix_file(&h, home, own[i]);
	return h;
}

static int copy_user(const struct user *u, struct user *ret)
{
	*ret = *u;
	ret->name = strdup(u->name);
	ret->home = strdup(u->home);
	ret->shell = strdup(u->shell);
	return ret->name && ret->home && ret->shell ? 0 : -ENOMEM;
}

static const char *home_or_root(const struct user *u)
{
	struct stat st;

	return stat(u->home, &st) == 0 && S_ISDIR(st.st_mode) ? u->home : "/";
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
	if (r >= 0 && lg->logins->cgroup_fd >= 0)
		r = cgroup_make(lg->logins->cgroup_fd, "login", lg->logins->pids_max, &cgroup);
	if (r < 0)
		return r;
	p.env = base.v;
	p.cwd = home_or_root(&lg->user);
	p.fds[0] = null_fd;
	p.fds[1] = wr;
	p.fds[2] = null_fd;
	p.cgroup_fd = cgroup;
	r = spawn(&p, &pid, &status_fd);
	if (r < 0)
		return r;
	/* A child that fails before execve exits with 127: the capture fails. */
	lg->child = (struct child){ .on_exit = on_exit_, .userdata = lg };
	loop_own_child(lg->logins->loop, &lg->child, pid);
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
	r = loop_watch(lg->logins->loop, &lg->out_source, lg->out_fd, EPOLLIN);
	if (r >= 0)
		r = start_shell(lg, shell, wr);
	if (r < 0)
		return r;
	lg->timer = (struct timer){ .on_timer = on_timer, .userdata = lg };
	loop_arm(lg->logins->loop, &lg->timer, now_usec() + LOGIN_TIME_USEC);
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
	lg->files = login_files(u);
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
	if (*ret && (*ret)->done && (*ret)->files != login_files(u)) {
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
