package api_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/controller/internal/api"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/service"
)

// failing is a store that fails in one way.
type failing struct{ with error }

func (f failing) Figures(context.Context, int64) (models.Figures, int64, error) {
	return models.Figures{}, 0, fmt.Errorf("%w: the words of SQLite", f.with)
}

func TestAnswer_KindsOfStoreFailure(t *testing.T) {
	for err, want := range map[error]int{
		models.ErrBusy: 503, models.ErrReadOnly: 503, models.ErrIO: 503, models.ErrCorrupt: 503, models.ErrMoved: 503, models.ErrFull: 507,
	} {
		s := newLimited(t, api.Limits{Register: 1000, Config: 1000, Status: 1000, Admin: 1000}, func(o *api.Options) {
			o.Rollouts = service.NewRollouts(o.Configs, o.Agents, failing{err})
		})
		s.publish("http://a/")
		s.publish("http://b/")
		resp := s.call(admin, "GET", "/api/v1/rollouts/1", "")
		if body := text(t, resp); resp.StatusCode != want || !strings.Contains(body, err.Error()) || strings.Contains(body, "the words") {
			t.Errorf("%v: got %d %s, want %d with the reason", err, resp.StatusCode, body, want)
		}
	}
}

// What the store cannot do is answered with the reason, by /ready too, until it can.
func TestPublish_StoreFails_IsAnsweredWithTheReason(t *testing.T) {
	for name, row := range map[string]struct {
		breaks func(path string) error
		want   string
	}{
		"the database was removed": {os.Remove, "removed or replaced"},
		"its journal was removed":  {func(path string) error { return os.Remove(path + "-wal") }, "removed or replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			tag := s.publish("http://a/").Header.Get("ETag")
			self := s.register("a1")
			if err := row.breaks(s.path); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				resp := s.call(admin, "POST", "/api/v1/config", `{"url":"http://b/"}`)
				if body := text(t, resp); resp.StatusCode != 503 || !strings.Contains(body, row.want) || resp.Header.Get("Retry-After") == "" {
					t.Errorf("a publish: got %d %s, want 503 with %q and Retry-After", resp.StatusCode, body, row.want)
				}
				resp = s.call(account{}, "GET", "/ready", "")
				if body := text(t, resp); resp.StatusCode != 503 || !strings.Contains(body, row.want) {
					t.Errorf("/ready: got %d %s, want 503 with %q", resp.StatusCode, body, row.want)
				}
			}
			if got := s.poll(self, tag).StatusCode; got != 304 {
				t.Errorf("a poll: got %d, want 304: nothing was acknowledged", got)
			}
		})
	}
}
