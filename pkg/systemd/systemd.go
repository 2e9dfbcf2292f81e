// Package systemd notifies the service manager when a process is ready, that it is alive, and
// when it stops (sd_notify(3), Type=notify). Without a service manager it does nothing.
package systemd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
)

// At the start a failed check is repeated after startRetry; each has startTimeout.
const (
	startRetry   = 50 * time.Millisecond
	startTimeout = 5 * time.Second
)

// The states that systemctl status shows.
const (
	starting     = "STATUS=Starting"
	serving      = "STATUS=Serving"
	unresponsive = "STATUS=Does not answer"
	stopping     = "STATUS=Draining requests in flight"
)

// Run notifies until ctx ends. The process is ready when healthy first returns nil. From then
// on the watchdog, if the unit has one, is notified only while healthy returns nil: so healthy
// must take the path of a client's request.
//
// If the service manager cannot be notified, Run warns once and continues: NOTIFY_SOCKET may be
// inherited from a shell. A manager that waits for a notification restarts the process itself.
func Run(ctx context.Context, healthy func(context.Context) error, log logrus.FieldLogger) error {
	sent, failure := daemon.SdNotify(false, starting)
	if !sent && failure == nil {
		return nil // no service manager
	}
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the interval of the watchdog: %w", err)
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

// ready waits until healthy returns nil, and reports false if ctx ended before.
func ready(ctx context.Context, healthy func(context.Context) error) bool {
	for check(ctx, startTimeout, healthy) != nil {
		if !pause(ctx, startRetry) {
			return false
		}
	}
	return true
}

// watchdog notifies the watchdog until ctx ends. It checks twice per interval of the watchdog,
// and more often while checks fail, so that one slow response causes no restart.
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

// pause waits for d, and reports false if ctx ended before.
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

// manager is the service manager.
type manager struct {
	log  logrus.FieldLogger
	lost bool // the last notification failed
}

// notify sends states, if there are any. A lost notification is not repeated: the next may
// succeed, and without any the watchdog restarts the process.
func (m *manager) notify(states ...string) {
	if len(states) > 0 {
		_, err := daemon.SdNotify(false, strings.Join(states, "\n"))
		m.logOnce(err)
	}
}

// logOnce records the result of a notification, and warns at the first failure.
func (m *manager) logOnce(err error) {
	if err != nil && !m.lost {
		m.log.WithError(fmt.Errorf("NOTIFY_SOCKET: %w; unset it if no service manager started this",
			err)).Warn("Service manager not notified")
	}
	m.lost = err != nil
}
