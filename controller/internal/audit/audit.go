// Package audit reads the audit log, and adds rejected logins to it. All other entries
// are stored by the transaction that they describe.
package audit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/database"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// Rejected logins are stored in batches, so that an attacker who guesses passwords fills
// neither the disk nor the queue of writes.
const (
	loginsInterval = time.Minute
	maxOrigins     = 32 // origins with an entry of their own in a batch; all others share one
)

// Log is the audit log of a store. Its methods may be called concurrently.
type Log struct {
	store database.Store
	log   logrus.FieldLogger

	mu       sync.Mutex // guards the rest
	rejected map[models.Origin]*logins
	others   int // rejected logins of other origins
}

// logins are the rejected logins of one origin that are not stored yet.
type logins struct {
	first time.Time
	on    string // what the first requested
	n     int
}

// New returns the audit log in store.
func New(store database.Store, log logrus.FieldLogger) *Log {
	return &Log{store: store, log: log, rejected: map[models.Origin]*logins{}}
}

// Entries returns up to limit entries with a Seq below before, newest first. If before is
// 0, it begins with the newest. An empty action selects all actions.
func (l *Log) Entries(ctx context.Context, action models.Action, before int64, limit int) ([]models.Entry, error) {
	l.flush(ctx)
	return l.store.Audit(ctx, action, before, limit)
}

// LoginFailed records a login with rejected credentials. on is the request. The next
// flush stores it, within a minute.
func (l *Log) LoginFailed(origin models.Origin, on string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch of := l.rejected[origin]; {
	case of != nil:
		of.n++
	case len(l.rejected) < maxOrigins:
		l.rejected[origin] = &logins{first: models.Now(), on: on, n: 1}
	default:
		l.others++
	}
}

// Run stores rejected logins once a minute until ctx ends, and once more then. It returns
// nil.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(loginsInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.flush(ctx)
		case <-ctx.Done():
			l.flush(context.WithoutCancel(ctx))
			return nil
		}
	}
}

// flush stores the rejected logins. If that fails, it logs their number and drops them.
func (l *Log) flush(ctx context.Context) {
	l.mu.Lock()
	rejected, others := l.rejected, l.others
	l.rejected, l.others = map[models.Origin]*logins{}, 0
	l.mu.Unlock()
	if len(rejected) == 0 {
		return
	}
	entries := make([]models.Entry, 0, len(rejected)+1)
	for origin, of := range rejected {
		detail := of.on
		if of.n > 1 {
			detail = fmt.Sprintf("%d times, first on %s", of.n, of.on)
		}
		entries = append(
			entries, models.Entry{At: of.first, Origin: origin, Action: models.ActionLoginFailed, Detail: detail},
		)
	}
	if others > 0 {
		detail := fmt.Sprintf("%d times from other addresses", others)
		entries = append(entries, models.NewEntry(models.Origin{Actor: "unknown"}, models.ActionLoginFailed, 0, detail))
	}
	if err := l.store.AppendAudit(context.WithoutCancel(ctx), entries...); err != nil {
		l.log.WithError(err).WithField("logins", len(entries)).Warn("Rejected logins not stored in the audit log")
	}
}
