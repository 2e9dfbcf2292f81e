// Command worker answers GET /hit with what the configured URL answers.
//
//	@title			Fleetconf worker
//	@version		1.0
//	@description	Answers GET /hit with what the configured URL answers. An agent on the same machine pushes the configuration.
//	@description	Errors are problem documents (RFC 9457, application/problem+json).
//	@BasePath		/
//
//	@securityDefinitions.apikey	WorkerToken
//	@in							header
//	@name						Authorization
//	@description				Bearer: WORKER_TOKEN, where it is set.
package main

//go:generate go tool swag init --quiet --generalInfo main.go --dir .,../internal/api,../../pkg/models,../../pkg/problem,../../pkg/server,../../pkg/metrics,../../pkg/buildinfo --outputTypes json --output ../docs
//go:generate go run ../../test/cmd/openapi ../docs ../../pkg/models ../../pkg/problem ../../pkg/server ../../pkg/buildinfo

import (
	"context"
	"io"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/fleetconf/fleetconf/pkg/cli"
	"github.com/fleetconf/fleetconf/pkg/connlimit"
	"github.com/fleetconf/fleetconf/pkg/logger"
	"github.com/fleetconf/fleetconf/pkg/metrics"
	"github.com/fleetconf/fleetconf/pkg/server"
	"github.com/fleetconf/fleetconf/pkg/systemd"
	"github.com/fleetconf/fleetconf/worker/internal/api"
	"github.com/fleetconf/fleetconf/worker/internal/config"
	"github.com/fleetconf/fleetconf/worker/internal/proxy"
)

var program = cli.Program{
	Name: "worker",
	About: `
Answers GET /hit with what the configured URL answers. The configuration is
pushed with POST /config, by the agent on the same machine; until then a hit
is answered 503. It lives in memory: after a restart the agent pushes it again.`,
	Commands: []cli.Command{cli.Health},
	Examples: `
  worker
  PORT=9000 HIT_TIMEOUT=5s worker
  curl -d '{"url":"https://example.com/"}' \
    -H 'Content-Type: application/json' localhost:8082/config
  curl localhost:8082/hit`,
}

func main() { program.Main(run) }

// clients ──GET /hit─────▶ api ──Hit────▶ proxy.Proxy ──▶ the configured URL
// agent ────POST /config──▶ │ ──Apply──▶  (holds what runs)
// systemd ◀──alive───────── │ ──figures──▶ metrics registry (the Proxy counts there too)
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s config.Settings
	command, _, err := program.ParseCommand(args, cli.AllOr(&s, &s.Listener), stdout)
	if err != nil {
		return err
	}
	if command == cli.Health.Name {
		return server.CheckHealth(ctx, s.Host, s.Port, false)
	}
	log, err := program.Start(stderr, s.Diagnosis, &s, logrus.Fields{"listen": cli.Address(s.Host, s.Port)})
	if err != nil {
		return err
	}
	ln, err := cli.Listen(ctx, s.Host, s.Port, 0)
	if err != nil {
		return err
	}
	registry := metrics.NewRegistry(func() float64 { return logger.Lost(log) })
	options := proxy.Options{
		Timeout: s.HitTimeout, Deny: s.DenyCIDRs, Allow: s.AllowHosts, Log: log,
		Metrics: proxy.NewMetrics(registry),
	}
	if s.HitProxy {
		options.Proxy = s.ProxyFunc()
	}
	p := proxy.New(options)
	defer p.Close()
	handler := server.Wrap(api.New(api.Parts{
		Proxy: p, Token: s.WorkerToken.Reveal(), Hosts: s.AllowedHosts, Log: log,
		Metrics: api.NewMetrics(registry), Scrape: metrics.Handler(registry),
	}), log)
	if s.WorkerToken == "" {
		log.WithField("advice", "set WORKER_TOKEN if a reverse proxy on this machine passes requests on: it can look "+
			"like this machine").
			Info("Pushes restricted to this machine")
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.ServeDebug(ctx, s.DebugPort, log) })
	g.Go(func() error { return systemd.Run(ctx, server.Answers(ln, false), log) })
	limits := server.Limits{Connections: connlimit.Max(2)} // a hit also needs a connection to its target
	g.Go(func() error { return server.ServeWithin(ctx, ln, handler, limits, log) })
	return g.Wait()
}
