package poller

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/agent/internal/models"
	"github.com/fleetconf/fleetconf/pkg/backoff"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// report sends each outcome until the controller has taken it, or a newer one
// has replaced it.
func (p *Poller) report(ctx context.Context) {
	a, retry := newAttempts(p.Log), backoff.New(retryFirst, retryLimit)
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.reportPending:
		}
		for id, report := p.nextReport(); report != nil; id, report = p.nextReport() {
			if wait := p.untilReport(); wait > 0 {
				if !sleep(ctx, wait) {
					return
				}
				continue // something else may have come of it
			}
			p.persist(ctx) // what was acknowledged is on the disk
			err := p.Source.Report(a.begin(ctx), id, *report)
			p.Metrics.reported(err)
			if p.isVerdict(*report, err) {
				wake(p.verdictReceived)
			}
			if err == nil || errors.Is(err, models.ErrUnwanted) {
				p.acknowledged(a.log, *report, err)
				wake(p.reportTaken)
				retry.Reset()
				continue
			}
			a.log.WithFields(logrus.Fields{"version": report.Version, "status": report.Status, "error": err.Error()}).Debug("Report not taken")
			if !pause(ctx, retry.Next(models.Floor(err)), early(p.reportPending, err)) {
				return
			}
		}
	}
}

// untilReport is for how long what came of a fetch is best kept back.
func (p *Poller) untilReport() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.reportAt)
}

// nextReport is what to send, and as whom; nil if there is nothing to send, or
// nobody to be.
func (p *Poller) nextReport() (models.Identity, *wire.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == nil || p.state.Identity.AgentToken == "" {
		return models.Identity{}, nil
	}
	return p.state.Identity, new(*p.next)
}

// isVerdict reports whether the worker has judged what was fetched last, and the
// controller will not offer it again: it was told of a refusal, and the next poll
// tells what runs.
func (p *Poller) isVerdict(report wire.Report, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetched == report.Version && (report.Status == wire.Applied || report.Status == wire.Failed && err == nil)
}

// acknowledged notes that report need not be sent again.
func (p *Poller) acknowledged(log logrus.FieldLogger, report wire.Report, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acked = report
	if p.next != nil && *p.next == report {
		p.next = nil
	}
	log = log.WithFields(logrus.Fields{"version": report.Version, "status": report.Status})
	if err != nil {
		log.WithField("error", err.Error()).Warn("Report not wanted")
		return
	}
	log.Debug("Reported")
}

// queueReport hands an outcome to report, unless that is what was said last. The caller
// holds mu.
func (p *Poller) queueReport(report wire.Report) {
	last := p.acked
	if p.next != nil {
		last = *p.next
	}
	if last == report {
		if report.Status == wire.Applied && report.Version == p.fetched {
			wake(p.verdictReceived) // there is nothing to tell
		}
		return
	}
	p.next = &report
	wake(p.reportPending)
}
