-- SPDX-License-Identifier: MIT
-- What vm.status tells beyond the state, and what vm.list is ordered by.
ALTER TABLE vm ADD COLUMN environment_version TEXT;
ALTER TABLE vm ADD COLUMN stop_reason TEXT NOT NULL DEFAULT ''; -- '' unless it is stopped
ALTER TABLE vm ADD COLUMN active_usec INTEGER NOT NULL DEFAULT 0; -- CLOCK_REALTIME: the last call that used it
