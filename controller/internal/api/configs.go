package api

import (
	"math"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/etag"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
	"github.com/fleetconf/fleetconf/pkg/server"
)

// answered is a configuration as it goes over the wire, made once a version:
// the body and the header values of every answer to a poll.
type answered struct {
	config   *models.Config
	body     []byte
	etag     []string
	length   []string
	interval []string
}

// servedConfig holds the answer to polls for the current configuration.
type servedConfig struct{ latest atomic.Pointer[answered] }

var (
	jsonType = []string{"application/json"}
	noCache  = []string{"private, no-cache"} // RFC 9111 §5.2.2: keep it, but ask each time
)

// of returns the answer for current, which it makes if it is not the latest.
func (s *servedConfig) of(current *models.Config) (*answered, error) {
	if latest := s.latest.Load(); latest != nil && latest.config == current {
		return latest, nil
	}
	body, err := wire.Encode(toConfig(current))
	if err != nil {
		return nil, err
	}
	made := &answered{
		config: current, body: body, etag: []string{current.ETag},
		length: []string{strconv.Itoa(len(body))}, interval: []string{strconv.Itoa(seconds(current.PollInterval))},
	}
	s.latest.Store(made)
	return made, nil
}

// config answers a poll. It is the hot path: no database, no JSON, no log line.
//
//	@Summary		Fetch the current configuration
//	@Description	Answers 304 while If-None-Match (lists and * too) names the current one. An agent that reported the current version FAILED is not offered it again.
//	@Tags			configuration
//	@Produce		json
//	@Security		Admin
//	@Security		Agent
//	@Param			If-None-Match	header		string	false	"ETag of the configuration that the caller runs"
//	@Success		200				{object}	wire.Config
//	@Header			200,304,404		{integer}	X-Poll-Interval-Seconds	"seconds until the next poll"
//	@Header			200,304			{string}	ETag					"strong validator"
//	@Success		304				"unchanged"
//	@Failure		401				{object}	problem.Problem
//	@Failure		404				{object}	problem.Problem	"nothing was ever published"
//	@Router			/api/v1/config [get]
func (a *API) config(c *call) error {
	var (
		current = a.Configs.Current()
		self    = c.self
		held    = c.Request.Header["If-None-Match"]
		h       = c.Writer.Header()
	)
	if current == nil {
		interval := a.Configs.PollInterval()
		if self != nil {
			a.Agents.Poll(self, time.Now().UTC(), interval, 0, 0)
		}
		h.Set(wire.HeaderPollInterval, strconv.Itoa(seconds(interval)))
		return problem.New(http.StatusNotFound, "nothing was published yet")
	}
	out, err := a.served.of(current)
	if err != nil {
		return err
	}
	h[wire.HeaderPollInterval] = out.interval
	h["Cache-Control"] = noCache
	unchanged := etag.NoneMatch(held, current.ETag)
	if self != nil {
		runs := int64(0)
		if names, listed := etag.Match(held, current.ETag); unchanged && names && listed && held[0] != "*" {
			runs = current.Version
		}
		if offer := a.Agents.Poll(self, time.Now().UTC(), current.PollInterval, current.Version, runs); !offer && !unchanged {
			return a.withhold(c, held, current.Version)
		}
	}
	h["Etag"] = out.etag
	if unchanged {
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
		return nil
	}
	h["Content-Type"] = jsonType
	h["Content-Length"] = out.length
	c.Status(http.StatusOK)
	_, _ = c.Writer.Write(out.body) // the caller has gone: nobody is left to tell
	return nil
}

// withhold answers an agent whose worker refused the current version: 304
// against what it runs, or 404 where it names nothing that it runs.
func (a *API) withhold(c *call, held []string, version int64) error {
	tag, ok := etag.Single(held)
	if !ok {
		return problem.New(http.StatusNotFound, "this agent's worker refused version %d, and nothing newer was published", version)
	}
	c.Writer.Header()["Etag"] = []string{tag}
	c.Status(http.StatusNotModified)
	c.Writer.WriteHeaderNow()
	return nil
}

// publish makes a configuration current.
//
//	@Summary		Publish a configuration
//	@Description	Fields left out keep their value. The same content again changes nothing and answers changed:false.
//	@Tags			configuration
//	@Accept			json
//	@Produce		json
//	@Security		Admin
//	@Param			configuration	body		wire.PublishRequest	false	"what to publish"
//	@Param			poll_interval	query		int					false	"seconds between two polls, instead of poll_interval_seconds"
//	@Param			If-Match		header		string				false	"publish only if this is the ETag of the current configuration"
//	@Success		200				{object}	wire.PublishResponse
//	@Header			200				{string}	ETag	"of the configuration that is current now"
//	@Failure		400,401,403,412,413,415,503,507	{object}	problem.Problem
//	@Router			/api/v1/config [post]
func (a *API) publish(c *call) error {
	req, err := decodePublish(c)
	if err != nil {
		return err
	}
	draft := fromPublish(req)
	draft.PublishedBy, draft.SourceIP = a.AdminName, c.ClientIP()
	if draft.Allowed, err = precondition(c.Request.Header); err != nil {
		return err
	}
	cfg, changed, err := a.Configs.Publish(c.Request.Context(), draft)
	if err != nil {
		return err
	}
	message := "This content is current already; nothing was changed"
	if changed {
		message = "Configuration published"
		a.Log.WithFields(logrus.Fields{
			"version": cfg.Version, "by": cfg.PublishedBy, "source_ip": cfg.SourceIP, "request_id": server.RequestID(c.Request),
		}).Info("Configuration published")
	}
	c.Header("ETag", cfg.ETag)
	return server.WriteJSON(c.Writer, http.StatusOK, wire.PublishResponse{Message: message, Version: cfg.Version, Changed: changed})
}

// decodePublish reads a publish from the body and the query. The body may be
// left out where the query says it all.
func decodePublish(c *call) (req wire.PublishRequest, err error) {
	interval, inQuery := c.GetQuery("poll_interval")
	if c.Request.ContentLength != 0 || !inQuery {
		if req, err = server.Decode[wire.PublishRequest](c.Request); err != nil {
			return req, err
		}
	}
	if inQuery {
		n, err := wire.PollInterval("poll_interval", interval)
		if err != nil {
			return req, err
		}
		if req.PollIntervalSeconds != nil && *req.PollIntervalSeconds != n {
			return req, wire.Bad("poll_interval", "differs from poll_interval_seconds in the body; send one of them")
		}
		req.PollIntervalSeconds = &n
	}
	return req, req.Validate()
}

// precondition turns the conditional headers of a write into a rule on the
// ETag of the current configuration (RFC 9110 §13.1).
func precondition(h http.Header) (func(string) bool, error) {
	match, none := h.Values("If-Match"), h.Values("If-None-Match")
	if _, ok := etag.Match(match, ""); !ok {
		return nil, wire.Bad("If-Match", `must be * or ETags in their quotes, such as "abc"`)
	}
	return func(current string) bool {
		matches, _ := etag.Match(match, current)
		return (len(match) == 0 || matches) && (current == "" || !etag.NoneMatch(none, current))
	}, nil
}

// The most entries of a list, and how many there are where nobody says.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// history lists what was published.
//
//	@Summary	List the published configurations, newest first
//	@Tags		configuration
//	@Produce	json
//	@Security	Admin
//	@Param		limit	query		int	false	"at most this many (100, at most 1000)"
//	@Param		before	query		int	false	"only versions below this one"
//	@Success	200		{array}		wire.PublishedConfig
//	@Failure	400,401,403	{object}	problem.Problem
//	@Router		/api/v1/configs [get]
func (a *API) history(c *call) error {
	limit, err := number(c, "limit", defaultLimit, maxLimit)
	if err != nil {
		return err
	}
	before, err := number(c, "before", math.MaxInt64, math.MaxInt64)
	if err != nil {
		return err
	}
	configs, err := a.Configs.History(c.Request.Context(), before, int(limit))
	if err != nil {
		return err
	}
	out := make([]wire.PublishedConfig, 0, len(configs))
	for _, cfg := range configs {
		out = append(out, toPublished(cfg))
	}
	return server.WriteJSON(c.Writer, http.StatusOK, out)
}

// version shows one entry of the history.
//
//	@Summary	One published configuration
//	@Tags		configuration
//	@Produce	json
//	@Security	Admin
//	@Param		version	path		int	true	"its number"
//	@Success	200		{object}	wire.PublishedConfig
//	@Failure	400,401,403,404	{object}	problem.Problem
//	@Router		/api/v1/configs/{version} [get]
func (a *API) version(c *call) error {
	n, err := positive("version", c.Param("version"), math.MaxInt64)
	if err != nil {
		return err
	}
	cfg, err := a.Configs.Version(c.Request.Context(), n)
	if err != nil {
		return err
	}
	return server.WriteJSON(c.Writer, http.StatusOK, toPublished(cfg))
}

// number reads a whole number from the query, 1 to most; fallback where it is
// not there.
func number(c *call, name string, fallback, most int64) (int64, error) {
	text, ok := c.GetQuery(name)
	if !ok {
		return fallback, nil
	}
	return positive(name, text, most)
}

func positive(field, text string, most int64) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case (err != nil || n < 1) && most == math.MaxInt64:
		return 0, wire.Bad(field, "must be a whole number, 1 or more")
	case err != nil || n < 1 || n > most:
		return 0, wire.Bad(field, "must be a whole number, 1 to %d", most)
	}
	return n, nil
}
