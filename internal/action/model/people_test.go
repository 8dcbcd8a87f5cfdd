package model

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// maxActions that the model holds at a time.
const maxActions = 10

// create is a person who asks for something: of one endpoint, or of all.
func (w *world) create() {
	if len(w.etcd.now().keys("actions/")) >= maxActions {
		return
	}
	name := fmt.Sprintf("a%d", w.made)
	a := w.newAction(name, kinds[w.rand.IntN(len(kinds))], fmt.Sprintf("e%d", w.rand.IntN(2)))
	if w.chance(250) {
		a.Spec.EndpointName, a.Spec.Selector = "", &v1alpha1.EndpointSelector{}
		a.Spec.MaxParallel = ptr.To(int32(1 + w.rand.IntN(2)))
		if w.chance(300) {
			a.Spec.MaxFailures = ptr.To[int32](0)
		}
	}
	w.etcd.change("actions/"+name, object{action: a})
}

// someAction is any that there is.
func (w *world) someAction() (key string, ok bool) {
	keys := w.etcd.now().keys("actions/")
	if len(keys) == 0 {
		return "", false
	}
	return keys[w.rand.IntN(len(keys))], true
}

func (w *world) cancel() {
	if key, ok := w.someAction(); ok && !w.etcd.now().action(key).Spec.Cancel {
		w.log("a person cancels %s", key)
		w.etcd.edit(key, func(a *v1alpha1.EndpointAction) { a.Spec.Cancel = true })
	}
}

func (w *world) limitLife() {
	if key, ok := w.someAction(); ok {
		w.etcd.edit(key, func(a *v1alpha1.EndpointAction) { a.Spec.TTLSecondsAfterFinished = ptr.To(int32(w.rand.IntN(60))) })
	}
}

// deleteAction: rows 25 and 26.
func (w *world) deleteAction() {
	key, ok := w.someAction()
	if !ok {
		return
	}
	switch a := w.etcd.now().action(key); {
	case a.Spec.Selector != nil:
	case a.Status.Phase == v1alpha1.ActionPending:
		w.covered["25"]++
	case a.Status.FinishTime == nil:
		w.covered["26"]++
	}
	w.log("a person deletes %s", key)
	w.forget(key)
}

// forget deletes an action.
func (w *world) forget(key string) {
	a := w.etcd.now().action(key)
	if t := w.truth(string(a.UID)); a.Status.Phase == v1alpha1.ActionPending && !t.rolledBack {
		t.never = true
	}
	w.etcd.change(key, object{})
}

// collect is Kubernetes' garbage collector: children go with their parent.
func (w *world) collect() {
	for _, key := range w.etcd.now().keys("actions/") {
		a := w.etcd.now().action(key)
		if owner := metav1.GetControllerOf(a); owner != nil {
			if parent := w.etcd.now().action("actions/" + owner.Name); parent == nil || parent.UID != owner.UID {
				w.forget(key)
				return
			}
		}
	}
}

func (w *world) someEndpoint() string { return fmt.Sprintf("e%d", w.rand.IntN(2)) }

// administer changes an endpoint.
func (w *world) administer() {
	name, n := w.someEndpoint(), w.rand.IntN(100)
	w.log("a person changes %s (%d)", name, n)
	w.etcd.patch(name, func(e *endpoint) {
		switch {
		case n < 20:
			e.lifecycle = v1alpha1.LifecycleActive
		case n < 30:
			e.lifecycle = v1alpha1.LifecycleSuspended
		case n < 33:
			e.lifecycle = v1alpha1.LifecycleBlocked
		case n < 50: // somebody has decided which machine it is
			e.cloned, e.accepted = false, e.journal
		case n < 55:
			e.cloned = true
		case n < 62:
			e.disabled = []v1alpha1.ActionType{kinds[w.rand.IntN(len(kinds))]}
		case n < 75:
			e.disabled, e.capable = nil, true
		case n < 79:
			e.capable = false
		case n < 83:
			e.declared = v1alpha1.Isolated
		case n < 87:
			e.declared = v1alpha1.Released
		case n < 95:
			e.declared = ""
		default:
			e.online, e.channel = false, v1alpha1.ChannelNone
		}
	})
}

// reenrol replaces a machine, or deletes its endpoint before that.
func (w *world) reenrol() {
	name := w.someEndpoint()
	if w.chance(300) {
		w.log("a person deletes %s", name)
		w.etcd.change("endpoints/"+name, object{})
		return
	}
	w.enrol(name)
}

// restore sets etcd back to a backup of the last minutes.
func (w *world) restore() {
	states := w.etcd.states
	at := len(states) - 1 - w.rand.IntN(min(len(states), 60))
	w.log("etcd is restored to what it was %d changes ago", len(states)-1-at)
	before, after := states[len(states)-1], states[at]
	for _, s := range []state{before, after} {
		for _, key := range s.keys("actions/") {
			uid := string(s.action(key).UID)
			if before[key].version != after[key].version {
				w.truth(uid).rolledBack = true
			}
		}
	}
	w.etcd.restore(at)
	for i := range w.parcels {
		w.parcels[i].undone = true
	}
	for _, m := range w.machines {
		for _, r := range m.records {
			r.told = r.told || r.state == settled
		}
	}
}

// happens is something, by chance: the sum of the weights is what one step chooses from.
var happens = []struct {
	weight int
	what   func(*world)
}{
	{100, func(w *world) { w.now = w.now.Add(time.Duration(w.rand.IntN(8000)) * time.Millisecond) }},
	{4, func(w *world) { w.now = w.now.Add(time.Duration(w.rand.IntN(300)) * time.Second) }},
	{400, func(w *world) { w.someView().catchUp(w.etcd, 1+w.rand.IntN(20)) }},
	{600, func(w *world) { w.looks(w.managers[w.leader]) }},
	{20, func(w *world) { w.looks(w.managers[1-w.leader]) }}, // it does not know yet that it leads no more
	{60, func(w *world) { w.managers[w.rand.IntN(2)].flush(w) }},
	{15, func(w *world) { w.leader = 1 - w.leader; w.managers[w.leader].actions.catchUp(w.etcd, 30) }},
	{500, func(w *world) { w.gateways[w.rand.IntN(2)].proceed(w, w.rand.IntN(100)) }},
	{400, (*world).deliverPacket},
	{400, (*world).deliverParcel},
	{250, func(w *world) { w.someMachine((*machine).heartbeat) }},
	{200, func(w *world) { w.someMachine((*machine).work) }},
	{100, func(w *world) { w.someMachine(func(m *machine, w *world) { w.nag(m) }) }},
	{10, func(w *world) { w.someMachine((*machine).sweep) }},
	{25, func(w *world) { w.someMachine((*machine).crash) }},
	{40, func(w *world) { w.revive() }},
	{12, func(w *world) { w.someMachine((*machine).wipe) }},
	{10, func(w *world) { w.gateways[w.rand.IntN(2)].crash(w) }},
	{5, func(w *world) {
		if key, ok := w.someAction(); ok {
			w.gateways[w.rand.IntN(2)].forge(w, key)
		}
	}},
	{60, (*world).create},
	{25, (*world).cancel},
	{8, (*world).deleteAction},
	{100, (*world).collect},
	{10, (*world).limitLife},
	{25, (*world).administer},
	{3, (*world).reenrol},
	{4, (*world).restore},
	{3, func(w *world) { w.keys++ }},
}

var weights = func() (sum int) {
	for _, h := range happens {
		sum += h.weight
	}
	return sum
}()

// step is one thing that happens.
func (w *world) step() {
	n := w.rand.IntN(weights)
	for _, h := range happens {
		if n -= h.weight; n < 0 {
			h.what(w)
			return
		}
	}
}

func (w *world) someView() *view {
	views := []*view{
		&w.managers[0].actions, &w.managers[0].endpoints, &w.managers[1].actions, &w.managers[1].endpoints,
		&w.gateways[0].actions, &w.gateways[0].endpoints, &w.gateways[1].actions, &w.gateways[1].endpoints,
	}
	return views[w.rand.IntN(len(views))]
}

func (w *world) looks(m *manager) {
	if keys := m.actions.see(w.etcd).keys("actions/"); len(keys) > 0 {
		m.look(w, keys[w.rand.IntN(len(keys))])
	}
}

func (w *world) someMachine(does func(*machine, *world)) {
	up := slices.DeleteFunc(slices.Clone(w.machines), func(m *machine) bool { return !m.up })
	if len(up) > 0 {
		does(up[w.rand.IntN(len(up))], w)
	}
}

func (w *world) revive() {
	for _, m := range w.machines {
		if !m.up {
			m.start(w)
		}
	}
}

// nag has an agent say again what was not acknowledged.
func (w *world) nag(m *machine) {
	for _, uid := range m.uids() {
		if s := m.records[uid].state; s == finished || s == started {
			m.repeat(w, uid)
		}
	}
}
