/* SPDX-License-Identifier: MIT */
/*
 * Builds QEMU's arguments. Called by qemu.c; a pure function, so that tests check the command line
 * without a VM. Machine `microvm`; every device has a fixed virtio-mmio slot, since QEMU otherwise
 * assigns slots from the top and a saved template would depend on the order of options. Every file
 * is a descriptor: disks through fd sets, kernel and initramfs through /proc/self/fd. What must
 * stay true: the disk format is always given, since QEMU must not guess it from bytes the guest
 * wrote.
 */
#include "daemon/vmm/qemu-args.h"

#include <assert.h>
#include <inttypes.h>

#include "proto/agent.h"
#include "proto/limits.h"

/* Slots of the microvm machine, 24 with ACPI, assigned from the top as QEMU does. A device in slot
 * 0 gets no interrupts in the guest (QEMU 7.2). */
enum { SLOT_SERIAL = 23, SLOT_RNG = 22, SLOT_DISKS = 21 };

/*
 * loglevel=3 reserves the console for panics and file system errors, which machine/images.c
 * detects. Under emulation the kernel's TSC calibration fails on a busy host and then hangs (vmm.md
 * section 1), so tsc_early_khz gives the rate. The others save 0.4 s of boot.
 */
#define KERNEL_ARGS \
	"console=ttyS0 quiet loglevel=3 reboot=t panic=-1 init_on_alloc=0 audit=0 apparmor=0 " \
	"cryptomgr.notests no_timer_check rcupdate.rcu_expedited=1"

static const char *const serials[] = {
	[VMM_DISK_ENVIRONMENT] = DISK_SERIAL_ENV,
	[VMM_DISK_OWN] = DISK_SERIAL_OWN,
	[VMM_DISK_MODULES] = DISK_SERIAL_MODULES,
};
static_assert(ARRAY_SIZE(serials) == VMM_DISK_MAX, "a serial for each disk");

static int child_fd(size_t i)
{
	return LAUNCH_FIRST_FD + (int)i;
}

/* True if s contains no separator of QEMU options. */
static bool is_word(const char *s)
{
	return *s && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(s);
}

/*
 * With one vCPU, QEMU 7.2 emulates no memory barriers and no locked instructions, although its I/O
 * thread runs in parallel (8.1 fixes barriers only): a virtio interrupt, and with it a disk read,
 * can be lost for ever. Room for a second vCPU (maxcpus) enables them; possible_cpus=1 tells Linux
 * that there is only one.
 */
static bool needs_barriers(const struct vmm_spec *s)
{
	return s->accelerator == ACCELERATOR_EMULATION && s->vcpu_count == 1;
}

static void add_machine(struct vmm_command *a, int *r, const struct vmm_spec *s)
{
	char uuid[VMM_UUID_TEXT];

	vmm_uuid_text(s->uuid, uuid);
	vmm_command_add(a, r, "-name");
	vmm_command_add(a, r, "%s", s->id);
	vmm_command_add(a, r, "%s", s->driver->id_option);
	vmm_command_add(a, r, "%s", uuid);
	vmm_command_add(a, r, "-M");
	vmm_command_add(a, r,
		"microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,"
		"mem-merge=off,dump-guest-core=off,memory-backend=mem");
	/*
	 * qboot loads the kernel itself. It is named because the machine's default,
	 * bios-microvm.bin, is a link to qboot on Debian 12 only; elsewhere it is SeaBIOS, which
	 * needs option ROMs to load a kernel.
	 */
	vmm_command_add(a, r, "-bios");
	vmm_command_add(a, r, QEMU_FIRMWARE);
	vmm_command_add(a, r, "-object");
	/* Anonymous memory may have huge pages and is freed in 10 ms; freeing the 4 KiB pages of a
	 * memfd takes 50 ms at the end of every run. */
	vmm_command_add(a, r, "memory-backend-ram,id=mem,size=%" PRIu64 "M", s->mem_mib);
	vmm_command_add(a, r, "-m");
	vmm_command_add(a, r, "%" PRIu64 "M", s->mem_mib);
	vmm_command_add(a, r, "-smp");
	vmm_command_add(a, r, needs_barriers(s) ? "%u,maxcpus=2" : "%u", s->vcpu_count);
	vmm_command_add(a, r, "-accel");
	if (s->accelerator == ACCELERATOR_KVM)
		vmm_command_add(a, r, "kvm");
	else
		/* One thread per vCPU, even for a single one: a boot is 8 % faster than with the
		 * round-robin thread. */
		vmm_command_add(a, r, "tcg,tb-size=64,thread=multi");
	vmm_command_add(a, r, "-cpu");
	vmm_command_add(a, r, "%s", s->accelerator == ACCELERATOR_KVM ? "host" : "max");
}

static void add_defaults(struct vmm_command *a, int *r)
{
	static const char *const fixed[] = {
		"-S", /* no guest runs before the first `cont` */
		"-nodefaults",
		"-no-user-config",
		"-display",
		"none",
		"-no-reboot",
		"-msg",
		"timestamp=on",
		"-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	};

	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
		vmm_command_add(a, r, "%s", fixed[i]);
}

static void add_kernel(struct vmm_command *a, int *r, const struct vmm_spec *s, uint32_t tsc_khz)
{
	const char *cpus = needs_barriers(s) ? " possible_cpus=1" : "";

	vmm_command_add(a, r, "-kernel");
	vmm_command_add(a, r, "/proc/self/fd/%d", child_fd(QEMU_FD_VMLINUX));
	vmm_command_add(a, r, "-initrd");
	vmm_command_add(a, r, "/proc/self/fd/%d", child_fd(QEMU_FD_INITRD));
	vmm_command_add(a, r, "-append");
	if (s->accelerator == ACCELERATOR_EMULATION && tsc_khz > 0)
		vmm_command_add(
			a, r, KERNEL_ARGS "%s tsc=reliable tsc_early_khz=%u", cpus, tsc_khz);
	else
		vmm_command_add(a, r, KERNEL_ARGS "%s", cpus);
}

static void add_sockets(struct vmm_command *a, int *r)
{
	vmm_command_add(a, r, "-chardev");
	vmm_command_add(a, r, "socket,id=qmp,fd=%d,server=on,wait=off", child_fd(QEMU_FD_QMP));
	vmm_command_add(a, r, "-mon");
	vmm_command_add(a, r, "chardev=qmp,mode=control");
	vmm_command_add(a, r, "-chardev");
	vmm_command_add(
		a, r, "socket,id=console,fd=%d,server=on,wait=off", child_fd(QEMU_FD_CONSOLE));
	vmm_command_add(a, r, "-serial");
	vmm_command_add(a, r, "chardev:console");
	vmm_command_add(a, r, "-chardev");
	vmm_command_add(a, r, "socket,id=agent,fd=%d,server=on,wait=off", child_fd(QEMU_FD_AGENT));
	vmm_command_add(a, r, "-device");
	/* Port 0 is for consoles; each port costs two queues in the guest. */
	vmm_command_add(a, r, "virtio-serial-device,id=serial,max_ports=2,bus=virtio-mmio-bus.%d",
		SLOT_SERIAL);
	vmm_command_add(a, r, "-device");
	vmm_command_add(a, r, "virtserialport,id=agent,bus=serial.0,nr=1,chardev=agent,name=%s",
		AGENT_PORT_NAME);
	vmm_command_add(a, r, "-object");
	vmm_command_add(a, r, "rng-builtin,id=rng");
	vmm_command_add(a, r, "-device");
	vmm_command_add(a, r, "virtio-rng-device,rng=rng,bus=virtio-mmio-bus.%d", SLOT_RNG);
}

/* Many VMMs share a read-only image that is never written: it needs no locks. */
static void add_disk(struct vmm_command *a, int *r, const struct vmm_disk *d, size_t i)
{
	const int fd = child_fd(QEMU_FD_DISKS + i);

	vmm_command_add(a, r, "-add-fd");
	vmm_command_add(a, r, "fd=%d,set=%d", fd, fd);
	vmm_command_add(a, r, "-blockdev");
	if (d->read_only)
		vmm_command_add(a, r,
			"driver=raw,node-name=disk%zu,read-only=on,file.driver=file,"
			"file.filename=/dev/fdset/%d,file.locking=off",
			i, fd);
	else
		vmm_command_add(a, r,
			"driver=raw,node-name=disk%zu,read-only=off,discard=unmap,"
			"detect-zeroes=unmap,file.driver=file,file.filename=/dev/fdset/%d,"
			"file.discard=unmap",
			i, fd);
	vmm_command_add(a, r, "-device");
	vmm_command_add(a, r,
		"virtio-blk-device,id=%s,drive=disk%zu,serial=%s,bus=virtio-mmio-bus.%zu%s",
		serials[d->what], i, serials[d->what], SLOT_DISKS - i,
		d->read_only ? "" : ",werror=enospc,rerror=report");
}

static bool spec_is_sane(const struct vmm_spec *s)
{
	if (!is_word(s->id) || s->n_disks > VMM_DISK_MAX || s->vcpu_count < VCPU_MIN ||
		s->vcpu_count > VCPU_MAX || s->mem_mib < MEM_MIB_MIN || s->mem_mib > MEM_MIB_MAX)
		return false;
	if (s->accelerator != ACCELERATOR_KVM && s->accelerator != ACCELERATOR_EMULATION)
		return false;
	for (size_t i = 0; i < s->n_disks; i++)
		if (s->disks[i].what >= VMM_DISK_MAX || s->disks[i].fd < 0)
			return false;
	return s->vmlinux_fd >= 0 && s->initrd_fd >= 0;
}

int qemu_args_make(
	const struct vmm_spec *spec, const char *program, uint32_t tsc_khz, struct vmm_command *c)
{
	int r = spec_is_sane(spec) ? 0 : -EINVAL;

	if (r < 0)
		return r;
	vmm_command_add(c, &r, "%s", program);
	add_machine(c, &r, spec);
	add_defaults(c, &r);
	add_kernel(c, &r, spec, tsc_khz);
	add_sockets(c, &r);
	for (size_t i = 0; i < spec->n_disks; i++)
		add_disk(c, &r, &spec->disks[i], i);
	return r;
}
