package relay

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// scene is a gateway, a relay before it, and an agent.
type scene struct {
	gateway *gateway
	relay   *Relay
	address string
	roots   *x509.CertPool
	ca      tls.Certificate
	agent   agent
}

// agent is an identity in a state directory.
type agent struct {
	name, dir   string
	certificate *tls.Certificate
}

var stranger agent

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{roots: x509.NewCertPool()}
	s.ca = sign(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "server CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	s.roots.AddCert(s.ca.Leaf)
	s.gateway = newGateway(t, s.ca)
	certificate, err := Sign(s.ca, "127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s.relay, err = New(Config{
		Gateway: s.gateway.address, Certificate: certificate, Agents: []string{filepath.Join(dir, "none"), filepath.Join(dir, "agent-*")},
		Log: testr.New(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.newAgent(t, filepath.Join(dir, "agent-2"), "another")
	s.agent = s.newAgent(t, filepath.Join(dir, "agent-1"), "agent")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.relay.Serve(l) }()
	t.Cleanup(func() {
		s.relay.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

// newAgent writes an identity as the agent does.
func (s *scene) newAgent(t *testing.T, dir, name string) agent {
	t.Helper()
	c := sign(t, nil, &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "identity"), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"agent.crt": {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, "agent.key": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, "identity", file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return agent{name, dir, &c}
}

// sign makes a certificate, of itself where there is no issuer.
func sign(t *testing.T, issuer *tls.Certificate, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey.(*ecdsa.PrivateKey)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// gateway answers with what it got and from whom, and echoes the messages of websockets but for those that it has an answer to.
type gateway struct {
	address            string
	upgrades, messages atomic.Int64
	stop               func()
}

// Messages and their answers.
var (
	ping      = encode(wire.Protobuf, &agentv1.AgentMessage{Id: 7, Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}})
	pong      = encode(wire.Protobuf, &agentv1.ServerMessage{Re: 7, Body: &agentv1.ServerMessage_Pong{Pong: &agentv1.Pong{}}})
	jsonPing  = encode(wire.JSON, &agentv1.AgentMessage{Id: 7, Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}})
	jsonPong  = encode(wire.JSON, &agentv1.ServerMessage{Re: 7, Body: &agentv1.ServerMessage_Pong{Pong: &agentv1.Pong{}}})
	heartbeat = encode(wire.Protobuf, &agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: &agentv1.Heartbeat{}}})
	reply     = encode(wire.Protobuf, &agentv1.ServerMessage{Re: 1, Body: &agentv1.ServerMessage_HeartbeatReply{HeartbeatReply: &agentv1.HeartbeatReply{}}})
	answers   = map[string]string{ping: pong, jsonPing: jsonPong, heartbeat: reply}
)

func encode(c wire.Codec, m wire.Message) string {
	b, err := c.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func newGateway(t *testing.T, ca tls.Certificate) *gateway {
	t.Helper()
	g := &gateway{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.address = l.Addr().String()
	config := protocol(&tls.Config{ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{sign(t, &ca, &x509.Certificate{
		Subject: pkix.Name{CommonName: "gateway"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})}})
	server := &http.Server{Handler: g, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(tls.NewListener(l, config)) }()
	g.stop = func() { _ = server.Close() }
	t.Cleanup(func() { g.stop(); <-served })
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := r.TLS.ExportKeyingMaterial("EXPERIMENTAL rollcall", nil, 16); err != nil {
		http.Error(w, "no extended master secret", http.StatusForbidden)
		return
	}
	if r.Header.Get("Upgrade") == "websocket" {
		g.upgrades.Add(1)
		if r.Header.Get("Sec-WebSocket-Key") != "" {
			session(w, r)
		} else {
			g.websocket(w)
		}
		return
	}
	name := "nobody"
	if len(r.TLS.PeerCertificates) > 0 {
		name = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	b, _ := io.ReadAll(r.Body)
	_, _ = io.WriteString(w, string(b)+" from "+name)
}

// session echoes messages with the protocol's own websocket.
func session(w http.ResponseWriter, r *http.Request) {
	c, problem := transport.Accept(w, r)
	if problem != nil {
		problem.Write(w)
		return
	}
	defer c.CloseNow()
	for {
		message, err := c.Read()
		if err != nil || c.Write(message) != nil {
			return
		}
	}
}

// websocket is a raw one, for what the protocol's does not do.
func (g *gateway) websocket(w http.ResponseWriter) {
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	for {
		first, message, err := readFrame(buffered.Reader)
		if err != nil {
			return
		}
		g.messages.Add(1)
		if answer, ok := answers[message]; ok && first&opMask != 9 {
			message = answer
		}
		if _, err := c.Write(frame(first, false, message)); err != nil {
			return
		}
	}
}

// carries waits until the relay has n connections of agents.
func (s *scene) carries(t testing.TB, n int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		s.relay.mu.Lock()
		now := len(s.relay.links)
		s.relay.mu.Unlock()
		if now == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the relay has %d connections, want %d", now, n)
		}
	}
}

// connection is an agent's.
type connection struct {
	*tls.Conn
	in *bufio.Reader
}

func clientTLS(roots *x509.CertPool, a agent) *tls.Config {
	c := protocol(&tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
	if a.certificate != nil {
		c.Certificates = []tls.Certificate{*a.certificate}
	}
	return c
}

func (s *scene) dial(t testing.TB, a agent) (net.Conn, error) {
	return s.dialWithin(t, 5*time.Second, a)
}

func (s *scene) dialWithin(t testing.TB, patience time.Duration, a agent) (net.Conn, error) {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: clientTLS(s.roots, a)}
	return d.DialContext(t.Context(), "tcp", s.address)
}

func (s *scene) connect(t testing.TB, a agent) *connection {
	t.Helper()
	c, err := s.dial(t, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &connection{c.(*tls.Conn), bufio.NewReader(c)}
}

func (c *connection) state() tls.ConnectionState { return c.ConnectionState() }

// answered is an answer, read to its end.
type answered struct {
	status int
	header http.Header
	body   string
}

func (c *connection) do(t testing.TB, method, path, body string, headers ...string) answered {
	t.Helper()
	req, err := http.NewRequest(method, "https://gateway"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	if err := req.Write(c); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(c.in, req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answered{resp.StatusCode, resp.Header, string(b)}
}

func (c *connection) beat(t testing.TB, body string) string {
	t.Helper()
	return c.do(t, "POST", "/agent/v1/heartbeat", body).body
}

func (c *connection) tryUpgrade(t testing.TB) answered {
	t.Helper()
	return c.do(t, "GET", "/agent/v1/session", "", "Connection: Upgrade", "Upgrade: websocket")
}

func (c *connection) upgrade(t testing.TB) *connection {
	t.Helper()
	if a := c.tryUpgrade(t); a.status != http.StatusSwitchingProtocols || a.header.Get("Upgrade") != "websocket" {
		t.Fatalf("the upgrade was answered with %d", a.status)
	}
	return c
}

func (c *connection) send(t testing.TB, first byte, message string) {
	t.Helper()
	if _, err := c.Write(frame(first, true, message)); err != nil {
		t.Fatal(err)
	}
}

func (c *connection) receive(t testing.TB, want string) {
	t.Helper()
	_, got, err := readFrame(c.in)
	if err != nil || got != want {
		t.Fatalf("received %.50q (%v), want %.50q", got, err, want)
	}
}

func (c *connection) exchange(t testing.TB, message, want string) {
	t.Helper()
	c.send(t, finBit|opBinary, message)
	c.receive(t, want)
}

// ends waits until the connection does.
func (c *connection) ends(t testing.TB) {
	t.Helper()
	_, err := io.Copy(io.Discard, c.in)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Fatal("the connection does not end")
	}
}

// silent sees that nothing comes, not even the end. TLS cannot be read on after a timeout: what is below it is looked at.
func (c *connection) silent(t testing.TB) {
	t.Helper()
	raw := c.NetConn()
	_ = raw.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, err := raw.Read(make([]byte, 1))
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Fatalf("something came: %v", err)
	}
	_ = raw.SetReadDeadline(time.Now().Add(10 * time.Second))
}

func mode(t testing.TB, name string) Mode {
	t.Helper()
	m, err := ParseMode(name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
