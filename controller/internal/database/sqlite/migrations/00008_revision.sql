-- +goose Up
ALTER TABLE store ADD COLUMN revision INTEGER NOT NULL DEFAULT 0; -- counts the changes of what decides who runs what
