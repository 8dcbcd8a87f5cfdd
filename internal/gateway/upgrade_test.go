package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/gateway/session"
	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func (w *world) serveSessions(config session.Config) {
	metrics, err := session.NewMetrics(w.registry)
	if err != nil {
		w.Fatal(err)
	}
	config.Metrics = metrics
	w.hub = session.New(config)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.hub.Run(ctx); close(done) }()
	w.Cleanup(func() { stop(); <-done })
}

// upgrade asks for a session as an agent does.
func (w *world) upgrade(version string, json bool, certificates ...tls.Certificate) (*transport.Conn, error) {
	w.Helper()
	rt := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certificates, ClientSessionCache: w.sessions, MaxVersion: tls.VersionTLS12}}
	w.Cleanup(rt.CloseIdleConnections)
	c, err := transport.Dial(w.Context(), transport.DialOptions{
		URL: "https://" + w.addr + wire.PathSession, Transport: rt, Header: http.Header{wire.HeaderAgentVersion: {version}}, JSON: json,
	})
	if err == nil {
		w.Cleanup(c.CloseNow)
	}
	return c, err
}

// say sends a message and reads what comes next.
func say(t *testing.T, c *transport.Conn, m *agentv1.AgentMessage) *agentv1.ServerMessage {
	t.Helper()
	codec := wire.Protobuf
	if c.JSON() {
		codec = wire.JSON
	}
	b, err := codec.Marshal(m)
	if err == nil {
		err = c.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return hear(t, c, codec)
}

func hear(t *testing.T, c *transport.Conn, codec wire.Codec) *agentv1.ServerMessage {
	t.Helper()
	b, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	m := &agentv1.ServerMessage{}
	if err := errors.Join(codec.Unmarshal(b, m), wire.CheckServerMessage(m)); err != nil {
		t.Fatal(err)
	}
	return m
}

func firstBeat(number uint64) *agentv1.AgentMessage {
	return &agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: &agentv1.Heartbeat{
		Agent: &agentv1.AgentInfo{Version: "8.0.0", Platform: "linux/amd64", InstanceId: strings.Repeat("a", 32), Epoch: 1, SessionNumber: number},
	}}}
}

func closedWith(t *testing.T, c *transport.Conn) string {
	t.Helper()
	for {
		_, err := c.Read()
		var closed *transport.CloseError
		if errors.As(err, &closed) {
			return fmt.Sprintf("%d %s", closed.Code, closed.Reason)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSessionOverTLS(t *testing.T) {
	for _, json := range []bool{false, true} {
		w := newWorld(t)
		c, err := w.upgrade("6.1.0", json, w.agent)
		if err != nil {
			t.Fatal(err)
		}
		if m := say(t, c, firstBeat(1)); m.GetRe() != 1 || m.GetHeartbeatReply().GetGateway() != "gw-abcde-fghij" {
			t.Errorf("answered with %v", m)
		}
		if m := say(t, c, &agentv1.AgentMessage{Id: 2, Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}}); m.GetRe() != 2 || m.GetPong() == nil {
			t.Errorf("answered with %v", m)
		}
		if e, _ := w.book.EndpointByIdentity(id); e.Connection.Channel != v1alpha1.ChannelWebSocket || e.Connection.RemoteAddress != "127.0.0.1" {
			t.Errorf("recorded %+v", e.Connection)
		}
		w.book.lifecycle(v1alpha1.LifecycleBlocked)
		began := time.Now()
		w.hub.Changed(id)
		if got := closedWith(t, c); got != "4403 endpoint-blocked" {
			t.Errorf("closed with %s", got)
		}
		t.Logf("revoked within %s", time.Since(began).Round(time.Microsecond))
	}
}

func TestUpgradeIsRefusedInWords(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		name, version string
		certificates  []tls.Certificate
		lifecycle     v1alpha1.EndpointLifecycle
		status        int
		problem       wire.Name
	}{
		{"too old an agent", "6.0.4", []tls.Certificate{w.agent}, v1alpha1.LifecycleActive, 403, wire.AgentVersionUnsupported},
		{"much too old an agent", "5.9.9", []tls.Certificate{w.agent}, v1alpha1.LifecycleActive, 403, wire.AgentVersionUnsupported},
		{"no certificate", "8.0.0", nil, v1alpha1.LifecycleActive, 401, wire.CertificateRequired},
		{"a blocked endpoint", "8.0.0", []tls.Certificate{w.agent}, v1alpha1.LifecycleBlocked, 403, wire.EndpointBlocked},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.book.lifecycle(test.lifecycle)
			_, err := w.upgrade(test.version, false, test.certificates...)
			var refused *transport.UpgradeError
			if !errors.As(err, &refused) || refused.Status != test.status || refused.Problem == nil || refused.Problem.Name != test.problem {
				t.Fatalf("%v, want %d %s", err, test.status, test.problem)
			}
			want := "Agent " + test.version + " is too old for the websocket, which needs 6.1 or later: it is served by heartbeats over HTTPS."
			if test.problem == wire.AgentVersionUnsupported && (refused.Problem.Detail != want || refused.Problem.Minimum != "6.1") {
				t.Errorf("it says %q, minimum %q", refused.Problem.Detail, refused.Problem.Minimum)
			}
		})
	}
	w.book.lifecycle(v1alpha1.LifecycleActive)
	plain := w.dial(w.agent).do("GET", wire.PathSession, nil)
	if plain.String() != "400 malformed" || plain.header.Get("Sec-WebSocket-Version") != "13" {
		t.Errorf("no upgrade: %s, %v", plain, plain.header)
	}
	w.hub.Drain(t.Context())
	_, err := w.upgrade("8.0.0", false, w.agent)
	var refused *transport.UpgradeError
	if !errors.As(err, &refused) || refused.Status != 503 || refused.Problem.Name != wire.Draining {
		t.Errorf("while draining: %v", err)
	}
}

// A heartbeat over HTTPS that says the session is over ends it, and leaves a session that came later alone.
func TestHalfOpenSessionEnds(t *testing.T) {
	w := newWorld(t)
	post := func(number uint64) reply {
		b, err := wire.Protobuf.Marshal(firstBeat(number).GetHeartbeat())
		if err != nil {
			t.Fatal(err)
		}
		return w.dial(w.agent).do("POST", wire.PathHeartbeat, b, "Content-Type", protobufType)
	}
	c, err := w.upgrade("8.0.0", false, w.agent)
	if err != nil {
		t.Fatal(err)
	}
	say(t, c, firstBeat(3))
	if r := post(2); r.String() != "409 session-replaced" {
		t.Errorf("from before the session: %s", r)
	}
	if r := post(3); r.status != 200 {
		t.Errorf("after it: %s", r)
	}
	if got := closedWith(t, c); got != "4409 session-replaced" {
		t.Errorf("closed with %s", got)
	}
	if e, _ := w.book.EndpointByIdentity(id); e.Connection.Channel != v1alpha1.ChannelHeartbeat || e.Connection.Gateway != "" {
		t.Errorf("recorded %+v", e.Connection)
	}
}

// The gateway stops: sessions end with a hint, and nothing is left.
func TestStopEndsSessions(t *testing.T) {
	w := newWorld(t)
	c, err := w.upgrade("8.0.0", false, w.agent)
	if err != nil {
		t.Fatal(err)
	}
	say(t, c, firstBeat(1))
	ended := make(chan string, 1)
	go func() { ended <- closedWith(t, c) }()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	w.hub.Drain(ctx)
	if got := <-ended; got != "1012 draining; retry=1" {
		t.Errorf("closed with %s", got)
	}
	if e, _ := w.book.EndpointByIdentity(id); e.Connection.Channel != v1alpha1.ChannelNone {
		t.Errorf("recorded %+v", e.Connection)
	}
}

// BenchmarkSessionHeartbeat is a heartbeat on a session over real TLS, client and server in one process.
func BenchmarkSessionHeartbeat(b *testing.B) {
	w := newWorld(b)
	c, err := w.upgrade("8.0.0", false, w.agent)
	if err != nil {
		b.Fatal(err)
	}
	m := firstBeat(1)
	m.GetHeartbeat().PolicyId = id
	message, err := wire.Protobuf.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(); err != nil {
			b.Fatal(err)
		}
	}
}
