/* SPDX-License-Identifier: MIT */
/*
 * Runs mmdebstrap: chooses mode, mirror and folder, starts it as the leader of a process group of
 * its own, reads its messages and cleans up. Only the confined writer reads its tar. Called by the
 * environment verb.
 *
 * Must stay true: when this process ends, mmdebstrap gets SIGTERM and removes its own tree; the
 * next run (scratch.c) removes what is left after a SIGKILL. As root it runs in a private mount
 * namespace.
 */
#include "daemon/import/debootstrap.h"
#include "daemon/import/import.h"
#include "daemon/import/mirror.h"
#include "daemon/import/scratch.h"
#include "proto/host.h"
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#define LINE_BYTES 1024
#define ARGS_MAX   32
#define TIME_LIMIT (3600 * USEC_PER_SEC)
#define END_LIMIT  (30 * USEC_PER_SEC)
#define SUBIDS_MIN 65536
#define KEYRING    "/usr/share/keyrings/debian-archive-keyring.gpg"
#define MIRROR_FIX \
	"check the network, the *_proxy variables of pyrod, the host's apt sources and " \
	"mirror= in pyrod.conf"

/*
 * Removes two programs from the login with which every command begins, each some 50 ms under
 * emulation: id, since bash has $EUID, and mesg, since no terminal of a machine takes messages.
 */
#define LOGIN_HOOK \
	"sed -i 's/\"$(id -u)\"/\"${EUID:-$(id -u)}\"/' profile; " \
	"sed -i '/^mesg n/d' ../root/.profile; "

/*
 * Sets the date of the accounts that packages create, normally the current day, to that of the
 * newest changelog; epoch.c does the same for files.
 */
#define DAY_HOOK \
	"t=$(find ../usr/share/doc -mindepth 2 -maxdepth 2 -type f -name 'changelog*' " \
	"-printf '%Ts\\n' | sort -n | tail -n 1); for f in shadow shadow-; do " \
	"[ ! -e $f ] || [ -z \"$t\" ] || " \
	"sed -i -E \"s/^([^:]*:[^:]*:)[0-9]+:/\\1$((t / 86400)):/\" $f; done; "

/* Removes names and keys from the image, since each machine gets its own. */
#define CLEAN_HOOK \
	"umask 022; cd \"$1\"/etc; rm -f ssh/ssh_host_*_key* ../var/lib/dbus/machine-id " \
	"machine-id hostname resolv.conf hosts apt/apt.conf.d/99mmdebstrap; " \
	": > machine-id; : > hostname; : > resolv.conf; " \
	"printf 'LANG=C.UTF-8\\n' > default/locale; " LOGIN_HOOK DAY_HOOK \
	"printf '127.0.0.1\\tlocalhost\\n::1\\tlocalhost ip6-localhost ip6-loopback\\n' > hosts"

struct debootstrap {
	char *program;          /* owned */
	struct scratch scratch; /* owned */
	bool as_root;
	pid_t pid;    /* 0 when there is none */
	int out, err; /* owned pipes */
	uint64_t deadline;
	size_t n_line;
	char line[LINE_BYTES];
	char last_error[LINE_BYTES], last_line[LINE_BYTES];
};

struct args {
	const char *list[ARGS_MAX + 1];
	char *owned[ARGS_MAX]; /* words to free */
	size_t n, n_owned;
};

static void args_done(struct args *a)
{
	for (size_t i = 0; i < a->n_owned; i++)
		free(a->owned[i]);
}

static int args_add(struct args *a, const char *word)
{
	if (a->n == ARGS_MAX)
		return -E2BIG;
	a->list[a->n++] = word;
	return 0;
}

static int args_take(struct args *a, char *word /* owned */)
{
	if (!word)
		return -ENOMEM;
	a->owned[a->n_owned++] = word;
	return args_add(a, word);
}

static int check_rights(struct debootstrap *d, struct error *err)
{
	uint64_t start, count;
	uid_t uid = geteuid();
	int r = host_find_program("mmdebstrap", &d->program);
	if (r < 0)
		return error_set(err, ERROR_PULL_FAILED, "mmdebstrap is not installed",
			"sudo apt-get install -y mmdebstrap uidmap",
			"cannot make a Debian environment");
	d->as_root = uid == 0;
	if (d->as_root)
		return 0;
	if (host_subid("/etc/subuid", uid, SUBIDS_MIN, &start, &count) < 0 ||
		host_subid("/etc/subgid", uid, SUBIDS_MIN, &start, &count) < 0) {
		_cleanup_free_ char *fix = NULL;
		if (host_subid_command(uid, SUBIDS_MIN, &fix) < 0)
			fix = strdup("run pyrod as a user with an account");
		return error_set(err, ERROR_PULL_FAILED,
			"this user has no 65536 subordinate uids and gids in /etc/subuid and /etc/subgid",
			fix, "cannot make a Debian environment without root");
	}
	return 0;
}

/*
 * Adds the host's mirror when it is Debian's, else the configured one; else mmdebstrap uses its
 * own.
 */
static int add_sources(struct debootstrap *d, const struct debootstrap_spec *spec, struct args *a)
{
	_cleanup_(mirror_done) struct mirror m = { 0 };
	char *lines[MIRROR_LINES];
	int n, r = mirror_of_host("/", spec->suite, &m);
	if (r >= 0 && !m.uri && spec->mirror) {
		mirror_done(&m);
		r = mirror_configured(spec->mirror, spec->suite, d->scratch.path, &m);
		if (r >= 0 && !m.security)
			import_progress("install", 0,
				"no security archive answers: the image has no security fixes");
	}
	if (r < 0 || !m.uri)
		return r;
	n = mirror_lines(&m, spec->suite, "", lines);
	for (int i = 0; i < n; i++) {
		int q = args_take(a, lines[i]);
		r = r < 0 ? r : q;
	}
	return n < 0 ? n : r;
}

static int make_args(struct debootstrap *d, const struct debootstrap_spec *spec, struct args *a)
{
	const char *const fixed[] = { d->program, d->as_root ? "--mode=root" : "--mode=unshare",
		"--variant=minbase", "--format=tar", "--aptopt=Acquire::Retries \"2\"",
		"--aptopt=Acquire::http::Timeout \"30\"", "--aptopt=Acquire::https::Timeout \"30\"",
		"--customize-hook=" CLEAN_HOOK };
	int r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(fixed) && r >= 0; i++)
		r = args_add(a, fixed[i]);
	if (r >= 0 && access(KEYRING, R_OK) == 0)
		r = args_add(a, "--keyring=" KEYRING);
	if (r >= 0 && spec->packages[0])
		r = args_take(a, str_printf("--include=%s", spec->packages));
	if (r >= 0)
		r = args_add(a, spec->suite);
	if (r >= 0)
		r = args_add(a, "-"); /* the tar goes to stdout */
	return r < 0 ? r : add_sources(d, spec, a);
}

static void on_end(int sig)
{
	(void)signal(sig, SIG_IGN);
	(void)kill(0, sig);
}

/*
 * Waits for mmdebstrap, in the leader of its process group. When pyro-import ends, the leader gets
 * SIGTERM and sends it to the whole group (on_end), since mmdebstrap waits for its children then.
 */
static int wait_in_leader(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 126;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Sets up the child with what mmdebstrap needs and executes it. */
static _noreturn_ void child(
	const struct debootstrap *d, const struct args *a, int out, int err, pid_t parent)
{
	int null = open("/dev/null", O_RDONLY);
	sigset_t none;
	sigemptyset(&none);
	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGTERM, on_end);
	if (null < 0 || setpgid(0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 ||
		getppid() != parent)
		_exit(126);
	/* Changes folder, since subordinate users cannot reach the working directory. */
	if (chdir("/") < 0)
		_exit(126);
	if (d->as_root &&
		(unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0))
		_exit(126);
	if (dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 || close_range(3, ~0U, 0) < 0)
		_exit(126);
	if (setenv("TMPDIR", d->scratch.path, 1) < 0 || setenv("LC_ALL", "C.UTF-8", 1) < 0 ||
		setenv("DEBIAN_FRONTEND", "noninteractive", 1) < 0)
		_exit(126);
	if (setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1) < 0)
		_exit(126);
	pid_t pid = fork();
	if (pid != 0)
		_exit(pid < 0 ? 126 : wait_in_leader(pid));
	/* execv does not change its words, although it takes them as char *. */
	(void)execv(d->program, (char *const *)(uintptr_t)a->list);
	_exit(127);
}

static int start(struct debootstrap *d, const struct args *a, struct error *err)
{
	int out[2] = { -EBADF, -EBADF }, msg[2] = { -EBADF, -EBADF };
	pid_t parent = getpid();
	if (pipe2(out, O_CLOEXEC) < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, -errno, NULL, "cannot make a pipe");
	d->out = out[0];
	if (pipe2(msg, O_CLOEXEC) < 0) {
		int r = -errno;
		(void)fd_close(out[1]);
		return error_set_errno(err, ERROR_PULL_FAILED, r, NULL, "cannot make a pipe");
	}
	d->err = msg[0];
	pid_t pid = fork();
	if (pid == 0)
		child(d, a, out[1], msg[1], parent);
	int r = -errno;
	(void)fd_close(out[1]);
	(void)fd_close(msg[1]);
	if (pid < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, r, NULL, "cannot start mmdebstrap");
	(void)setpgid(pid, pid); /* as the child does: one of them is first */
	d->pid = pid;
	d->deadline = now_usec() + TIME_LIMIT;
	import_undo_child(pid, d->scratch.path);
	return 0;
}

int debootstrap_start(
	const struct debootstrap_spec *spec, struct debootstrap **ret, struct error *err)
{
	_cleanup_(debootstrap_freep) struct debootstrap *d = calloc(1, sizeof(*d));
	_cleanup_(args_done) struct args a = { 0 };
	if (!d)
		return error_no_memory(err, "no memory for mmdebstrap");
	d->out = d->err = d->scratch.lock_fd = -EBADF;
	int r = check_rights(d, err);
	if (r < 0)
		return r;
	r = scratch_make(&d->scratch, err);
	if (r < 0)
		return r;
	r = make_args(d, spec, &a);
	if (r < 0)
		return error_set_errno(
			err, ERROR_PULL_FAILED, r, NULL, "cannot build mmdebstrap's arguments");
	r = start(d, &a, err);
	if (r < 0)
		return r;
	import_progress(
		"install", 0, d->as_root ? "mmdebstrap, mode=root" : "mmdebstrap, mode=unshare");
	*ret = TAKE_PTR(d);
	return 0;
}

/* True for an error that only follows from the one before it and has no cause. */
static bool is_consequence(const char *text)
{
	const char *const begins[] = { "Some index files failed", "apt-get ", "mmdebstrap ", "run_",
		"setup " };
	for (size_t i = 0; i < ARRAY_SIZE(begins); i++)
		if (startswith(text, begins[i]))
			return true;
	return false;
}

static void on_line(struct debootstrap *d)
{
	static const struct {
		const char *begin;
		int percent;
	} steps[] = {
		{ "I: running apt-get update", 5 },
		{ "I: downloading packages", 10 },
		{ "I: extracting archives", 35 },
		{ "I: installing essential packages", 40 },
		{ "I: installing remaining packages", 55 },
		{ "I: cleaning package lists", 85 },
		{ "I: creating tarball", 88 },
	};
	if (d->line[0] == '\0')
		return;
	fprintf(stderr, "%s\n", d->line);
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		if (startswith(d->line, steps[i].begin))
			import_progress("install", steps[i].percent, d->line + 3);
	if (startswith(d->line, "E: ") && (!is_consequence(d->line + 3) || !d->last_error[0]))
		(void)snprintf(d->last_error, sizeof(d->last_error), "%s", d->line + 3);
	memcpy(d->last_line, d->line, sizeof(d->last_line));
}

static void take_messages(struct debootstrap *d, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i] == '\n' || p[i] == '\r') {
			d->line[d->n_line] = '\0';
			d->n_line = 0;
			on_line(d);
		} else if (d->n_line < LINE_BYTES - 1 && p[i] != '\0') {
			d->line[d->n_line++] = p[i];
		}
	}
}

/* Reads messages that have arrived; closes the pipe at end-of-file. */
static int read_messages(struct debootstrap *d)
{
	char bytes[4096];
	ssize_t n = read(d->err, bytes, sizeof(bytes));
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (n == 0)
		d->err = fd_close(d->err);
	take_messages(d, bytes, n);
	return 0;
}

int debootstrap_take_output(struct debootstrap *d)
{
	return TAKE_FD(d->out);
}

const int *debootstrap_messages_fd(const struct debootstrap *d)
{
	return &d->err;
}

uint64_t debootstrap_deadline(const struct debootstrap *d)
{
	return d->deadline;
}

int debootstrap_read_messages(void *userdata)
{
	return read_messages(userdata);
}

/* Reads messages until mmdebstrap has closed the pipe. */
static int read_rest(struct debootstrap *d)
{
	while (d->err >= 0) {
		struct pollfd p = { .fd = d->err, .events = POLLIN };
		uint64_t now = now_usec();
		if (now >= d->deadline)
			return -ETIMEDOUT;
		int r = poll(&p, 1, (int)((d->deadline - now) / USEC_PER_MSEC + 1));
		if (r > 0)
			r = read_messages(d);
		else if (r < 0)
			r = errno == EINTR ? 0 : -errno;
		if (r < 0)
			return r;
	}
	return 0;
}

static int reap(struct debootstrap *d, int *ret_status)
{
	while (waitpid(d->pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	import_undo_child(0, d->scratch.path);
	d->pid = 0;
	return 0;
}

int debootstrap_finish(struct debootstrap *d, struct error *err)
{
	int status = 0, r = read_rest(d);
	if (r < 0)
		return error_set_errno(
			err, ERROR_PULL_FAILED, r, MIRROR_FIX, "mmdebstrap does not exit");
	r = reap(d, &status);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "cannot wait for mmdebstrap");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	const char *cause = d->last_error[0] ? d->last_error : d->last_line;
	return error_set(err, ERROR_PULL_FAILED,
		cause[0] ? cause : "mmdebstrap exited without an error message", MIRROR_FIX,
		"mmdebstrap could not install the environment");
}

/* Sends SIGTERM, on which it removes its tree, and SIGKILL when that takes too long. */
static void end_child(struct debootstrap *d)
{
	int pidfd = pidfd_open(d->pid, 0), status;
	(void)kill(-d->pid, SIGTERM);
	d->out = fd_close(d->out);
	d->err = fd_close(d->err);
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	if (pidfd < 0 || poll(&p, 1, END_LIMIT / USEC_PER_MSEC) <= 0)
		(void)kill(-d->pid, SIGKILL);
	(void)reap(d, &status);
	(void)fd_close(pidfd);
}

struct debootstrap *debootstrap_free(struct debootstrap *d)
{
	if (!d)
		return NULL;
	if (d->pid > 0)
		end_child(d);
	if (d->scratch.path) {
		scratch_done(&d->scratch);
		import_undo_child(0, NULL);
	}
	d->out = fd_close(d->out);
	d->err = fd_close(d->err);
	free(d->program);
	free(d);
	return NULL;
}
