package audit_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/fleetconf/fleetconf/controller/internal/audit"
	"github.com/fleetconf/fleetconf/controller/internal/fleettest"
	"github.com/fleetconf/fleetconf/controller/internal/models"
)

func TestAudit_RefusedLogins_Counted(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		log, _ := logtest.NewNullLogger()
		trail := audit.New(db, log)
		for range 3 {
			trail.LoginFailed(fleettest.ByAdmin, "POST /api/v1/config")
		}
		entries, err := trail.Entries(t.Context(), "", 0, 10) // at once, for who looks
		if err != nil || len(entries) != 1 || entries[0].Origin != fleettest.ByAdmin ||
			entries[0].Detail != "3 times, first on POST /api/v1/config" {
			t.Errorf("got %+v, %v, want one entry", entries, err)
		}
		for i := range 1000 { // somebody guesses, from everywhere
			trail.LoginFailed(
				models.Origin{Actor: "unknown", SourceIP: fmt.Sprint("192.0.2.", i)}, "GET /api/v1/agents",
			)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- trail.Run(ctx) }()
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if entries, err = db.Audit(t.Context(), models.ActionLoginFailed, 1, 1000); err != nil || len(entries) != 0 {
			t.Errorf("before the first: got %v, %v", entries, err)
		}
		if entries, err = db.Audit(t.Context(), models.ActionLoginFailed, 0, 1000); err != nil || len(entries) != 34 ||
			entries[0].Detail != "968 times from other addresses" {
			t.Errorf("got %d entries, %v, want 1, 32, and one for all others", len(entries), err)
		}
		trail.LoginFailed(fleettest.ByAdmin, "GET /api/v1/agents")
		stop()
		<-done
		if entries, err = db.Audit(t.Context(), "", 0, 1000); err != nil || len(entries) != 35 {
			t.Errorf("at the end: got %d entries, %v, want 35", len(entries), err)
		}
	})
}
