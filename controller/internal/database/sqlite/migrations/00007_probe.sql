-- +goose Up
-- Holds one row for a moment, while it is found out whether a store that could not be written can be.
CREATE TABLE probe (filler BLOB NOT NULL) STRICT;
