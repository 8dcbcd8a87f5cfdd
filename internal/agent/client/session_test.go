package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// upgrade opens a websocket and lets it go.
func upgrade(t *testing.T, c *Client, m Moment) error {
	t.Helper()
	conn, err := c.Session(t.Context(), m)
	if err == nil {
		conn.CloseNow()
	}
	return err
}

func serveWebsockets(t *testing.T, f *fleettest.Fleet) *fleettest.Gateway {
	t.Helper()
	g := f.Serve(t)
	g.Websocket.Store(true)
	return g
}

func TestSession(t *testing.T) {
	f := fleettest.New(t, time.Now)
	other := fleettest.New(t, time.Now)
	now := time.Now()
	for _, c := range []struct {
		name   string
		server *fleettest.Gateway
		at     Moment
		want   wire.Name
	}{
		{"its own", f.Serve(t), moment(), ""},
		{"another fleet's", other.Serve(t), moment(), problem.ServerUntrusted},
		{"a clock at 2099, no beacon yet", f.Serve(t), Moment{Now: time.Unix(4_070_908_800, 0), Floor: now.Add(-time.Hour)}, ""},
		{"a certificate that is not valid at the signed time", f.Serve(t), Moment{Now: time.Unix(4_070_908_800, 0), Anchored: true}, problem.ServerClockDisagrees},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.server.Websocket.Store(true)
			client := dial(t, f, Server{URL: c.server.URL})
			err := upgrade(t, client, c.at)
			if c.want == "" && (err != nil || client.CipherSuite() != "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256") || c.want != "" && (err == nil || problem.Of(err).Name != c.want) {
				t.Errorf("%v with %q, want %q", err, client.CipherSuite(), c.want)
			}
			if c.want != "" && c.server.Upgrades() > 0 {
				t.Error("a server that is not trusted got an upgrade")
			}
		})
	}
}

// Each way in which there is no websocket is told from the others: they are reacted to differently.
func TestNoSession(t *testing.T) {
	f := fleettest.New(t, time.Now)
	g := serveWebsockets(t, f)
	c := dial(t, f, Server{URL: g.URL})
	g.Next(wire.PathSession, func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		http.Error(w, "no", http.StatusForbidden)
	}, fleettest.Refuse(&wire.Problem{Name: wire.Overloaded, RetryAfter: 7 * time.Second}))
	refused, ok := errors.AsType[*transport.UpgradeError](upgrade(t, c, moment()))
	if !ok || refused.Status != http.StatusForbidden || refused.Problem != nil || refused.Error() != "the upgrade was answered with 403" {
		t.Errorf("a proxy's answer: %v", refused)
	}
	refused, ok = errors.AsType[*transport.UpgradeError](upgrade(t, c, moment()))
	if !ok || refused.Problem == nil || refused.Problem.Name != wire.Overloaded || refused.RetryAfter != 7*time.Second {
		t.Errorf("the gateway's answer: %v", refused)
	}

	release := make(chan struct{})
	defer close(release)
	g.Next(wire.PathSession, func(http.ResponseWriter, *http.Request, http.HandlerFunc) { <-release })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := c.Session(ctx, moment())
	if hung, ok := errors.AsType[*NotUpgraded](err); !ok || hung.Error() != "the upgrade was not answered in time" {
		t.Errorf("no answer: %v", err)
	}

	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	err = upgrade(t, dial(t, f, Server{URL: &url.URL{Scheme: "https", Host: l.Addr().String()}}), moment())
	if p := problem.Of(err); p.Name != problem.ServerUnreachable || !strings.Contains(p.Detail, "Nothing listens at") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestSessionThroughProxy(t *testing.T) {
	f := fleettest.New(t, time.Now)
	g := serveWebsockets(t, f)
	proxy := fleettest.NewProxy(t)
	through, err := ParseProxy(strings.Replace(proxy.URL.String(), "http://", "http://user:secret@", 1), g.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, f, Server{URL: g.URL, Proxy: through})
	if err := upgrade(t, c, moment()); err != nil || proxy.Tunnels.Load() != 1 {
		t.Errorf("through the proxy: %v, %d tunnels", err, proxy.Tunnels.Load())
	}
	proxy.Refuse.Store(http.StatusProxyAuthRequired)
	if p := problem.Of(upgrade(t, c, moment())); p.Name != problem.ProxyRefused || !strings.Contains(p.Detail, "407") || strings.Contains(p.Detail, "secret") {
		t.Errorf("refused by the proxy: %v", p)
	}
}

// A websocket resumes the TLS session of the one before, and never that of another certificate.
func TestSessionResumesTLS(t *testing.T) {
	f := fleettest.New(t, time.Now)
	g := serveWebsockets(t, f)
	trust, err := identity.OpenTrust(f.Token().RootPin, f.Chain)
	if err != nil {
		t.Fatal(err)
	}
	resumed := func(c *Client) bool {
		conn, err := c.Session(t.Context(), moment())
		if err != nil {
			t.Fatal(err)
		}
		g.AwaitSessions(1)
		defer g.AwaitSessions(0)
		defer conn.CloseNow()
		return g.Session().Resumed
	}
	certificate := func() *tls.Certificate {
		key := f.AgentCA.Key
		cert := f.Certify(key.Public(), "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	}
	server := Server{URL: g.URL, AgentVersion: "8.0.0"}
	c := New(server, trust.ServerPool(), certificate())
	if first, second := resumed(c), resumed(c); first || !second {
		t.Errorf("resumed: %t, then %t", first, second)
	}
	if resumed(New(server, trust.ServerPool(), certificate())) {
		t.Error("another certificate resumed it")
	}
}
