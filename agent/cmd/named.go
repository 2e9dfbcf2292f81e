package main

import "github.com/sirupsen/logrus"

// named has each line of the log say whose it is, once that is known. id must
// not wait: lines are written under locks.
type named struct{ id func() string }

// Levels implements logrus.Hook.
func (named) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (n named) Fire(line *logrus.Entry) error {
	if id := n.id(); id != "" {
		line.Data["agent"] = id
	}
	return nil
}
