/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of untrusted kernels: an extracted kernel passes the boot check, is within the size
 * limit, and has a version that is safe as a folder's name; a refusal has a reason and leaves
 * nothing behind.
 */

#include "daemon/import/vmlinux.h"

#include "proto/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(vmlinux_done) struct vmlinux v = VMLINUX_INIT;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (vmlinux_extract(data, size, &v, &err) < 0) {
		if (v.data || v.size || !err.set || !err.message)
			abort();
		return 0;
	}
	if (err.set || !v.data || v.size > LIMIT_VMLINUX_BYTES ||
		vmlinux_check(v.data, v.size, &err) < 0 ||
		(v.version[0] && !vmlinux_version_valid(v.version)))
		abort();
	return 0;
}
