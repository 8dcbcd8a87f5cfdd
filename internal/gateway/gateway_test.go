package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/artifact"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/dispatch"
	"github.com/rollcall-dev/rollcall/internal/gateway/download"
	"github.com/rollcall-dev/rollcall/internal/gateway/enroll"
	"github.com/rollcall-dev/rollcall/internal/gateway/heartbeat"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/gateway/listen"
	"github.com/rollcall-dev/rollcall/internal/gateway/session"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	fleet = "5f7a3c2e-0000-4000-8000-000000000001"
	id    = "5f7a3c2e-0000-4000-8000-000000000002"
)

// book is all that there is to know, in the place of a store. The store has its own tests, and the programs are tested together elsewhere.
type book struct {
	mu        sync.Mutex
	ready     error
	trust     *store.Trust
	endpoints map[string]store.Endpoint
	writes    int
	pending   bool
	action    *v1alpha1.EndpointAction // the only one, nil for none
	offered   string                   // the digest of an artifact that everybody is offered
}

func (b *book) Offers(_ store.Endpoint, sha256 string) bool {
	defer b.lock()()
	return b.offered == sha256
}

func (b *book) lock() func() { b.mu.Lock(); return b.mu.Unlock }

func (b *book) Ready() error                { defer b.lock()(); return b.ready }
func (b *book) Trust() (*store.Trust, bool) { defer b.lock()(); return b.trust, b.trust != nil }
func (b *book) EndpointByIdentity(id string) (store.Endpoint, bool) {
	defer b.lock()()
	e, ok := b.endpoints[id]
	return e, ok
}

func (b *book) EndpointByKey(store.KeyHash) (store.Endpoint, bool) { return store.Endpoint{}, false }
func (b *book) Token(string) (store.Token, bool)                   { return store.Token{}, false }
func (b *book) Policy(string, string) (store.Policy, bool)         { return store.Policy{}, false }
func (b *book) Release(store.Endpoint) (store.Release, bool)       { return store.Release{}, false }
func (b *book) Beacon() (*agentv1.Envelope, bool) {
	return &agentv1.Envelope{PayloadType: string(envelope.Beacon), Payload: []byte("{}"), Signatures: []*agentv1.Signature{{Sig: []byte{1}}}}, true
}

func (b *book) Write(r store.Report) {
	defer b.lock()()
	b.writes++
	e := b.endpoints[id]
	if r.Connection != nil {
		e.Connection = *r.Connection
	}
	e.LastSeen, e.Agent, e.Inventory = r.Seen, store.DigestOf(r.Agent), store.DigestOf(r.Inventory)
	b.endpoints[id] = e
}

func (b *book) Certify(ctx context.Context, _, _ []byte, _ *agentv1.Envelope) ([]byte, error) {
	if b.pending {
		<-ctx.Done()
		return nil, store.ErrPending
	}
	return []byte("certificate"), nil
}

func (b *book) OpenActions(string) []*v1alpha1.EndpointAction {
	defer b.lock()()
	if b.action == nil || b.action.Status.FinishTime != nil {
		return nil
	}
	return []*v1alpha1.EndpointAction{b.action}
}

func (b *book) Action(uid string) (*v1alpha1.EndpointAction, bool) {
	for _, a := range b.OpenActions(id) {
		return a, string(a.UID) == uid
	}
	return nil, false
}

func (b *book) ReadAction(context.Context, store.Ref, string) (*v1alpha1.EndpointAction, error) {
	return nil, store.ErrGone
}

func (b *book) WriteAction(_ context.Context, a *v1alpha1.EndpointAction) (*v1alpha1.EndpointAction, error) {
	defer b.lock()()
	b.action = a
	return a, nil
}

func (b *book) lifecycle(l v1alpha1.EndpointLifecycle) {
	defer b.lock()()
	e := b.endpoints[id]
	e.Lifecycle = l
	b.endpoints[id] = e
}

// world is a gateway that serves on loopback, and an agent's certificate that it trusts.
type world struct {
	testing.TB
	book     *book
	addr     string
	agent    tls.Certificate
	registry *prometheus.Registry
	server   *listen.Server
	sessions tls.ClientSessionCache
	actions  *dispatch.Dispatcher
	beats    *heartbeat.Service
	hub      *session.Hub
	store    *artifact.Store
}

func newWorld(t testing.TB) *world {
	caKey, ca := authority(t)
	w := &world{TB: t, registry: prometheus.NewRegistry()}
	w.agent = certificate(t, ca, caKey, func(c *x509.Certificate) {
		c.URIs, c.ExtKeyUsage = []*url.URL{identity.URI(fleet, id)}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	w.book = &book{
		trust: &store.Trust{Trust: &identity.Trust{FleetID: fleet, Version: 1, AgentCAs: []*x509.Certificate{ca}}},
		endpoints: map[string]store.Endpoint{id: {
			IdentityID: id, Lifecycle: v1alpha1.LifecycleActive, Keys: []store.KeyHash{sha256.Sum256(w.agent.Leaf.RawSubjectPublicKeyInfo)},
		}},
	}
	w.bundles(3)
	metrics, err := NewMetrics(w.registry)
	if err != nil {
		t.Fatal(err)
	}
	wide := limit.PerSecond(1000, 1000)
	judge := auth.New(w.book)
	w.dispatch()
	w.beats = heartbeat.New(heartbeat.Config{
		Source: w.book, Actions: w.actions, Gateway: "gw-abcde-fghij", MinInterval: time.Nanosecond, Burst: 100, Grace: time.Minute, PingInterval: time.Minute,
	})
	w.serveSessions(session.Config{
		Beats: w.beats, Actions: w.actions, Auth: judge, Log: logr.Discard(), FirstMessage: time.Minute, Slack: time.Minute, DownAfter: time.Minute,
		Refresh: time.Hour, Sweep: time.Second, Messages: limit.PerSecond(1e6, 1e6), Unanswered: 8, Upgrades: wide, Spread: time.Second,
	})
	if w.store, err = artifact.Open(t.Context(), "file://"+t.TempDir()); err != nil {
		t.Fatal(err)
	}
	downloads, err := download.New(download.Config{Source: w.book, Store: w.store, Most: 3, Log: logr.Discard()}, w.registry)
	if err != nil {
		t.Fatal(err)
	}
	g := New(Config{
		Source: w.book, Downloads: downloads, Auth: judge, Metrics: metrics, Log: logr.Discard(), Heartbeat: w.beats, Actions: w.actions, Sessions: w.hub,
		Enroll: enroll.New(enroll.Config{Source: w.book, PerSource: wide, PerToken: wide, Total: wide, Renewal: wide, Wait: time.Minute, Waiting: 100}),
	})
	serving := certificate(t, ca, caKey, func(c *x509.Certificate) { c.DNSNames = []string{"gateway"} })
	w.server = listen.New(listen.Config{
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &serving, nil }, Welcome: g.Welcome, Handshake: metrics.Handshake, Log: logr.Discard(),
	})
	if err := metrics.Watch(w.registry, Facts{Connections: w.server.Count, ServingExpires: func() time.Time { return time.Unix(1, 0) }, Agents: func() int { return 1 }}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		w.hub.Drain(ctx)
		w.server.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) dispatch() {
	metrics, err := dispatch.NewMetrics(w.registry)
	if err != nil {
		w.Fatal(err)
	}
	w.actions = dispatch.New(dispatch.Config{
		Source: w.book, API: w.book, Metrics: metrics, Log: logr.Discard(), Gateway: "gw-abcde-fghij", Wait: 10 * time.Second,
		Timing: dispatch.Timing{Repeat: time.Minute, RunningAfter: time.Minute}, Updates: limit.PerSecond(1000, 1000), DrainTimeout: time.Second,
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.actions.Run(ctx); close(done) }()
	w.Cleanup(func() { stop(); <-done })
}

func authority(t testing.TB) (*ecdsa.PrivateKey, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agents"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return key, c
}

func certificate(t testing.TB, ca *x509.Certificate, by *ecdsa.PrivateKey, change func(*x509.Certificate)) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// bundles publishes n trust bundles, of versions 2, 4, 6 ...
func (w *world) bundles(n int) {
	defer w.book.lock()()
	trust := *w.book.trust
	trust.Bundles, trust.Versions = nil, nil
	for i := range n {
		trust.Bundles = append(trust.Bundles, &agentv1.Envelope{
			PayloadType: string(envelope.Trust), Payload: bytes.Repeat([]byte{'x'}, 1+i), Signatures: []*agentv1.Signature{{Sig: []byte{1}}},
		})
		trust.Versions = append(trust.Versions, uint64(2*(i+1)))
	}
	w.book.trust = &trust
}

// client is one connection.
type client struct {
	w    *world
	conn *tls.Conn
	in   *bufio.Reader
}

func (w *world) dial(certificates ...tls.Certificate) *client {
	w.Helper()
	c, err := tls.Dial("tcp", w.addr, &tls.Config{InsecureSkipVerify: true, Certificates: certificates, ClientSessionCache: w.sessions})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{w, c, bufio.NewReader(c)}
}

type reply struct {
	status int
	header http.Header
	body   []byte
	last   bool
}

func (r reply) String() string {
	if p, ok := wire.ParseProblem(r.status, r.header.Get("Content-Type"), r.body); ok {
		return fmt.Sprintf("%d %s", r.status, p.Name)
	}
	return fmt.Sprint(r.status)
}

func (c *client) do(method, path string, body []byte, headers ...string) reply {
	c.w.Helper()
	content := io.Reader(http.NoBody)
	if body != nil {
		content = bytes.NewReader(body)
	}
	r := httptest.NewRequest(method, "https://gateway"+path, content)
	r.Header.Set(wire.HeaderAgentVersion, "8.0.0")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if err := r.Write(c.conn); err != nil {
		c.w.Fatal(err)
	}
	resp, err := http.ReadResponse(c.in, r)
	if err != nil {
		c.w.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.w.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, b, resp.Close}
}

const (
	protobufType = "application/x-protobuf"
	jsonType     = "application/json"
)

func beat(t *testing.T, codec wire.Codec) []byte {
	t.Helper()
	b, err := codec.Marshal(&agentv1.Heartbeat{Agent: &agentv1.AgentInfo{Version: "8.0.0", Platform: "linux/amd64", InstanceId: strings.Repeat("a", 32), Epoch: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoutes(t *testing.T) {
	w := newWorld(t)
	none, agent := []tls.Certificate(nil), []tls.Certificate{w.agent}
	for _, test := range []struct {
		name, method, path string
		certificates       []tls.Certificate
		body               []byte
		headers            []string
		want               string
		last               bool
	}{
		{"no such route", "GET", "/", none, nil, nil, "404 not-found", true},
		{"no such route of the version", "GET", "/agent/v1/sessions", agent, nil, nil, "404 not-found", true},
		{"another version", "POST", "/agent/v2/heartbeat", agent, nil, nil, "410 protocol-version-unsupported", true},
		{"another method", "POST", wire.PathTrust, none, nil, nil, "405 method-not-allowed", true},
		{"another method on a route for agents", "GET", wire.PathHeartbeat, none, nil, nil, "405 method-not-allowed", true},
		{"no agent's version", "GET", wire.PathTrust, none, nil, []string{wire.HeaderAgentVersion, "one"}, "400 malformed", true},
		{"from a browser", "GET", wire.PathTrust, none, nil, []string{"Origin", "https://example.com"}, "400 malformed", true},
		{"a heartbeat without certificate", "POST", wire.PathHeartbeat, none, beat(t, wire.Protobuf), []string{"Content-Type", protobufType}, "401 certificate-required", true},
		{"who it is comes before what it says", "POST", wire.PathHeartbeat, none, []byte("nonsense"), []string{"Content-Type", "text/plain"}, "401 certificate-required", true},
		{"a heartbeat", "POST", wire.PathHeartbeat, agent, beat(t, wire.Protobuf), []string{"Content-Type", protobufType}, "200", false},
		{"a heartbeat in JSON", "POST", wire.PathHeartbeat, agent, beat(t, wire.JSON), []string{"Content-Type", jsonType}, "200", false},
		{"a heartbeat that is none", "POST", wire.PathHeartbeat, agent, []byte("{"), []string{"Content-Type", jsonType}, "400 malformed", false},
		{"beyond a bound", "POST", wire.PathHeartbeat, agent, []byte("{}"), []string{"Content-Type", jsonType}, "400 malformed", false},
		{"of another type", "POST", wire.PathHeartbeat, agent, []byte("<x/>"), []string{"Content-Type", "text/xml"}, "415 media-type-unsupported", false},
		{"without a body", "POST", wire.PathHeartbeat, agent, nil, []string{"Content-Type", jsonType}, "411 length-required", false},
		{"of 64 KiB and a byte", "POST", wire.PathHeartbeat, agent, make([]byte, wire.MaxHeartbeatBytes+1), []string{"Content-Type", protobufType}, "413 payload-too-large", true},
		{"an enrolment of 16 KiB and a byte", "POST", wire.PathEnroll, none, make([]byte, wire.MaxEnrollBytes+1), []string{"Content-Type", protobufType}, "413 payload-too-large", true},
		{"an enrolment that is none", "POST", wire.PathEnroll, none, []byte("{}"), []string{"Content-Type", jsonType}, "400 malformed", true},
		{"a renewal that is none", "POST", wire.PathRenew, none, []byte("{}"), []string{"Content-Type", jsonType}, "400 malformed", true},
		{"reports without certificate", "POST", wire.PathActions, none, []byte("{}"), []string{"Content-Type", jsonType}, "401 certificate-required", true},
		{"reports of nothing", "POST", wire.PathActions, agent, []byte("{}"), []string{"Content-Type", jsonType}, "400 malformed", false},
		{"reports of 256 KiB and a byte", "POST", wire.PathActions, agent, make([]byte, wire.MaxActionsBytes+1), []string{"Content-Type", protobufType}, "413 payload-too-large", true},
		{"another method to report", "GET", wire.PathActions, agent, nil, nil, "405 method-not-allowed", true},
		{"a renewal that is none, by an agent that is known", "POST", wire.PathRenew, agent, []byte("{}"), []string{"Content-Type", jsonType}, "400 malformed", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := w.dial(test.certificates...).do(test.method, test.path, test.body, test.headers...)
			if r.String() != test.want {
				t.Errorf("got %s (%s), want %s", r, r.body, test.want)
			}
			if r.last != test.last {
				t.Errorf("the connection ends: %v, want %v", r.last, test.last)
			}
			if r.status == http.StatusMethodNotAllowed && r.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
}

func TestHeartbeatInBothCodecs(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		request wire.Codec
		accept  string
		reply   wire.Codec
	}{{wire.Protobuf, "", wire.Protobuf}, {wire.JSON, "", wire.JSON}, {wire.Protobuf, jsonType, wire.JSON}, {wire.JSON, protobufType, wire.Protobuf}} {
		c := w.dial(w.agent)
		r := c.do("POST", wire.PathHeartbeat, beat(t, test.request), "Content-Type", test.request.ContentType(), "Accept", test.accept)
		m := &agentv1.HeartbeatReply{}
		if r.status != 200 || r.header.Get("Content-Type") != test.reply.ContentType() || test.reply.Unmarshal(r.body, m) != nil {
			t.Fatalf("%+v: %s, %q", test, r, r.header)
		}
		if m.GetGateway() != "gw-abcde-fghij" || m.GetServerTime() == nil || m.GetBeacon() == nil {
			t.Errorf("reply %v", m)
		}
	}
}

// A revocation is obeyed at the next request of a connection that is open.
func TestRevocationBitesOnAnOpenConnection(t *testing.T) {
	w := newWorld(t)
	c := w.dial(w.agent)
	send := func() reply {
		return c.do("POST", wire.PathHeartbeat, beat(t, wire.Protobuf), "Content-Type", protobufType)
	}
	if r := send(); r.status != 200 || r.last {
		t.Fatalf("active: %s", r)
	}
	w.book.lifecycle(v1alpha1.LifecycleBlocked)
	if r := send(); r.String() != "403 endpoint-blocked" || !r.last {
		t.Errorf("blocked: %s, the connection ends: %v", r, r.last)
	}
}

func TestNothingButTrustBeforeAllWasRead(t *testing.T) {
	w := newWorld(t)
	w.book.ready = errors.New("endpoints were not read")
	if r := w.dial(w.agent).do("POST", wire.PathHeartbeat, beat(t, wire.Protobuf), "Content-Type", protobufType); r.String() != "503 not-ready" || r.header.Get("Retry-After") != "1" {
		t.Errorf("a heartbeat: %s, %v", r, r.header)
	}
	if r := w.dial().do("GET", wire.PathTrust, nil); r.status != 200 {
		t.Errorf("trust: %s", r)
	}
	trust := w.book.trust
	w.book.trust = nil
	if r := w.dial().do("GET", wire.PathTrust, nil); r.String() != "503 not-ready" {
		t.Errorf("trust before there is any: %s", r)
	}
	w.book.trust, w.book.ready = trust, nil
	if r := w.dial(w.agent).do("POST", wire.PathHeartbeat, beat(t, wire.Protobuf), "Content-Type", protobufType); r.status != 200 {
		t.Errorf("afterwards: %s", r)
	}
	w.book.ready = errors.New("the API server is away")
	if r := w.dial(w.agent).do("POST", wire.PathHeartbeat, beat(t, wire.Protobuf), "Content-Type", protobufType); r.status != 200 {
		t.Errorf("what was read once is enough: %s", r)
	}
}

func TestTrust(t *testing.T) {
	w := newWorld(t)
	get := func(query string, headers ...string) (reply, []int) {
		r := w.dial().do("GET", wire.PathTrust+query, nil, headers...)
		m := &agentv1.TrustReply{}
		codec := wire.Protobuf
		if r.header.Get("Content-Type") == jsonType {
			codec = wire.JSON
		}
		if r.status == 200 && codec.Unmarshal(r.body, m) != nil {
			t.Fatalf("%s: %q", query, r.body)
		}
		var lengths []int
		for _, b := range m.GetBundles() {
			lengths = append(lengths, len(b.GetPayload()))
		}
		return r, lengths
	}
	for _, test := range []struct {
		query, accept string
		want          []int // bundles, by the length of their payload
	}{
		{"", "", []int{1, 2, 3}},
		{"?after=0", "", []int{1, 2, 3}},
		{"?after=0", jsonType, []int{1, 2, 3}},
		{"?after=1", "", []int{1, 2, 3}},
		{"?after=2", "", []int{2, 3}},
		{"?after=5", "", []int{3}},
		{"?after=6", "", nil},
		{"?after=18446744073709551615", "", nil},
	} {
		r, got := get(test.query, "Accept", test.accept)
		if diff := cmp.Diff(test.want, got); diff != "" || r.status != 200 {
			t.Errorf("%s: %s (-want +got):\n%s", test.query, r, diff)
		}
	}
	for _, query := range []string{"?after=-1", "?after=x", "?after=18446744073709551616"} {
		if r, _ := get(query); r.String() != "400 malformed" {
			t.Errorf("%s: %s", query, r)
		}
	}
	first, _ := get("?after=0")
	etag := first.header.Get("ETag")
	if r, _ := get("?after=0", "If-None-Match", etag); r.status != 304 || len(r.body) != 0 || r.header.Get("ETag") != etag {
		t.Errorf("the same: %s, %q", r, r.header)
	}
	if r, _ := get("?after=0", "If-None-Match", `"x", W/`+etag); r.status != 304 {
		t.Errorf("one of several: %s", r)
	}
	if r, _ := get("?after=0", "If-None-Match", etag, "Accept", jsonType); r.status != 200 {
		t.Errorf("in another encoding: %s", r)
	}
	if r := w.dial().do("HEAD", wire.PathTrust, nil); r.status != 200 || len(r.body) != 0 || r.header.Get("ETag") != etag || r.header.Get("Content-Length") != fmt.Sprint(len(first.body)) {
		t.Errorf("HEAD: %s, %q", r, r.header)
	}
	w.bundles(12)
	if r, got := get("?after=0", "If-None-Match", etag); r.status != 200 || len(got) != wire.MaxTrustPerReply {
		t.Errorf("new ones: %s, %d bundles", r, len(got))
	}
}

func TestTrustReplyFits(t *testing.T) {
	m := &agentv1.TrustReply{}
	for range wire.MaxTrustPerReply {
		m.Bundles = append(m.Bundles, &agentv1.Envelope{Payload: make([]byte, 32<<10)})
	}
	for _, codec := range []wire.Codec{wire.Protobuf, wire.JSON} {
		body, err := fit(codec, m)
		if err != nil || len(body) > wire.MaxTrustReply || len(body) < wire.MaxTrustReply/2 {
			t.Errorf("%s: %d bytes, %v", codec.ContentType(), len(body), err)
		}
	}
}

func TestMetricsAreWellMadeAndBounded(t *testing.T) {
	w := newWorld(t)
	w.dial(w.agent).do("POST", wire.PathHeartbeat, beat(t, wire.Protobuf), "Content-Type", protobufType)
	for i := range 20 {
		w.dial().do("GET", fmt.Sprintf("/agent/v1/nothing-%d", i), nil)
	}
	problems, err := testutil.GatherAndLint(w.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(w.registry, "rollcall_gateway_answers_total"); err != nil || n != 2 {
		t.Errorf("%d series of answers, %v; want one for the heartbeat and one for all that was not found", n, err)
	}
}

func TestHealth(t *testing.T) {
	var check error
	h := NewHealth(prometheus.NewRegistry(), func() error { return check })
	ask := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	if code, _ := ask("/readyz"); code != 200 {
		t.Error("not ready though nothing is missing")
	}
	check = errors.New("no serving certificate yet")
	if code, body := ask("/readyz"); code != 503 || !strings.Contains(body, check.Error()) {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := ask("/livez"); code != 200 {
		t.Error("dead though only not ready")
	}
	check = nil
	h.Drain()
	if code, body := ask("/readyz"); code != 503 || !strings.Contains(body, "about to stop") {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := ask("/metrics"); code != 200 {
		t.Error("no metrics")
	}
}

// BenchmarkHeartbeat is a heartbeat over real TLS, client and server in one process.
func BenchmarkHeartbeat(b *testing.B) {
	body := func(b *testing.B) []byte {
		m, err := wire.Protobuf.Marshal(&agentv1.Heartbeat{Agent: &agentv1.AgentInfo{Version: "8.0.0", Platform: "linux/amd64", InstanceId: strings.Repeat("a", 32), Epoch: 1}})
		if err != nil {
			b.Fatal(err)
		}
		return m
	}
	send := func(b *testing.B, c *client, m []byte) {
		if r := c.do("POST", wire.PathHeartbeat, m, "Content-Type", protobufType); r.status != 200 && r.status != 429 {
			b.Fatal(r)
		}
	}
	b.Run("kept connection", func(b *testing.B) {
		w, m := newWorld(b), body(b)
		c := w.dial(w.agent)
		_ = c.conn.SetDeadline(time.Time{})
		b.ReportAllocs()
		for b.Loop() {
			send(b, c, m)
		}
	})
	for name, cache := range map[string]tls.ClientSessionCache{"resumed connection": tls.NewLRUClientSessionCache(1), "new connection": nil} {
		b.Run(name, func(b *testing.B) {
			w, m := newWorld(b), body(b)
			w.sessions = cache
			b.ReportAllocs()
			for b.Loop() {
				c := w.dial(w.agent)
				send(b, c, m)
				_ = c.conn.Close()
			}
		})
	}
}
