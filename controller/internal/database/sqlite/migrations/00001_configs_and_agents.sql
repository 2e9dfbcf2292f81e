-- +goose Up
PRAGMA application_id = 0x466C6366; -- "Flcf": how this file is told from other programs'

CREATE TABLE store (
    only_row  INTEGER PRIMARY KEY CHECK (only_row = 1),
    epoch     TEXT    NOT NULL -- random: names this store among all that ever were
) STRICT;

CREATE TABLE configs (
    version               INTEGER PRIMARY KEY CHECK (version > 0), -- 1, 2, 3, without gaps; the highest is current
    url                   TEXT    NOT NULL CHECK (url <> ''),
    poll_interval_seconds INTEGER NOT NULL CHECK (poll_interval_seconds > 0),
    etag                  TEXT    NOT NULL UNIQUE,                 -- in its quotes
    message               TEXT    NOT NULL,
    published_by          TEXT    NOT NULL,
    published_at          INTEGER NOT NULL,                        -- microseconds since 1970 UTC
    source_ip             TEXT    NOT NULL,
    restored_from         INTEGER REFERENCES configs (version)     -- the version that a rollback copied
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER configs_are_never_rewritten BEFORE UPDATE ON configs
BEGIN
    SELECT RAISE(ABORT, 'a published configuration is never rewritten');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER configs_are_never_deleted BEFORE DELETE ON configs
BEGIN
    SELECT RAISE(ABORT, 'a published configuration is never deleted');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER configs_have_no_gaps BEFORE INSERT ON configs
WHEN NEW.version <> (SELECT coalesce(max(version), 0) + 1 FROM configs)
BEGIN
    SELECT RAISE(ABORT, 'versions have no gaps');
END;
-- +goose StatementEnd

CREATE TABLE agents (
    seq                   INTEGER PRIMARY KEY AUTOINCREMENT, -- order of registration
    id                    TEXT    NOT NULL UNIQUE,
    hostname              TEXT    NOT NULL,
    metadata              TEXT    NOT NULL,                  -- a JSON object
    registered_at         INTEGER NOT NULL,                  -- microseconds since 1970 UTC
    token                 BLOB    NOT NULL CHECK (length(token) = 32),          -- SHA-256
    previous_token        BLOB    NOT NULL CHECK (length(previous_token) = 32), -- SHA-256; zeros for none
    last_poll             INTEGER NOT NULL DEFAULT 0,        -- microseconds since 1970 UTC; 0 for never
    poll_interval_seconds INTEGER NOT NULL,                  -- what the agent was told last
    applied_version       INTEGER NOT NULL DEFAULT 0,        -- 0 for none
    attempt_version       INTEGER NOT NULL DEFAULT 0,        -- the last report; 0 for none
    attempt_status        TEXT    NOT NULL DEFAULT '',
    attempt_error         TEXT    NOT NULL DEFAULT '',
    attempt_at            INTEGER NOT NULL DEFAULT 0,        -- microseconds since 1970 UTC
    refused_version       INTEGER NOT NULL DEFAULT 0         -- the version that its worker refused last; 0 for none
) STRICT;
