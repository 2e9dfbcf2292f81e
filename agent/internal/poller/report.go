package poller

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/backoff"
	"github.com/fleetconf/fleetconf/agent/internal/models"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// report sends each outcome until the controller has taken it, or a newer one
// has replaced it.
func (p *Poller) report(ctx context.Context) {
	retry := backoff.New(retryFirst, retryLimit)
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.owed:
		}
		for id, report := p.outcome(); report != nil; id, report = p.outcome() {
			err := p.Source.Report(ctx, id, *report)
			if err == nil || errors.Is(err, models.ErrUnwanted) {
				p.acknowledged(*report, err)
				retry.Reset()
				continue
			}
			p.Log.WithFields(logrus.Fields{"version": report.Version, "status": report.Status, "error": err.Error()}).Debug("Report not taken")
			if !p.pause(ctx, retry.Next(models.Floor(err)), models.Floor(err) > 0) {
				return
			}
		}
	}
}

// pause waits for d, or until a poll shows that the controller is back, unless
// it asked to be left alone. It reports whether ctx goes on.
func (p *Poller) pause(ctx context.Context, d time.Duration, asked bool) bool {
	if asked {
		return sleep(ctx, d)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-p.owed:
	case <-timer.C:
	}
	return ctx.Err() == nil
}

// outcome is what to send, and as whom; nil if there is nothing to send, or
// nobody to be.
func (p *Poller) outcome() (models.Identity, *wire.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == nil || p.state.Identity.AgentToken == "" {
		return models.Identity{}, nil
	}
	return p.state.Identity, new(*p.next)
}

// acknowledged notes that report need not be sent again.
func (p *Poller) acknowledged(report wire.Report, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acked = report
	if p.next != nil && *p.next == report {
		p.next = nil
	}
	log := p.Log.WithFields(logrus.Fields{"version": report.Version, "status": report.Status})
	if err != nil {
		log.WithField("error", err.Error()).Warn("Report not wanted")
		return
	}
	log.Debug("Reported")
}

// say hands an outcome to report, unless that is what was said last. The caller
// holds mu.
func (p *Poller) say(report wire.Report) {
	last := p.acked
	if p.next != nil {
		last = *p.next
	}
	if last != report {
		p.next = &report
		wake(p.owed)
	}
}
