package main

import "github.com/sirupsen/logrus"

// agentIDHook has each line of the log say whose it is, once that is known. id must
// not wait: lines are written under locks.
type agentIDHook struct{ id func() string }

// Levels implements logrus.Hook.
func (agentIDHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (h agentIDHook) Fire(line *logrus.Entry) error {
	if id := h.id(); id != "" {
		line.Data["agent"] = id
	}
	return nil
}
