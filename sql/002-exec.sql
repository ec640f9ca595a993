-- SPDX-License-Identifier: MIT
-- Commands: a row from before its START is sent until its machine's row goes, so that a daemon knows
-- which of the commands an agent holds were wanted, and what their callers are to be told.
CREATE TABLE exec (
	id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 15),
	vm_id TEXT NOT NULL,
	owner_uid INTEGER NOT NULL,
	channel INTEGER NOT NULL,
	command TEXT NOT NULL,
	with_stdin INTEGER NOT NULL CHECK (with_stdin IN (0, 1)),
	live INTEGER NOT NULL CHECK (live IN (0, 1)), -- its caller takes the output by offset
	timeout_usec INTEGER NOT NULL                 -- 0 = none
) STRICT, WITHOUT ROWID;
CREATE INDEX exec_vm ON exec (vm_id);
