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

// A check that fails at the start is made again after startRetry; it is given no
// longer than startTimeout.
const (
	startRetry   = 50 * time.Millisecond
	startTimeout = 5 * time.Second
)

// What systemctl status shows.
const (
	starting     = "STATUS=Starting"
	serving      = "STATUS=Serving"
	unresponsive = "STATUS=Does not answer"
	stopping     = "STATUS=Letting the requests in flight end"
)

// Run reports until ctx ends. The process is ready when healthy first gives
// nil. From then on the watchdog, if the unit has one, is fed only while
// healthy does: so healthy must go the way that the callers of the process go,
// for a process that hangs would go on feeding it otherwise.
//
// A service manager that cannot be told is warned of, and the process goes on: the
// socket may be one that a shell has handed on. If it waits to be told, it ends the
// process itself.
func Run(ctx context.Context, healthy func(context.Context) error, log logrus.FieldLogger) error {
	sent, failure := daemon.SdNotify(false, starting)
	if !sent && failure == nil {
		return nil // there is no service manager
	}
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the time of the watchdog: %w", err)
	}
	m := manager{log: log}
	m.logOnce(failure)
	if !ready(ctx, healthy) {
		m.notify(daemon.SdNotifyStopping)
		return nil
	}
	m.notify(daemon.SdNotifyReady, serving)
	if limit > 0 {
		m.watchdog(ctx, limit, healthy)
	}
	<-ctx.Done()
	m.notify(daemon.SdNotifyStopping, stopping)
	return nil
}

// ready waits until the process serves; it is false if ctx ended before that.
func ready(ctx context.Context, healthy func(context.Context) error) bool {
	for check(ctx, startTimeout, healthy) != nil {
		if !pause(ctx, startRetry) {
			return false
		}
	}
	return true
}

// watchdog keeps the watchdog from biting until ctx ends. It looks twice in the
// time that the watchdog waits, and more often while the process does not
// answer, so that one slow answer costs no restart.
func (m *manager) watchdog(ctx context.Context, limit time.Duration, healthy func(context.Context) error) {
	const (
		checks  = 2
		retries = 4
	)
	every := limit / checks
	status := serving
	for wait := every; pause(ctx, wait); {
		var states []string
		now := serving
		wait = every
		if err := check(ctx, every/retries, healthy); err != nil {
			if ctx.Err() != nil {
				return
			}
			m.log.WithError(err).Warn("Own health check failed")
			now, wait = unresponsive, every/retries
		} else {
			states = append(states, daemon.SdNotifyWatchdog)
		}
		if now != status {
			states, status = append(states, now), now
		}
		m.notify(states...)
	}
}

func check(ctx context.Context, timeout time.Duration, healthy func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
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

// manager is the service manager, and whether it could be told last.
type manager struct {
	log  logrus.FieldLogger
	lost bool
}

// notify sends the news, if there are any. What does not get through is not said
// again: the next news may pass, and if the watchdog hears none, it bites.
func (m *manager) notify(states ...string) {
	if len(states) > 0 {
		_, err := daemon.SdNotify(false, strings.Join(states, "\n"))
		m.logOnce(err)
	}
}

// logOnce notes whether the news got through, and warns once when they do not.
func (m *manager) logOnce(err error) {
	if err != nil && !m.lost {
		m.log.WithError(fmt.Errorf("NOTIFY_SOCKET: %w; unset it if no service manager started this",
			err)).Warn("Service manager not told")
	}
	m.lost = err != nil
}
