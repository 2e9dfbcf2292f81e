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

func TestLoginFailed_ManyOrigins_FewEntries(t *testing.T) {
	db := fleettest.NewStore(t)
	synctest.Test(t, func(t *testing.T) {
		log, _ := logtest.NewNullLogger()
		auditLog := audit.New(db, log)
		for range 3 {
			auditLog.LoginFailed(fleettest.ByAdmin, "POST /api/v1/config")
		}
		entries, err := auditLog.Entries(t.Context(), "", 0, 10) // stored before the read
		if err != nil || len(entries) != 1 || entries[0].Origin != fleettest.ByAdmin ||
			entries[0].Detail != "3 times, first on POST /api/v1/config" {
			t.Errorf("got %+v, %v, want one entry", entries, err)
		}
		for i := range 1000 { // an attack from many addresses
			auditLog.LoginFailed(
				models.Origin{Actor: "unknown", SourceIP: fmt.Sprint("192.0.2.", i)}, "GET /api/v1/agents",
			)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- auditLog.Run(ctx) }()
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if entries, err = db.Audit(t.Context(), models.ActionLoginFailed, 1, 1000); err != nil || len(entries) != 0 {
			t.Errorf("before the first: got %v, %v", entries, err)
		}
		if entries, err = db.Audit(t.Context(), models.ActionLoginFailed, 0, 1000); err != nil || len(entries) != 34 ||
			entries[0].Detail != "968 times from other addresses" {
			t.Errorf("got %d entries, %v, want 1, 32, and one for all others", len(entries), err)
		}
		auditLog.LoginFailed(fleettest.ByAdmin, "GET /api/v1/agents")
		stop()
		<-done
		if entries, err = db.Audit(t.Context(), "", 0, 1000); err != nil || len(entries) != 35 {
			t.Errorf("at the end: got %d entries, %v, want 35", len(entries), err)
		}
	})
}
