/* SPDX-License-Identifier: MIT */
/*
 * The qemu driver: finds QEMU and its version, makes its command line, and explains why it ended.
 * Called through struct vmm_driver; its VMM is driven by QMP (qmp-vmm.c).
 */
#include "daemon/vmm/qemu.h"

#include <assert.h>
#include <sys/stat.h>

#include "daemon/job.h"
#include "daemon/log.h"
#include "daemon/vmm/qemu-args.h"
#include "daemon/vmm/qmp-vmm.h"
#include "proto/host.h"

#define QEMU_PROGRAM    "qemu-system-x86_64"
#define QEMU_FIX        "sudo apt-get install -y qemu-system-x86"
#define REINSTALL_FIX   "sudo apt-get install --reinstall -y qemu-system-x86"
#define NAMED_FIX       "correct qemu= in pyrod.conf, or leave it out"
#define FIRMWARE_FIX    "sudo apt-get install --reinstall -y qemu-system-data"
#define PROBE_WAIT_USEC (10 * USEC_PER_SEC)

static_assert((int)QEMU_FD_QMP == (int)QMP_VMM_CONTROL &&
		      (int)QEMU_FD_AGENT == (int)QMP_VMM_AGENT &&
		      (int)QEMU_FD_CONSOLE == (int)QMP_VMM_CONSOLE,
	"sockets travel first, in this order");

/* Returns the configured program, or the one in PATH. */
static int find_program(const struct manager *m, char **ret)
{
	const char *name = m->config && m->config->qemu ? m->config->qemu : QEMU_PROGRAM;

	return host_find_program(name, ret);
}

static int not_installed(const struct manager *m, struct error *err)
{
	const char *named = m->config ? m->config->qemu : NULL;

	if (named)
		return error_set(err, ERROR_VM_UNAVAILABLE, "qemu= of pyrod.conf names it",
			NAMED_FIX, "there is no program %s", named);
	return error_set(err, ERROR_VM_UNAVAILABLE, "it is not in PATH", QEMU_FIX,
		"QEMU (%s) is not installed", QEMU_PROGRAM);
}

static int qemu_program(struct manager *m, char **ret, struct error *err)
{
	int r = find_program(m, ret);

	if (r == -ENOMEM)
		return error_no_memory(err, "cannot start a VM");
	return r < 0 ? not_installed(m, err) : 0;
}

/*
 * `QEMU --version` takes 60 ms, too long for the loop: a job runs it, and the result is cached for
 * the process until the file changes. (Global, like the TSC rate: a fact about the host.)
 */
static struct {
	struct job *job; /* owned while it runs */
	dev_t dev;
	ino_t ino;
	struct timespec mtime;
	char version[64];
	int status; /* exit status of a job that printed no version, else negative */
} version_cache;

static bool cache_fits(const struct stat *st)
{
	return version_cache.ino == st->st_ino && version_cache.dev == st->st_dev &&
	       version_cache.mtime.tv_sec == st->st_mtim.tv_sec &&
	       version_cache.mtime.tv_nsec == st->st_mtim.tv_nsec;
}

/* Parses "QEMU emulator version 7.2.22 (Debian ...)". */
static void on_version_line(
	struct job *job _unused_, const char *line, size_t n, void *userdata _unused_)
{
	static const char prefix[] = "QEMU emulator version ";
	size_t skip = sizeof(prefix) - 1, len;

	if (n <= skip || memcmp(line, prefix, skip) != 0 || version_cache.version[0])
		return;
	len = n - skip;
	for (size_t i = skip; i < n && len == n - skip; i++)
		if (line[i] == ' ')
			len = i - skip;
	(void)log_escape(line + skip, len, version_cache.version, sizeof(version_cache.version));
}

static void on_version_done(
	struct job *job _unused_, int status, const char *tail _unused_, void *userdata _unused_)
{
	version_cache.job = NULL;
	version_cache.status = status;
}

static int ask_version(sd_event *event, const char *program)
{
	const char *const argv[] = { program, "--version", NULL };
	const struct job_spec spec = {
		.name = "qemu-version",
		.child = { .argv = argv, .stdin_fd = -EBADF, .die_with_parent = true },
		.timeout_usec = PROBE_WAIT_USEC,
		.on_line = on_version_line,
		.on_done = on_version_done,
	};

	return job_start(event, &spec, &version_cache.job);
}

/* True if the program exited without printing a version. One that was killed (by the timeout) is
 * unknown. */
static bool is_not_qemu(void)
{
	return !version_cache.job && !version_cache.version[0] && version_cache.status >= 0;
}

/* Fills in the same reason and fix as the error of a start. */
static int probe_absent(const struct manager *m, struct vmm_probe *p)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	not_installed(m, &err);
	if (!err.message || !err.fix)
		return -ENOMEM;
	p->reason = TAKE_PTR(err.message);
	p->fix = TAKE_PTR(err.fix);
	return 0;
}

static int probe_version(struct manager *m, const struct stat *st, bool again, struct vmm_probe *p)
{
	int r = 0;

	if (!version_cache.job && (!cache_fits(st) || (again && is_not_qemu()))) {
		version_cache.version[0] = 0;
		version_cache.status = -1;
		version_cache.dev = st->st_dev;
		version_cache.ino = st->st_ino;
		version_cache.mtime = st->st_mtim;
		r = ask_version(m->event, p->path);
	}
	if (r < 0)
		return r;
	p->usable = !is_not_qemu();
	if (!p->usable) {
		p->reason = str_printf("%s is not QEMU: with --version it ended with status %d "
				       "and named no version",
			p->path, version_cache.status);
		p->fix = strdup(m->config && m->config->qemu ? NAMED_FIX : REINSTALL_FIX);
		return p->reason && p->fix ? 0 : -ENOMEM;
	}
	if (version_cache.version[0] && !version_cache.job)
		p->version = strdup(version_cache.version);
	return version_cache.version[0] && !version_cache.job && !p->version ? -ENOMEM : 0;
}

static int qemu_probe(struct manager *m, bool again, struct vmm_probe *ret)
{
	_cleanup_(vmm_probe_done) struct vmm_probe p = { .usable = false };
	struct stat st;
	int r = find_program(m, &p.path);

	if (r == -ENOMEM)
		return r;
	if (r < 0 || stat(p.path, &st) < 0)
		r = probe_absent(m, &p);
	else
		r = probe_version(m, &st, again, &p);
	if (r < 0)
		return r;
	*ret = p;
	p = (struct vmm_probe){};
	return 0;
}

static int qemu_command(
	struct vmm *v, const struct vmm_spec *spec, struct vmm_command *c, struct error *err)
{
	int r = qmp_vmm_listen(v, c);

	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot make the sockets of %s in %s", spec->id, spec->run_dir);
	r = qemu_args_make(spec, v->program, host_tsc_khz(), c);
	vmm_command_add_fd(c, &r, spec->vmlinux_fd);
	vmm_command_add_fd(c, &r, spec->initrd_fd);
	for (size_t i = 0; r >= 0 && i < spec->n_disks; i++)
		vmm_command_add_fd(c, &r, spec->disks[i].fd);
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot make QEMU's arguments for %s", spec->id);
	if (v->m->config && v->m->config->qemu)
		v->fix = NAMED_FIX;
	return 0;
}

static const char *qemu_exited(struct vmm *v, const char *reason)
{
	qmp_vmm_drain(v);
	return reason && strstr(reason, QEMU_FIRMWARE) ? FIRMWARE_FIX : NULL;
}

const struct vmm_driver vmm_driver_qemu = {
	.name = "qemu",
	.title = "QEMU",
	.execution_mode = "guest_serial",
	.id_option = "-uuid",
	.can = VMM_KVM | VMM_EMULATION,
	.sockets = qmp_vmm_sockets,
	.size = sizeof(struct qmp_vmm),
	.probe = qemu_probe,
	.program = qemu_program,
	.command = qemu_command,
	.connect = qmp_vmm_connect,
	.boot = qmp_vmm_boot,
	.pause = qmp_vmm_pause,
	.resume = qmp_vmm_resume,
	.dial = qmp_vmm_dial,
	.exited = qemu_exited,
	.free = qmp_vmm_free,
};
