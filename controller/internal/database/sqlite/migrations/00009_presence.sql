-- +goose Up
-- Presence is written every few seconds, the rest of an agent when it registers.
ALTER TABLE agents RENAME TO agents_before;

CREATE TABLE agents (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT, -- order of registration; never used again
    id             TEXT    NOT NULL UNIQUE,
    hostname       TEXT    NOT NULL,
    metadata       TEXT    NOT NULL, -- a JSON object
    registered_at  INTEGER NOT NULL, -- microseconds since 1970 UTC
    token          BLOB    NOT NULL CHECK (length(token) = 32),          -- SHA-256
    previous_token BLOB    NOT NULL CHECK (length(previous_token) = 32), -- SHA-256; zeros for none
    secret         BLOB    NOT NULL CHECK (length(secret) = 32),         -- SHA-256; zeros: one registration with the shared credentials is accepted
    certificate    TEXT    NOT NULL  -- name in the TLS certificate that the agent registered over; empty for none
) STRICT;

-- One row for each agent, from its registration on.
CREATE TABLE presence (
    seq INTEGER PRIMARY KEY REFERENCES agents (seq) ON DELETE CASCADE,

    -- What polls say.
    last_poll             INTEGER NOT NULL DEFAULT 0,  -- microseconds since 1970 UTC; 0 for never
    poll_interval_seconds INTEGER NOT NULL,            -- sent to the agent last
    transport             TEXT    NOT NULL DEFAULT '', -- how it receives announcements; empty for unknown
    degraded              TEXT    NOT NULL DEFAULT '', -- why it cannot reach its worker or push to it; empty while it can

    -- What reports say.
    applied_version       INTEGER NOT NULL DEFAULT 0,  -- 0 for none
    applied_at            INTEGER NOT NULL DEFAULT 0,  -- microseconds since 1970 UTC, by the controller's clock; 0 for unknown
    attempt_version       INTEGER NOT NULL DEFAULT 0,  -- of the last report; 0 for none
    attempt_status        TEXT    NOT NULL DEFAULT '',
    attempt_error         TEXT    NOT NULL DEFAULT '',
    attempt_at            INTEGER NOT NULL DEFAULT 0,  -- microseconds since 1970 UTC
    refused_version       INTEGER NOT NULL DEFAULT 0,  -- the version that its worker refused last; 0 for none
    refused_error         TEXT    NOT NULL DEFAULT ''  -- the worker's error message
) STRICT;

INSERT INTO agents (seq, id, hostname, metadata, registered_at, token, previous_token, secret, certificate)
    SELECT seq, id, hostname, metadata, registered_at, token, previous_token, secret, certificate
    FROM agents_before ORDER BY seq;

INSERT INTO presence (seq, last_poll, poll_interval_seconds, transport, degraded, applied_version, applied_at,
        attempt_version, attempt_status, attempt_error, attempt_at, refused_version, refused_error)
    SELECT seq, last_poll, poll_interval_seconds, transport, degraded, applied_version, applied_at,
        attempt_version, attempt_status, attempt_error, attempt_at, refused_version, refused_error
    FROM agents_before ORDER BY seq;

-- The seq of an agent that was deleted is not used again.
DELETE FROM sqlite_sequence WHERE name = 'agents';
INSERT INTO sqlite_sequence (name, seq) SELECT 'agents', seq FROM sqlite_sequence WHERE name = 'agents_before';
DROP TABLE agents_before;
