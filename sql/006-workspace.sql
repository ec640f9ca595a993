-- SPDX-License-Identifier: MIT
-- A machine names its owner's noun, in place of one_shot; and the workspaces: a row from before the row of its machine, which has
-- the same id, until that one is deleted.
ALTER TABLE vm ADD COLUMN noun TEXT NOT NULL DEFAULT 'vm';
UPDATE vm SET noun = 'run' WHERE one_shot = 1;
ALTER TABLE vm DROP COLUMN one_shot;
CREATE TABLE workspace (
	id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 15),
	owner_uid INTEGER NOT NULL,
	name TEXT,
	labels TEXT NOT NULL,        -- a JSON object of strings
	commands INTEGER NOT NULL,   -- how many it has had
	shared INTEGER NOT NULL CHECK (shared IN (0, 1)), -- with MCP clients
	UNIQUE (owner_uid, name)
) STRICT, WITHOUT ROWID;
