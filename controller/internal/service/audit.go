package service

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Refused logins go to the store together, so that who guesses passwords fills
// neither the disk nor the queue of writes.
const (
	loginsInterval = time.Minute
	loginsAtOnce   = 32 // entries a time, and one for all others
)

// Trail is the audit trail. What is done to a configuration or to an agent is
// stored with the deed itself, in one transaction; here it is read, and the
// refused logins are counted.
type Trail struct {
	store database.Store
	log   logrus.FieldLogger

	mu      sync.Mutex // guards the rest
	refused map[models.Origin]*logins
	others  int // refused logins beyond loginsAtOnce
}

// logins are the refused ones of one origin that are not stored yet.
type logins struct {
	first time.Time
	on    string
	n     int
}

// NewTrail returns the trail in store.
func NewTrail(store database.Store, log logrus.FieldLogger) *Trail {
	return &Trail{store: store, log: log, refused: map[models.Origin]*logins{}}
}

// Entries returns up to limit entries before the one of that Seq, newest
// first; 0 begins with the newest. An action that is not empty leaves out all
// others.
func (t *Trail) Entries(ctx context.Context, action models.Action, before int64, limit int) ([]models.Entry, error) {
	t.flush(ctx)
	return t.store.Audit(ctx, action, before, limit)
}

// LoginFailed notes refused credentials. on says what was asked for.
func (t *Trail) LoginFailed(origin models.Origin, on string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch l := t.refused[origin]; {
	case l != nil:
		l.n++
	case len(t.refused) < loginsAtOnce:
		t.refused[origin] = &logins{first: models.Now(), on: on, n: 1}
	default:
		t.others++
	}
}

// Run stores refused logins once a minute until ctx ends, and once more then.
func (t *Trail) Run(ctx context.Context) error {
	tick := time.NewTicker(loginsInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.flush(ctx)
		case <-ctx.Done():
			t.flush(context.WithoutCancel(ctx))
			return nil
		}
	}
}

// flush stores what was noted. What cannot be stored is in the log.
func (t *Trail) flush(ctx context.Context) {
	t.mu.Lock()
	refused, others := t.refused, t.others
	t.refused, t.others = map[models.Origin]*logins{}, 0
	t.mu.Unlock()
	if len(refused) == 0 {
		return
	}
	entries := make([]models.Entry, 0, len(refused)+1)
	for origin, l := range refused {
		detail := l.on
		if l.n > 1 {
			detail = fmt.Sprintf("%d times, first on %s", l.n, l.on)
		}
		entries = append(entries, models.Entry{At: l.first, Origin: origin, Action: models.ActionLoginFailed, Detail: detail})
	}
	if others > 0 {
		entries = append(entries, models.NewEntry(models.Origin{Actor: "unknown"}, models.ActionLoginFailed, 0, fmt.Sprintf("%d times from other addresses", others)))
	}
	if err := t.store.AppendAudit(context.WithoutCancel(ctx), entries...); err != nil {
		t.log.WithError(err).WithField("logins", len(entries)).Warn("Refused logins could not be stored in the audit trail")
	}
}
