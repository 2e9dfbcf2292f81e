package connlimit_test

import (
	"net"
	"net/http/httptest"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/connlimit"
)

func TestAuthenticated_AllocatesNothing(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	request := connlimit.Requests(here, httptest.NewRequest("GET", "/", nil))
	if made := testing.AllocsPerRun(1000, request); made != 0 {
		t.Errorf("a request makes %v allocations in the table of connections, want 0", made)
	}
	connlimit.Authenticated(httptest.NewRequest("GET", "/", nil)) // which no server of ours answers
}

func TestMax(t *testing.T) {
	for _, row := range []struct {
		files uint64
		each  int
		want  int
	}{
		{300, 1, 236},
		{300, 2, 118},
		{100, 1, 50},
		{1, 2, 1},
		{1 << 63, 1, 1<<30 - 64},
	} {
		if got := connlimit.MaxOf(row.files, row.each); got != row.want {
			t.Errorf("with %d files, %d for each: got %d, want %d", row.files, row.each, got, row.want)
		}
	}
	if got := connlimit.Max(1); got < 1 {
		t.Errorf("of this process: got %d", got)
	}
}
