/* SPDX-License-Identifier: MIT */
/*
 * The driver of the fake VMM (tests/fake/fake.h), in builds with crash points only. Called through
 * struct vmm_driver. Its program is the one that qemu= of pyrod.conf names, which must be the fake
 * VMM.
 */
#include "daemon/vmm/fake.h"

#include <unistd.h>

#include "daemon/config.h"
#include "daemon/vmm/qmp-vmm.h"

#define FAKE_FIX "set qemu= in pyrod.conf to the fake VMM"

static int fake_program(struct manager *m, char **ret, struct error *err)
{
	const char *named = m->config ? m->config->qemu : NULL;

	if (!named || access(named, X_OK) < 0)
		return error_set(err, ERROR_VM_UNAVAILABLE, "qemu= of pyrod.conf does not name it",
			FAKE_FIX, "the fake VMM is missing");
	*ret = strdup(named);
	return *ret ? 0 : error_no_memory(err, "cannot start a VM");
}

static int fake_probe(struct manager *m, _unused_ bool again, struct vmm_probe *ret)
{
	_cleanup_(vmm_probe_done) struct vmm_probe p = { .usable = false };

	p.usable = fake_program(m, &p.path, NULL) >= 0;
	if (!p.usable) {
		p.reason = strdup("the fake VMM is missing");
		p.fix = strdup(FAKE_FIX);
	}
	if (!p.usable && (!p.reason || !p.fix))
		return -ENOMEM;
	*ret = p;
	p = (struct vmm_probe){};
	return 0;
}

static int fake_command(
	struct vmm *v, const struct vmm_spec *spec, struct vmm_command *c, struct error *err)
{
	static const char *const options[QMP_VMM_SOCKETS] = { "--control", "--agent", "--console" };
	char uuid[VMM_UUID_TEXT];
	int r = qmp_vmm_listen(v, c);

	vmm_uuid_text(spec->uuid, uuid);
	vmm_command_add(c, &r, "%s", v->program);
	vmm_command_add(c, &r, "%s", v->driver->id_option);
	vmm_command_add(c, &r, "%s", uuid);
	vmm_command_add(c, &r, "--memory");
	vmm_command_add(c, &r, "%llu", (unsigned long long)spec->mem_mib);
	for (int i = 0; i < QMP_VMM_SOCKETS; i++) {
		vmm_command_add(c, &r, "%s", options[i]);
		vmm_command_add(c, &r, "%d", LAUNCH_FIRST_FD + i);
	}
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot make the arguments for %s", spec->id);
	return 0;
}

static const char *fake_exited(struct vmm *v, _unused_ const char *reason)
{
	qmp_vmm_drain(v);
	return NULL;
}

const struct vmm_driver vmm_driver_fake = {
	.name = "fake",
	.title = "the fake VMM",
	.execution_mode = "guest_vsock",
	.id_option = "--fake-id",
	.can = VMM_EMULATION,
	.sockets = qmp_vmm_sockets,
	.size = sizeof(struct qmp_vmm),
	.probe = fake_probe,
	.program = fake_program,
	.command = fake_command,
	.connect = qmp_vmm_connect,
	.boot = qmp_vmm_boot,
	.pause = qmp_vmm_pause,
	.resume = qmp_vmm_resume,
	.dial = qmp_vmm_dial,
	.exited = fake_exited,
	.free = qmp_vmm_free,
};
