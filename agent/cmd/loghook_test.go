package main

import (
	"testing"

	logrustest "github.com/sirupsen/logrus/hooks/test"
)

func TestAgentIDHook_IDKnown_AddedToEachLine(t *testing.T) {
	log, lines := logrustest.NewNullLogger()
	id := ""
	log.AddHook(agentIDHook{func() string { return id }})
	log.Info("Listening")
	if line := lines.LastEntry(); line.Data["agent"] != nil {
		t.Errorf("before it is known, a line says agent %v", line.Data["agent"])
	}
	id = "agent-7"
	entry := log.WithField("version", 3)
	entry.Info("Configuration applied")
	if line := lines.LastEntry(); line.Data["agent"] != "agent-7" || line.Data["version"] != 3 {
		t.Errorf("the line says %v, want agent-7 and the version", line.Data)
	}
	if got := entry.Data["agent"]; got != nil {
		t.Errorf("the caller's own fields were changed: agent %v", got)
	}
}
