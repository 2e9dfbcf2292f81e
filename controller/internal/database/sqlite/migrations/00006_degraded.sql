-- +goose Up
-- Why the agent cannot reach or feed its worker, as it said last; empty while it can.
ALTER TABLE agents ADD COLUMN degraded TEXT NOT NULL DEFAULT '';
