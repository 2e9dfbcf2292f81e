package settings

import (
	"slices"
	"strings"

	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify"
	"github.com/fleetconf/fleetconf/pkg/tlsfiles"
)

// Push holds the settings of hints, which are the same in a controller and its agents.
type Push struct {
	Transport string `setting:"PUSH" default:"longpoll" usage:"how agents learn of a newer version immediately: longpoll, redis, nats, or none for polling only"`

	FleetID string `setting:"FLEET_ID" usage:"id of the fleet on a shared broker; empty: made from the database, and sent to agents"`

	RedisURL    Secret `setting:"REDIS_URL" default:"redis://localhost:6379" usage:"URL of Redis; rediss:// for TLS; ?master_name= for Sentinels, and &addr= for more of them or for nodes of a Cluster"`
	RedisCAFile string `setting:"REDIS_CA_FILE" usage:"file of the certificates to trust for Redis, instead of those of the system"`

	NATSURL       Secret `setting:"NATS_URL" default:"nats://localhost:4222" usage:"URL of NATS; several with commas between; in a controller: embedded for a NATS server within it"`
	NATSUsername  string `setting:"NATS_USERNAME" usage:"user name for NATS"`
	NATSPassword  Secret `setting:"NATS_PASSWORD" usage:"its password"`
	NATSToken     Secret `setting:"NATS_TOKEN" usage:"token for NATS, instead of a user name"`
	NATSNKeyFile  string `setting:"NATS_NKEY_FILE" usage:"file of the NKey seed for NATS, instead of a user name"`
	NATSCredsFile string `setting:"NATS_CREDS_FILE" usage:"credentials file for NATS, instead of a user name"`
	NATSCAFile    string `setting:"NATS_CA_FILE" usage:"file of the certificates to trust for NATS, instead of those of the system"`
	NATSCertFile  string `setting:"NATS_CERT_FILE" usage:"file of the client certificate for NATS"`
	NATSKeyFile   string `setting:"NATS_KEY_FILE" usage:"file of its key"`
}

// The values of PUSH.
const (
	PushLongPoll = string(models.LongPoll)
	PushRedis    = string(models.Redis)
	PushNATS     = string(models.NATS)
	PushNone     = "none"
)

// embedded is the NATS_URL of the server in the controller.
const embedded = "embedded"

// Embedded reports whether the controller runs the broker.
func (p *Push) Embedded() bool { return p.Transport == PushNATS && p.NATSURL == embedded }

// Hints returns how agents receive hints.
func (p *Push) Hints() models.Transport {
	if p.Transport == PushNone {
		return models.Polling
	}
	return models.Transport(p.Transport)
}

// Validate returns a fault for every setting that cannot be used.
func (p *Push) Validate() (faults Faults) {
	faults.Check(slices.Contains([]string{PushLongPoll, PushRedis, PushNATS, PushNone}, p.Transport), "PUSH",
		"is %q; it must be longpoll, redis, nats or none", p.Transport)
	faults.Check(p.FleetID == "" || models.IsFleet(p.FleetID), "FLEET_ID",
		"is %q; it must be 1 to %d letters, digits, - or _", p.FleetID, models.MaxFleetBytes)
	faults.CheckErr("REDIS_URL", notify.CheckRedisURL(p.RedisURL.Reveal()))
	if strings.HasPrefix(p.RedisURL.Reveal(), "redis:") {
		faults.CheckNoTLSFiles("REDIS_URL", "rediss://", tlsfiles.File{Setting: "REDIS_CA_FILE", Path: p.RedisCAFile})
	}
	if p.NATSURL != embedded {
		faults.CheckErr("NATS_URL", notify.CheckNATSURL(p.NATSURL.Reveal()))
	}
	if p.Transport == PushNATS {
		p.checkNATS(&faults)
	}
	return faults
}

// checkNATS adds the faults of combinations.
func (p *Push) checkNATS(faults *Faults) {
	var methods []string
	for _, method := range []struct {
		name string
		set  bool
	}{
		{"NATS_USERNAME", p.NATSUsername != "" || p.NATSPassword != ""},
		{"NATS_TOKEN", p.NATSToken != ""},
		{"NATS_NKEY_FILE", p.NATSNKeyFile != ""},
		{"NATS_CREDS_FILE", p.NATSCredsFile != ""},
	} {
		if method.set {
			methods = append(methods, method.name)
		}
	}
	if len(methods) > 1 {
		faults.Check(false, methods[1], "is set, and so is %s; set one of the two", methods[0])
	}
	faults.CheckPair("NATS_USERNAME", p.NATSUsername, "NATS_PASSWORD", p.NATSPassword.Reveal())
	faults.CheckPair("NATS_CERT_FILE", p.NATSCertFile, "NATS_KEY_FILE", p.NATSKeyFile)
}
