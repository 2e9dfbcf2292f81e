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
//
// A service manager that cannot be told is warned of, and the process goes on: the
// socket may be one that a shell has handed on. If it waits to be told, it ends the
// process itself.
func Run(ctx context.Context, healthy func(context.Context) error, log logrus.FieldLogger) error {
	told, failure := daemon.SdNotify(false, starting)
	if !told && failure == nil {
		return nil // there is no service manager
	}
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the time of the watchdog: %w", err)
	}
	m := manager{log: log}
	m.note(failure)
	if !ready(ctx, healthy) {
		m.tell(daemon.SdNotifyStopping)
		return nil
	}
	m.tell(daemon.SdNotifyReady, serving)
	if limit > 0 {
		m.feed(ctx, limit, healthy)
	}
	<-ctx.Done()
	m.tell(daemon.SdNotifyStopping, stopping)
	return nil
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
func (m *manager) feed(ctx context.Context, limit time.Duration, healthy func(context.Context) error) {
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
			m.log.WithError(err).Warn("Own health check failed")
			now, wait = silent, every/tries
		} else {
			news = append(news, daemon.SdNotifyWatchdog)
		}
		if now != status {
			news, status = append(news, now), now
		}
		m.tell(news...)
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

// manager is the service manager, and whether it could be told last.
type manager struct {
	log  logrus.FieldLogger
	lost bool
}

// tell tells the news, if there are any. What does not get through is not said
// again: the next news may pass, and if the watchdog hears none, it bites.
func (m *manager) tell(news ...string) {
	if len(news) > 0 {
		_, err := daemon.SdNotify(false, strings.Join(news, "\n"))
		m.note(err)
	}
}

// note notes whether the news got through, and warns once when they do not.
func (m *manager) note(err error) {
	if err != nil && !m.lost {
		m.log.WithError(fmt.Errorf("NOTIFY_SOCKET: %w; unset it if no service manager started this", err)).Warn("Service manager not told")
	}
	m.lost = err != nil
}
