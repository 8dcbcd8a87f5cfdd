package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"

	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// NotUpgraded is why there is no websocket although the server was reached: the upgrade was not answered, or not by the rules.
type NotUpgraded struct{ Err error }

func (e *NotUpgraded) Error() string {
	if errors.Is(e.Err, context.DeadlineExceeded) {
		return "the upgrade was not answered in time"
	}
	return e.Err.Error()
}

func (e *NotUpgraded) Unwrap() error { return e.Err }

// Session opens a websocket, on a connection of its own; ctx bounds that alone. It may be called beside an exchange. Errors are
// *transport.UpgradeError for an answer that was another, *NotUpgraded for none, and *wire.Problem where the server was not reached.
func (c *Client) Session(ctx context.Context, m Moment) (*transport.Conn, error) {
	var conn *transport.Conn
	err := m.try(&c.sessionTime, func() (err error) {
		conn, err = c.upgrade(ctx)
		return err
	})
	return conn, err
}

func (c *Client) upgrade(ctx context.Context) (*transport.Conn, error) {
	var suite uint16
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{TLSHandshakeDone: func(state tls.ConnectionState, err error) {
		if err == nil {
			suite = state.CipherSuite
		}
	}})
	t := newTransport(c.server, c.session)
	options := transport.DialOptions{URL: c.server.URL.JoinPath(wire.PathSession).String(), Transport: t, Header: http.Header{}}
	c.server.introduce(options.Header)
	conn, err := transport.Dial(ctx, options)
	if err == nil {
		c.suite.Store(uint32(suite))
		return conn, nil
	}
	t.CloseIdleConnections()
	if refused, ok := errors.AsType[*transport.UpgradeError](err); ok {
		return nil, refused
	}
	if suite != 0 {
		return nil, &NotUpgraded{err}
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return nil, fmt.Errorf("%w: %w", explain(c.server, err), invalid)
	}
	return nil, explain(c.server, err)
}
