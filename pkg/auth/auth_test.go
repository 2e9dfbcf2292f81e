package auth_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/auth"
)

func basic(userPassword string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(userPassword))
}

func TestBasic_Read(t *testing.T) {
	for name, row := range map[string]struct {
		header, user, password string
		err                    error
	}{
		"user and password":            {header: basic("admin:admin123"), user: "admin", password: "admin123"},
		"the scheme in lower case":     {header: "basic" + basic("a:b")[5:], user: "a", password: "b"},
		"a colon in the password":      {header: basic("a:b:c"), user: "a", password: "b:c"},
		"an empty password":            {header: basic("a:"), user: "a"},
		"an empty user":                {header: basic(":b"), password: "b"},
		"UTF-8":                        {header: basic("jörg:grüße"), user: "jörg", password: "grüße"},
		"missing":                      {header: "", err: auth.ErrMissing},
		"another scheme":               {header: "Bearer abc", err: auth.ErrScheme},
		"the scheme alone":             {header: "Basic", err: auth.ErrMalformed},
		"the scheme and a space":       {header: "Basic ", err: auth.ErrMalformed},
		"no colon":                     {header: basic("admin"), err: auth.ErrMalformed},
		"not base64":                   {header: "Basic !!!!", err: auth.ErrMalformed},
		"base64 that is cut off":       {header: "Basic YWRtaW46YWRtaW4xM", err: auth.ErrMalformed},
		"a control character":          {header: basic("ad\x00min:x"), err: auth.ErrMalformed},
		"more than anybody would send": {header: basic("a:" + strings.Repeat("b", 2000)), err: auth.ErrMalformed},
		"ten thousand bytes":           {header: strings.Repeat("B", 10_000), err: auth.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			var b auth.Basic
			err := b.Read(row.header)
			if !errors.Is(err, row.err) || string(b.User) != row.user || string(b.Password) != row.password {
				t.Errorf("Read(%.60q) = %v, %q, %q, want %v, %q, %q",
					row.header, err, b.User, b.Password, row.err, row.user, row.password)
			}
		})
	}
}

func TestBasic_Reuse_ClearsPreviousCredentials(t *testing.T) {
	var b auth.Basic
	if err := b.Read(basic("admin:admin123")); err != nil {
		t.Fatal(err)
	}
	if err := b.Read("Basic !!"); err == nil || b.User != nil || b.Password != nil {
		t.Errorf("after a bad header: %v, %q, %q, want an error and nothing", err, b.User, b.Password)
	}
}

func TestBearer(t *testing.T) {
	for name, row := range map[string]struct {
		header, token string
		err           error
	}{
		"a token":        {header: "Bearer abc.def", token: "abc.def"},
		"lower case":     {header: "bearer abc", token: "abc"},
		"missing":        {header: "", err: auth.ErrMissing},
		"another scheme": {header: basic("a:b"), err: auth.ErrScheme},
		"two tokens":     {header: "Bearer a b", err: auth.ErrMalformed},
		"no token":       {header: "Bearer ", err: auth.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := auth.Bearer(row.header)
			if !errors.Is(err, row.err) || (err == nil && token != row.token) {
				t.Errorf("Bearer(%q) = %q, %v, want %q, %v", row.header, token, err, row.token, row.err)
			}
		})
	}
}

func TestDigest(t *testing.T) {
	token := auth.NewToken()
	digest := auth.DigestOf(token)
	if !digest.Matches([]byte(token)) {
		t.Error("a digest does not match its own secret")
	}
	if digest.Matches([]byte(token[1:])) || digest.Matches(nil) {
		t.Error("a digest matches another secret")
	}
	if zero := (auth.Digest{}); zero.Matches(nil) || zero.Matches([]byte{}) {
		t.Error("the zero digest matches the empty secret")
	}
}

func TestNewToken_Has256RandomBits(t *testing.T) {
	a, b := auth.NewToken(), auth.NewToken()
	raw, err := base64.RawURLEncoding.DecodeString(a)
	if err != nil || len(raw) != 32 || a == b {
		t.Errorf("NewToken() = %q, %q: want two different ones of 32 bytes (%v)", a, b, err)
	}
}

func TestAccount(t *testing.T) {
	a := auth.NewAccount("admin", "admin123")
	for name, row := range map[string]struct {
		user, password string
		want           bool
	}{
		"both right":         {"admin", "admin123", true},
		"wrong password":     {"admin", "admin124", false},
		"wrong user":         {"root", "admin123", false},
		"nothing":            {"", "", false},
		"password as a user": {"admin123", "admin", false},
	} {
		if got := a.Matches([]byte(row.user), []byte(row.password)); got != row.want {
			t.Errorf("%s: Matches = %v, want %v", name, got, row.want)
		}
	}
}

func TestBasic_Read_AllocatesNothing(t *testing.T) {
	header := basic("019aa1f0-7e2c-7c31-9a51-0a4f6e1d2b3c:" + auth.NewToken())
	digest := auth.DigestOf("x")
	var b auth.Basic // reused, as a server does
	if n := testing.AllocsPerRun(100, func() {
		if b.Read(header) != nil || digest.Matches(b.Password) {
			t.Fail()
		}
	}); n != 0 {
		t.Errorf("reading and comparing credentials allocates %v times, want 0", n)
	}
}

// Whatever is sent, reading it ends, and what it yields is what was encoded.
func FuzzBasic(f *testing.F) {
	for _, seed := range []string{"", "Basic", "Basic ", basic("a:b"), basic(":"), basic("a"), "Basic ====", "Bearer x",
		"Basic  " + basic("a:b")[6:]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		var b auth.Basic
		if b.Read(header) != nil {
			if b.User != nil || b.Password != nil {
				t.Errorf("%q: an error, and credentials all the same", header)
			}
			return
		}
		again := basic(string(b.User) + ":" + string(b.Password))
		if want := strings.TrimLeft(header[5:], " "); again[6:] != strings.NewReplacer("\r", "", "\n",
			"").Replace(want) {
			t.Errorf("%q yields credentials that encode as %q", header, again)
		}
	})
}
