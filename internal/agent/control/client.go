package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/rollcall-dev/rollcall/internal/agent/status"
)

// Errors that a person can do something about.
var (
	ErrNotRunning   = errors.New("the agent is not running")
	ErrNotPermitted = errors.New("only the agent's own user may ask it")
)

// maxReply bounds an answer, which is a page of text.
const maxReply = 1 << 20

// Client asks an agent.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient asks the agent with this state directory.
func NewClient(stateDir string) *Client {
	socket := SocketPath(stateDir)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status is the agent as it is.
func (c *Client) Status(ctx context.Context) (s status.Status, err error) {
	err = c.do(ctx, http.MethodGet, pathStatus, &s)
	return s, err
}

// Checkin makes the agent try now, and is the agent as it is afterwards.
func (c *Client) Checkin(ctx context.Context) (s status.Status, err error) {
	err = c.do(ctx, http.MethodPost, pathCheckin, &s)
	return s, err
}

// Actions are those that the agent has done, does, and is to do.
func (c *Client) Actions(ctx context.Context) (a status.Actions, err error) {
	err = c.do(ctx, http.MethodGet, pathActions, &a)
	return a, err
}

func (c *Client) do(ctx context.Context, method, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nobody listens at %s", ErrNotRunning, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s cannot be opened", ErrNotPermitted, c.socket)
	case err != nil:
		return fmt.Errorf("ask the agent at %s: %w", c.socket, err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	switch {
	case err != nil:
		return fmt.Errorf("%w: it went away while it answered", ErrNotRunning)
	case resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: %s", ErrNotPermitted, strings.TrimSpace(string(b)))
	case resp.StatusCode != http.StatusOK:
		return errors.New(strings.TrimSpace(string(b)))
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("the agent's answer does not parse; are cytool and the agent of one version? %w", err)
	}
	return nil
}
