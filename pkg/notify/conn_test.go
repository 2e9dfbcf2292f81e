package notify_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/fleetconf/fleetconf/pkg/notify"
)

// stream is a connection whose other end has said all that it will say.
type stream struct {
	net.Conn
	io.Reader
}

func (s stream) Read(p []byte) (int, error)  { return s.Reader.Read(p) }
func (s stream) Write(p []byte) (int, error) { return len(p), nil }

// sizes reads lines "N bytes".
func sizes(line []byte) (int64, bool) {
	digits, found := bytes.CutSuffix(line, []byte(" bytes"))
	if !found {
		return 0, false
	}
	return notify.Decimal(digits), true
}

func TestConn_Read_BoundsLinesAndPayloads(t *testing.T) {
	long := strings.Repeat("x", 900_000)
	for name, row := range map[string]struct {
		said string
		ok   bool
	}{
		"lines and bytes":                  {"hello\r\n5 bytes\r\n\r\n\r\n\r\r\n0 bytes\r\n\r\nbye\r\n", true},
		"a length within bytes":            {"21 bytes\r\n\r\n9999999999999 bytes\r\n", true},
		"as much as may be":                {"1048000 bytes\r\n" + strings.Repeat("x", 1048000) + "\r\n", true},
		"more than there should be":        {"1048577 bytes\r\n", false},
		"a length past 64 bits":            {"99999999999999999999999 bytes\r\n", false},
		"a negative length":                {"-1 bytes\r\n", false},
		"bytes longer than they were said": {"1 bytes\r\nxx\r\n", false},
		"a line within a line":             {"5\r12 bytes\r\n", false},
		"nothing but an end of a line":     {"\n", false},
		"half an end of a line":            {"hello\nbye\r\n", false},
		"a line without an end":            {strings.Repeat("x", 65<<10), false},
		"many lines":                       {strings.Repeat("hello\r\n", 150_000), true},
		"many payloads":                    {strings.Repeat("900000 bytes\r\n"+long+"\r\n", 3), true},
	} {
		t.Run(name, func(t *testing.T) {
			for reads, r := range map[string]io.Reader{"at once": strings.NewReader(row.said),
				"byte by byte": iotest.OneByteReader(strings.NewReader(row.said))} {
				got, err := io.ReadAll(notify.Guard(stream{Reader: r}, sizes))
				if errors.Is(err, notify.ErrTooLarge) == row.ok || row.ok && string(got) != row.said {
					t.Errorf("%s: got %d bytes, %v, want %d bytes and ok=%v", reads, len(got), err, len(row.said),
						row.ok)
				}
			}
		})
	}
}

func TestConn_TLS_NotInspected(t *testing.T) {
	said := "9999999999 bytes\r\n" + strings.Repeat("x", 2<<20)
	c := notify.Guard(stream{Reader: strings.NewReader(said)}, sizes)
	if _, err := c.Write([]byte{0x16, 3, 1}); err != nil { // a handshake
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if string(got) != said || err != nil {
		t.Errorf("got %d bytes, %v, want %d bytes", len(got), err, len(said))
	}
}

func TestReason_StableAndWithoutSecrets(t *testing.T) {
	for _, row := range []struct {
		err  error
		want string
	}{
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "the broker cannot be reached: nothing listens there"},
		{context.Canceled, "context canceled"},
		{fmt.Errorf("hunter2: %w", notify.ErrTooLarge), "the broker sends too much"},
		{errors.New("AUTH hunter2"), "the connection failed"},
	} {
		if got := notify.Reason(row.err).Error(); got != row.want {
			t.Errorf("Reason(%v) = %q, want %q", row.err, got, row.want)
		}
	}
}

func TestDecimal(t *testing.T) {
	for digits, want := range map[string]int64{"0": 0, "1048576": 1 << 20, "007": 7, "": -1, "-1": -1, "+1": -1,
		"1x": -1, "9999999999": -1} {
		if got := notify.Decimal([]byte(digits)); got != want {
			t.Errorf("Decimal(%q) = %d, want %d", digits, got, want)
		}
	}
}

func TestNop(t *testing.T) {
	var a notify.Announcer = notify.Nop{}
	if err := a.Announce(t.Context(), notify.Subject, nil); err != nil {
		t.Error(err)
	}
}
