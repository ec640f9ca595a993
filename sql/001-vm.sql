-- SPDX-License-Identifier: MIT
-- Machines: one row from before anything of a machine exists until nothing of it is left.
CREATE TABLE vm (
	id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 15),
	owner_uid INTEGER NOT NULL,
	environment TEXT NOT NULL,
	env_digest TEXT,
	kernel_hash TEXT,
	vcpu_count INTEGER NOT NULL,
	mem_mib INTEGER NOT NULL,
	disk_mib INTEGER NOT NULL,
	ttl_seconds INTEGER NOT NULL,
	created_usec INTEGER NOT NULL, -- CLOCK_REALTIME
	expires_usec INTEGER NOT NULL, -- 0 = never
	one_shot INTEGER NOT NULL CHECK (one_shot IN (0, 1)),
	state TEXT NOT NULL,
	accelerator TEXT NOT NULL,
	start_mode TEXT NOT NULL,
	uuid BLOB NOT NULL CHECK (length(uuid) = 16),
	sync BLOB NOT NULL CHECK (length(sync) = 32),
	vmm_pid INTEGER NOT NULL,        -- 0 = not started
	vmm_start_time INTEGER NOT NULL, -- clock ticks since boot
	boot_id TEXT NOT NULL,
	last_error TEXT
) STRICT, WITHOUT ROWID;
