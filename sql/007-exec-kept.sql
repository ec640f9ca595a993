-- SPDX-License-Identifier: MIT
-- What a workspace keeps of a command until it is deleted. Rows of one-shot machines have kept = 0 and none of the rest.
ALTER TABLE exec ADD COLUMN kept INTEGER NOT NULL DEFAULT 0 CHECK (kept IN (0, 1));
ALTER TABLE exec ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0; -- in its workspace, from 1
ALTER TABLE exec ADD COLUMN state TEXT NOT NULL DEFAULT 'running'; -- preparing, running, exited, lost
ALTER TABLE exec ADD COLUMN cwd TEXT;
ALTER TABLE exec ADD COLUMN user TEXT;
ALTER TABLE exec ADD COLUMN started_usec INTEGER NOT NULL DEFAULT 0; -- CLOCK_REALTIME; when it was asked for
ALTER TABLE exec ADD COLUMN ended_usec INTEGER NOT NULL DEFAULT 0; -- CLOCK_REALTIME; 0 = runs
ALTER TABLE exec ADD COLUMN duration_usec INTEGER NOT NULL DEFAULT 0;
ALTER TABLE exec ADD COLUMN exit_code INTEGER NOT NULL DEFAULT -1; -- -1 = none
ALTER TABLE exec ADD COLUMN timed_out INTEGER NOT NULL DEFAULT 0 CHECK (timed_out IN (0, 1));
ALTER TABLE exec ADD COLUMN ended_by TEXT NOT NULL DEFAULT ''; -- '' = by itself
ALTER TABLE exec ADD COLUMN limit_name TEXT NOT NULL DEFAULT ''; -- '' = no limit
ALTER TABLE exec ADD COLUMN limit_value INTEGER NOT NULL DEFAULT 0;
ALTER TABLE exec ADD COLUMN limit_flag TEXT NOT NULL DEFAULT '';
ALTER TABLE exec ADD COLUMN background_left INTEGER NOT NULL DEFAULT -1; -- -1 = not known
ALTER TABLE exec ADD COLUMN stdout_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE exec ADD COLUMN stderr_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE exec ADD COLUMN execution_mode TEXT NOT NULL DEFAULT '';
ALTER TABLE exec ADD COLUMN accelerator TEXT NOT NULL DEFAULT '';
ALTER TABLE exec ADD COLUMN start_mode TEXT NOT NULL DEFAULT '';
ALTER TABLE exec ADD COLUMN stdin_bytes INTEGER NOT NULL DEFAULT -1; -- of the text of its input; -1 = none
ALTER TABLE exec ADD COLUMN last_error TEXT; -- why it is lost
