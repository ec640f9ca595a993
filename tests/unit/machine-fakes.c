/* SPDX-License-Identifier: MIT */
/*
 * See machine-fakes.h. Linked in place of libimage and of libvmm, except its identity.c: a test's
 * VMM of a previous daemon is a process with the machine's uuid on its command line.
 */

#include "tests/unit/machine-fakes.h"

#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "daemon/config.h"
#include "daemon/image/disk.h"
#include "daemon/image/environment.h"
#include "daemon/image/kernel.h"
#include "daemon/vmm/vmm.h"

struct fake fake;

/* The loop */

struct later {
	void (*fn)(void *);
	void *arg;
};

static int on_later(sd_event_source *source, void *userdata)
{
	struct later *l = userdata;

	sd_event_source_disable_unref(source);
	l->fn(l->arg);
	free(l);
	return 0;
}

static void later(void (*fn)(void *), void *arg)
{
	struct later *l = malloc(sizeof(*l));
	sd_event_source *source;

	ck_assert_ptr_nonnull(l);
	*l = (struct later){ fn, arg };
	ck_assert_int_ge(sd_event_add_defer(fake.event, &source, on_later, l), 0);
}

/* The agent */

void fake_flush(void)
{
	while (fake.fd >= 0 && buf_len(&fake.out) > 0) {
		ssize_t n = send(fake.fd, buf_head(&fake.out), buf_len(&fake.out),
			MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0)
			break;
		buf_consume(&fake.out, (size_t)n);
	}
	if (fake.io)
		(void)sd_event_source_set_io_events(
			fake.io, buf_len(&fake.out) ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

void fake_send(const void *p, size_t n)
{
	ck_assert_int_ge(buf_append(&fake.out, p, n), 0);
	fake_flush();
}

static void send_setup_done(int error)
{
	struct msg_result m = { .error = (uint32_t)error,
		.what = (char *)(error ? "mount /workspace" : NULL) };

	ck_assert_int_ge(
		msg_send(&fake.out, fake.version, result, FRAME_SETUP_DONE, AGENT_CHANNEL_NONE, &m),
		0);
}

static void send_welcome(const struct frame *f)
{
	struct msg_hello hello;
	struct msg_welcome w = { .state = fake.set_up ? AGENT_SET_UP : AGENT_READY };
	struct msg_held held = { "ex-0123456789ab", .channel = fake.held_channel };

	if (fake.held_channel > 0) {
		w.n_held = 1;
		w.held = &held;
	}
	ck_assert_int_ge(msg_hello_get(f, AGENT_PROTOCOL_MAX, &hello), 0);
	if (fake.mute)
		return;
	fake.version = w.version = hello.version_max;
	memcpy(w.machine_id, fake.machine_id, sizeof(w.machine_id));
	fake_send(hello.nonce, sizeof(hello.nonce));
	ck_assert_int_ge(msg_send(&fake.out, fake.version, welcome, FRAME_WELCOME, 0, &w), 0);
	fake.greeted = true;
}

static void take_setup(const struct frame *f)
{
	struct msg_setup m = { 0 };

	ck_assert_int_ge(msg_setup_get(f, fake.version, &m), 0);
	fake.setups++;
	memcpy(fake.sync, m.sync, sizeof(fake.sync));
	memcpy(fake.machine_id, m.machine_id, sizeof(fake.machine_id));
	msg_setup_done(&m);
	if (fake.stall == FAKE_SETUP)
		return;
	fake.set_up = fake.fail != FAKE_SETUP;
	send_setup_done(fake.fail == FAKE_SETUP ? EIO : 0);
	if (fake.set_up)
		decoder_set_mark(&fake.in, fake.sync);
}

/* Sends BYE, then ends the VMM. */
static void take_shutdown(void)
{
	struct msg_bye bye = { .reason = BYE_SHUTDOWN };

	fake.shutdowns++;
	if (fake.never_ends)
		return;
	ck_assert_int_ge(
		msg_send(&fake.out, fake.version, bye, FRAME_BYE, AGENT_CHANNEL_NONE, &bye), 0);
	fake_flush();
	fake_vmm_end_later();
}

static void take_frame(const struct frame *f)
{
	switch (f->type) {
	case FRAME_HELLO: send_welcome(f); break;
	case FRAME_SETUP: take_setup(f); break;
	case FRAME_SHUTDOWN: take_shutdown(); break;
	case FRAME_LOGIN: fake.logins++; break;
	default: break;
	}
}

static void hang_up(void)
{
	fake.io = sd_event_source_disable_unref(fake.io);
	fake.fd = fd_close(fake.fd);
	buf_clear(&fake.out);
}

static int on_agent(
	_unused_ sd_event_source *s, int fd, _unused_ uint32_t revents, _unused_ void *userdata)
{
	size_t room;
	uint8_t *p = decoder_space(&fake.in, &room);
	ssize_t n = recv(fd, p, room, MSG_DONTWAIT);
	struct frame f;
	int r;

	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		hang_up();
		return 0;
	}
	if (n > 0)
		decoder_fed(&fake.in, (size_t)n);
	while ((r = decoder_next(&fake.in, &f)) != DECODER_MORE) {
		/* Accepts the initial SYNC until SETUP has replaced it. The next daemon does not
		 * know whether its guest has had SETUP, so it tries both values. */
		if (r < 0) {
			ck_assert(!fake.set_up || fake.adopted > 0);
			hang_up();
			return 0;
		}
		if (r == DECODER_RESYNC)
			frame_assembler_reset(&fake.parts);
		else if (frame_assembler_add(&fake.parts, &f) == 1)
			take_frame(&f);
	}
	fake_flush();
	return 0;
}

int fake_dial(void)
{
	int pair[2];

	fake.dials++;
	if (fake.refuse_dial)
		return -ECONNREFUSED;
	hang_up();
	ck_assert_int_eq(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	fake.fd = pair[1];
	ck_assert_int_ge(
		sd_event_add_io(fake.event, &fake.io, fake.fd, EPOLLIN, on_agent, NULL), 0);
	return pair[0];
}

void fake_break(void)
{
	hang_up();
}

void fake_reset(sd_event *event)
{
	fake_done();
	fake.event = event;
	decoder_init(&fake.in, DECODER_SYNC, frame_sync_initial);
	frame_assembler_init(&fake.parts, LIMIT_MESSAGE_BYTES);
	buf_init(&fake.out, 64 * MIB);
}

/* At most one machine at a time has its image and kernel checked. */
static struct reading {
	integrity_done_fn done;
	void *userdata;
} readings[2];

void fake_done(void)
{
	if (fake.event)
		hang_up();
	decoder_done(&fake.in);
	frame_assembler_done(&fake.parts);
	buf_done(&fake.out);
	memset(&fake, 0, sizeof(fake));
	memset(readings, 0, sizeof(readings));
	fake.fd = -EBADF;
}

/* Environments and kernels */

struct environment {
	int unused;
};
static struct environment the_environment;

int environments_find(_unused_ struct environments *envs, const char *name,
	struct environment **ret, struct error *err)
{
	if (!streq(name, "debian:12"))
		return error_set(
			err, ERROR_ENVIRONMENT_UNKNOWN, NULL, "pyro env list", "no %s", name);
	*ret = &the_environment;
	return 0;
}

const char *environment_digest(_unused_ const struct environment *env)
{
	return "sha256:00";
}

const char *environment_version(_unused_ const struct environment *env)
{
	return "1.0.0";
}

int environments_open_image(_unused_ struct environments *envs, _unused_ const char *digest,
	int *ret_fd, struct error *err)
{
	if (fake.fail == FAKE_IMAGE)
		return error_set(err, ERROR_PULL_FAILED, NULL, "mend it", "no image");
	*ret_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return 0;
}

bool environment_installed(_unused_ const struct environment *env)
{
	return true;
}

static void end_reading(void *arg)
{
	struct reading *slot = arg, r = *slot;
	_cleanup_error_ struct error err = ERROR_INIT;

	*slot = (struct reading){ 0 };
	if (!r.done)
		return; /* forgotten by its caller */
	fake.was_read = fake.fail != FAKE_READ;
	if (fake.fail == FAKE_READ)
		error_set(&err, ERROR_INTERNAL, NULL, "try again", "no pyro-import");
	r.done(err.set ? &err : NULL, r.userdata);
}

static int begin_reading(integrity_done_fn done, void *userdata)
{
	struct reading *slot = &readings[readings[0].done != NULL];

	ck_assert_ptr_null(slot->done);
	*slot = (struct reading){ done, userdata };
	fake.reads++;
	if (fake.stall != FAKE_READ)
		later(end_reading, slot);
	return 0;
}

void integrity_forget(_unused_ struct integrity *in, const void *userdata)
{
	for (size_t i = 0; i < ARRAY_SIZE(readings); i++)
		if (readings[i].userdata == userdata)
			readings[i] = (struct reading){ 0 };
}

const char *environments_image_damage(
	_unused_ struct environments *envs, _unused_ const char *digest)
{
	return NULL;
}

bool environments_image_is_suspect(_unused_ struct environments *envs, _unused_ const char *digest)
{
	return fake.suspect && !fake.was_read;
}

int environments_check_image(_unused_ struct environments *envs, _unused_ const char *digest,
	_unused_ bool again, integrity_done_fn done, void *userdata, _unused_ struct error *err)
{
	return begin_reading(done, userdata);
}

const char *kernels_damage(_unused_ struct kernels *k, _unused_ const char *hash)
{
	return NULL;
}

const char *kernels_initrd_damage(_unused_ struct kernels *k, _unused_ const char *hash)
{
	return NULL;
}

bool kernels_is_suspect(_unused_ struct kernels *k, _unused_ const char *hash)
{
	return false;
}

int kernels_check(_unused_ struct kernels *k, _unused_ const char *hash, _unused_ bool again,
	integrity_done_fn done, void *userdata, _unused_ struct error *err)
{
	return begin_reading(done, userdata);
}

void environments_release(_unused_ struct environments *envs, _unused_ const char *digest)
{
}

int kernels_is_configured(_unused_ struct kernels *k, _unused_ struct error *err)
{
	return 1;
}

const char *kernels_current(_unused_ struct kernels *k)
{
	return "0123456789abcdef";
}

static struct packing {
	kernel_done_fn done; /* NULL: no caller waits */
	void *userdata;
} packing;

static void end_packing(_unused_ void *arg)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct packing p = packing;

	packing = (struct packing){ 0 };
	if (fake.fail == FAKE_PACK)
		error_set(&err, ERROR_START_FAILED, NULL, "mend it", "no room for an initramfs");
	if (p.done)
		p.done(err.set ? &err : NULL, p.userdata);
}

int kernels_pack(_unused_ struct kernels *k, _unused_ const char *hash, kernel_done_fn on_done,
	void *userdata, _unused_ struct error *err)
{
	if (!fake.unpacked && fake.fail != FAKE_PACK && fake.stall != FAKE_PACK)
		return 1;
	packing = (struct packing){ on_done, userdata };
	if (fake.stall != FAKE_PACK)
		later(end_packing, NULL);
	return 0;
}

void kernels_forget(_unused_ struct kernels *k, const void *userdata)
{
	ck_assert_ptr_eq(packing.userdata, userdata);
	packing = (struct packing){ 0 };
}

int kernels_open(_unused_ struct kernels *k, _unused_ const char *hash, struct kernel_files *ret,
	struct error *err)
{
	if (fake.fail == FAKE_KERNEL)
		return error_set(err, ERROR_START_FAILED, NULL, "mend it", "no kernel");
	ret->vmlinux_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	ret->initrd_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return 0;
}

void kernel_files_done(struct kernel_files *f)
{
	f->vmlinux_fd = fd_close(f->vmlinux_fd);
	f->initrd_fd = fd_close(f->initrd_fd);
	f->modules_fd = fd_close(f->modules_fd);
}

/* Disks */

struct disk_op {
	disk_done_fn done;
	void *userdata;
	bool fail, pending, forgotten;
};

static void end_disk(void *arg)
{
	struct disk_op *op = arg;
	_cleanup_error_ struct error err = ERROR_INIT;

	op->pending = false;
	if (op->forgotten) {
		free(op);
		return;
	}

	if (op->fail)
		error_set(&err, ERROR_NO_SPACE, NULL, "mend it", "disk full");
	op->done(op->fail ? &err : NULL, op->userdata);
}

static struct disk_op *disk_op_new(disk_done_fn done, void *userdata)
{
	struct disk_op *op = calloc(1, sizeof(*op));

	op->done = done;
	op->userdata = userdata;
	op->pending = true;
	return op;
}

int disk_create(_unused_ struct manager *m, const char *path, _unused_ uint64_t size_mib,
	disk_done_fn done, void *userdata, struct disk_op **ret, _unused_ struct error *err)
{
	struct disk_op *op = disk_op_new(done, userdata);
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	fd_close(fd);
	fake.disks++;
	(void)snprintf(fake.disk_path, sizeof(fake.disk_path), "%s", path);
	op->fail = fake.fail == FAKE_DISK;
	*ret = op;
	later(end_disk, op);
	return 0;
}

static int remove_one(const char *path, _unused_ const struct stat *st, _unused_ int flag,
	_unused_ struct FTW *ftw)
{
	return remove(path);
}

int disk_remove(_unused_ struct manager *m, const char *path, disk_done_fn done, void *userdata,
	struct disk_op **ret, _unused_ struct error *err)
{
	struct disk_op *op = disk_op_new(done, userdata);

	op->fail = fake.fail == FAKE_REMOVE;
	if (!op->fail)
		(void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	*ret = op;
	later(end_disk, op);
	return 0;
}

struct disk_op *disk_op_free(struct disk_op *op)
{
	if (op && op->pending)
		op->forgotten = true;
	else
		free(op);
	return NULL;
}

/* The VMM */

struct vmm {
	struct vmm_callbacks cb;
	void *userdata;
	bool exited, adopted;
};
static struct vmm *the_vmm;

/* identity.c is not faked: a test's VMM of a previous daemon is a process with this command
 * line. */
const struct vmm_driver *vmm_driver_find(const char *name)
{
	static const struct vmm_driver d = { .name = FAKE_DRIVER, .id_option = "-uuid" };

	return streq(name, d.name) ? &d : NULL;
}

int vmm_program(_unused_ struct manager *m, _unused_ enum accelerator a, char **ret)
{
	*ret = strdup("/bin/true");
	return *ret ? 0 : -ENOMEM;
}

int vmm_choose(_unused_ struct manager *m, _unused_ enum accelerator want, struct vmm_choice *ret,
	_unused_ struct error *err)
{
	*ret = (struct vmm_choice){ FAKE_DRIVER, ACCELERATOR_EMULATION, "no /dev/kvm" };
	return 0;
}

static void vmm_up(void *arg)
{
	struct vmm *v = arg;

	if (!v || v != the_vmm || v->exited)
		return;
	v->cb.on_launched(v, v->userdata);
	v->cb.on_started(v, v->userdata);
}

static void vmm_end(void *arg)
{
	struct vmm *v = arg;
	struct vmm_exit e = { .status = fake.unseen ? 0 : 1,
		.guest_ended = fake.unseen,
		.reason = fake.unseen ? NULL : "killed" };

	if (!v || v != the_vmm || v->exited)
		return;
	v->exited = true;
	v->cb.on_exited(v, &e, v->userdata);
}

static void vmm_refuse(void *arg)
{
	struct vmm *v = arg;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (v != the_vmm || v->exited)
		return;
	error_set(&err, ERROR_START_FAILED, NULL, "mend it", "no such firmware");
	v->cb.on_failed(v, &err, v->userdata);
	later(vmm_end, v);
}

int vmm_launch(_unused_ struct manager *m, const struct vmm_spec *spec,
	const struct vmm_callbacks *cb, void *userdata, struct vmm **ret, struct error *err)
{
	ck_assert_str_eq(spec->driver->name, FAKE_DRIVER);
	if (fake.fail == FAKE_VMM)
		return error_set(err, ERROR_VM_UNAVAILABLE, NULL, "mend it", "no qemu");
	the_vmm = calloc(1, sizeof(*the_vmm));
	the_vmm->cb = *cb;
	the_vmm->userdata = userdata;
	fake.vmms++;
	fake.launches++;
	fake.set_up = false; /* another guest */
	decoder_set_mark(&fake.in, frame_sync_initial);
	*ret = the_vmm;
	return 0;
}

void vmm_boot(struct vmm *v)
{
	if (v->adopted)
		return;
	if (fake.fail == FAKE_VMM_START)
		later(vmm_refuse, v);
	else if (fake.stall != FAKE_VMM_START)
		later(vmm_up, v);
}

/* The VMM of a previous daemon is the one that vmm_detach left. */
int vmm_adopt(_unused_ struct manager *m, const struct vmm_adoption *a,
	const struct vmm_callbacks *cb, void *userdata, struct vmm **ret, struct error *err)
{
	ck_assert_str_eq(a->driver->name, FAKE_DRIVER);
	if (fake.fail == FAKE_VMM)
		return error_internal(err, NULL, "no socket");
	the_vmm = calloc(1, sizeof(*the_vmm));
	the_vmm->cb = *cb;
	the_vmm->userdata = userdata;
	fake.vmms = 1;
	the_vmm->adopted = true;
	fake.adopted++;
	(void)close(a->pidfd);
	*ret = the_vmm;
	return 0;
}

struct vmm *vmm_detach(struct vmm *v)
{
	free(v);
	if (v == the_vmm)
		the_vmm = NULL;
	return NULL;
}

int vmm_dial(struct vmm *v)
{
	int fd = fake_dial();

	if (fd < 0)
		return fd;
	v->cb.on_agent(v, fd, v->userdata);
	return 0;
}

void vmm_resume(struct vmm *v)
{
	fake.resumes++;
	v->cb.on_resumed(v, v->userdata);
}

void vmm_pause(struct vmm *v)
{
	fake.pauses++;
	if (!fake.writes_on)
		v->cb.on_paused(v, "disk_full", v->userdata);
}

void vmm_stop(struct vmm *v)
{
	if (!fake.hangs)
		later(vmm_end, v);
}

void fake_vmm_end_later(void)
{
	later(vmm_end, the_vmm);
}

void fake_vmm_pause(void)
{
	the_vmm->cb.on_paused(the_vmm, "disk_full", the_vmm->userdata);
}

bool fake_vmm_runs(void)
{
	return the_vmm && !the_vmm->exited;
}

void fake_vmm_die(void)
{
	vmm_end(the_vmm);
}

pid_t vmm_pid(_unused_ const struct vmm *v)
{
	return 1;
}

uint64_t vmm_start_time(_unused_ const struct vmm *v)
{
	return 1;
}

const char *vmm_invocation(_unused_ const struct vmm *v)
{
	return "";
}

char *vmm_unit(const char *id)
{
	return str_printf("pyro-vm@%s.service", id);
}

const char *vmm_execution_mode(_unused_ const struct vmm *v)
{
	return "guest_serial";
}

const char *vmm_version(_unused_ const struct vmm *v)
{
	return "QEMU 7.2.22 (Debian)";
}

bool vmm_guest_seen(_unused_ const struct vmm *v)
{
	return !fake.unseen;
}

int vmm_console_tail(_unused_ struct vmm *v, _unused_ size_t max, char **ret)
{
	*ret = strdup("Kernel panic");
	return 0;
}

int vmm_console_cause(_unused_ struct vmm *v, char **ret)
{
	*ret = strdup("Kernel panic");
	return 0;
}

struct vmm *vmm_free(struct vmm *v)
{
	if (v == the_vmm)
		the_vmm = NULL;
	if (v)
		fake.vmms--;
	free(v);
	return NULL;
}
