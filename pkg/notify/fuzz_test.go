package notify_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
)

// Whatever a broker delivers is a hint within bounds, or an *models.Invalid.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"version":8,"etag":"\"8-abc-def\"","spread_ms":250}`, `{"version":8}`, `{"version":0}`,
		`{"version":-1,"spread_ms":-1}`,
		`{"version":9223372036854775808}`, `{"version":1,"spread_ms":9223372036854775807}`, `{"version":1,"version":2}`,
		`{"version":1e3}`,
		`{"version":1,"new":{"a":[]}}`, `{"version":"1"}`, "{\"version\":1,\"etag\":\"\xff\"}",
		`{"version":1,"etag":"` + strings.Repeat("x", 900) + `"}`, ``, `null`, `[]`, `{`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		h, err := notify.Decode(message)
		if err != nil {
			var bad *models.Invalid
			if !errors.As(err, &bad) || err.Error() == "" {
				t.Fatalf("%q: got error %v (%T), want an *Invalid that says why", message, err, err)
			}
			return
		}
		if h.Version < 1 || len(h.ETag) > models.MaxETagBytes || h.Spread() < 0 || h.Spread() > models.MaxWait ||
			len(message) > models.MaxHintBytes {
			t.Fatalf("%q: got %+v, which is out of bounds", message, h)
		}
		again, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if read, err := notify.Decode(again); err != nil || read != h {
			t.Errorf("%q: got %+v after another trip, %v; want %+v", message, read, err, h)
		}
	})
}
