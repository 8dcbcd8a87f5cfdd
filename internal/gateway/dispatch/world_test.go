package dispatch

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const fleetID = "0b6a4c1e-55f1-4b2e-9a52-8f1b6d4c7e11"

var orderKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

func uuidOf(parts ...any) string { return uuid.NewSHA1(uuid.Nil, fmt.Append(nil, parts...)).String() }

// server is a double of the API server: it stores actions under resourceVersions, and fails when told to. The real one is tried in the store's tests.
type server struct {
	mu      sync.Mutex
	latency time.Duration
	version int
	actions map[string]*v1alpha1.EndpointAction // by UID
	away    bool                                // nothing is done
	dead    map[string]bool                     // gateways that crashed
	deaf    int                                 // so many writes are done, and not answered
	refuses bool
	writes  []string // "<name> <phase>", as they were done
	reads   int
}

var errAway = errors.New("connection refused")

// be changes what it does from now on.
func (s *server) be(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *server) request(ctx context.Context, gateway string) error {
	s.mu.Lock()
	t := time.NewTimer(s.latency)
	s.mu.Unlock()
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away || s.dead[gateway] {
		return errAway
	}
	return nil
}

func (s *server) store(a *v1alpha1.EndpointAction) *v1alpha1.EndpointAction {
	s.version++
	a.ResourceVersion = strconv.Itoa(s.version)
	s.actions[string(a.UID)] = a
	return a.DeepCopy()
}

func (s *server) stored(name string) *v1alpha1.EndpointAction {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.actions {
		if a.Name == name {
			return a.DeepCopy()
		}
	}
	return nil
}

// change is what the manager and people do.
func (s *server) change(name string, change func(*v1alpha1.EndpointAction)) {
	a := s.stored(name)
	change(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(a)
}

func (s *server) delete(name string) {
	a := s.stored(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.actions, string(a.UID))
	s.version++
}

func (s *server) takeWrites() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.writes
	s.writes = nil
	return w
}

// replica is a gateway: what it has read of the server, and its dispatcher.
type replica struct {
	*Dispatcher
	server *server
	name   string
	stop   func()

	mu        sync.Mutex
	endpoint  store.Endpoint
	seen      map[string]*v1alpha1.EndpointAction
	onChanged func()
}

// hold changes the endpoint as this gateway knows it.
func (r *replica) hold(change func(*store.Endpoint)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.endpoint)
}

func (r *replica) EndpointByIdentity(id string) (store.Endpoint, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.endpoint, r.endpoint.IdentityID == id
}

func (r *replica) Trust() (*store.Trust, bool) {
	return &store.Trust{Trust: &identity.Trust{FleetID: fleetID}}, true
}

func (r *replica) OpenActions(id string) (all []*v1alpha1.EndpointAction) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.seen {
		if a.Status.Admission.IdentityID == id {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b *v1alpha1.EndpointAction) int {
		return a.Status.Admission.Time.Compare(b.Status.Admission.Time.Time)
	})
	return all
}

func (r *replica) Action(uid string) (*v1alpha1.EndpointAction, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.seen[uid]
	return a, ok
}

func (r *replica) answered(a *v1alpha1.EndpointAction) {
	r.mu.Lock()
	old := r.seen[string(a.UID)]
	if old != nil {
		r.see(a)
	}
	r.mu.Unlock()
	if old != nil {
		r.onChanged()
	}
}

func (r *replica) see(a *v1alpha1.EndpointAction) {
	if a.Status.FinishTime != nil || a.Status.Admission == nil {
		delete(r.seen, string(a.UID))
		return
	}
	r.seen[string(a.UID)] = a
}

// watch brings everything that is new.
func (r *replica) watch() {
	r.server.mu.Lock()
	r.mu.Lock()
	for uid := range r.seen {
		if r.server.actions[uid] == nil {
			delete(r.seen, uid)
		}
	}
	for _, a := range r.server.actions {
		if a.Status.Admission != nil {
			r.see(a.DeepCopy())
		}
	}
	r.mu.Unlock()
	r.server.mu.Unlock()
	r.onChanged()
	synctest.Wait()
}

func (r *replica) ReadAction(ctx context.Context, _ store.Ref, uid string) (*v1alpha1.EndpointAction, error) {
	if err := r.server.request(ctx, r.name); err != nil {
		return nil, err
	}
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	r.server.reads++
	if a := r.server.actions[uid]; a != nil {
		defer r.answered(a.DeepCopy())
		return a.DeepCopy(), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.seen, uid)
	return nil, store.ErrGone
}

func (r *replica) WriteAction(ctx context.Context, a *v1alpha1.EndpointAction) (*v1alpha1.EndpointAction, error) {
	if err := r.server.request(ctx, r.name); err != nil {
		return nil, err
	}
	r.server.mu.Lock()
	stored := r.server.actions[string(a.UID)]
	var out *v1alpha1.EndpointAction
	err := store.ErrRefused
	switch {
	case stored == nil:
		err = store.ErrGone
	case stored.ResourceVersion != a.ResourceVersion:
		err = store.ErrConflict
	case !r.server.refuses:
		next := stored.DeepCopy()
		next.Status = *a.Status.DeepCopy()
		r.server.writes = append(r.server.writes, a.Name+" "+string(a.Status.Phase))
		out, err = r.server.store(next), nil
		if r.server.deaf > 0 {
			r.server.deaf--
			err = context.DeadlineExceeded
		}
	}
	r.server.mu.Unlock()
	if err != nil {
		return nil, err
	}
	r.answered(out)
	return out, nil
}

// world is a server, an endpoint whose agent has a key and a journal, and gateways.
type world struct {
	*testing.T
	server   *server
	endpoint store.Endpoint
	key      *ecdsa.PrivateKey
	spki     []byte
	began    time.Time
	replicas []*replica
}

// simulate runs a test on a clock of its own.
func simulate(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		test(w)
		for _, r := range w.replicas {
			r.stop()
		}
	})
}

func newWorld(t *testing.T) *world {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, key: key, began: time.Now(), server: &server{
		latency: 5 * time.Millisecond, actions: map[string]*v1alpha1.EndpointAction{}, dead: map[string]bool{},
	}}
	w.spki, _ = x509.MarshalPKIXPublicKey(&key.PublicKey)
	w.endpoint = store.Endpoint{
		Ref: store.Ref{Namespace: "fleet", Name: "laptop", UID: uuidOf("endpoint")}, IdentityID: uuidOf("identity"), Lifecycle: v1alpha1.LifecycleActive,
	}
	return w
}

// replica starts a gateway that knows nothing yet, and the agent as it remembers it.
func (w *world) replica() (*replica, *Agent) {
	w.Helper()
	metrics, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		w.Fatal(err)
	}
	r := &replica{
		server: w.server, name: fmt.Sprintf("gw-%05d-aaaaa", len(w.replicas)), endpoint: w.endpoint,
		seen: map[string]*v1alpha1.EndpointAction{}, onChanged: func() {},
	}
	r.Dispatcher = New(Config{
		Source: r, API: r, Metrics: metrics, Log: logr.Discard(), Gateway: r.name, Timing: Timing{Repeat: 30 * time.Second, RunningAfter: 2 * time.Second},
		Wait: 2 * time.Second, Updates: limit.PerSecond(20, 60), DrainTimeout: 5 * time.Second,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
	w.replicas = append(w.replicas, r)
	return r, &Agent{ID: w.endpoint.IdentityID}
}

// seal is the manager's.
func seal(t envelope.Type, m proto.Message) (v1alpha1.Envelope, error) {
	e, err := envelope.Seal(orderKey, t, m)
	return order.ToResource(e), err
}

// look is what the manager does with an action, once.
func (w *world) look(name string, change ...func(*action.Look)) {
	w.Helper()
	w.server.change(name, func(a *v1alpha1.EndpointAction) {
		l := action.Look{Now: time.Now(), FleetID: fleetID, Seal: seal, Endpoint: &action.Endpoint{
			IdentityID: w.endpoint.IdentityID, Lifecycle: v1alpha1.LifecycleActive, Reported: true, AgentVersion: "8.0.0", Online: true,
			Capabilities: []v1alpha1.Text{"PerformHeartbeat", "TerminateProcess"}, Channel: v1alpha1.ChannelHeartbeat, Interval: 5 * time.Minute,
			JournalID: journalID, JournalTime: w.began,
		}}
		for _, c := range change {
			c(&l)
		}
		status, row, err := action.Next(a, l)
		if err != nil || row == action.None {
			w.Fatalf("the manager does nothing with %s, which is %s: %v", name, a.Status.Phase, err)
		}
		a.Status = *status
	})
}

// act creates an action and has it admitted.
func (w *world) act(names ...string) {
	w.Helper()
	for _, name := range names {
		w.create(name)
		w.look(name)
		pass(time.Millisecond) // no two are admitted at the same time
	}
}

func (w *world) create(name string) {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	w.server.store(&v1alpha1.EndpointAction{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name, UID: types.UID(uidOf(name)), CreationTimestamp: metav1.Now(), Generation: 1},
		Spec:       v1alpha1.EndpointActionSpec{Type: v1alpha1.PerformHeartbeat, EndpointName: "laptop"},
		Status:     v1alpha1.EndpointActionStatus{Phase: v1alpha1.ActionPending, ObservedGeneration: -1},
	})
}

func uidOf(name string) string { return uuidOf("action", name) }

// cancel is a person's wish, and what the manager does about it.
func (w *world) cancel(name string) {
	w.Helper()
	w.server.change(name, func(a *v1alpha1.EndpointAction) { a.Spec.Cancel = true })
	w.look(name)
}

func (w *world) phase(name string) v1alpha1.ActionPhase {
	w.Helper()
	a := w.server.stored(name)
	if a == nil {
		w.Fatalf("%s is not there", name)
	}
	return a.Status.Phase
}

// wrote fails unless these are the writes since the last time.
func (w *world) wrote(want ...string) {
	w.Helper()
	synctest.Wait()
	if got := w.server.takeWrites(); !slices.Equal(got, want) {
		w.Errorf("written: %q, want %q", got, want)
	}
}

var journalID = strings.Repeat("1", 32)

// beat is a heartbeat that lists actions.
func (w *world) beat(list ...string) *agentv1.Heartbeat {
	m := &agentv1.Heartbeat{Agent: &agentv1.AgentInfo{JournalId: journalID, JournalCreatedAt: timestamppb.New(w.began)}}
	for _, name := range list {
		m.OpenActions = append(m.OpenActions, &agentv1.ActionState{ActionUid: uidOf(name), Phase: agentv1.ActionPhase_ACTION_PHASE_ACKNOWLEDGED})
	}
	return m
}

// socket is a session: a double of the Line that one is.
type socket struct {
	w *world

	mu   sync.Mutex
	down bool
	full bool
	sent []*agentv1.Envelope
}

func (s *socket) Channel() v1alpha1.Channel { return v1alpha1.ChannelWebSocket }

func (s *socket) Up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.down
}

func (s *socket) Room(*agentv1.Envelope) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.full
}

func (s *socket) Send(o *agentv1.Envelope) {
	_ = s.w.names([]*agentv1.Envelope{o}) // it is written as sent by now
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, o)
}

func (s *socket) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = true
}

// connect has a session of the agent begin with a heartbeat.
func (w *world) connect(r *replica, a *Agent, list ...string) *socket {
	s := &socket{w: w}
	r.onChanged = func() {
		if s.Up() {
			r.Look(a, s)
		}
	}
	r.Heard(a, w.beat(list...), s, time.Now())
	synctest.Wait()
	return s
}

// took is what has arrived since the last time: action:<name> or cancel:<name>.
func (s *socket) took() (all []string) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	all = s.w.names(s.sent)
	s.sent = nil
	return all
}

func (w *world) names(orders []*agentv1.Envelope) (all []string) {
	for _, o := range orders {
		m := &agentv1.Action{} // the fields are those of a Cancel, too
		if err := envelope.Open(o, envelope.Type(o.GetPayloadType()), m, orderKey.Public()); err != nil {
			w.Error(err)
		}
		kind := "action"
		if o.GetPayloadType() == string(envelope.Cancel) {
			kind = "cancel"
		}
		w.server.mu.Lock()
		a := w.server.actions[m.GetActionUid()]
		w.server.mu.Unlock()
		switch {
		case a == nil:
			all = append(all, kind+":"+m.GetActionUid())
			continue
		case a.Status.Delivery == nil:
			w.Errorf("%s was sent and is not written as sent", a.Name)
		case kind == "action" && !bytes.Equal(o.GetPayload(), a.Status.Admission.Order.Payload):
			w.Errorf("%s was sent with other bytes than the manager's", a.Name)
		}
		all = append(all, kind+":"+a.Name)
	}
	return all
}

// has fails unless these are the orders that have arrived since the last time.
func (s *socket) has(want ...string) {
	s.w.Helper()
	if got := s.took(); !slices.Equal(got, want) {
		s.w.Errorf("sent: %q, want %q", got, want)
	}
}

// https is a heartbeat over HTTPS.
func (w *world) https(r *replica, a *Agent, list ...string) (orders []string, more bool) {
	w.Helper()
	line, reply := NewAnswer(), &agentv1.HeartbeatReply{}
	r.Heard(a, w.beat(list...), line, time.Now())
	r.Wait(w.Context(), line, reply)
	return w.names(reply.GetOrders()), reply.GetMore()
}

// says is what the agent says of an action.
func says(name string, phase agentv1.ActionPhase) *agentv1.ActionUpdate {
	return &agentv1.ActionUpdate{ActionUid: uidOf(name), Phase: phase}
}

const (
	acks     = agentv1.ActionPhase_ACTION_PHASE_ACKNOWLEDGED
	runs     = agentv1.ActionPhase_ACTION_PHASE_RUNNING
	finished = agentv1.ActionPhase_ACTION_PHASE_FINISHED
)

// result is signed by the agent. It is about the order as it is stored now.
func (w *world) result(name string, outcome agentv1.Outcome, change ...func(*agentv1.ActionResult)) *agentv1.ActionUpdate {
	w.Helper()
	digest := sha256.Sum256(nil)
	if a := w.server.stored(name); a != nil && a.Status.Admission != nil {
		digest = sha256.Sum256(a.Status.Admission.Order.Payload)
	}
	m := &agentv1.ActionResult{
		FleetId: fleetID, IdentityId: w.endpoint.IdentityID, ActionUid: uidOf(name), ActionDigest: fmt.Sprintf("%x", digest),
		Outcome: outcome, Reason: "Done", FinishedAt: timestamppb.Now(),
	}
	for _, c := range change {
		c(m)
	}
	e, err := envelope.Seal(w.key, envelope.Result, m)
	if err != nil {
		w.Fatal(err)
	}
	u := says(name, finished)
	u.Result = e
	return u
}

func (w *world) done(name string) *agentv1.ActionUpdate {
	return w.result(name, agentv1.Outcome_OUTCOME_SUCCEEDED)
}

// report hands an update over and tells how it was answered: "ack", the name of a problem, or "waits".
func (w *world) report(r *replica, a *Agent, u *agentv1.ActionUpdate) func() string {
	answers := make(chan *wire.Problem, 2)
	if p, done := r.Update(a, w.spki, u, time.Now(), func(p *wire.Problem) { answers <- p }); done {
		answers <- p
	}
	return func() string {
		synctest.Wait()
		select {
		case p := <-answers:
			if p != nil {
				return string(p.Name)
			}
			return "ack"
		default:
			return "waits"
		}
	}
}

// answers fails unless an update is answered so, once everything has come to rest.
func (w *world) answers(r *replica, a *Agent, u *agentv1.ActionUpdate, want string) {
	w.Helper()
	is := w.report(r, a, u)
	pass(time.Second)
	if got := is(); got != want {
		w.Errorf("%s of %s is answered with %s, want %s", u.GetPhase(), u.GetActionUid(), got, want)
	}
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
