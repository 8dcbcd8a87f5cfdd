package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"

	"nhooyr.io/websocket"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// maxRetryAfter bounds what is believed of a header of whoever answered.
const maxRetryAfter = 24 * time.Hour

// DialOptions say how to ask for a session.
type DialOptions struct {
	// URL of the route, https://host:port/agent/v1/session.
	URL string
	// Transport makes the connection, through a proxy or not; http.Transport does. It must speak HTTP/1.1.
	Transport http.RoundTripper
	// Header of the request besides those of the upgrade: Rollcall-Agent-Version, at least.
	Header http.Header
	// JSON asks for the JSON twin.
	JSON bool
}

// UpgradeError is an answer that was not 101.
type UpgradeError struct {
	Status int
	// Problem that the gateway answered with; nil: the answer is not the gateway's, but a proxy's, say.
	Problem *wire.Problem
	// RetryAfter is when to try again at the earliest, by the problem or by the answer's header; 0 for nothing to say.
	RetryAfter time.Duration
}

// Error is what people see where there is no websocket.
func (e *UpgradeError) Error() string {
	text := "the upgrade was answered with " + strconv.Itoa(e.Status)
	if e.Problem != nil {
		text += " (" + string(e.Problem.Name) + ")"
	}
	return text
}

// Unwrap gives the problem, if there is one.
func (e *UpgradeError) Unwrap() error {
	if e.Problem == nil {
		return nil
	}
	return e.Problem
}

// Dial asks for a session. ctx bounds the asking only. An answer that refuses it gives an *UpgradeError; redirects are not followed.
func Dial(ctx context.Context, options DialOptions) (*Conn, error) {
	subprotocol := wire.Subprotocol
	if options.JSON {
		subprotocol = wire.SubprotocolJSON
	}
	u := &upgrader{base: options.Transport, text: options.JSON}
	ws, _, err := websocket.Dial(ctx, options.URL, &websocket.DialOptions{ //nolint:bodyclose // the library has it, or has closed it
		HTTPClient: &http.Client{Transport: u}, HTTPHeader: options.Header, Subprotocols: []string{subprotocol},
	})
	var refused *UpgradeError
	var request *url.Error
	switch {
	case errors.As(err, &refused):
		return nil, refused
	case errors.As(err, &request):
		return nil, fmt.Errorf("the upgrade failed: %w", request.Err)
	case err != nil:
		return nil, fmt.Errorf("the upgrade failed: %w", err)
	}
	_ = u.guard.SetReadDeadline(time.Time{}) // fails on a closed connection only
	c := newConn(ws, u.guard)
	if ws.Subprotocol() != subprotocol {
		c.Close(wire.CloseProtocol, string(wire.SubprotocolUnsupported))
		return nil, fmt.Errorf("the upgrade failed: the answer agrees to the subprotocol %q, not %q", ws.Subprotocol(), subprotocol)
	}
	return c, nil
}

// upgrader is the round trip of an upgrade request: it puts the guard between the connection and the library, and reads a refusal.
type upgrader struct {
	base  http.RoundTripper
	text  bool
	guard *guard
}

// RoundTrip implements http.RoundTripper.
func (u *upgrader) RoundTrip(r *http.Request) (*http.Response, error) {
	var conn net.Conn
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn }}
	resp, err := u.base.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err != nil {
		return nil, err
	}
	stream, writable := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !writable || conn == nil {
		defer resp.Body.Close() //nolint:errcheck // what it said was read
		return nil, refusal(resp)
	}
	u.guard = newGuard(conn, stream, true, u.text, wire.MaxServerMessageBytes)
	_ = conn.SetReadDeadline(time.Now()) // or the library waits 3 s for what else there may be after an answer that it doesn't like
	resp.Body = u.guard
	return resp, nil
}

func refusal(resp *http.Response) *UpgradeError {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, wire.MaxProblemBytes+1)) // what is cut off is no problem document
	e := &UpgradeError{Status: resp.StatusCode}
	if problem, ok := wire.ParseProblem(resp.StatusCode, resp.Header.Get("Content-Type"), body); ok {
		e.Problem, e.RetryAfter = problem, problem.RetryAfter
	}
	if seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		e.RetryAfter = max(e.RetryAfter, min(time.Duration(seconds)*time.Second, maxRetryAfter))
	}
	return e
}
