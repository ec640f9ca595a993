-- SPDX-License-Identifier: MIT
-- Which driver runs its VMM; that of all machines before this.
ALTER TABLE vm ADD COLUMN driver TEXT NOT NULL DEFAULT 'qemu';
