-- SPDX-License-Identifier: MIT
-- The invocation of a VMM's unit, 32 hex digits; '' for a VMM that was forked, or that is not known yet.
ALTER TABLE vm ADD COLUMN vmm_invocation TEXT NOT NULL DEFAULT '' CHECK (length(vmm_invocation) IN (0, 32));
