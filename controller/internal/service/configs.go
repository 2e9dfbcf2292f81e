// Package service is the rules of the controller: what publishing means, who
// an agent is and what it is offered. It knows neither SQL nor HTTP.
package service

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fleetconf/fleetconf/controller/internal/models"
)

// ConfigStore keeps every version, for ever.
type ConfigStore interface {
	// Append stores, as one durable transaction, the version that next makes
	// of the newest one, which is nil while there is none. When next returns
	// nil nothing is stored, and nothing when it returns an error, which Append
	// returns as it is.
	Append(ctx context.Context, next func(newest *models.Config) (*models.Config, error)) error
	// Newest returns the version with the highest number, or models.ErrNotFound.
	Newest(ctx context.Context) (*models.Config, error)
	// Config returns a version, or models.ErrNotFound.
	Config(ctx context.Context, version int64) (*models.Config, error)
	// Configs returns up to limit versions below before, newest first.
	Configs(ctx context.Context, before int64, limit int) ([]*models.Config, error)
}

// Configs publishes configurations and holds the current one, where every poll
// reads it without a lock.
type Configs struct {
	store           ConfigStore
	epoch           string
	defaultInterval time.Duration
	publishing      turn // one publish at a time, so that current never steps back
	current         atomic.Pointer[models.Config]
}

// OpenConfigs reads the current configuration from store. epoch names this
// store among all that ever were; defaultInterval is what agents are told until
// a publish says otherwise.
func OpenConfigs(ctx context.Context, store ConfigStore, epoch string, defaultInterval time.Duration) (*Configs, error) {
	c := &Configs{store: store, epoch: epoch, defaultInterval: defaultInterval, publishing: newTurn()}
	return c, c.reload(ctx)
}

// Current is the configuration that agents should run, nil while nothing was
// ever published. It is never changed after it is returned.
func (c *Configs) Current() *models.Config { return c.current.Load() }

// PollInterval is what agents are told to wait between two polls.
func (c *Configs) PollInterval() time.Duration {
	if cfg := c.Current(); cfg != nil {
		return cfg.PollInterval
	}
	return c.defaultInterval
}

// Publish makes a draft the current configuration. changed is false when the
// draft's content was current already; then nothing was stored. A publish that
// returned is durable. Once its turn has come it is not broken off when ctx
// ends: its outcome would be in doubt. It returns models.ErrBusy if its turn
// does not come.
func (c *Configs) Publish(ctx context.Context, d models.Draft) (cfg *models.Config, changed bool, err error) {
	if err := c.publishing.take(ctx); err != nil {
		return nil, false, err
	}
	defer c.publishing.give()
	ctx = context.WithoutCancel(ctx)
	var refusal error
	err = c.store.Append(ctx, func(newest *models.Config) (*models.Config, error) {
		cfg, changed, refusal = c.decide(newest, d)
		if !changed {
			return nil, refusal
		}
		return cfg, nil
	})
	if refusal != nil {
		return nil, false, refusal
	}
	if err != nil {
		// A commit that failed may have reached the disk all the same. What the
		// store says is what holds.
		return nil, false, errors.Join(err, c.reload(ctx))
	}
	if changed {
		c.current.Store(cfg)
	}
	return cfg, changed, nil
}

// decide is the rule of a publish: what a draft makes of the newest version.
func (c *Configs) decide(newest *models.Config, d models.Draft) (cfg *models.Config, changed bool, err error) {
	var (
		content = models.Content{PollInterval: c.defaultInterval}
		version int64
		etag    string
	)
	if newest != nil {
		content, version, etag = newest.Content, newest.Version, newest.ETag
	}
	if d.Allowed != nil && !d.Allowed(etag) {
		return nil, false, models.ErrPrecondition
	}
	if d.URL != nil {
		content.URL = *d.URL
	}
	if d.PollInterval != nil {
		content.PollInterval = *d.PollInterval
	}
	if content.URL == "" {
		return nil, false, &models.InvalidError{Field: "url", Detail: "is missing, and nothing was published before whose URL could be kept"}
	}
	if newest != nil && content == newest.Content {
		return newest, false, nil
	}
	version++
	return &models.Config{
		Content:     content,
		Version:     version,
		ETag:        models.ETagOf(c.epoch, version, content),
		Message:     d.Message,
		PublishedBy: d.PublishedBy,
		PublishedAt: time.Now().UTC().Truncate(time.Microsecond),
		SourceIP:    d.SourceIP,
	}, true, nil
}

// PublishFirst publishes url if nothing was ever published, as the settings of
// the process may ask. It reports whether it did.
func (c *Configs) PublishFirst(ctx context.Context, url string) (*models.Config, bool, error) {
	if c.Current() != nil {
		return c.Current(), false, nil
	}
	return c.Publish(ctx, models.Draft{URL: &url, PublishedBy: "INITIAL_URL", Message: "first configuration, from the settings"})
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
	c.current.Store(cfg)
	return nil
}
