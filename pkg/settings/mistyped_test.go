package settings_test

import (
	"strings"
	"testing"

	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/settings/settingstest"
)

// fleet has the names of settings that others are near to.
type fleet struct {
	Host     string          `setting:"HOST"`
	Port     string          `setting:"PORT"`
	Push     string          `setting:"PUSH"`
	DBPath   string          `setting:"DB_PATH"`
	Interval string          `setting:"DEFAULT_POLL_INTERVAL" mistaken:"POLL_INTERVAL"`
	Password settings.Secret `setting:"ADMIN_PASSWORD"`
	Agent    settings.Secret `setting:"AGENT_PASSWORD" mistaken:"CONTROLLER_PASSWORD"`
	URL      string          `setting:"CONTROLLER_URL"`
	Worker   string          `setting:"WORKER_URL"`
	Redis    settings.Secret `setting:"REDIS_URL"`
	NATS     settings.Secret `setting:"NATS_URL"`
	CA       string          `setting:"TLS_CLIENT_CA_FILE"`
	Proxy    string          `setting:"HIT_PROXY"`
	Hosts    string          `setting:"ALLOWED_HOSTS"`
	Level    string          `setting:"LOG_LEVEL"`
	Format   string          `setting:"LOG_FORMAT"`
	Debug    string          `setting:"DEBUG_PORT"`
	Fleet    string          `setting:"FLEET_ID"`
}

func (*fleet) Validate() settings.Faults { return nil }

func TestFindMistyped_Typos_Found(t *testing.T) {
	for variable, want := range map[string]string{
		"POLL_INTERVAL":         "DEFAULT_POLL_INTERVAL",
		"POLL_INTERVALL":        "DEFAULT_POLL_INTERVAL",
		"DEFAULT_POLL_INTERVAL": "",
		"ADMIN_PASSWORD_FIEL":   "ADMIN_PASSWORD_FILE",
		"ADMIN_PASSWORD_FILE":   "",
		"ADMIN_PASSWRD":         "ADMIN_PASSWORD",
		"ADMIM_PASSWORD":        "ADMIN_PASSWORD",
		"CONTROLLER_PASSWORD":   "AGENT_PASSWORD",
		"DB_PAHT":               "DB_PATH",
		"DBPATH":                "DB_PATH",
		"DB_PATH_FILE":          "DB_PATH",
		"LOGLEVEL":              "LOG_LEVEL",
		"log_level":             "LOG_LEVEL",
		"PROT":                  "PORT",
		"FLEETCONF_PORT":        "PORT",
		"FLEETCONF_LOG_LEVEL":   "LOG_LEVEL",
		"CONTROLER_URL":         "CONTROLLER_URL",
		"TLS_CLIENT_CA":         "",
	} {
		settingstest.SetEnviron(t, variable+"=hunter2")
		var got string
		if found := settings.FindMistyped(&fleet{}); len(found) > 0 {
			got = found[0].Meant
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", variable, got, want)
		}
	}
}

// What machines, shells, containers and orchestrators set is no mistake.
func TestFindMistyped_UsualEnvironment_NothingReported(t *testing.T) {
	names := `PATH HOME HOSTNAME HOSTTYPE LOGNAME USER SHELL TERM LANG LC_ALL LS_COLORS PWD OLDPWD SHLVL MAIL EDITOR
		PAGER TZ TMPDIR DISPLAY MACHTYPE OSTYPE COLORTERM COLUMNS LINES POSH POST PS1 PORTS SORT _ DB_HOST DB_PORT
		DB_NAME DB_USER DB_PASSWORD DATABASE_URL PGHOST PGPORT PGPASSWORD MYSQL_HOST HTTP_PROXY HTTPS_PROXY
		NO_PROXY FTP_PROXY ALL_PROXY http_proxy https_proxy no_proxy port host XDG_RUNTIME_DIR XDG_SESSION_ID
		XDG_DATA_DIRS DBUS_SESSION_BUS_ADDRESS SSH_AUTH_SOCK SSH_AGENT_PID SSH_CONNECTION SSH_CLIENT SSH_TTY
		INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET WATCHDOG_USEC WATCHDOG_PID CREDENTIALS_DIRECTORY
		STATE_DIRECTORY SYSTEMD_EXEC_PID LISTEN_FDS KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT
		KUBERNETES_PORT KUBERNETES_PORT_443_TCP KUBERNETES_PORT_443_TCP_ADDR POD_NAME POD_IP NODE_NAME
		FLEETCONF_SERVICE_HOST FLEETCONF_SERVICE_PORT FLEETCONF_PORT FLEETCONF_PORT_8080_TCP
		FLEETCONF_PORT_8080_TCP_PORT CONTROLLER_SERVICE_HOST CONTROLLER_PORT CONTROLLER_PORT_8080_TCP_PROTO
		REDIS_SERVICE_HOST REDIS_PORT REDIS_HOST NATS_SERVICE_HOST NATS_PORT WORKER_UID WORKER_PORT AGENT_PORT
		AGENT_ID AGENT_NAME ADMIN_EMAIL ALLOW_HOSTS CACHE_FILE WORKER_TOKEN WORKER_TOKEN_FILE GOPATH GOROOT
		GOFLAGS GOMAXPROCS GOMEMLIMIT GODEBUG GOTRACEBACK GORACE CI GITHUB_ACTIONS GITHUB_TOKEN RUNNER_OS
		AWS_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY GOOGLE_APPLICATION_CREDENTIALS AZURE_CLIENT_ID
		DOCKER_HOST COMPOSE_PROJECT_NAME LOG_DIR LOG_FILE DEBUG NO_COLOR SSL_CERT_FILE SSL_CERT_DIR MAKEFLAGS
		MAKELEVEL MFLAGS DEBIAN_FRONTEND WINDOWID VTE_VERSION LESSOPEN`
	var environ []string
	for _, name := range strings.Fields(names) {
		environ = append(environ, name+"=x")
	}
	settingstest.SetEnviron(t, append(environ, "HOTS=", "ADMIN_PASSWRD=")...) // the last two are as good as not set
	if found := settings.FindMistyped(&fleet{}); len(found) > 0 {
		t.Errorf("got %v, want none", found)
	}
}

// Another program's name for a setting is no mistake where ours is set too: one
// file may hold the settings of all.
func TestFindMistyped_OtherProgramsName_NotReported(t *testing.T) {
	settingstest.SetEnviron(t, "CONTROLLER_PASSWORD=a", "AGENT_PASSWORD_FILE=b")
	if found := settings.FindMistyped(&fleet{}); len(found) > 0 {
		t.Errorf("got %v, want none", found)
	}
}
