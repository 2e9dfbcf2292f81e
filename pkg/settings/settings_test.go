package settings_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/settings/settingstest"
)

type options = settingstest.Options

func defaults() options {
	return options{
		Host: "127.0.0.1", Port: 8080, Timeout: 30 * time.Second, Strict: true, Password: "admin123",
		Deny: []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")},
	}
}

func TestRead(t *testing.T) {
	for name, row := range map[string]struct {
		env    map[string]string
		file   string
		change func(*options)
	}{
		"defaults": {nil, "", func(*options) {}},
		"the environment": {map[string]string{"T_PORT": " 9000 ", "T_STRICT": "0"}, "",
			func(o *options) { o.Port, o.Strict = 9000, false }},
		"an empty variable is none": {map[string]string{"T_PORT": ""}, "", func(*options) {}},
		"a file": {nil, "t_port: 9000\nT_TIMEOUT: 1m30s\nt_strict: false\n",
			func(o *options) { o.Port, o.Timeout, o.Strict = 9000, 90*time.Second, false }},
		"the environment wins over a file": {map[string]string{"T_PORT": "9001"}, "t_port: 9000\nt_host: ::1\n",
			func(o *options) { o.Port, o.Host = 9001, "::1" }},
		"an empty file": {nil, "# nothing yet\n", func(*options) {}},
		"networks": {map[string]string{"T_DENY": "10.1.2.3/8,192.0.2.1 ,::1,"}, "",
			func(o *options) { o.Deny = prefixes("10.0.0.0/8", "192.0.2.1/32", "::1/128") }},
		"networks as a list in a file": {nil, "t_deny: [10.0.0.0/8, 192.0.2.1]\n",
			func(o *options) { o.Deny = prefixes("10.0.0.0/8", "192.0.2.1/32") }},
		"no networks": {map[string]string{"T_DENY": "none"}, "",
			func(o *options) { o.Deny = nil }},
		"a secret": {map[string]string{"T_PASSWORD": "hunter2"}, "",
			func(o *options) { o.Password = "hunter2" }},
		"a secret with spaces and a dollar": {map[string]string{"T_PASSWORD": " $HOME #1 "}, "",
			func(o *options) { o.Password = " $HOME #1 " }},
		// YAML's octal: quote it
		"a secret of digits in a file": {nil, "t_password: 0123\n", func(o *options) { o.Password = "83" }},
		"a quoted secret in a file":    {nil, "t_password: '0123'\n", func(o *options) { o.Password = "0123" }},
	} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range row.env {
				t.Setenv(variable, value)
			}
			file := ""
			if row.file != "" {
				file = settingstest.WriteFile(t, "settings.yaml", row.file)
			}
			want := defaults()
			row.change(&want)
			var got options
			if err := settings.Read(&got, file); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestRead_SecretFromFile(t *testing.T) {
	path := settingstest.WriteFile(t, "password", "hunter2 \r\n\n")
	var got options
	t.Setenv("T_PASSWORD_FILE", path)
	if err := settings.Read(&got, ""); err != nil || got.Password.Reveal() != "hunter2 " {
		t.Errorf("from T_PASSWORD_FILE: got %q, %v, want the line less its end", got.Password.Reveal(), err)
	}
	t.Setenv("T_PASSWORD_FILE", "")
	if err := settings.Read(&got, settingstest.WriteFile(t, "settings.yaml", "t_password_file: "+path)); err != nil ||
		got.Password.Reveal() != "hunter2 " {
		t.Errorf("from t_password_file in a file: got %q, %v", got.Password.Reveal(), err)
	}
	t.Setenv("T_PASSWORD", "fromenv")
	if err := settings.Read(&got, settingstest.WriteFile(t, "settings.yaml", "t_password: fromfile")); err != nil ||
		got.Password.Reveal() != "fromenv" {
		t.Errorf("from T_PASSWORD over a file: got %q, %v", got.Password.Reveal(), err)
	}
}

func TestRead_Faults(t *testing.T) {
	empty := settingstest.WriteFile(t, "empty", "\n")
	missing := filepath.Join(t.TempDir(), "missing")
	for name, row := range map[string]struct {
		env  map[string]string
		file string
		want []string // one for each fault: the setting and words of its detail
	}{
		"a port that is a word": {map[string]string{"T_PORT": "abc"}, "",
			[]string{`T_PORT is "abc"; it must be a whole number`}},
		"a port that is a fraction": {map[string]string{"T_PORT": "80.5"}, "", []string{`T_PORT is "80.5"`}},
		"a port past 64 bits": {map[string]string{"T_PORT": "99999999999999999999"}, "",
			[]string{`T_PORT is "99999999999999999999"`}},
		"a port past 16 bits": {map[string]string{"T_PORT": "65536"}, "",
			[]string{"T_PORT is 65536; it must be 0 to 65535"}},
		"a duration without a unit": {map[string]string{"T_TIMEOUT": "30"}, "",
			[]string{`T_TIMEOUT is "30"; it must be a duration with its unit`}},
		"a duration in a file, no unit": {nil, "t_timeout: 30", []string{`T_TIMEOUT is "30"`}},
		"no boolean": {map[string]string{"T_STRICT": "yes please"}, "",
			[]string{`T_STRICT is "yes please"; it must be true or false`}},
		"no network": {map[string]string{"T_DENY": "10.0.0.0/8,10.0.0.0/33"}, "",
			[]string{`T_DENY holds "10.0.0.0/33"`}},
		"no network, in a list": {nil, "t_deny: [10.0.0.0/8, x]", []string{`T_DENY holds "x"`}},
		"a table in a list":     {nil, "t_deny: [10.0.0.0/8, {a: b}]", []string{"T_DENY is a table"}},
		"a table for a text":    {nil, "t_host: {a: b}", []string{"T_HOST is a table"}},
		"a secret twice": {map[string]string{"T_PASSWORD": "a", "T_PASSWORD_FILE": empty}, "",
			[]string{"T_PASSWORD_FILE is set, and so is T_PASSWORD"}},
		"a secret twice in a file": {nil, "t_password: a\nt_password_file: " + empty,
			[]string{"T_PASSWORD_FILE is set, and so is T_PASSWORD"}},
		"a secret in a file that is not": {map[string]string{"T_PASSWORD_FILE": missing}, "",
			[]string{"T_PASSWORD_FILE cannot be read: open " + missing}},
		"a secret in UTF-16": {map[string]string{"T_PASSWORD_FILE": settingstest.WriteFile(t, "utf16",
			"\xff\xfeh\x00u\x00")}, "", []string{"T_PASSWORD_FILE names a file in UTF-16: "}},
		"a secret without end": {map[string]string{"T_PASSWORD_FILE": "/dev/zero"}, "",
			[]string{"T_PASSWORD_FILE names a file of more than 65536 bytes: /dev/zero"}},
		"a secret that is only a mark": {map[string]string{"T_PASSWORD_FILE": settingstest.WriteFile(t, "mark",
			"\ufeff\r\n")}, "",
			[]string{"T_PASSWORD_FILE names an empty file"}},
		"a secret in an empty file": {map[string]string{"T_PASSWORD_FILE": empty}, "",
			[]string{"T_PASSWORD_FILE names an empty file"}},
		"the known password, for anybody": {map[string]string{"T_HOST": "0.0.0.0"}, "",
			[]string{"T_PASSWORD is a default, and 0.0.0.0 can be reached from other machines; set T_PASSWORD to"}},
		"an unknown key": {nil, "t_prot: 1\nt_port: 1\nother: 2",
			[]string{"OTHER is not a setting of this program; --help",
				"T_PROT is not a setting of this program; did you mean T_PORT?"}},
		"one not read, another not usable": {map[string]string{"T_TIMEOUT": "30", "T_PORT": "65536"}, "",
			[]string{"T_TIMEOUT", "T_PORT"}},
		"everything at once": {map[string]string{"T_PORT": "abc", "T_TIMEOUT": "30", "T_STRICT": "x", "T_DENY": "x",
			"T_PASSWORD_FILE": missing}, "t_hots: a",
			[]string{"T_DENY", "T_HOTS", "T_PASSWORD_FILE", "T_PORT", "T_STRICT", "T_TIMEOUT"}},
	} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range row.env {
				t.Setenv(variable, value)
			}
			file := ""
			if row.file != "" {
				file = settingstest.WriteFile(t, "settings.yaml", row.file)
			}
			wantFaults(t, settings.Read(&options{}, file), row.want...)
		})
	}
}

func wantFaults(t *testing.T, err error, want ...string) {
	t.Helper()
	var faults settings.Faults
	if !errors.As(err, &faults) || len(faults) != len(want) {
		t.Fatalf("got %v, want %d faults: %q", err, len(want), want)
	}
	for _, fault := range want {
		if !strings.Contains(err.Error(), "\n  "+fault) {
			t.Errorf("got %v, want a line that begins with %q", err, fault)
		}
	}
}

func TestRead_UnreadableFile(t *testing.T) {
	for name, path := range map[string]string{
		"missing":        filepath.Join(t.TempDir(), "missing.yaml"),
		"malformed":      settingstest.WriteFile(t, "settings.yaml", "t_port: [1"),
		"of no format":   settingstest.WriteFile(t, "settings.xyz", "t_port=1"),
		"malformed JSON": settingstest.WriteFile(t, "settings.json", `{"t_port": 1`),
	} {
		t.Run(name, func(t *testing.T) {
			err := settings.Read(&options{}, path)
			wantFaults(t, err, "--config ")
			if !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want it to name %s", err, path)
			}
		})
	}
}

func TestRead_TOMLAndJSON(t *testing.T) {
	for name, text := range map[string]string{"s.toml": "t_port = 9000\n", "s.json": `{"T_PORT": 9000}`} {
		var got options
		if err := settings.Read(&got, settingstest.WriteFile(t, name, text)); err != nil || got.Port != 9000 {
			t.Errorf("%s: got %d, %v, want 9000", name, got.Port, err)
		}
	}
}

func TestRead_UnsupportedFieldType_Panics(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "T_RATIO") {
			t.Errorf("got panic %q, want one that names the field", got)
		}
	}()
	_ = settings.Read(&ratio{}, "")
}

type ratio struct {
	Ratio float64 `setting:"T_RATIO" default:"0.5"`
}

func (*ratio) Validate() settings.Faults { return nil }

func TestSecret_Format_NeverPrinted(t *testing.T) {
	o := defaults()
	o.Password = "hunter2"
	var printed []string
	for _, verb := range "vsqxXdobcUteEfFgG" {
		for _, flags := range []string{"", "+", "#", "-20", "020"} {
			format := "%" + flags + string(verb)
			printed = append(printed, fmt.Sprintf(format, o.Password), fmt.Sprintf(format, &o.Password),
				fmt.Sprintf(format, o), fmt.Sprintf(format, &o),
				fmt.Sprintf(format, []any{o.Password}),
				fmt.Sprintf(format, map[settings.Secret]settings.Secret{o.Password: o.Password}))
		}
	}
	asJSON, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, formatter := range []logrus.Formatter{&logrus.JSONFormatter{}, &logrus.TextFormatter{}} {
		log := logrus.New()
		log.SetOutput(&out)
		log.SetFormatter(formatter)
		log.WithFields(logrus.Fields{"password": o.Password, "options": o, "pointer": &o}).Info(o.Password)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("slog", "password", o.Password, "options", o)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("slog", "password", o.Password, "options", o)
	printed = append(printed, string(asJSON), out.String(), fmt.Sprint(o, o.Password), fmt.Sprintln(o.Password),
		fmt.Errorf("%w: %v", os.ErrInvalid, o).Error())

	for _, text := range printed {
		for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2"),
			fmt.Sprintf("% x", "hunter2")} {
			if strings.Contains(text, leak) {
				t.Fatalf("the secret was printed: %s", text)
			}
		}
	}
	if got := o.Password.Reveal(); got != "hunter2" {
		t.Errorf("Reveal() = %q, want the secret", got)
	}
}

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.1.2.3": true, "::1": true, "::ffff:127.0.0.1": true, "localhost": true,
		"LOCALHOST": true,
		"0.0.0.0":   false, "::": false, "": false, "10.0.0.1": false, "example.com": false,
		"localhost.example.com": false, "127.0.0.1.nip.io": false,
	} {
		if got := settings.IsLoopback(host); got != want {
			t.Errorf("IsLoopback(%q) = %v, want %v", host, got, want)
		}
	}
}

func TestFaults_Checks(t *testing.T) {
	for name, row := range map[string]struct {
		check func(*settings.Faults)
		want  []string // settings with a fault
	}{
		"a good listener":     {func(f *settings.Faults) { f.CheckListener("127.0.0.1", 0) }, nil},
		"a name to listen on": {func(f *settings.Faults) { f.CheckListener("localhost", 65535) }, nil},
		"no host":             {func(f *settings.Faults) { f.CheckListener("", 8080) }, []string{"HOST"}},
		"a URL for a host":    {func(f *settings.Faults) { f.CheckListener("http://a", 8080) }, []string{"HOST"}},
		"a negative port":     {func(f *settings.Faults) { f.CheckListener("::1", -1) }, []string{"PORT"}},
		"a port past 16 bits": {func(f *settings.Faults) { f.CheckListener("::1", 65536) }, []string{"PORT"}},
		"a good log":          {func(f *settings.Faults) { f.CheckLog("debug", "auto") }, nil},
		"a log level and format": {func(f *settings.Faults) { f.CheckLog("loud", "xml") },
			[]string{"LOG_LEVEL", "LOG_FORMAT"}},
		"a good server":        {func(f *settings.Faults) { f.CheckServer("S", "https://a:8443/base") }, nil},
		"no scheme":            {func(f *settings.Faults) { f.CheckServer("S", "localhost:8080") }, []string{"S"}},
		"another scheme":       {func(f *settings.Faults) { f.CheckServer("S", "redis://a") }, []string{"S"}},
		"no server":            {func(f *settings.Faults) { f.CheckServer("S", "http://") }, []string{"S"}},
		"credentials in a URL": {func(f *settings.Faults) { f.CheckServer("S", "http://a:b@c/") }, []string{"S"}},
		"a query":              {func(f *settings.Faults) { f.CheckServer("S", "http://a/?b") }, []string{"S"}},
		"no URL":               {func(f *settings.Faults) { f.CheckServer("S", "http://[") }, []string{"S"}},
		"good host names": {func(f *settings.Faults) {
			f.CheckHosts("S",
				[]string{"a", "A.example.com", "a.example."})
		}, nil},
		"no host names": {
			func(f *settings.Faults) {
				f.CheckHosts("S", []string{"a:80", "*.a", "http://a", "a/b", "[::1]", "a b", "a?", "u@a", ""})
			},
			[]string{"S", "S", "S", "S", "S", "S", "S", "S", "S"},
		},
		"a known password, on loopback": {func(f *settings.Faults) {
			f.CheckPassword("127.0.0.1", "P", "known",
				"known")
		}, nil},
		"an empty password": {func(f *settings.Faults) { f.CheckPassword("127.0.0.1", "P", "", "known") },
			[]string{"P"}},
		"an empty password, outside": {func(f *settings.Faults) { f.CheckPassword("0.0.0.0", "P", "", "known") },
			[]string{"P"}},
		"a secret that is not set": {func(f *settings.Faults) { f.CheckSecret("0.0.0.0", "P", "") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var faults settings.Faults
			row.check(&faults)
			var got []string
			for _, f := range faults {
				got = append(got, f.Setting)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("settings with a fault (-want +got)\n%s", diff)
			}
			if (faults.Err() == nil) != (row.want == nil) {
				t.Errorf("Err() = %v", faults.Err())
			}
		})
	}
}

func TestCheckPassword_OffLoopback(t *testing.T) {
	for password, weak := range map[string]bool{
		"x": true, "known-default": true, "changeme": true, "changemechangeme": true, "password": true,
		"Password1234": true, "PASSWORD-password": true,
		"admin123": true, "eleven-char": true, "aaaaaaaaaaaaaaaaaaaa": true, "abababababab": true,
		"1234567890123": true, "secret-admin-1": true,
		"operator-operator": true, "fleetconf-agent": true, "\u00e4\u00f6\u00fc-\u00df12": true,
		"twelve-chars": false, "correct horse battery staple": false, "4821-5930-1274": false,
		"hunter2-0123456789": false,
		"Zm9vYmFyYmF6cXV4":   false, "M\u00fcller-und-S\u00f6hne": false, "password-9f86d081884c": false,
	} {
		for host, reachable := range map[string]bool{"0.0.0.0": true, "::": true, "10.0.0.1": true,
			"host.example.com": true, "127.0.0.1": false, "::1": false, "localhost": false} {
			var faults settings.Faults
			faults.CheckPassword(host, "P", settings.Secret(password), "operator", "known-default")
			if got, want := len(faults) > 0, weak && reachable; got != want {
				t.Errorf("%q on %s: got %v, want refused: %v", password, host, faults, want)
			}
			if strings.Contains(faults.Error(), password) && len(password) > 1 {
				t.Errorf("the error contains %q", password)
			}
		}
	}
}

// Editors write a byte order mark before UTF-8, which cannot be typed at a login.
func TestRead_SecretWithByteOrderMark_MarkRemoved(t *testing.T) {
	t.Setenv("T_PASSWORD_FILE", settingstest.WriteFile(t, "secret", "\ufeffhunter2\r\n"))
	var got options
	if err := settings.Read(&got, ""); err != nil || got.Password.Reveal() != "hunter2" {
		t.Errorf("got %q, %v, want hunter2", got.Password.Reveal(), err)
	}
}
