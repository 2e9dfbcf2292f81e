package poller

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// registered returns the state of an agent that has registered as host with a secret.
func registered() state.Stored {
	identity := protocol.Identity{AgentID: "agent-7", AgentToken: "token-0", AgentSecret: strings.Repeat("s", 43)}
	self := wire.RegisterRequest{Hostname: "host", AgentID: identity.AgentID, AgentSecret: identity.AgentSecret}
	return state.Stored{Identity: identity, Registered: protocol.Digest(self), LastGood: ptr(release(7, 30))}
}

// first returns the state that was saved first.
func (c *fakeCache) first() state.Stored {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.saves[0]
}

// follows returns a controller that knows a token, rejects the shared credentials, and has
// published a version.
func follows(token string, version int64) *fakeController {
	return &fakeController{publications: []publication{published(0, version)}, token: token, noEnrolment: always}
}

// registrations returns what was registered so far.
func (c *fakeController) registrations() []wire.RegisterRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.selves)
}

// what returns the kinds of the requests in order, without reports.
func (c *fakeController) what() (kinds []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range c.calls {
		if call.what != "report" {
			kinds = append(kinds, call.what)
		}
	}
	return kinds
}

func TestRun_CachedToken_PollsAndDoesNotRegister(t *testing.T) {
	play(t, scenario{
		controller: follows("token-0", 8),
		cache:      &fakeCache{stored: registered()},
	}, func(t *testing.T, w *world) {
		pass(time.Hour)
		w.runs(t, 8)
		if n := len(w.controller.times("register")); n != 0 {
			t.Errorf("registered %d times, want never: nothing has changed", n)
		}
		if status := w.Status(); !status.Registered || status.LastError != "" {
			t.Errorf("status says registered %v, error %q", status.Registered, status.LastError)
		}
	})
}

// A restarted agent polls with its token while the controller rate-limits registrations.
func TestRun_CachedToken_RegistrationsRateLimited(t *testing.T) {
	changed := registered()
	changed.Registered = "of another hostname"
	limited := &limitedRegistrations{follows("token-0", 8)}
	play(t, scenario{
		controller: limited.fakeController, source: limited, cache: &fakeCache{stored: changed},
	}, func(t *testing.T, w *world) {
		pass(time.Minute)
		w.runs(t, 8)
		if status := w.Status(); !status.Registered || status.LastError != "" {
			t.Errorf("status says registered %v, error %q", status.Registered, status.LastError)
		}
		pass(time.Hour)
		if between := gaps(w.controller.times("register")); len(between) == 0 || slices.Min(between) < time.Minute {
			t.Errorf("tried to register %v apart, want a minute or more, as asked", between)
		}
		if n := w.logged(logrus.WarnLevel, "Registration not renewed"); n != 1 {
			t.Errorf("%d warnings, want 1", n)
		}
	})
}

func TestRun_ChangedHostname_RegistersWithItsToken(t *testing.T) {
	changed := registered()
	changed.Registered = "of another hostname"
	play(t, scenario{
		controller: follows("token-0", 7),
		cache:      &fakeCache{stored: changed},
	}, func(t *testing.T, w *world) {
		pass(time.Hour)
		if got := w.controller.what()[:2]; !slices.Equal(got, []string{"fetch", "register"}) {
			t.Errorf("first requests: got %v, want the poll before the registration", got)
		}
		if n := len(w.controller.times("register")); n != 1 {
			t.Errorf("registered %d times, want once", n)
		}
		want := registered()
		want.Identity.AgentToken = "token-1"
		got := w.cache.content()
		got.LastGood = want.LastGood
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the cache, -want +got:\n%s", diff)
		}
	})
}

// The cache of an older build has an id and a token, and neither a secret nor a digest.
func TestRun_CacheOfOlderBuild_SetsItsSecret(t *testing.T) {
	play(t, scenario{
		controller: follows("token-0", 7),
		cache:      &fakeCache{stored: state.Stored{Identity: known, LastGood: ptr(release(7, 30))}},
	}, func(t *testing.T, w *world) {
		pass(time.Hour)
		held := w.cache.content().Identity
		if held.AgentID != known.AgentID || held.AgentToken != "token-1" || len(held.AgentSecret) != 43 {
			t.Errorf("the cache holds id %q, token %q and a secret of %d characters",
				held.AgentID, held.AgentToken, len(held.AgentSecret))
		}
		if got := w.controller.registrations(); len(got) != 1 || got[0].AgentSecret != held.AgentSecret {
			t.Errorf("registered %d times, want once and with the secret of the cache", len(got))
		}
		if got := w.worker.taken(); !slices.Equal(got, []int64{7}) {
			t.Errorf("pushed %v, want the last good configuration once", got)
		}
	})
}

func TestRun_RefusedToken_RegistersWithItsSecret(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 7)}},
		cache:      &fakeCache{stored: registered()},
	}, func(t *testing.T, w *world) {
		pass(time.Minute)
		if got := w.controller.what()[:3]; !slices.Equal(got, []string{"fetch", "register", "fetch"}) {
			t.Errorf("first requests: got %v, want a poll, a registration and a poll", got)
		}
		got, secret := w.controller.registrations(), registered().Identity.AgentSecret
		if len(got) != 1 || got[0].AgentID != "agent-7" || got[0].AgentSecret != secret {
			t.Errorf("registered as %+v, want agent-7 with its secret", got)
		}
		if held := w.cache.content().Identity; held.AgentToken != "token-1" || held.AgentSecret != secret {
			t.Errorf("the cache holds token %q, want the new one beside the secret", held.AgentToken)
		}
	})
}

// If the controller has lost its agents, an agent reports again before its next long poll.
func TestRun_RefusedToken_ReportsBeforeWaiting(t *testing.T) {
	play(t, scenario{transport: wire.LongPoll, controller: &fakeController{
		publications: []publication{published(0, 1)}, forgets: []time.Duration{time.Hour},
		slowFetches: time.Millisecond,
	}}, func(t *testing.T, w *world) {
		pass(2 * time.Hour)
		want := w.controller.times("register")
		if got := w.controller.outcomeAt; len(got) != 2 || len(want) != 2 || got[1] != want[1] {
			t.Errorf("reported at %v, want again when it registered: %v", got, want)
		}
	})
}

func TestRun_RefusedCertificate_RegistersWithItsToken(t *testing.T) {
	controller := follows("token-0", 8)
	controller.uncertified = always
	play(t, scenario{controller: controller, cache: &fakeCache{stored: registered()}}, func(t *testing.T, w *world) {
		pass(time.Minute)
		w.runs(t, 8)
		if got := w.controller.what()[:3]; !slices.Equal(got, []string{"fetch", "register", "fetch"}) {
			t.Errorf("first requests: got %v, want a poll, a registration and a poll", got)
		}
		if got := w.cache.content().Identity.AgentToken; got != "token-1" {
			t.Errorf("the cache holds %q, want the new token", got)
		}
	})
}

// The controller takes the id for another agent's.
func TestRun_SecretRefused_KeepsItsConfiguration(t *testing.T) {
	controller := &fakeController{publications: []publication{published(0, 8)}, conflicts: []span{{0, 12 * time.Hour}}}
	play(t, scenario{controller: controller, cache: &fakeCache{stored: registered()}}, func(t *testing.T, w *world) {
		pass(11 * time.Hour)
		w.runs(t, 7)
		if status := w.Status(); status.Registered || !strings.Contains(status.LastError, "another secret") {
			t.Errorf("status says registered %v, error %q", status.Registered, status.LastError)
		}
		if n := len(w.controller.times("register")); n < 100 || n > 400 {
			t.Errorf("registered %d times in 11 hours, want them up to 5 min apart", n)
		}
		if held := w.cache.content(); held.Identity != registered().Identity || held.LastGood == nil {
			t.Error("the cache has lost the identity or the last good configuration")
		}
		pass(time.Hour + 6*time.Minute)
		w.runs(t, 8) // an admin has reset it
	})
}

// An id and a secret are saved together before either is sent.
func TestRun_FirstRegistration_SavesSecretFirst(t *testing.T) {
	play(t, scenario{controller: &fakeController{loses: []span{{0, time.Minute}}}}, func(t *testing.T, w *world) {
		pass(30 * time.Second)
		first := w.cache.first().Identity
		if first.AgentID == "" || first.AgentSecret == "" || first.AgentToken != "" {
			t.Fatalf("saved first: %+v, want id and secret", first)
		}
		pass(10 * time.Minute)
		if len(w.controller.registrations()) < 2 {
			t.Fatalf("registered %d times, want again after lost responses", len(w.controller.registrations()))
		}
		for _, self := range w.controller.registrations() {
			if self.AgentID != first.AgentID || self.AgentSecret != first.AgentSecret {
				t.Errorf("registered as %s, want the same id and secret each time", self.AgentID)
			}
		}
	})
}

// If a crash lost the secret, the agent could not use its id any more.
func TestRun_CacheUnwritable_SecretNotSent(t *testing.T) {
	play(t, scenario{
		controller: &fakeController{publications: []publication{published(0, 7)}, token: "token-0"},
		cache: &fakeCache{
			stored: state.Stored{Identity: known, LastGood: ptr(release(7, 30))}, unwritable: []span{{0, time.Hour}},
		},
	}, func(t *testing.T, w *world) {
		pass(59 * time.Minute)
		for _, self := range w.controller.registrations() {
			if self.AgentSecret != "" {
				t.Error("a secret was sent that is not in the cache")
			}
		}
		pass(10 * time.Minute)
		held := w.cache.content().Identity
		registrations := w.controller.registrations()
		last := registrations[len(registrations)-1]
		if held.AgentSecret == "" || last.AgentSecret != held.AgentSecret {
			t.Error("the secret was not sent after it could be saved")
		}
	})
}

// A registration is not repeated if the polls after it fail.
func TestRun_PollsFailAfterRegistration_RegistersOnce(t *testing.T) {
	later := &protocol.RetryLater{After: 10 * time.Second, Err: errOutage}
	for name, test := range map[string]struct {
		refused error // of the shared credentials, or of the certificate
		after   error // of the polls after the registration
	}{
		"token refused, then 429":             {protocol.ErrUnauthorized, later},
		"token refused, then no connection":   {protocol.ErrUnauthorized, errOutage},
		"token refused, then invalid":         {protocol.ErrUnauthorized, protocol.ErrInvalidConfig},
		"token refused, then an older one":    {protocol.ErrUnauthorized, protocol.ErrOlder},
		"certificate refused, then 429":       {protocol.ErrForbidden, later},
		"certificate refused, then a timeout": {protocol.ErrForbidden, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			controller := &fakeController{publications: []publication{published(0, 8)}}
			if errors.Is(test.refused, protocol.ErrForbidden) {
				controller = follows("token-0", 8)
			}
			source := &failingPolls{controller, test.refused, test.after, []span{{0, time.Hour}}}
			play(t, scenario{
				controller: controller, source: source, cache: &fakeCache{stored: registered()},
			}, func(t *testing.T, w *world) {
				pass(59 * time.Minute)
				if n := len(controller.times("register")); n != 1 {
					t.Errorf("registered %d times, want once", n)
				}
				if n := len(controller.times("fetch")); n < 20 {
					t.Errorf("polled %d times in an hour, want it to go on", n)
				}
				pass(10 * time.Minute)
				w.runs(t, 8)
			})
		})
	}
}

// A rejected registration is not repeated after a poll that accepts the token.
func TestRun_RegistrationRefusedTokenAccepted_InvalidAnswer(t *testing.T) {
	controller := follows("token-0", 8)
	controller.denies, controller.invalid = []span{{0, time.Second}}, []span{{0, time.Hour}}
	play(t, scenario{controller: controller, cache: &fakeCache{stored: registered()}}, func(t *testing.T, w *world) {
		pass(59 * time.Minute)
		if n := len(controller.times("register")); n > 10 {
			t.Errorf("tried to register %d times, want it only while the token is refused", n)
		}
		pass(10 * time.Minute)
		w.runs(t, 8)
	})
}

// failingPolls rejects polls until a registration, and then fails them in spans.
type failingPolls struct {
	*fakeController
	refused, after error
	fails          []span
}

func (p *failingPolls) Fetch(ctx context.Context, id protocol.Identity, q protocol.Query) (protocol.Answer, error) {
	var err error
	switch {
	case len(p.registrations()) == 0:
		err = p.refused
	case within(p.fails, p.now()):
		err = p.after
	default:
		return p.fakeController.Fetch(ctx, id, q)
	}
	p.record("fetch", q.ETag)
	return protocol.Answer{}, err
}

// limitedRegistrations answers 429 to registrations alone.
type limitedRegistrations struct{ *fakeController }

func (l *limitedRegistrations) Register(
	context.Context, protocol.Identity, wire.RegisterRequest,
) (protocol.Registration, error) {
	l.record("register", "")
	return protocol.Registration{}, &protocol.RetryLater{After: time.Minute, Err: errOutage}
}
