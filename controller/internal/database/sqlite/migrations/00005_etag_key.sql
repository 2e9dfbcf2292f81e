-- +goose Up
ALTER TABLE store ADD COLUMN etag_key BLOB NOT NULL DEFAULT x''; -- 32 random bytes: keys the hash in new ETags; empty until this build first opens the store

-- ETags of earlier builds have no keyed hash. They are accepted as this store's
-- up to the newest version that it had when it was migrated.
ALTER TABLE store ADD COLUMN unkeyed_up_to INTEGER NOT NULL DEFAULT 0;
UPDATE store SET unkeyed_up_to = (SELECT coalesce(max(version), 0) FROM configs);
