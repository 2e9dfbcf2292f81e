// Command agent makes the worker beside it run the configuration that the controller
// offers.
package main

import (
	"context"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/fleetconf/fleetconf/agent/internal/cache"
	"github.com/fleetconf/fleetconf/agent/internal/config"
	"github.com/fleetconf/fleetconf/agent/internal/controller"
	"github.com/fleetconf/fleetconf/agent/internal/poller"
	"github.com/fleetconf/fleetconf/agent/internal/state"
	"github.com/fleetconf/fleetconf/agent/internal/status"
	"github.com/fleetconf/fleetconf/agent/internal/worker"
	"github.com/fleetconf/fleetconf/pkg/buildinfo"
	"github.com/fleetconf/fleetconf/pkg/cli"
	"github.com/fleetconf/fleetconf/pkg/logger"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	"github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/notify/drivers"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/pkg/settings"
	"github.com/fleetconf/fleetconf/pkg/systemd"
)

var program = cli.Program{
	Name: "agent",
	About: `Fetches the configuration from the controller, keeps the last good one on disk,
and makes the worker beside it run it, also after a restart of the worker and
while the controller is unavailable.`,
	Commands: []cli.Command{cli.Health},
	Examples: `
  agent
  CONTROLLER_URL=https://fleet.example.com \
    CONTROLLER_PASSWORD_FILE=/run/secrets/agent agent
  curl -s http://127.0.0.1:8081/status`,
}

func main() { program.Main(run) }

// run builds the parts of the diagram, and runs them until ctx ends.
//
//	 tlsfiles.Files
//	        │ certificates
//	controller.Client ◀─register, fetch, report─ poller.Poller ─push, read─▶ worker.Client
//	notify.Subscriber ────────────hints────────▶   ▲     │  └──load, save──▶ cache.File
//	                      status.Handler ──status──┘     └──events, decisions──▶ state.Machine
//	    systemd ◀──alive───┘        └──gauges──▶ metrics registry (the Poller counts there too)
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s config.Settings
	command, _, err := program.ParseCommand(args, cli.AllOr(&s, &s.Listener), stdout)
	if err != nil {
		return err
	}
	if command == cli.Health.Name {
		return server.CheckHealth(ctx, s.Host, s.Port, false)
	}
	log, err := program.Start(stderr, s.Diagnosis, &s, logrus.Fields{
		"listen": cli.Address(s.Host, s.Port), "controller": s.ControllerURL, "worker": s.WorkerURL,
		"cache": s.CacheFile, "transport": s.Transport,
	})
	if err != nil {
		return err
	}
	hints, err := drivers.New(s.Push, program.Name)
	if err != nil {
		return err
	}
	files, err := secure(s, log)
	if err != nil {
		return err
	}
	file, err := cache.Open(s.CacheFile)
	if err != nil {
		return settings.Faults{{Setting: "CACHE_FILE", Detail: err.Error()}}
	}
	defer func() { _ = file.Close() }()
	registry := metrics.NewRegistry(func() float64 { return logger.Lost(log) })
	metrics.Certificate(registry, program.Name, files.NotAfter)
	agent := poller.New(poller.Parts{
		Source: controller.New(controller.Options{
			URL: s.ControllerURL, Username: s.ControllerUsername, Password: s.ControllerPassword.Reveal(),
			Pushed: s.Transport != settings.PushNone, TLS: files.Client, Proxy: s.ControllerProxy(),
		}),
		Sink:   worker.New(s.WorkerURL, s.WorkerToken.Reveal()),
		Cache:  file,
		Config: state.Config{Self: self(os.Hostname()), Transport: s.Hints(), Fleet: s.FleetID},
		Hints:  hints,
		Log:    log,

		Ephemeral: s.Ephemeral,
		Metrics:   poller.NewMetrics(registry),
	})
	log.AddHook(agentIDHook{agent.AgentID})
	answers := status.Handler(status.Parts{
		Current: agent.Status, Hosts: s.AllowedHosts, Log: log,
		Metrics: status.NewMetrics(registry, agent.Status), Scrape: metrics.Handler(registry),
	})
	ln, err := cli.Listen(ctx, s.Host, s.Port, 0)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return agent.Run(ctx) })
	g.Go(func() error { return files.Run(ctx) })
	g.Go(func() error { return server.ServeDebug(ctx, s.DebugPort, log) })
	g.Go(func() error { return systemd.Run(ctx, server.Answers(ln, false), log) })
	g.Go(func() error { return server.Serve(ctx, ln, answers, log) })
	return g.Wait()
}

// self returns what this agent registers. hostname is as the kernel has it, which may be
// any bytes; err is why it could not be read.
func self(hostname string, err error) models.RegisterRequest {
	hostname = strings.ToValidUTF8(hostname, "\uFFFD")
	if err != nil || models.Text("hostname", hostname, models.MaxHostnameBytes) != nil || hostname == "" {
		hostname = "unknown"
	}
	metadata, err := models.Encode(map[string]string{
		"os":            runtime.GOOS,
		"arch":          runtime.GOARCH,
		"agent_version": buildinfo.Read().Version,
	})
	if err != nil {
		metadata = nil // strings always encode
	}
	return models.RegisterRequest{Hostname: hostname, Metadata: metadata}
}
