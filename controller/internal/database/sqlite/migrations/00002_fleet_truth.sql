-- +goose Up
ALTER TABLE configs ADD COLUMN probe INTEGER NOT NULL DEFAULT 0 CHECK (probe IN (0, 1)); -- 1: workers try the URL before they run it

-- What agents reported above this store's versions, after it was restored from
-- an older backup. The next version is above it.
ALTER TABLE store ADD COLUMN highest_reported INTEGER NOT NULL DEFAULT 0; -- 0 for none
ALTER TABLE store ADD COLUMN resumed_below    INTEGER NOT NULL DEFAULT 0; -- reports up to here hold nothing back: an admin has seen them

DROP TRIGGER configs_have_no_gaps;

-- +goose StatementBegin
CREATE TRIGGER configs_have_no_gaps BEFORE INSERT ON configs
WHEN NEW.version <> 1 + max((SELECT coalesce(max(version), 0) FROM configs), (SELECT coalesce(max(highest_reported), 0) FROM store))
BEGIN
    SELECT RAISE(ABORT, 'versions have no gaps, but above what agents reported');
END;
-- +goose StatementEnd

ALTER TABLE agents ADD COLUMN applied_at    INTEGER NOT NULL DEFAULT 0;  -- microseconds since 1970 UTC, when it was heard of; 0 for unknown
ALTER TABLE agents ADD COLUMN refused_error TEXT    NOT NULL DEFAULT ''; -- the worker's words of refused_version

-- The last figures of the versions that were superseded.
CREATE TABLE rollouts (
    version       INTEGER PRIMARY KEY REFERENCES configs (version),
    superseded_by INTEGER NOT NULL REFERENCES configs (version),
    figures       TEXT    NOT NULL -- a JSON object
) STRICT;

CREATE TABLE audit (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    at        INTEGER NOT NULL, -- microseconds since 1970 UTC
    actor     TEXT    NOT NULL,
    source_ip TEXT    NOT NULL,
    action    TEXT    NOT NULL,
    version   INTEGER NOT NULL, -- the version that it was about; 0 for none
    detail    TEXT    NOT NULL
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER audit_is_never_rewritten BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is never rewritten');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is never deleted');
END;
-- +goose StatementEnd

-- While there is a row, publishing is frozen.
CREATE TABLE freeze (
    only_row  INTEGER PRIMARY KEY CHECK (only_row = 1),
    reason    TEXT    NOT NULL,
    until     INTEGER NOT NULL, -- microseconds since 1970 UTC; 0 for until it is lifted
    frozen_by TEXT    NOT NULL,
    frozen_at INTEGER NOT NULL  -- microseconds since 1970 UTC
) STRICT;
