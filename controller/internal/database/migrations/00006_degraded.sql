-- +goose Up
ALTER TABLE agents ADD COLUMN degraded TEXT NOT NULL DEFAULT ''; -- why it cannot reach or feed its worker, as it said last; empty while it can
