package model

import (
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
)

const (
	fleetID  = "0f8fad5b-d9cb-469f-a165-70867728950e"
	interval = 30 * time.Second
)

// kinds of action that the model has: one that must not be repeated, one that may be, and two that are about the same thing.
var kinds = []v1alpha1.ActionType{v1alpha1.TerminateProcess, v1alpha1.PerformHeartbeat, v1alpha1.IsolateEndpoint, v1alpha1.CancelIsolation}

// world is all there is: what happens in it is decided by one seed.
type world struct {
	rand     *rand.Rand
	now      time.Time
	etcd     *etcd
	managers [2]*manager
	leader   int
	gateways [2]*gateway
	machines []*machine
	packets  []packet // on their way to a gateway
	parcels  []parcel // on their way to an agent
	calm     bool     // nothing goes wrong any more

	identities map[string]*v1alpha1.EndpointIdentity
	isolated   map[string]bool // machines, in truth
	isolatedBy map[string]string
	journals   int
	keys       int
	made       int // actions

	truths   map[string]*truth
	believed map[string]bool // results by the version of their action: looked at already
	covered  map[string]int
	unfit    int
	trace    []string
	tracing  bool
}

// truth is what really happened to an action.
type truth struct {
	name            string
	once            bool // it must not be done again
	unable, failing bool // how its agent will take it
	started, acts   int
	never           bool            // the server has said that it never started
	orders          map[string]bool // that have left the server
	rolledBack      bool            // etcd was set back behind something that it had of it
	journals        map[string]bool // that know it as begun
	forged          bool
	overmade        bool // children of it were made after they had been counted
}

// violation is of what must hold.
type violation string

func (w *world) violated(format string, args ...any) {
	panic(violation(fmt.Sprintf(format, args...)))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (w *world) log(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, w.now.Format("15:04:05 ")+fmt.Sprintf(format, args...))
	}
}

// chance of so many in a thousand.
func (w *world) chance(n int) bool { return !w.calm && w.rand.IntN(1000) < n }

func keyOf(name string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte((name + strings.Repeat(".", ed25519.SeedSize))[:ed25519.SeedSize]))
}

func newWorld(seed uint64, tracing bool) *world {
	w := &world{
		rand: rand.New(rand.NewPCG(seed, seed)), now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), tracing: tracing,
		identities: map[string]*v1alpha1.EndpointIdentity{}, isolated: map[string]bool{}, isolatedBy: map[string]string{},
		truths: map[string]*truth{}, believed: map[string]bool{}, covered: map[string]int{},
	}
	w.etcd = &etcd{states: []state{{}}, versions: []int{0}, check: w.check}
	for i := range w.managers {
		w.managers[i] = &manager{name: fmt.Sprintf("manager %d", i)}
		w.gateways[i] = &gateway{name: fmt.Sprintf("gw-%d", i), heard: map[string]*heard{}}
	}
	for i := range 2 {
		w.enrol(fmt.Sprintf("e%d", i))
	}
	for range 3 {
		w.create()
	}
	return w
}

// enrol has a machine of a new identity take an endpoint's place. The one before it is gone.
func (w *world) enrol(name string) {
	w.machines = slices.DeleteFunc(w.machines, func(m *machine) bool { return m.endpoint == name })
	w.journals++
	n := len(w.identities)
	m := &machine{
		name: fmt.Sprintf("machine %d of %s", n, name), endpoint: name, identity: fmt.Sprintf("aaaaaaaa-bbbb-cccc-dddd-%012d", n), key: keyOf(fmt.Sprint(n)),
		journal: fmt.Sprintf("journal-%d", w.journals), records: map[string]*record{},
	}
	spki, err := x509.MarshalPKIXPublicKey(m.key.Public())
	must(err)
	w.identities[m.identity] = &v1alpha1.EndpointIdentity{ID: m.identity, PublicKeys: [][]byte{spki}}
	w.machines = append(w.machines, m)
	m.start(w)
	old := w.etcd.now().endpoint(name)
	if old == nil {
		old = &endpoint{name: name, uid: m.identity, lifecycle: v1alpha1.LifecycleActive, capable: true}
	}
	next := *old
	next.identity, next.journal, next.accepted, next.journalMade, next.cloned = m.identity, m.journal, m.journal, time.Time{}, false
	w.etcd.change("endpoints/"+name, object{endpoint: &next})
	w.log("%s has enrolled", m.name)
}

func (w *world) newAction(name string, kind v1alpha1.ActionType, endpoint string) *v1alpha1.EndpointAction {
	w.made++
	a := &v1alpha1.EndpointAction{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(fmt.Sprintf("7c9e6679-7425-40de-944b-%012d", w.made)), Generation: 1, CreationTimestamp: metav1.NewTime(w.now.Truncate(time.Second)),
		},
		Spec:   v1alpha1.EndpointActionSpec{Type: kind, EndpointName: v1alpha1.LocalName(endpoint), StartingDeadlineSeconds: ptr.To(int32(20 + w.rand.IntN(400)))},
		Status: v1alpha1.EndpointActionStatus{ObservedGeneration: -1, Phase: v1alpha1.ActionPending},
	}
	if kind == v1alpha1.TerminateProcess {
		a.Spec.TerminateProcess = &v1alpha1.TerminateProcessParameters{Executable: "/usr/bin/sleep"}
	}
	w.truths[string(a.UID)] = &truth{
		name: name, once: kind == v1alpha1.TerminateProcess, unable: w.chance(50), failing: w.chance(100), orders: map[string]bool{}, journals: map[string]bool{},
	}
	w.covered["1"]++
	w.log("%s is created: %s on %s", name, kind, endpoint)
	return a
}

func (w *world) truth(uid string) *truth { return w.truths[uid] }

func (w *world) nameOf(uid string) string { return w.truths[uid].name }

// take writes a decision, and counts the row if it came to pass.
func (w *world) take(key string, base *v1alpha1.EndpointAction, status *v1alpha1.EndpointActionStatus, row action.Arrow) answer {
	a := w.etcd.put(key, base, status)
	w.log("  %s, row %s: %s", key, row, a)
	if a == written {
		w.covered[string(row)]++
	}
	return a
}

// check holds every write against what must be, and keeps what the server says for certain.
func (w *world) check(before, after *v1alpha1.EndpointAction) {
	was, is, t := &before.Status, &after.Status, w.truth(string(after.UID))
	w.log("  %s is %s: %s", t.name, is.Phase, is.Message)
	over := is.Phase != v1alpha1.ActionPending && is.Phase != v1alpha1.ActionSent && is.Phase != v1alpha1.ActionRunning
	switch {
	case action.Ended(was) && is.Phase != was.Phase:
		w.violated("%s leaves its end %s for %s", t.name, was.Phase, is.Phase)
	case over != action.Ended(is):
		w.violated("%s is %s, and its finishTime is %s", t.name, is.Phase, is.FinishTime)
	case was.Phase != v1alpha1.ActionPending && is.Phase == v1alpha1.ActionPending:
		w.violated("%s was sent, and is Pending again", t.name)
	case was.Result != nil && is.Result == nil:
		w.violated("the result of %s is lost", t.name)
	case was.Delivery != nil && !is.Delivery.SentTime.Equal(&was.Delivery.SentTime):
		w.violated("%s is sent for the first time twice", t.name)
	case was.Phase == v1alpha1.ActionPending && is.Phase == v1alpha1.ActionSent && after.Spec.Cancel:
		w.violated("%s was cancelled, and is sent", t.name)
	case was.Admission == nil && is.Admission != nil:
		w.checkTurn(after)
	}
	certain := is.Phase == v1alpha1.ActionCancelled || is.Phase == v1alpha1.ActionExpired || is.Phase == v1alpha1.ActionUnsupported
	if after.Spec.Selector == nil && over && certain && is.Result == nil && !t.rolledBack {
		if t.never = true; t.started > 0 {
			w.violated("%s is said to be %s, and it ran", t.name, is.Phase)
		}
	}
}

// checkTurn holds an admission against what its parent allows. It cannot be held to that while two lead, or etcd was set back.
func (w *world) checkTurn(child *v1alpha1.EndpointAction) {
	owner := metav1.GetControllerOf(child)
	if owner == nil || w.truth(string(owner.UID)).rolledBack || w.truth(string(owner.UID)).overmade {
		return
	}
	_, parent := w.etcd.now().byUID(string(owner.UID))
	if parent == nil {
		return
	}
	open := 1
	for _, c := range childrenOf(w.etcd.now(), owner.UID) {
		if w.truth(string(c.UID)).rolledBack {
			return
		}
		if c.Status.Admission != nil && !action.Ended(&c.Status) {
			open++
		}
	}
	if open > int(*parent.Spec.MaxParallel) {
		w.violated("%d children of %s are open, of at most %d", open, parent.Name, *parent.Spec.MaxParallel)
	}
}

// leaves is an order on its way out of the server.
func (w *world) leaves(a *v1alpha1.EndpointAction) {
	t := w.truth(string(a.UID))
	if t.orders[action.Digest(a.Status.Admission.Order)] = true; t.rolledBack {
		return
	}
	_, live := w.etcd.now().byUID(string(a.UID))
	switch {
	case live != nil && live.Status.Phase == v1alpha1.ActionPending, a.Status.Delivery == nil:
		w.violated("%s leaves the server, and is Pending", t.name)
	case len(t.orders) > 1:
		w.violated("two orders have left the server for %s", t.name)
	}
}

// begin is an agent that begins.
func (w *world) begin(uid string, m *machine) {
	t := w.truth(uid)
	w.log("%s begins %s", m.name, t.name)
	switch t.started++; {
	case t.started > 1 && (t.journals[m.journal] || !t.rolledBack): // else neither server nor agent know any more
		w.violated("%s is begun twice", t.name)
	case t.never && !t.rolledBack:
		w.violated("%s is begun, and was said never to be", t.name)
	}
	t.journals[m.journal] = true
}

// act is what cannot be undone.
func (w *world) act(uid string, o *agentv1.Action) {
	t := w.truth(uid)
	w.log("  and %s is done", t.name)
	if t.acts++; t.acts > 1 && t.once && t.acts > len(t.journals) {
		w.violated("%s is done twice: %v", t.name, o)
	}
}

func (w *world) endpointActs(m *machine, o *agentv1.Action) {
	switch {
	case o.GetIsolateEndpoint() != nil:
		w.isolated[m.name], w.isolatedBy[m.name] = true, o.GetActionUid()
	case o.GetCancelIsolation() != nil:
		w.isolated[m.name], w.isolatedBy[m.name] = false, o.GetActionUid()
	}
}

func (w *world) toGateway(p packet) {
	p.gateway = w.rand.IntN(len(w.gateways))
	w.packets = append(w.packets, p)
}

func (w *world) toAgent(p parcel) { w.parcels = append(w.parcels, p) }

// draw takes one of those that are under way, in any order. Sometimes it stays as well, and comes again.
func draw[T any](w *world, from *[]T) (one T, ok bool) {
	if len(*from) == 0 {
		return one, false
	}
	i := w.rand.IntN(len(*from))
	one = (*from)[i]
	if !w.chance(50) {
		*from = append((*from)[:i:i], (*from)[i+1:]...)
	}
	return one, !w.chance(100)
}

func (w *world) deliverPacket() {
	if p, ok := draw(w, &w.packets); ok {
		w.gateways[p.gateway].hear(w, p)
	}
}

func (w *world) deliverParcel() {
	p, ok := draw(w, &w.parcels)
	if !ok || !p.to.up || p.run != p.to.run {
		return
	}
	switch {
	case p.order != nil:
		p.to.order(w, *p.order)
	case p.cancel != nil:
		p.to.cancel(w, *p.cancel)
	default:
		p.to.settle(w, p)
	}
}
