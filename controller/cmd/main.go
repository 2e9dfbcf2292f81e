// Command controller stores every version of the configuration and serves the current one to
// the fleet.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/fleetconf/fleetconf/controller/internal/access"
	"github.com/fleetconf/fleetconf/controller/internal/api"
	"github.com/fleetconf/fleetconf/controller/internal/audit"
	"github.com/fleetconf/fleetconf/controller/internal/config"
	"github.com/fleetconf/fleetconf/controller/internal/database/sqlite"
	"github.com/fleetconf/fleetconf/controller/internal/poll"
	"github.com/fleetconf/fleetconf/controller/internal/publish"
	"github.com/fleetconf/fleetconf/controller/internal/registry"
	"github.com/fleetconf/fleetconf/controller/internal/rollout"
	"github.com/fleetconf/fleetconf/pkg/auth"
	"github.com/fleetconf/fleetconf/pkg/cli"
	"github.com/fleetconf/fleetconf/pkg/connlimit"
	"github.com/fleetconf/fleetconf/pkg/logger"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/systemd"
)

//go:generate go tool swag init --quiet --generalInfo docs.go --dir ../docs,../internal/api,../../pkg/models,../../pkg/problem,../../pkg/server,../../pkg/metrics,../../pkg/buildinfo --outputTypes json --output ../docs
//go:generate go run ../../test/cmd/openapi ../docs ../../pkg/models ../../pkg/problem ../../pkg/server ../../pkg/buildinfo

var program = cli.Program{
	Name: "controller",
	About: `The Fleetconf controller stores every version of the configuration, serves the
current one to agents, and tracks which agent runs which version.`,
	Commands: commands,
	Examples: `  controller
  HOST=0.0.0.0 DB_PATH=/var/lib/fleetconf/controller.db \
    ADMIN_PASSWORD_FILE=/run/secrets/admin \
    AGENT_PASSWORD_FILE=/run/secrets/agent controller
  controller backup /var/backups/controller-$(date +%F).db
  curl -u admin:admin123 -H 'Content-Type: application/json' \
    -d '{"url":"https://example.com/"}' http://localhost:8080/api/v1/config`,
}

func main() { program.Main(run) }

// run runs the command that args name, and serves if they name none.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var set config.Settings
	command, file, err := program.ParseCommand(args, func(command string) settings.Validator {
		switch command {
		case "":
			return &set
		case cli.Health.Name:
			return &set.Listener
		}
		return &set.Store
	}, stdout)
	if err != nil {
		return err
	}
	switch command {
	case "backup":
		return backup(ctx, set.DBPath, file, stdout, stderr)
	case "export":
		return export(ctx, set.DBPath, file, stdout, stderr)
	case "import":
		return importFrom(ctx, set.DBPath, file, os.Stdin, stdout)
	case cli.Health.Name:
		return server.CheckHealth(ctx, set.Host, set.Port, set.TLSCertFile != "")
	}
	return serve(ctx, set, stderr)
}

// serve runs the controller until ctx ends:
//
//	admin ───▶ api ──▶ publish.Publisher ───┬─▶ database.Store (SQLite)
//	│           │          │ Plan            │
//	│           │          └─▶ publish.Announcements ──▶ notify.Announcer (Redis, NATS)
//	│           ├──────▶ rollout.Rollouts ──┤  figures, the gate of pipelines
//	│           ├──────▶ audit.Log ─────────┤
//	agents ─────┴──────▶ poll.Service       │  answers a poll, or holds it in poll.Waiters
//	                       └─▶ registry.Registry, with its census  (presence, in batches)
//
// All read one models.Plan. tlsfiles.Files (certificates) ──▶ server ──alive──▶ systemd.
func serve(ctx context.Context, set config.Settings, stderr io.Writer) error {
	log, err := program.Start(stderr, set.Diagnosis, &set, logrus.Fields{
		"listen": cli.Address(set.Host, set.Port), "tls": set.TLSCertFile != "", "database": set.DBPath,
		"transport": set.Transport,
	})
	if err != nil {
		return err
	}

	files, err := secure(set, log)
	if err != nil {
		return err
	}
	registerer := metrics.NewRegistry(func() float64 { return logger.Lost(log) })
	db, err := sqlite.OpenMeasured(ctx, set.DBPath, sqlite.NewMetrics(registerer))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	plan, err := publish.Load(ctx, db, set.PollInterval())
	if err != nil {
		return err
	}
	agents, err := registry.Open(ctx, db, plan, registry.Options{
		Reserved:      append([]string{set.AdminUsername, set.AgentUsername}, api.Names...),
		InactiveAfter: set.InactiveAfter,
		PruneAfter:    set.PruneAfter,
		MaxAgents:     set.MaxAgents,
		Metrics:       registry.NewMetrics(registerer),
	}, log)
	if err != nil {
		return err
	}
	published := publish.NewMetrics(registerer)
	publisher := publish.New(
		db, plan, agents, publish.Options{Tags: db.Tags(), Pace: set.PushRate, Metrics: published}, log,
	)
	auditLog := audit.New(db, log)
	if err := publishInitial(ctx, publisher, set.InitialURL, log); err != nil {
		return err
	}
	announcer, stopBroker, err := announcer(set, log)
	if err != nil {
		return err
	}
	defer stopBroker()
	fleet := cmp.Or(set.FleetID, db.Tags().Fleet())
	out := announcing(set, fleet, announcer, published, log)
	announcements := publish.NewAnnouncements(publisher, out, set.PushRate, log)
	waiters := poll.NewWaiters(publisher.Changed, set.PushRate, maxWaiting(set, limits(set).Connections, log))
	metrics.Certificate(registerer, program.Name, files.NotAfter)
	registerer.MustRegister(sqlite.NewCollector(db), agents, publisher, waiters, announcements)
	polls := poll.New(poll.Options{
		Publisher: publisher, Agents: agents, Waiters: waiters,
		Fleet: fleet, Broker: brokerOf(set), SweepInterval: set.SweepInterval,
	})
	handler := api.New(api.Options{
		Options: access.Options{
			Agents:   agents,
			Audit:    auditLog,
			Draining: ctx.Done(),
			Limits: access.Limits{
				Register: set.LimitRegister, Config: set.LimitConfig, Status: set.LimitStatus, Admin: set.LimitAdmin,
			},
			TrustedProxies: set.TrustedProxies,
			AgentName:      set.AgentUsername,
			AgentAccount:   auth.NewAccount(set.AgentUsername, set.AgentPassword.Reveal()),
			Mutual:         set.TLSClientCAFile != "",
			AdminName:      set.AdminUsername,
			AdminAccount:   auth.NewAccount(set.AdminUsername, set.AdminPassword.Reveal()),
			Log:            log,
		},
		Publisher:     publisher,
		Rollouts:      rollout.New(publisher, agents, db),
		Polls:         polls,
		Announcements: announcements,
		Store:         db,
		Metrics:       api.NewMetrics(registerer),
		Scrape:        metrics.Handler(registerer),
	})
	// No TCP keep-alive: probes on thousands of waiting connections would cost more than all
	// other work. Every wait ends, which detects a peer that is gone.
	listener, err := cli.Listen(ctx, set.Host, set.Port, -1)
	if err != nil {
		return err
	}
	if set.TLSCertFile != "" {
		listener = tls.NewListener(listener, files.Server())
	}

	// Components that buffer writes run until the last request has ended, and then flush.
	flushCtx, stopFlushing := context.WithCancel(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return agents.Run(flushCtx) })
	group.Go(func() error { return publisher.Run(flushCtx) })
	group.Go(func() error { return auditLog.Run(flushCtx) })
	group.Go(func() error { return files.Run(ctx) })
	group.Go(func() error { return waiters.Run(ctx) })
	group.Go(func() error { return announcements.Run(ctx) })
	group.Go(func() error { return server.ServeDebug(ctx, set.DebugPort, log) })
	group.Go(func() error { return systemd.Run(ctx, server.Answers(listener, set.TLSCertFile != ""), log) })
	group.Go(func() error {
		defer stopFlushing()
		return server.ServeWithin(ctx, listener, handler, limits(set), log)
	})
	return group.Wait()
}

// limits returns the limits of the API's server. The API and the embedded NATS server share the
// limit of open files.
func limits(set config.Settings) server.Limits {
	each := 1
	if set.Transport == settings.PushNATS && set.Embedded() {
		each = 2
	}
	return server.Limits{Connections: connlimit.Max(each), Keep: wire.KeepAlive}
}

// maxWaiting returns the maximum number of waiting long polls: LIMIT_WAITING, but at most three
// quarters of the connections, so that other requests get one. It is 0 if PUSH is none.
func maxWaiting(set config.Settings, connections int, log logrus.FieldLogger) int {
	if set.Transport == settings.PushNone {
		return 0
	}
	most := connections - connections/4
	if set.LimitWaiting <= most {
		return set.LimitWaiting
	}
	log.WithFields(logrus.Fields{"LIMIT_WAITING": set.LimitWaiting, "effective": most, "connections": connections}).
		Info("LIMIT_WAITING reduced to fit the limit of open files")
	return most
}

// publishInitial publishes INITIAL_URL if it is set and the store has no version.
func publishInitial(ctx context.Context, publisher *publish.Publisher, url string, log logrus.FieldLogger) error {
	if url == "" {
		return nil
	}
	cfg, published, err := publisher.PublishFirst(ctx, url)
	if err != nil {
		return fmt.Errorf("publish INITIAL_URL: %w", err)
	}
	if published {
		log.WithFields(logrus.Fields{"version": cfg.Version, "by": cfg.PublishedBy}).Info("Configuration published")
	}
	return nil
}
