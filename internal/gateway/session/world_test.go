package session

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/dispatch"
	"github.com/rollcall-dev/rollcall/internal/gateway/heartbeat"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	fleet   = "5f7a3c2e-0000-4000-8000-000000000001"
	own     = "gw-abcde-fghij"
	gwOther = "gw-zzzzz-zzzzz"
)

var home = netip.MustParseAddr("192.0.2.7")

func idOf(n int) string { return fmt.Sprintf("5f7a3c2e-0000-4000-8000-%012d", n) }

// book is all that there is to know, in the place of a store: what is written is there at once. The store has its own tests, and both together
// are tested in the store's.
type book struct {
	mu        sync.Mutex
	trust     *store.Trust
	endpoints map[string]store.Endpoint
	policy    store.Policy
	writes    []store.Report
	actions   []*v1alpha1.EndpointAction // that are open
	slow      chan struct{}              // where set, writes of actions wait for it
}

func (b *book) lock() func() { b.mu.Lock(); return b.mu.Unlock }

func (b *book) Trust() (*store.Trust, bool) { return b.trust, true }
func (b *book) EndpointByIdentity(id string) (store.Endpoint, bool) {
	defer b.lock()()
	e, ok := b.endpoints[id]
	return e, ok
}

func (b *book) Release(store.Endpoint) (store.Release, bool) { return store.Release{}, false }

func (b *book) Policy(_, name string) (store.Policy, bool) {
	defer b.lock()()
	return b.policy, name == b.policy.Name
}

func (b *book) Beacon() (*agentv1.Envelope, bool) { return beacon, true }

func (b *book) Write(r store.Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writes = append(b.writes, r)
	for id, e := range b.endpoints {
		if e.UID != r.UID {
			continue
		}
		if r.Connection != nil {
			e.Connection = *r.Connection
		}
		if !r.Seen.IsZero() {
			e.LastSeen = r.Seen
		}
		e.Agent, e.Inventory = cmp.Or(store.DigestOf(r.Agent), e.Agent), cmp.Or(store.DigestOf(r.Inventory), e.Inventory)
		b.endpoints[id] = e
	}
}

func (b *book) OpenActions(id string) (all []*v1alpha1.EndpointAction) {
	defer b.lock()()
	for _, a := range b.actions {
		if a.Status.Admission.IdentityID == id {
			all = append(all, a)
		}
	}
	return all
}

func (b *book) Action(uid string) (*v1alpha1.EndpointAction, bool) {
	defer b.lock()()
	i := slices.IndexFunc(b.actions, func(a *v1alpha1.EndpointAction) bool { return string(a.UID) == uid })
	if i < 0 {
		return nil, false
	}
	return b.actions[i], true
}

func (b *book) ReadAction(context.Context, store.Ref, string) (*v1alpha1.EndpointAction, error) {
	return nil, store.ErrGone
}

func (b *book) WriteAction(_ context.Context, a *v1alpha1.EndpointAction) (*v1alpha1.EndpointAction, error) {
	if slow := b.isSlow(); slow != nil {
		<-slow
	}
	defer b.lock()()
	b.actions = slices.DeleteFunc(slices.Clone(b.actions), func(o *v1alpha1.EndpointAction) bool { return o.UID == a.UID })
	if a.Status.FinishTime == nil {
		b.actions = append(b.actions, a)
	}
	return a, nil
}

func (b *book) isSlow() chan struct{} { defer b.lock()(); return b.slow }

var beacon = sealed(envelope.Beacon, 1)

func sealed(t envelope.Type, n int) *agentv1.Envelope {
	return &agentv1.Envelope{PayloadType: string(t), Payload: fmt.Appendf(nil, "{%d}", n), Signatures: []*agentv1.Signature{{Sig: []byte{1}}}}
}

// world is a gateway's sessions, and what an agent of identity 1 has.
type world struct {
	*testing.T
	book    *book
	actions *dispatch.Dispatcher
	beats   *heartbeat.Service
	hub     *Hub
	cert    *auth.Certificate
	leaf    *x509.Certificate
	key     *ecdsa.PrivateKey // of the leaf
	stop    context.CancelFunc
}

// simulate runs a test on a clock of its own.
func simulate(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		test(w)
		w.hub.Drain(canceled())
		w.stop()
	})
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func newWorld(t *testing.T) *world {
	ca, key := authority(t)
	w := &world{T: t, book: &book{
		trust:     &store.Trust{Trust: &identity.Trust{FleetID: fleet, Version: 1, AgentCAs: []*x509.Certificate{ca}}},
		endpoints: map[string]store.Endpoint{},
		policy: store.Policy{
			Ref:      store.Ref{Namespace: "fleet", Name: "demo", UID: idOf(900)},
			Revision: 1, Order: sealed(envelope.Policy, 1), Interval: 5 * time.Minute, PingInterval: 15 * time.Second,
		},
	}}
	w.leaf, w.key = leaf(t, ca, key, idOf(1))
	w.cert = auth.Read(w.leaf, w.book.trust)
	w.enrol(1)
	metrics, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	w.actions = newDispatcher(t, w.book)
	w.beats = heartbeat.New(heartbeat.Config{
		Source: w.book, Actions: w.actions, Gateway: own, MinInterval: 10 * time.Second, Burst: 4, Grace: time.Minute, PingInterval: 30 * time.Second,
	})
	w.hub = New(Config{
		Beats: w.beats, Actions: w.actions, Auth: auth.New(w.book), Metrics: metrics, Log: logr.Discard(),
		FirstMessage: 10 * time.Second, Slack: 40 * time.Second, DownAfter: 30 * time.Second, Refresh: time.Hour, Sweep: time.Second,
		Messages: limit.PerSecond(20, 60), Unanswered: 8, Upgrades: limit.PerSecond(100, 100), Spread: 5 * time.Second,
	})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.hub.Run(ctx) })
	running.Go(func() { w.actions.Run(ctx) })
	w.stop = func() { stop(); running.Wait() }
	return w
}

func newDispatcher(t testing.TB, b *book) *dispatch.Dispatcher {
	metrics, err := dispatch.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return dispatch.New(dispatch.Config{
		Source: b, API: b, Metrics: metrics, Log: logr.Discard(), Gateway: own, Timing: dispatch.Timing{Repeat: 30 * time.Second, RunningAfter: 2 * time.Second},
		Wait: 2 * time.Second, Updates: limit.PerSecond(20, 60), DrainTimeout: 5 * time.Second,
	})
}

func (w *world) enrol(n int) {
	defer w.book.lock()()
	w.book.endpoints[idOf(n)] = store.Endpoint{
		Ref: store.Ref{Namespace: "fleet", Name: fmt.Sprint("machine-", n), UID: fmt.Sprint("u", n)}, IdentityID: idOf(n),
		EnrolledTime: time.Now().Add(-time.Hour), Lifecycle: v1alpha1.LifecycleActive, OfflineAfter: 1200 * time.Second,
		Keys: []store.KeyHash{sha256.Sum256(w.leaf.RawSubjectPublicKeyInfo)},
	}
}

// change is what somebody else writes: the manager, or another gateway.
func (w *world) change(change func(e *store.Endpoint)) {
	w.apply(change)
	synctest.Wait()
}

func (w *world) apply(change func(e *store.Endpoint)) {
	w.book.mu.Lock()
	e := w.book.endpoints[idOf(1)]
	change(&e)
	w.book.endpoints[idOf(1)] = e
	w.book.mu.Unlock()
	w.tell()
}

func (w *world) tell() {
	w.beats.Changed(idOf(1))
	w.hub.Changed(idOf(1))
}

func (w *world) endpoint() store.Endpoint {
	e, _ := w.book.EndpointByIdentity(idOf(1))
	return e
}

// written is what was written since the last time: for each report its channel, agent, inventory, seen.
func (w *world) written() (all []string) {
	defer w.book.lock()()
	for _, r := range w.book.writes {
		var parts []string
		if r.Connection != nil {
			parts = append(parts, string(r.Connection.Channel))
		}
		if r.Agent != nil {
			parts = append(parts, "agent")
		}
		if r.Inventory != nil {
			parts = append(parts, "inventory")
		}
		if !r.Seen.IsZero() {
			parts = append(parts, "seen")
		}
		all = append(all, strings.Join(parts, "+"))
	}
	w.book.writes = nil
	return all
}

// agent is one websocket of an agent: a plain double of the connection.
type agent struct {
	w    *world
	in   chan []byte
	out  chan []byte
	text bool

	mu     sync.Mutex
	over   chan struct{} // closed with the connection
	ended  *transport.CloseError
	stuck  chan struct{} // where set, Write waits for it
	nextID uint64
}

// open begins a session of identity 1.
func (w *world) open() *agent { return w.openOf(1, w.cert) }

func (w *world) openOf(n int, cert *auth.Certificate) *agent {
	w.Helper()
	a := &agent{w: w, in: make(chan []byte, 100), out: make(chan []byte, 100), over: make(chan struct{})}
	w.start(a, n, cert)
	return a
}

func (w *world) start(a *agent, n int, cert *auth.Certificate) {
	e, _ := w.book.EndpointByIdentity(idOf(n))
	step := w.hub.Open(a, auth.Credentials{Certificate: cert, EMS: true}, w.beats.Agent(e, time.Now()), home, time.Now())
	go func() {
		for step() { // until it is over
		}
	}()
}

func (a *agent) JSON() bool { return a.text }

func (a *agent) Read() ([]byte, error) {
	select {
	case <-a.over:
	default:
		select {
		case b := <-a.in:
			return b, nil
		case <-a.over:
		}
	}
	return nil, a.ended
}

func (a *agent) Write(message []byte) error {
	if a.stuck != nil {
		select {
		case <-a.stuck:
		case <-a.over:
		}
	}
	select {
	case <-a.over:
		return a.ended
	default:
	}
	a.out <- append([]byte(nil), message...)
	return nil
}

func (a *agent) Close(code wire.CloseCode, reason string) {
	a.end(&transport.CloseError{Code: code, Reason: reason, Local: true})
}

func (a *agent) CloseNow() { a.end(&transport.CloseError{Code: wire.CloseAbnormal, Local: true}) }

// leave is the agent's own end, or the network's.
func (a *agent) leave(code wire.CloseCode) {
	a.end(&transport.CloseError{Code: code})
	synctest.Wait()
}

func (a *agent) end(e *transport.CloseError) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended == nil {
		a.ended = e
		close(a.over)
	}
}

// closed is how the gateway ended the session: its reason; "" while it goes on.
func (a *agent) closed() string {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended == nil {
		return ""
	}
	return fmt.Sprintf("%d %s", a.ended.Code, a.ended.Reason)
}

func (a *agent) codec() wire.Codec {
	if a.text {
		return wire.JSON
	}
	return wire.Protobuf
}

func (a *agent) send(m *agentv1.AgentMessage) {
	a.w.Helper()
	a.nextID++
	m.Id = a.nextID
	b, err := a.codec().Marshal(m)
	if err != nil {
		a.w.Fatal(err)
	}
	a.in <- b
	synctest.Wait()
}

func (a *agent) ping() {
	a.send(&agentv1.AgentMessage{Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}})
}

func (a *agent) beat(m *agentv1.Heartbeat) {
	a.send(&agentv1.AgentMessage{Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: m}})
}

// received is the next message of the gateway, nil if there is none.
func (a *agent) received() *agentv1.ServerMessage {
	a.w.Helper()
	synctest.Wait()
	select {
	case b := <-a.out:
		m := &agentv1.ServerMessage{}
		if err := errors.Join(a.codec().Unmarshal(b, m), wire.CheckServerMessage(m)); err != nil {
			a.w.Fatalf("%q: %v", b, err)
		}
		return m
	default:
		return nil
	}
}

// up begins session n of an instance and takes its first reply.
func (w *world) up(n int, change ...func(*agentv1.Heartbeat)) *agent {
	w.Helper()
	a := w.open()
	a.beat(beat(n, change...))
	if reply := a.received(); reply.GetHeartbeatReply() == nil {
		w.Fatalf("session %d: answered with %v, closed %q", n, reply, a.closed())
	}
	return a
}

// beat is a heartbeat on session n, or over HTTPS after it.
func beat(n int, change ...func(*agentv1.Heartbeat)) *agentv1.Heartbeat {
	m := &agentv1.Heartbeat{
		Agent: &agentv1.AgentInfo{
			Version: "8.0.0", Platform: "linux/amd64", InstanceId: strings.Repeat("a", 32), Epoch: 5, SessionNumber: uint64(n),
		},
		State: &agentv1.EndpointState{}, CapabilitiesTag: "c", InventoryTag: "i",
		Capabilities: &agentv1.Capabilities{Names: []string{"PerformHeartbeat"}}, Inventory: &agentv1.Inventory{Hostname: "devbox"},
	}
	for _, c := range change {
		c(m)
	}
	return m
}

func short(m *agentv1.Heartbeat) { m.Capabilities, m.Inventory = nil, nil }

// https is a heartbeat that does not come on a session.
func (w *world) https(m *agentv1.Heartbeat) wire.Name {
	p := w.beats.Beat(w.beats.Agent(w.endpoint(), time.Now()), m, nil, heartbeat.Via{Address: home}, time.Now(), &agentv1.HeartbeatReply{})
	w.hub.Heard(idOf(1))
	synctest.Wait()
	if p != nil {
		return p.Name
	}
	return ""
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func authority(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agents"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
	}
	return signed(t, c, c, key, key), key
}

func leaf(t testing.TB, ca *x509.Certificate, by *ecdsa.PrivateKey, id string) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signed(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 30),
		URIs: []*url.URL{identity.URI(fleet, id)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, key, by), key
}

func signed(t testing.TB, c, ca *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}
