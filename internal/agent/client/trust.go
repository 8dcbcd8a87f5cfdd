package client

import (
	"context"
	"net/http"
	"strconv"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// TrustClient asks a server that is not verified for its trust, and for nothing else: what comes back proves itself by the pinned root,
// and nothing of the agent is told. One connection; Close ends it.
type TrustClient struct {
	server Server
	http   *http.Client
}

// NewTrustClient makes one. It presents no certificate.
func NewTrustClient(server Server) *TrustClient {
	config := tlsConfig(server.URL.Hostname())
	config.InsecureSkipVerify = true // the bundles are verified by their signatures; see the type
	return &TrustClient{server: server, http: &http.Client{Transport: newTransport(server, config), CheckRedirect: noRedirect}}
}

// Close ends the connection.
func (c *TrustClient) Close() { c.http.CloseIdleConnections() }

// After returns the bundles newer than a version, at most wire.MaxTrustPerReply, oldest first; none are verified. Errors are *wire.Problem.
func (c *TrustClient) After(ctx context.Context, version uint64) ([]*agentv1.Envelope, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	u := c.server.URL.JoinPath(wire.PathTrust)
	u.RawQuery = wire.QueryAfter + "=" + strconv.FormatUint(version, 10)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, explain(c.server, err)
	}
	req.Header.Set("Accept", wire.Protobuf.ContentType())
	a, err := roundTrip(c.http, c.server, req, wire.MaxTrustReply)
	if err != nil {
		return nil, explain(c.server, err)
	}
	if err := a.problem(); err != nil || a.status == http.StatusNotModified {
		return nil, err
	}
	reply := &agentv1.TrustReply{}
	if err := a.read(reply, func() error { return wire.CheckTrustReply(reply) }); err != nil {
		return nil, err
	}
	return reply.GetBundles(), nil
}
