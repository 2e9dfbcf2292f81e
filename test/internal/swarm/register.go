package swarm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Identity is the credentials of an agent.
type Identity struct{ ID, Token string }

// concurrency is how many agents register at the same time. The controller stores them
// one by one.
const concurrency = 8

// Register registers the agents with the numbers [from, to) at a controller, and returns
// their identities. It calls progress with the number of registered agents.
func Register(ctx context.Context, address string, from, to int, progress func(done int)) ([]Identity, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	identities := make([]Identity, to-from)
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: concurrency}}
	defer client.CloseIdleConnections()
	var (
		next, done atomic.Int64
		group      sync.WaitGroup
	)
	for range concurrency {
		group.Go(func() { // ends with the last agent, or with ctx
			for i := int(next.Add(1)) - 1; i < len(identities) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				var err error
				if identities[i], err = register(ctx, client, address, from+i+1); err != nil {
					stop(err)
					return
				}
				progress(int(done.Add(1)))
			}
		})
	}
	group.Wait()
	return identities, context.Cause(ctx)
}

// register registers one agent, and retries if the controller is busy. The id has the
// length of an agent's own.
func register(ctx context.Context, client *http.Client, address string, number int) (Identity, error) {
	body := fmt.Appendf(nil, `{"hostname":"sim-%d","agent_id":"sim-%022d"}`, number, number)
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/api/v1/register",
			bytes.NewReader(body))
		if err != nil {
			return Identity{}, err
		}
		request.Header.Set("Content-Type", "application/json")
		request.SetBasicAuth("agent", "secret123")
		response, err := client.Do(request)
		if err != nil {
			return Identity{}, err
		}
		text, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
		_ = response.Body.Close()
		if err != nil {
			return Identity{}, err
		}
		switch response.StatusCode {
		case http.StatusOK, http.StatusCreated:
			var registered struct {
				ID    string `json:"agent_id"`
				Token string `json:"agent_token"`
			}
			if err := json.Unmarshal(text, &registered); err != nil {
				return Identity{}, fmt.Errorf("register: %w", err)
			}
			return Identity{registered.ID, registered.Token}, nil
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			wait, err := strconv.Atoi(response.Header.Get("Retry-After"))
			if err != nil {
				wait = 1
			}
			select {
			case <-time.After(time.Duration(wait)*time.Second + random(time.Second)):
			case <-ctx.Done():
				return Identity{}, ctx.Err()
			}
		default:
			return Identity{}, fmt.Errorf("register: answered %d %s", response.StatusCode, text)
		}
	}
}
