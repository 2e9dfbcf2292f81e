package api

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
	"github.com/fleetconf/fleetconf/pkg/etag"
	wire "github.com/fleetconf/fleetconf/pkg/models"
	"github.com/fleetconf/fleetconf/pkg/problem"
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
//	@Description	Answers 304 while If-None-Match (lists and * too) names the current one. An agent that reported the current version FAILED is not offered it again; and one that runs a later version than the store has keeps it until an admin decides.
//	@Tags			configuration
//	@Produce		json
//	@Security		Admin
//	@Security		Agent
//	@Param			If-None-Match	header		string	false	"ETag of the configuration that the caller runs"
//	@Success		200				{object}	wire.Config
//	@Header			200,304,404,429	{integer}	X-Poll-Interval-Seconds	"seconds until the next poll"
//	@Header			429,503			{integer}	Retry-After				"seconds, drawn from a window"
//	@Header			200,304			{string}	ETag					"strong validator"
//	@Success		304				"unchanged"
//	@Failure		401				{object}	problem.Problem
//	@Failure		404				{object}	problem.Problem	"nothing was ever published"
//	@Failure		429				{object}	problem.Problem	"more polls came than are let in at once"
//	@Failure		503				{object}	problem.Problem	"as 429, while the controller stops"
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
			a.Agents.Poll(self, time.Now().UTC(), interval, 0, a.ahead(held, 0))
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
		if !unchanged {
			runs = a.ahead(held, current.Version)
		} else if names, listed := etag.Match(held, current.ETag); names && listed && held[0] != "*" {
			runs = current.Version
		}
		offer := a.Agents.Poll(self, time.Now().UTC(), current.PollInterval, current.Version, runs)
		if !unchanged {
			switch _, conflict := a.Configs.Conflict(); {
			case !offer:
				return withhold(c, held, "this agent's worker refused version %d, and nothing newer was published", current.Version)
			case conflict && isAhead(held, current.Version):
				return withhold(c, held, "this store ends at version %d, and agents run later ones: what they run stays, until an admin decides", current.Version)
			}
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

// ahead is the version that an agent says it runs, if that is above the store's
// newest one and may well be of this fleet; else 0.
func (a *API) ahead(held []string, newest int64) int64 {
	if len(held) != 1 {
		return 0
	}
	if version := models.VersionOf(held[0]); version > newest && a.Configs.Witness(version) {
		return version
	}
	return 0
}

// isAhead reports whether an agent may run something later than the store's
// newest version: its tag says so, or does not say what it runs. Who runs an
// earlier version, or nothing, is not taken back by the newest.
func isAhead(held []string, newest int64) bool {
	for _, tags := range held {
		if version := models.VersionOf(tags); version == 0 || version > newest {
			return true
		}
	}
	return false
}

// withhold answers an agent that is not to be offered the current version: 304
// against what it runs, or 404 with the reason where it names nothing that it
// runs.
func withhold(c *call, held []string, reason string, version int64) error {
	tag, ok := etag.Single(held)
	if !ok {
		return problem.New(http.StatusNotFound, reason, version)
	}
	c.Writer.Header()["Etag"] = []string{tag}
	c.Status(http.StatusNotModified)
	c.Writer.WriteHeaderNow()
	return nil
}
