package poller

import (
	"context"
	"time"

	"github.com/fleetconf/fleetconf/agent/internal/protocol"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// report sends each outcome until the controller has taken it, or a newer one has
// replaced it.
func (p *Poller) report(ctx context.Context) {
	a := newAttempts(p.Log)
	for ctx.Err() == nil {
		var as protocol.Identity
		var report *wire.Report
		var notBefore time.Time
		p.ask(func(m *state.Machine, now time.Time) { as, report, notBefore = m.NextReport(now) })
		wait := time.Until(notBefore)
		switch {
		case report == nil:
			select {
			case <-ctx.Done():
			case <-p.wakeReport:
			}
		case wait > 0:
			pause(ctx, wait, p.wakeReport)
		default:
			p.sendReport(ctx, &a, as, *report)
		}
	}
}

func (p *Poller) sendReport(ctx context.Context, a *attempts, as protocol.Identity, report wire.Report) {
	p.persist(ctx) // a restarted agent must know the outcome
	err := p.Source.Report(a.begin(ctx), as, report)
	p.Metrics.reported(err)
	if err != nil && ctx.Err() != nil {
		return
	}
	p.handle(a.log, func(m *state.Machine, now time.Time) { m.Reported(now, report, err) })
}
