-- +goose Up
ALTER TABLE agents ADD COLUMN transport TEXT NOT NULL DEFAULT ''; -- how it hears of a newer version; empty for unknown
