/* SPDX-License-Identifier: MIT */
/*
 * The array of drivers, and the choice of driver and accelerator for the next machine. Called by
 * machine/ and by the handlers of system.*. What must stay true: without a usable driver no machine
 * runs.
 */
#include "daemon/vmm/vmm.h"

#include <sys/stat.h>

#include "daemon/unit.h"
#include "daemon/vmm/qemu.h"
#include "proto/host.h"

#ifdef PYRO_CRASH_POINTS
#include "daemon/vmm/fake.h"
#define TEST_DRIVER "PYRO_TEST_DRIVER" /* names the driver of new machines */
#endif

const struct vmm_driver *const vmm_drivers[] = {
	&vmm_driver_qemu,
#ifdef PYRO_CRASH_POINTS /* a test build: tests/fake/fake.h */
	&vmm_driver_fake,
#endif
	NULL,
};

const struct vmm_driver *vmm_driver_find(const char *name)
{
	for (size_t i = 0; vmm_drivers[i]; i++)
		if (streq(vmm_drivers[i]->name, name))
			return vmm_drivers[i];
	return NULL;
}

void vmm_probe_done(struct vmm_probe *p)
{
	free(p->path);
	free(p->version);
	free(p->reason);
	free(p->fix);
	*p = (struct vmm_probe){};
}

/* As root a VMM runs under its own uid, whose only group is that of /dev/kvm (confine.c). */
static bool kvm_is_root_only(void)
{
	struct stat st;

	if (geteuid() != 0 || stat("/dev/kvm", &st) < 0)
		return false;
	return (st.st_mode & 0006) != 0006 && ((st.st_mode & 0060) != 0060 || st.st_gid == 0);
}

static const char *kvm_reason(const struct host_kvm *kvm)
{
	if (!kvm->exists)
		return host_cpu_virtualization()
			       ? "/dev/kvm does not exist: the kvm module is not loaded"
			       : "/dev/kvm does not exist: the CPU offers no virtualization";
	if (!kvm->readable || !kvm->writable)
		return "pyrod has no permission to open /dev/kvm";
	if (kvm->usable)
		return "only root may open /dev/kvm, and no VMM runs as root";
	return "/dev/kvm exists but does not work";
}

/* Returns how pyrod gets new groups of its account: a new login gives them to the programs started
 * from it. */
static char *restart_fix(void)
{
	if (units_manage(false, "pyrod.service"))
		return strdup(" && sudo systemctl restart pyrod");
	return str_printf("  # then log in again and restart pyrod: kill %d", getpid());
}

/* Returns the command that gives pyrod's user access to /dev/kvm: it joins the device's group if
 * that may read and write, else group kvm. NULL: out of memory, or pyrod's user has no account. */
static char *kvm_group_fix(void)
{
	_cleanup_free_ char *name = NULL, *group = NULL, *restart = restart_fix();
	struct stat st;

	if (!restart || host_user_name(geteuid(), &name) < 0)
		return NULL;
	if (stat("/dev/kvm", &st) == 0 && (st.st_mode & 0060) == 0060 && st.st_gid != 0 &&
		host_group_name(st.st_gid, &group) >= 0)
		return str_printf("sudo usermod -aG %s %s%s", group, name, restart);
	return str_printf("sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm && "
			  "sudo usermod -aG kvm %s%s",
		name, restart);
}

/* *ret may be NULL: out of memory. */
static void kvm_fix(const struct host_kvm *kvm, char **ret)
{
	if (!kvm->exists && host_cpu_virtualization())
		*ret = strdup("sudo modprobe kvm_intel || sudo modprobe kvm_amd");
	else if (!kvm->exists)
		*ret = strdup("use --accelerator emulation, or a host with virtualization enabled");
	else if ((!kvm->readable || !kvm->writable) && (*ret = kvm_group_fix()))
		return;
	else if (kvm->usable)
		*ret = strdup("sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm");
	else
		*ret = strdup("use --accelerator emulation");
}

int vmm_resolve_accelerator(
	enum accelerator want, enum accelerator *ret, const char **ret_reason, struct error *err)
{
	_cleanup_free_ char *fix = NULL;
	struct host_kvm kvm = {};

	if (ret_reason)
		*ret_reason = NULL;
	if (want == ACCELERATOR_EMULATION) {
		*ret = want;
		if (ret_reason)
			*ret_reason = "asked for";
		return 0;
	}
	host_kvm_probe(&kvm);
	if (kvm.usable && !kvm_is_root_only()) {
		*ret = ACCELERATOR_KVM;
		return 0;
	}
	if (want == ACCELERATOR_KVM) {
		kvm_fix(&kvm, &fix);
		return error_set(err, ERROR_VM_UNAVAILABLE, kvm_reason(&kvm), fix,
			"KVM cannot be used on this host");
	}
	*ret = ACCELERATOR_EMULATION;
	if (ret_reason)
		*ret_reason = kvm_reason(&kvm);
	return 0;
}

static bool is_candidate(const struct vmm_driver *d, enum accelerator a)
{
#ifdef PYRO_CRASH_POINTS
	const char *named = getenv(TEST_DRIVER);

	if (!streq(d->name, named ? named : vmm_driver_qemu.name))
		return false;
#endif
	return (d->can & (a == ACCELERATOR_KVM ? VMM_KVM : VMM_EMULATION)) != 0;
}

static bool is_usable(struct manager *m, const struct vmm_driver *d)
{
	_cleanup_(vmm_probe_done) struct vmm_probe p = { .usable = false };

	return d->probe(m, false, &p) >= 0 && p.usable;
}

/* Returns the first usable driver. A single driver is not probed. If none is usable, the start of
 * the first one reports the reason. */
static const struct vmm_driver *choose_driver(struct manager *m, enum accelerator a)
{
	const struct vmm_driver *first = NULL;
	bool others = false;

	for (size_t i = 0; vmm_drivers[i]; i++) {
		if (!is_candidate(vmm_drivers[i], a))
			continue;
		others = first != NULL;
		first = first ? first : vmm_drivers[i];
	}
	for (size_t i = 0; others && vmm_drivers[i]; i++)
		if (is_candidate(vmm_drivers[i], a) && is_usable(m, vmm_drivers[i]))
			return vmm_drivers[i];
	return first;
}

int vmm_choose(struct manager *m, enum accelerator want, struct vmm_choice *ret, struct error *err)
{
	enum accelerator a;
	const struct vmm_driver *d;
	const char *reason;
	int r = vmm_resolve_accelerator(want, &a, &reason, err);

	if (r < 0)
		return r;
	d = choose_driver(m, a);
	if (!d && want == ACCELERATOR_AUTO && a == ACCELERATOR_KVM) {
		a = ACCELERATOR_EMULATION;
		reason = "no VMM here can use KVM";
		d = choose_driver(m, a);
	}
	if (!d)
		return error_set(err, ERROR_VM_UNAVAILABLE, "no VMM here can use it",
			"use --accelerator auto", "%s cannot be used", accelerator_name(a));
	*ret = (struct vmm_choice){ d->name, a, reason };
	return 0;
}

int vmm_program(struct manager *m, enum accelerator a, char **ret)
{
	const struct vmm_driver *d = choose_driver(m, a);

	return d ? d->program(m, ret, NULL) : -ENOENT;
}
