package models_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fleetconf/fleetconf/pkg/models"
)

func TestRollbackRequest_Validate(t *testing.T) {
	for name, row := range map[string]struct{ message, detail string }{
		"a sentence":     {"the new site is slow", ""},
		"empty":          {"", ""},
		"the most bytes": {strings.Repeat("m", models.MaxMessageBytes), ""},
		"too long":       {strings.Repeat("m", models.MaxMessageBytes+1), "longer than 1024 bytes"},
		"two lines":      {"a\nb", "control character"},
	} {
		t.Run(name, func(t *testing.T) {
			wantFault(t, models.RollbackRequest{Message: &row.message}.Validate(), "message", row.detail)
		})
	}
	if err := (models.RollbackRequest{}).Validate(); err != nil {
		t.Errorf("without a message: got %v, want nil", err)
	}
}

func TestFreezeRequest_Validate(t *testing.T) {
	now := time.Date(2026, 11, 24, 18, 0, 0, 0, time.UTC)
	for name, row := range map[string]struct {
		reason string
		until  time.Time // zero: left out
		field  string
		detail string
	}{
		"until it is lifted":    {"sale", time.Time{}, "", ""},
		"until a moment later":  {"sale", now.Add(1), "", ""},
		"until now":             {"sale", now, "until", "is in the past"},
		"until then, elsewhere": {"sale", now.Add(-1).In(time.FixedZone("", 3600)), "until", "is in the past"},
		"no reason":             {"", time.Time{}, "reason", "say why"},
		"a reason in two lines": {"a\nb", time.Time{}, "reason", "control character"},
		"a reason of many bytes": {strings.Repeat("r", models.MaxReasonBytes+1), time.Time{}, "reason",
			"longer than 1024 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			r := models.FreezeRequest{Reason: row.reason}
			if !row.until.IsZero() {
				r.Until = &row.until
			}
			wantFault(t, r.Validate(now), row.field, row.detail)
		})
	}
}

func TestFreezeRequest_Until_MustBeATime(t *testing.T) {
	for name, until := range map[string]string{"a word": `"tomorrow"`, "a number": `1795543200`,
		"a date": `"2026-11-24"`, "no zone": `"2026-11-24T18:00:00"`} {
		t.Run(name, func(t *testing.T) {
			_, err := models.Decode[models.FreezeRequest]([]byte(`{"reason":"sale","until":` + until + `}`))
			wantFault(t, err, "until", "a time in RFC 3339, such as 2026-11-24T18:00:00Z")
		})
	}
}

// wantFault checks that err names one field and says detail of it; "" for no
// fault.
func wantFault(t *testing.T, err error, field, detail string) {
	t.Helper()
	if detail == "" {
		if err != nil {
			t.Errorf("got %v, want nil", err)
		}
		return
	}
	var bad *models.Invalid
	if !errors.As(err, &bad) || len(bad.Errors) != 1 || bad.Errors[0].Field != field ||
		!strings.Contains(bad.Errors[0].Detail, detail) {
		t.Errorf("got %v, want %s: …%s…", err, field, detail)
	}
}
