package protocol

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestIdentity_Printed_HidesToken(t *testing.T) {
	id := Identity{AgentID: "agent-7", AgentToken: "secret"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, v := range []any{id, &id, Registration{Identity: id}} {
			if text := fmt.Sprintf(format, v); strings.Contains(text, "secret") {
				t.Errorf("%s of %T is %q", format, v, text)
			}
		}
	}
}

func TestFloor_RetryLater_Found(t *testing.T) {
	later := &RetryLater{After: time.Minute, Err: ErrUnauthorized}
	if got := Floor(fmt.Errorf("poll: %w", later)); got != time.Minute {
		t.Errorf("got %s, want 1m", got)
	}
	if !errors.Is(later, ErrUnauthorized) {
		t.Error("the reason is lost")
	}
	if got := Floor(errors.New("x")); got != 0 {
		t.Errorf("got %s for an error that asks for nothing", got)
	}
}
