// Package service is the rules of the controller: what publishing means, who
// an agent is and what it is offered. It knows neither SQL nor HTTP.
package service

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// ConfigStore keeps every version, for ever.
type ConfigStore interface {
	// Append stores, as one durable transaction, the change that next makes of
	// the newest version, which is nil while there is none. When next returns
	// nil nothing is stored, and nothing when it returns an error, which Append
	// returns as it is.
	Append(ctx context.Context, next func(newest *models.Config) (*models.Change, error)) error
	// Newest returns the version with the highest number, or models.ErrNotFound.
	Newest(ctx context.Context) (*models.Config, error)
	// Config returns a version, or models.ErrNotFound.
	Config(ctx context.Context, version int64) (*models.Config, error)
	// Configs returns up to limit versions below before, newest first.
	Configs(ctx context.Context, before int64, limit int) ([]*models.Config, error)
}

// Store is all that Configs keeps.
type Store interface {
	ConfigStore
	FreezeStore
	ReportedStore
}

// Fleet is who a configuration is published to.
type Fleet interface {
	// Figures tell how far a configuration has spread.
	Figures(cfg *models.Config, outlook models.Outlook) models.Figures
	// Targets is how many agents should run what is current.
	Targets(outlook models.Outlook) int
	// Held is how many agents keep, each for itself, what this store did not make,
	// while its newest version is newest.
	Held(newest int64) int
	// Release lets these follow the store.
	Release()
}

// Configs publishes configurations and holds the current one, where every poll
// reads it without a lock.
type Configs struct {
	store           Store
	tags            models.Tags
	defaultInterval time.Duration
	pace            int // agents a second
	fleet           Fleet
	metrics         *Metrics
	log             logrus.FieldLogger

	publishing semaphore // one publish at a time, so that current never steps back
	current    atomic.Pointer[models.Config]
	freeze     atomic.Pointer[models.Freeze]   // the last one, over or not
	reported   atomic.Pointer[models.Reported] // never nil
	raised     chan struct{}                   // to Run: reported was raised
	changes    signal                          // current has changed, or who is offered it
	window     atomic.Pointer[window]          // the time in which the fleet fetches it; nil for none yet
}

// ConfigOptions are the settings of Configs.
type ConfigOptions struct {
	Tags            models.Tags   // makes the ETags
	DefaultInterval time.Duration // what agents are told until a publish says otherwise
	Pace            int           // agents a second that fetch a newer version; 0 for unknown
	Metrics         *Metrics      // nil: measured for nobody
}

// OpenConfigs reads the current configuration from store.
func OpenConfigs(ctx context.Context, store Store, fleet Fleet, o ConfigOptions, log logrus.FieldLogger) (*Configs, error) {
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	c := &Configs{
		store: store, tags: o.Tags, defaultInterval: o.DefaultInterval, pace: o.Pace, fleet: fleet, metrics: o.Metrics, log: log,
		publishing: newSemaphore(), raised: make(chan struct{}, 1),
	}
	reported, err := store.Reported(ctx)
	if err != nil {
		return nil, fmt.Errorf("read what agents reported: %w", err)
	}
	c.reported.Store(&reported)
	freeze, err := store.Freeze(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the freeze: %w", err)
	}
	c.freeze.Store(freeze)
	return c, c.reload(ctx)
}

// Current is the configuration that agents should run, nil while nothing was
// ever published. It is never changed after it is returned.
func (c *Configs) Current() *models.Config { return c.current.Load() }

// newest is the version of Current, 0 while there is none.
func (c *Configs) newest() int64 {
	if cfg := c.Current(); cfg != nil {
		return cfg.Version
	}
	return 0
}

// etag is the ETag of Current, "" while there is none.
func (c *Configs) etag() string {
	if cfg := c.Current(); cfg != nil {
		return cfg.ETag
	}
	return ""
}

// PollInterval is what agents are told to wait between two polls.
func (c *Configs) PollInterval() time.Duration {
	if cfg := c.Current(); cfg != nil {
		return cfg.PollInterval
	}
	return c.defaultInterval
}

// windowFactor is how much longer than the pace says a fleet may take to fetch: a
// controller that is just fast enough to be asked at that pace answers behind it.
const windowFactor = 4

// window is the time in which a whole fleet fetches what it was told of.
type window struct {
	lasts time.Duration
	ends  time.Time
}

// setCurrent makes a configuration current, and wakes who waits for one. Targets agents
// are to fetch it.
func (c *Configs) setCurrent(cfg *models.Config, targets int) {
	if c.pace > 0 {
		lasts := windowFactor * time.Duration(targets) * time.Second / time.Duration(c.pace)
		c.window.Store(&window{lasts, time.Now().Add(lasts)})
	}
	c.metrics.spreading.Store(cfg)
	c.current.Store(cfg)
	c.changes.broadcast()
}

// Window is how long it takes the fleet to fetch what was published last; 0 when that
// is over.
func (c *Configs) Window() time.Duration {
	if r := c.window.Load(); r != nil && time.Now().Before(r.ends) {
		return r.lasts
	}
	return 0
}

// Outlook is what agents are judged against at this moment.
func (c *Configs) Outlook() models.Outlook {
	_, conflict := c.Conflict()
	return models.Outlook{Now: time.Now(), Desired: c.newest(), Conflict: conflict}
}

// proposal is what a publish or a rollback wants to be current.
type proposal struct {
	models.Terms
	action       models.Action
	restoredFrom int64
	// content makes it of the content before, which is the zero value but for
	// the poll interval where nothing was published.
	content func(before models.Content) models.Content
}

func publication(d models.Draft) proposal {
	return proposal{Terms: d.Terms, action: models.ActionPublish, content: func(content models.Content) models.Content {
		if d.URL != nil {
			content.URL = *d.URL
		}
		if d.PollInterval != nil {
			content.PollInterval = *d.PollInterval
		}
		if d.Probe != nil {
			content.Probe = *d.Probe
		}
		return content
	}}
}

// Publish makes a draft the current configuration. The outcome is unchanged
// when the draft's content was current already; then nothing was stored. A
// publish that returned is durable. Once its turn has come it is not broken off
// when ctx ends: its outcome would be in doubt. It returns a
// *models.FrozenError, a *models.InvalidError, models.ErrPrecondition, or
// models.ErrBusy if its turn does not come.
func (c *Configs) Publish(ctx context.Context, d models.Draft) (models.Outcome, error) {
	return c.publish(ctx, publication(d))
}

// PreviewPublish says what Publish would come to, and stores nothing.
func (c *Configs) PreviewPublish(d models.Draft) (models.Outcome, error) {
	_, outcome, err := c.decide(c.Current(), publication(d))
	return outcome, err
}

// Rollback publishes the content of a version again. It returns
// models.ErrNotFound if there is no such version; else it is as Publish.
func (c *Configs) Rollback(ctx context.Context, version int64, terms models.Terms) (models.Outcome, error) {
	p, err := c.rollback(ctx, version, terms)
	if err != nil {
		return models.Outcome{}, err
	}
	return c.publish(ctx, p)
}

// PreviewRollback says what Rollback would come to, and stores nothing.
func (c *Configs) PreviewRollback(ctx context.Context, version int64, terms models.Terms) (models.Outcome, error) {
	p, err := c.rollback(ctx, version, terms)
	if err != nil {
		return models.Outcome{}, err
	}
	_, outcome, err := c.decide(c.Current(), p)
	return outcome, err
}

func (c *Configs) rollback(ctx context.Context, version int64, terms models.Terms) (proposal, error) {
	old, err := c.Version(ctx, version)
	if err != nil {
		return proposal{}, err
	}
	return proposal{
		Terms: terms, action: models.ActionRollback, restoredFrom: version,
		content: func(models.Content) models.Content { return old.Content },
	}, nil
}

func (c *Configs) publish(ctx context.Context, p proposal) (models.Outcome, error) {
	outcome, err := c.append(ctx, p)
	c.metrics.published(outcome, err)
	return outcome, err
}

func (c *Configs) append(ctx context.Context, p proposal) (outcome models.Outcome, err error) {
	if err := c.publishing.acquire(ctx); err != nil {
		return outcome, err
	}
	defer c.publishing.release()
	ctx = context.WithoutCancel(ctx)
	var refusal error
	err = c.store.Append(ctx, func(newest *models.Config) (change *models.Change, _ error) {
		change, outcome, refusal = c.decide(newest, p)
		return change, refusal
	})
	if refusal != nil {
		return models.Outcome{}, refusal
	}
	if err != nil {
		// A commit that failed may have reached the disk all the same. What the
		// store says is what holds.
		return models.Outcome{}, errors.Join(err, c.reload(ctx))
	}
	if outcome.Changed {
		c.setCurrent(outcome.Config, outcome.Targets)
	}
	return outcome, nil
}

// decide is the rule of a publish: what a proposal makes of the newest version,
// nil for no change.
func (c *Configs) decide(newest *models.Config, p proposal) (*models.Change, models.Outcome, error) {
	var (
		before   = models.Content{PollInterval: c.defaultInterval}
		version  int64
		etag     string
		reported = c.reported.Load()
		frozen   = c.Frozen()
		outcome  = models.Outcome{Config: newest, Before: newest}
	)
	if newest != nil {
		before, version, etag = newest.Content, newest.Version, newest.ETag
	}
	if p.Allowed != nil && !p.Allowed(etag) {
		return nil, outcome, models.ErrPrecondition
	}
	if frozen != nil && !p.Override {
		return nil, outcome, &models.FrozenError{Freeze: *frozen}
	}
	content := p.content(before)
	if content.URL == "" {
		return nil, outcome, &models.InvalidError{Field: "url", Detail: "is missing, and nothing was published before whose URL could be kept"}
	}
	outlook := c.Outlook()
	outcome.Targets = c.fleet.Targets(outlook)
	// While agents keep what they run, publishing the same content decides for them.
	if newest != nil && content == newest.Content && !reported.Conflict(version) && c.fleet.Held(version) == 0 {
		return nil, outcome, nil
	}
	change := &models.Change{}
	if newest != nil {
		figures := c.fleet.Figures(newest, outlook)
		change.Figures = &figures
	}
	if reported.Highest > version {
		version, change.Above = reported.Highest, reported.Highest
	}
	version++
	change.Config = &models.Config{
		Content:      content,
		Version:      version,
		ETag:         c.tags.Of(version, content),
		Message:      p.Message,
		PublishedBy:  p.Actor,
		PublishedAt:  models.Now(),
		SourceIP:     p.SourceIP,
		RestoredFrom: p.restoredFrom,
	}
	detail := p.Message
	if p.restoredFrom != 0 {
		detail = strings.TrimSuffix("from version "+format(p.restoredFrom)+": "+p.Message, ": ")
	}
	if frozen != nil {
		change.Audit = append(change.Audit, models.NewEntry(p.Origin, models.ActionOverride, version, "frozen: "+frozen.Reason))
	}
	change.Audit = append(change.Audit, models.NewEntry(p.Origin, p.action, version, detail))
	outcome.Config, outcome.Changed = change.Config, true
	return change, outcome, nil
}

func format(version int64) string { return strconv.FormatInt(version, 10) }

// PublishFirst publishes url if nothing was ever published, as the settings of
// the process may ask. It reports whether it did.
func (c *Configs) PublishFirst(ctx context.Context, url string) (*models.Config, bool, error) {
	if c.Current() != nil {
		return c.Current(), false, nil
	}
	outcome, err := c.Publish(ctx, models.Draft{URL: &url, Terms: models.Terms{
		Origin: models.Origin{Actor: "INITIAL_URL"}, Message: "first configuration, from the settings", Override: true,
	}})
	return outcome.Config, outcome.Changed, err
}

// Version returns one version of the history, or models.ErrNotFound.
func (c *Configs) Version(ctx context.Context, version int64) (*models.Config, error) {
	if cfg := c.Current(); cfg != nil && cfg.Version == version {
		return cfg, nil
	}
	return c.store.Config(ctx, version)
}

// History returns up to limit versions below before, newest first.
func (c *Configs) History(ctx context.Context, before int64, limit int) ([]*models.Config, error) {
	return c.store.Configs(ctx, before, limit)
}

func (c *Configs) reload(ctx context.Context) error {
	cfg, err := c.store.Newest(ctx)
	if errors.Is(err, models.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the current configuration: %w", err)
	}
	if current := c.Current(); current == nil || current.ETag != cfg.ETag {
		c.setCurrent(cfg, 0)
	}
	return nil
}
