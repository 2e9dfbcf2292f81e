package main

import "github.com/sirupsen/logrus"

// agentIDHook adds the agent's id to each line of the log once it is known. id must not
// log.
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
