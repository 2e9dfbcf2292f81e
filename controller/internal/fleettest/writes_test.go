package fleettest_test

import (
	"context"
	"fmt"
	"testing"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/audit"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	wire "github.com/fleetconf/fleetconf/pkg/models"
)

// A write that has begun is completed after its caller disconnects: others may wait for
// it, and memory and store must not differ.
func TestWrites_CallerDisconnects_Finished(t *testing.T) {
	for name, write := range map[string]func(context.Context, *fleettest.Fleet, *registry.Agent, *audit.Log) error{
		"publish": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, _ *audit.Log) error {
			_, err := f.Publisher.Publish(ctx, fleettest.Draft("http://b/"))
			return err
		},
		"freeze": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, _ *audit.Log) error {
			return f.Publisher.Freeze(
				ctx, models.Freeze{Reason: "sale"}, fleettest.ByAdmin, func(*models.Freeze) bool { return true },
			)
		},
		"resume": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, _ *audit.Log) error {
			f.Publisher.ObserveTag(f.Publisher.Plan(), f.Later(9))
			_, err := f.Publisher.Resume(ctx, fleettest.ByAdmin, func(string) bool { return true })
			return err
		},
		"observed versions": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, _ *audit.Log) error {
			f.Publisher.ObserveTag(f.Publisher.Plan(), f.Later(9))
			if err := f.Publisher.Run(ctx); err != nil {
				return err
			}
			plan, err := f.DB.Plan(t.Context())
			if err == nil && plan.Observed.Highest != 9 {
				return fmt.Errorf("the highest observed version: got %d, want 9", plan.Observed.Highest)
			}
			return err
		},
		"register": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, _ *audit.Log) error {
			_, _, _, err := f.Agents.Register(ctx, registry.Registration{Hostname: "h", Metadata: []byte("{}")})
			return err
		},
		"reset": func(ctx context.Context, f *fleettest.Fleet, live *registry.Agent, _ *audit.Log) error {
			return f.Agents.Reset(ctx, live.ID(), fleettest.ByAdmin)
		},
		"retry": func(ctx context.Context, f *fleettest.Fleet, live *registry.Agent, _ *audit.Log) error {
			return f.Agents.Retry(ctx, live.ID(), fleettest.ByAdmin)
		},
		"decommission": func(ctx context.Context, f *fleettest.Fleet, live *registry.Agent, _ *audit.Log) error {
			return f.Agents.Decommission(ctx, live.ID(), fleettest.ByAdmin)
		},
		"report": func(ctx context.Context, f *fleettest.Fleet, live *registry.Agent, _ *audit.Log) error {
			_, err := f.Agents.Report(ctx, live, wire.Attempt{Version: 1, Status: wire.Applied, At: models.Now()})
			return err
		},
		"rejected logins": func(ctx context.Context, f *fleettest.Fleet, _ *registry.Agent, auditLog *audit.Log) error {
			auditLog.LoginFailed(fleettest.ByAdmin, "GET /api/v1/agents")
			_, _ = auditLog.Entries(ctx, "", 0, 1)
			if got := fleettest.Actions(t, f.DB); got[0] != models.ActionLoginFailed {
				return fmt.Errorf("audit log: got %v, want the rejected login first", got)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := &fleettest.Observed{DB: fleettest.NewStore(t), OnWrite: func() {}}
			log, _ := logtest.NewNullLogger()
			agents, _ := fleettest.OpenAgents(t, store)
			publisher := publish.New(
				store, fleettest.LoadPlan(t, store), agents, publish.Options{Tags: store.Tags()}, log,
			)
			f := &fleettest.Fleet{DB: store.DB, Agents: agents, Publisher: publisher}
			fleettest.Publish(t, f.Publisher, fleettest.Draft("http://a/"))
			live := f.Join(t, 1)[0]
			ctx, disconnect := context.WithCancel(t.Context())
			store.OnWrite = disconnect
			if err := write(ctx, f, live, audit.New(store, log)); err != nil || ctx.Err() == nil {
				t.Errorf("got %v, want it finished", err)
			}
		})
	}
}
