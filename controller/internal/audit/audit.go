// Package audit is the audit log. What is done to a configuration or to an agent is
// stored with the deed itself, in one transaction; here the log is read, and rejected
// logins are counted.
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

// Rejected logins go to the store together, so that an attacker that guesses passwords
// fills neither the disk nor the queue of writes.
const (
	loginsInterval = time.Minute
	loginsAtOnce   = 32 // entries a time, and one for all others
)

// Log is the audit log of a store.
type Log struct {
	store database.Store
	log   logrus.FieldLogger

	mu       sync.Mutex // guards the rest
	rejected map[models.Origin]*logins
	others   int // rejected logins beyond loginsAtOnce
}

// logins are the rejected ones of one origin that are not stored yet.
type logins struct {
	first time.Time
	on    string
	n     int
}

// New returns the audit log in store.
func New(store database.Store, log logrus.FieldLogger) *Log {
	return &Log{store: store, log: log, rejected: map[models.Origin]*logins{}}
}

// Entries returns up to limit entries before the one of that Seq, newest first; 0
// begins with the newest. An action that is not empty leaves out all others.
func (l *Log) Entries(ctx context.Context, action models.Action, before int64, limit int) ([]models.Entry, error) {
	l.flush(ctx)
	return l.store.Audit(ctx, action, before, limit)
}

// LoginFailed counts rejected credentials. on says what was asked for.
func (l *Log) LoginFailed(origin models.Origin, on string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch of := l.rejected[origin]; {
	case of != nil:
		of.n++
	case len(l.rejected) < loginsAtOnce:
		l.rejected[origin] = &logins{first: models.Now(), on: on, n: 1}
	default:
		l.others++
	}
}

// Run stores rejected logins once a minute until ctx ends, and once more then.
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

// flush stores the rejected logins. If that fails, the process's log has their number.
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
		entries = append(entries, models.Entry{At: of.first, Origin: origin, Action: models.ActionLoginFailed, Detail: detail})
	}
	if others > 0 {
		detail := fmt.Sprintf("%d times from other addresses", others)
		entries = append(entries, models.NewEntry(models.Origin{Actor: "unknown"}, models.ActionLoginFailed, 0, detail))
	}
	if err := l.store.AppendAudit(context.WithoutCancel(ctx), entries...); err != nil {
		l.log.WithError(err).WithField("logins", len(entries)).Warn("Rejected logins not stored in the audit log")
	}
}
