// Package systemd tells the service manager how a process fares: when it
// serves, that it still does, and when it stops (sd_notify(3), Type=notify).
// Where nothing of the kind started the process, it does nothing.
package systemd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
)

// A check that fails at the start is made again after startPace; it is given no
// longer than startPatience.
const (
	startPace     = 50 * time.Millisecond
	startPatience = 5 * time.Second
)

// What systemctl status shows.
const (
	starting = "STATUS=Starting"
	serving  = "STATUS=Serving"
	silent   = "STATUS=Does not answer"
	stopping = "STATUS=Letting the requests in flight end"
)

// Run reports until ctx ends. The process is ready when healthy first gives
// nil. From then on the watchdog, if the unit has one, is fed only while
// healthy does: so healthy must go the way that the callers of the process go,
// for a process that hangs would go on feeding it otherwise.
func Run(ctx context.Context, healthy func(context.Context) error, log logrus.FieldLogger) error {
	supervised, err := daemon.SdNotify(false, starting)
	if err != nil {
		return fmt.Errorf("tell the service manager: %w; the unit must have Type=notify", err)
	}
	if !supervised {
		return nil
	}
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the time of the watchdog: %w", err)
	}
	if !ready(ctx, healthy) {
		return tell(daemon.SdNotifyStopping)
	}
	if err := tell(daemon.SdNotifyReady, serving); err != nil {
		return err
	}
	if limit > 0 {
		feed(ctx, limit, healthy, log)
	}
	<-ctx.Done()
	return tell(daemon.SdNotifyStopping, stopping)
}

// ready waits until the process serves; it is false if ctx ended before that.
func ready(ctx context.Context, healthy func(context.Context) error) bool {
	for check(ctx, startPatience, healthy) != nil {
		if !pause(ctx, startPace) {
			return false
		}
	}
	return true
}

// feed keeps the watchdog from biting until ctx ends. It looks twice in the
// time that the watchdog waits, and more often while the process does not
// answer, so that one slow answer costs no restart.
func feed(ctx context.Context, limit time.Duration, healthy func(context.Context) error, log logrus.FieldLogger) {
	const (
		looks = 2
		tries = 4
	)
	every := limit / looks
	status := serving
	for wait := every; pause(ctx, wait); {
		var news []string
		now := serving
		wait = every
		if err := check(ctx, every/tries, healthy); err != nil {
			if ctx.Err() != nil {
				return
			}
			log.WithError(err).Warn("Own health check failed")
			now, wait = silent, every/tries
		} else {
			news = append(news, daemon.SdNotifyWatchdog)
		}
		if now != status {
			news, status = append(news, now), now
		}
		if err := tell(news...); err != nil {
			// The next one may pass; if none does, the watchdog bites.
			log.WithError(err).Warn("Service manager not told")
		}
	}
}

func check(ctx context.Context, patience time.Duration, healthy func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return healthy(ctx)
}

// pause is false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func tell(news ...string) error {
	if len(news) == 0 {
		return nil
	}
	if _, err := daemon.SdNotify(false, strings.Join(news, "\n")); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}
