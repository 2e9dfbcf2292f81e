package api_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/api"
	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/rollout"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// failingStore is a store whose Figures fail with an error.
type failingStore struct {
	database.Store
	with error
}

func (f failingStore) Figures(context.Context, int64) (models.Figures, int64, error) {
	return models.Figures{}, 0, fmt.Errorf("%w: an SQLite message", f.with)
}

func TestAnswer_StoreFailures_MappedToStatus(t *testing.T) {
	for err, want := range map[error]int{
		database.ErrBusy: 503, database.ErrReadOnly: 503, database.ErrIO: 503, database.ErrCorrupt: 503,
		database.ErrMoved: 503, database.ErrFull: 507,
	} {
		limits := access.Limits{Register: 1000, Config: 1000, Status: 1000, Admin: 1000}
		s := newLimited(t, limits, func(o *api.Options) {
			o.Rollouts = rollout.New(o.Publisher, o.Agents, failingStore{with: err})
		})
		s.publish("http://a/")
		s.publish("http://b/")
		resp := s.call(admin, "GET", "/api/v1/rollouts/1", "")
		body := text(t, resp)
		if resp.StatusCode != want || !strings.Contains(body, err.Error()) ||
			strings.Contains(body, "an SQLite message") || strings.Contains(body, "changed") {
			t.Errorf("%v: got %d %s, want %d with the reason", err, resp.StatusCode, body, want)
		}
	}
}

// inDoubtStore is a store whose Append fails before or after the commit.
type inDoubtStore struct {
	*sqlite.DB
	before, after error // nil: no failure
}

func (u *inDoubtStore) Append(
	ctx context.Context, rule func(*models.Plan) (*models.Change, error),
) (*models.Plan, error) {
	if u.before != nil {
		return nil, u.before
	}
	plan, err := u.DB.Append(ctx, rule)
	return plan, errors.Join(err, u.after)
}

// A failed publish claims that nothing was changed only if that is certain.
func TestPublish_CommitInDoubt_SaysSo(t *testing.T) {
	store := &inDoubtStore{}
	s := newLimited(t, plenty, func(o *api.Options) {
		store.DB = o.Store.(*sqlite.DB)
		plan, err := publish.Load(t.Context(), store, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		o.Publisher = publish.New(store, plan, o.Agents, publish.Options{Tags: store.Tags(), Pace: 200}, o.Log)
	})
	s.publish("http://a/")
	const document = `{"url":"http://b/"}`
	store.before = fmt.Errorf("%w: a read failed", database.ErrIO)
	if body := text(
		t, s.call(admin, "POST", "/api/v1/config", document),
	); !strings.Contains(body, "nothing was changed") {
		t.Errorf("before the commit: got %s, want that nothing was changed", body)
	}
	store.before, store.after = nil, fmt.Errorf("%w: %w", database.ErrInDoubt, database.ErrIO)
	resp := s.call(admin, "POST", "/api/v1/config", document)
	body := text(t, resp)
	if resp.StatusCode != 503 || strings.Contains(body, "nothing") || !strings.Contains(body, "may or may not") ||
		!strings.Contains(body, "no second version") {
		t.Errorf("at the commit: got %d %s, want 503 without a claim", resp.StatusCode, body)
	}
	store.after = nil
	again := decode[wire.PublishResponse](t, s.call(admin, "POST", "/api/v1/config", document))
	if again.Version != 2 || again.Changed {
		t.Errorf("published again: got %+v, want version 2, which the failed request stored", again)
	}
}

// If the database files are removed, publishes and /ready get 503 with the reason, and polls
// are still answered.
func TestPublish_DatabaseRemoved_503WithReason(t *testing.T) {
	for name, row := range map[string]struct {
		breaks func(path string) error
		want   string
	}{
		"the database was removed": {os.Remove, "removed or replaced"},
		"its journal was removed": {
			func(path string) error { return os.Remove(path + "-wal") }, "removed or replaced",
		},
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
				body := text(t, resp)
				if resp.StatusCode != 503 || !strings.Contains(body, row.want) ||
					resp.Header.Get("Retry-After") == "" {
					t.Errorf("a publish: got %d %s, want 503 with %q and Retry-After", resp.StatusCode, body, row.want)
				}
				resp = s.call(account{}, "GET", "/ready", "")
				if body := text(t, resp); resp.StatusCode != 503 || !strings.Contains(body, row.want) {
					t.Errorf("/ready: got %d %s, want 503 with %q", resp.StatusCode, body, row.want)
				}
			}
			if got := s.poll(self, tag).StatusCode; got != 304 {
				t.Errorf("a poll: got %d, want 304, as no publish succeeded", got)
			}
		})
	}
}

// Names and values in a query may be any bytes.
func TestQuery_InvalidUTF8_AnsweredInJSON(t *testing.T) {
	s := newSystem(t)
	for _, query := range []string{"?%ff=1", "?status=%ff", "?hostname=%ff", "?cursor=%ff"} {
		resp := s.call(admin, "GET", "/api/v1/agents"+query, "")
		body := text(t, resp)
		if resp.StatusCode != 400 && resp.StatusCode != 200 || !utf8.ValidString(body) || body == "\n" {
			t.Errorf("%s: got %d %q, want valid UTF-8", query, resp.StatusCode, body)
		}
	}
}
