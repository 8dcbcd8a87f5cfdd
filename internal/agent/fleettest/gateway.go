package fleettest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Answer takes the place of the gateway's own answer to one request. real is the gateway's handler.
type Answer func(w http.ResponseWriter, r *http.Request, real http.HandlerFunc)

// Refuse answers with a problem.
func Refuse(p *wire.Problem) Answer {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { p.Write(w) }
}

// Accept answers 202.
func Accept(retryAfter time.Duration) Answer {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
		w.WriteHeader(http.StatusAccepted)
	}
}

// Lose does what was asked and cuts the connection before the answer.
func Lose(_ http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
	real(discard{http.Header{}}, r)
	panic(http.ErrAbortHandler)
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// Gateway is a gateway and the part of a manager that answers it.
type Gateway struct {
	Fleet *Fleet
	URL   *url.URL
	// Lifetime of certificates.
	Lifetime time.Duration

	// Websocket: there are websockets. Else the route is none. Mute: it takes messages on them and answers nothing; MutePings: no pings.
	// Disordered: what came on a websocket that was given up may be read after what came on the next.
	Websocket, Mute, MutePings, Disordered atomic.Bool

	artifacts map[string][]byte
	served    int
	ranges    []string

	mu       sync.Mutex
	orders   func(identityID string) []*agentv1.Envelope
	reply    func(*agentv1.HeartbeatReply)
	ack      func(Update) *agentv1.Ack
	next     map[string][]Answer
	requests map[string][][]byte
	beats    []*agentv1.Heartbeat
	over     []string // the way of each
	updates  []Update
	sessions map[*Session]bool
	numbers  map[string]uint64 // newest session by instance
	upgrades int
	pings    int
	conns    map[net.Conn]bool
	handlers sync.WaitGroup
	current  map[string]string // identity by the newest key's hash
	enrolled map[string]*x509.Certificate
	renewed  map[string]*x509.Certificate
	addr     string
	started  time.Time
	server   *http.Server
	t        testing.TB
}

// Serve starts a gateway that the fleet trusts.
func (f *Fleet) Serve(t testing.TB) *Gateway {
	t.Helper()
	return f.ServeWith(t, f.ServerCA, Serving(f.Now().Add(-time.Hour), f.Now().Add(365*24*time.Hour)))
}

// ServeWith starts a gateway with a certificate of another CA, or another one of the same.
func (f *Fleet) ServeWith(t testing.TB, ca CA, serving *x509.Certificate) *Gateway {
	t.Helper()
	g := &Gateway{
		Fleet: f, Lifetime: 30 * 24 * time.Hour, t: t, addr: "127.0.0.1:0", started: f.Now(),
		next: map[string][]Answer{}, requests: map[string][][]byte{}, current: map[string]string{},
		enrolled: map[string]*x509.Certificate{}, renewed: map[string]*x509.Certificate{},
		sessions: map[*Session]bool{}, numbers: map[string]uint64{}, conns: map[net.Conn]bool{}, artifacts: map[string][]byte{},
	}
	g.Start(ca, serving)
	return g
}

// Start listens, at the same address as before after a Stop.
func (g *Gateway) Start(ca CA, serving *x509.Certificate) {
	g.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	leaf := ca.Sign(g.t, key.Public(), serving)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.addr = l.Addr().String()
	g.URL = &url.URL{Scheme: "https", Host: g.addr}
	config := &tls.Config{ //nolint:gosec // as the real one
		MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}},
	}
	g.server = &http.Server{Handler: g, ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0), ConnState: g.connState}
	served := make(chan struct{})
	go func(s *http.Server) {
		defer close(served)
		_ = s.Serve(tls.NewListener(l, config))
	}(g.server)
	g.t.Cleanup(func() { g.Stop(); <-served })
}

// Stop ends the gateway and its connections, without a word.
func (g *Gateway) Stop() {
	_ = g.server.Close()
	for _, s := range g.Sessions() {
		s.Cut()
	}
	g.handlers.Wait()
}

// Next bends the next answers on a route, one each.
func (g *Gateway) Next(path string, answers ...Answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next[path] = append(g.next[path], answers...)
}

// Unbend ends what Next began.
func (g *Gateway) Unbend(path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next[path] = nil
}

// Requests are the bodies that came on a route.
func (g *Gateway) Requests(path string) [][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.requests[path])
}

// Beats are the heartbeats that came.
func (g *Gateway) Beats() []*agentv1.Heartbeat {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.beats)
}

// LastBeat is the newest heartbeat.
func (g *Gateway) LastBeat() *agentv1.Heartbeat {
	g.t.Helper()
	beats := g.Beats()
	if len(beats) == 0 {
		g.t.Fatal("no heartbeat came")
	}
	return beats[len(beats)-1]
}

// SetOrders sets what goes with every heartbeat's answer; nil: the assignment of no policy.
func (g *Gateway) SetOrders(orders func(identityID string) []*agentv1.Envelope) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.orders = orders
}

// SetReply has every heartbeat's answer changed; nil: as it is.
func (g *Gateway) SetReply(change func(*agentv1.HeartbeatReply)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reply = change
}

// SetAck sets the answer to an update of an action; nil: an ack. It may return nil: none comes, on a websocket.
func (g *Gateway) SetAck(answer func(Update) *agentv1.Ack) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ack = answer
}

// Enrolled is how many identities there are.
func (g *Gateway) Enrolled() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.enrolled)
}

func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	var bent Answer
	if queue := g.next[r.URL.Path]; len(queue) > 0 {
		bent, g.next[r.URL.Path] = queue[0], queue[1:]
	}
	g.mu.Unlock()
	if bent != nil {
		bent(w, r, g.serve)
		return
	}
	g.serve(w, r)
}

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	if p := wire.CheckRequest(r); p != nil {
		p.Write(w)
		return
	}
	if r.URL.Path == wire.PathSession && g.Websocket.Load() {
		g.session(w, r)
		return
	}
	if digest, ok := strings.CutPrefix(r.URL.Path, wire.PathArtifacts+"sha256:"); ok {
		g.artifact(w, r, digest)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var reply wire.Message
	var p *wire.Problem
	switch r.URL.Path {
	case wire.PathTrust:
		g.requests[r.URL.Path] = append(g.requests[r.URL.Path], []byte(r.URL.RawQuery))
		reply = g.trust(r)
	case wire.PathEnroll:
		reply, p = g.enroll(r)
	case wire.PathRenew:
		reply, p = g.renew(r)
	case wire.PathHeartbeat:
		reply, p = g.heartbeat(r)
	case wire.PathActions:
		reply, p = g.actions(r)
	default:
		p = &wire.Problem{Name: wire.NotFound}
	}
	if p != nil {
		p.Write(w)
		return
	}
	b, err := wire.Protobuf.Marshal(reply)
	if err != nil {
		g.t.Error(err)
	}
	w.Header().Set("Content-Type", wire.Protobuf.ContentType())
	_, _ = w.Write(b)
}

func (g *Gateway) trust(r *http.Request) *agentv1.TrustReply {
	after, err := strconv.ParseUint(r.URL.Query().Get(wire.QueryAfter), 10, 64)
	if err != nil || len(r.TLS.PeerCertificates) > 0 {
		g.t.Errorf("trust asked for with %q and %d certificates", r.URL.RawQuery, len(r.TLS.PeerCertificates))
	}
	bundles := g.Fleet.Chain[min(after, uint64(len(g.Fleet.Chain))):]
	return &agentv1.TrustReply{Bundles: bundles[:min(len(bundles), wire.MaxTrustPerReply)]}
}

func (g *Gateway) enroll(r *http.Request) (wire.Message, *wire.Problem) {
	m := &agentv1.EnrollRequest{}
	if p := g.decode(r, m); p != nil {
		return nil, p
	}
	token := g.Fleet.Token()
	_, csr, err := identity.OpenEnrollment(m.GetEnrollment(), token.Key().Public(), g.Fleet.ID, token.UID)
	if err != nil {
		return nil, &wire.Problem{Name: wire.ProofInvalid, Detail: err.Error()}
	}
	hash := identity.KeyHash(csr.SPKI)
	cert := g.enrolled[hash]
	if cert == nil {
		id := uuid.NewString()
		cert = g.certify(csr.Key, id)
		g.enrolled[hash], g.current[hash] = cert, id
	}
	return &agentv1.CertificateReply{Certificate: cert.Raw}, nil
}

func (g *Gateway) renew(r *http.Request) (wire.Message, *wire.Problem) {
	m := &agentv1.RenewRequest{}
	if p := g.decode(r, m); p != nil {
		return nil, p
	}
	proof, err := identity.OpenRenewal(m.GetRenewal(), g.Fleet.ID)
	if err != nil {
		return nil, &wire.Problem{Name: wire.ProofInvalid, Detail: err.Error()}
	}
	from, to := identity.KeyHash(proof.Certificate.RawSubjectPublicKeyInfo), identity.KeyHash(proof.CSR.SPKI)
	if cert := g.renewed[from+to]; cert != nil {
		return &agentv1.CertificateReply{Certificate: cert.Raw}, nil
	}
	id := g.current[from]
	if id == "" {
		return nil, &wire.Problem{Name: wire.CertificateSuperseded}
	}
	cert := g.certify(proof.CSR.Key, id)
	delete(g.current, from)
	g.current[to], g.renewed[from+to] = id, cert
	return &agentv1.CertificateReply{Certificate: cert.Raw}, nil
}

func (g *Gateway) certify(key *ecdsa.PublicKey, id string) *x509.Certificate {
	now := g.Fleet.Now()
	return g.Fleet.Certify(key, id, now.Add(-5*time.Minute), now.Add(g.Lifetime))
}

// givenUp is how long a request that nobody waits for may last.
const givenUp = 10 * time.Second

func (g *Gateway) heartbeat(r *http.Request) (wire.Message, *wire.Problem) {
	m := &agentv1.Heartbeat{}
	if p := g.decode(r, m); p != nil {
		return nil, p
	}
	if newest := g.numbers[m.GetAgent().GetInstanceId()]; m.GetAgent().GetSessionNumber() < newest {
		g.mu.Unlock()
		defer g.mu.Lock()
		select {
		case <-r.Context().Done(): // given up when the websocket opened, and overtaken by it
		case <-time.After(givenUp):
			g.t.Errorf("a heartbeat over HTTPS after session %d, of which %d had come: it is late", m.GetAgent().GetSessionNumber(), newest)
		}
		return nil, &wire.Problem{Name: wire.SessionReplaced}
	}
	reply, p := g.answer(m, r.TLS, "HTTPS")
	if p != nil {
		return nil, p
	}
	return reply, nil
}

func (g *Gateway) actions(r *http.Request) (wire.Message, *wire.Problem) {
	m, acks := &agentv1.ActionUpdates{}, &agentv1.Acks{}
	if p := g.decode(r, m); p != nil {
		return nil, p
	}
	for _, u := range m.GetUpdates() {
		acks.Acks = append(acks.Acks, g.update(u, r.TLS, "HTTPS"))
	}
	return acks, nil
}

// answer is the answer to a heartbeat.
func (g *Gateway) answer(m *agentv1.Heartbeat, connection *tls.ConnectionState, over string) (*agentv1.HeartbeatReply, *wire.Problem) {
	if err := wire.CheckHeartbeat(m); err != nil {
		g.t.Errorf("a heartbeat out of its bounds: %v", err)
	}
	g.beats, g.over = append(g.beats, m), append(g.over, over)
	if len(connection.PeerCertificates) != 1 {
		return nil, &wire.Problem{Name: wire.CertificateRequired}
	}
	leaf, now := connection.PeerCertificates[0], g.Fleet.Now()
	id := g.current[identity.KeyHash(leaf.RawSubjectPublicKeyInfo)]
	switch {
	case now.After(leaf.NotAfter):
		return nil, &wire.Problem{Name: wire.CertificateExpired}
	case now.Before(leaf.NotBefore):
		return nil, &wire.Problem{Name: wire.CertificateNotYetValid}
	case id == "":
		return nil, &wire.Problem{Name: wire.CertificateSuperseded}
	}
	reply := &agentv1.HeartbeatReply{ServerTime: timestamppb.New(now), Beacon: g.Fleet.Beacon(), Gateway: "gw-test1-00000"}
	if g.orders != nil {
		reply.Orders = lacking(m, g.orders(id))
	} else {
		reply.Orders = []*agentv1.Envelope{g.Fleet.Assignment(id, "", g.started)}
	}
	if g.reply != nil {
		g.reply(reply)
	}
	return reply, nil
}

func (g *Gateway) decode(r *http.Request, m wire.Message) *wire.Problem {
	body, p := wire.ReadBody(r, wire.MaxActionsBytes)
	if p != nil {
		return p
	}
	g.requests[r.URL.Path] = append(g.requests[r.URL.Path], body)
	if err := wire.Protobuf.Unmarshal(body, m); err != nil {
		return &wire.Problem{Name: wire.Malformed, Detail: err.Error()}
	}
	return nil
}

// Proxy is an HTTP CONNECT proxy that counts its tunnels.
type Proxy struct {
	URL     *url.URL
	Tunnels atomic.Int32
	// Refuse, where it is set, is the status that CONNECT is answered with.
	Refuse atomic.Int32
	server *httptest.Server
}

// NewProxy starts one.
func NewProxy(t testing.TB) *Proxy {
	t.Helper()
	p := &Proxy{}
	p.server = httptest.NewServer(p)
	t.Cleanup(p.server.Close)
	u, err := url.Parse(p.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	p.URL = u
	return p
}

// Stop ends the proxy.
func (p *Proxy) Stop() { p.server.Close() }

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if status := int(p.Refuse.Load()); status != 0 || r.Method != http.MethodConnect {
		w.WriteHeader(max(status, http.StatusMethodNotAllowed))
		return
	}
	up, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = up.Close()
		return
	}
	p.Tunnels.Add(1)
	_, _ = io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n")
	go pipe(up, down, buffered)
	pipe(down, up, up)
}

func pipe(to, from net.Conn, r io.Reader) {
	_, _ = io.Copy(to, r)
	_ = to.Close()
	_ = from.Close()
}

// Raw answers 200 with a body as it is.
func Raw(contentType string, body []byte) Answer {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	}
}
