/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A VMM that is driven by QMP and has three sockets: what the drivers whose VMM speaks QMP share.
 */

#include "daemon/vmm/vmm-base.h"

struct qmp;

struct qmp_vmm {
	struct vmm vmm;         /* must be first */
	struct qmp *qmp;        /* owned; NULL: it was not reached */
	bool pausing, resuming; /* the answer to `stop`, to `cont` is pending */
	bool stop_asked;        /* `stop` was sent since the last resume */
};

enum { QMP_VMM_CONTROL, QMP_VMM_AGENT, QMP_VMM_CONSOLE, QMP_VMM_SOCKETS };
extern const char *const qmp_vmm_sockets[]; /* NULL-terminated */

/* Makes the sockets; they travel first, in the order above. */
int qmp_vmm_listen(const struct vmm *v, struct vmm_command *c);

/* Operations of a driver. */
int qmp_vmm_connect(struct vmm *v);
void qmp_vmm_boot(struct vmm *v);
void qmp_vmm_pause(struct vmm *v);
void qmp_vmm_resume(struct vmm *v);
int qmp_vmm_dial(struct vmm *v);
/* Handles what the VMM sent before it exited. */
void qmp_vmm_drain(struct vmm *v);
void qmp_vmm_free(struct vmm *v);
