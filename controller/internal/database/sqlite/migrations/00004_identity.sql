-- +goose Up
-- SHA-256 of the secret that the agent made for itself; zeros: the row accepts one registration with the shared credentials.
ALTER TABLE agents ADD COLUMN secret BLOB NOT NULL
    DEFAULT X'0000000000000000000000000000000000000000000000000000000000000000' CHECK (length(secret) = 32);
-- The name in the TLS certificate that the agent registered over; empty for none.
ALTER TABLE agents ADD COLUMN certificate TEXT NOT NULL DEFAULT '';
