// Package model runs the table of an action's transitions in a small world: an API server, a manager that changes and is behind, two gateways that
// are behind, agents with a journal that crash, a network that loses, doubles and reorders, and people. What must hold is checked at every step.
package model

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
)

var (
	seeds   = flag.Uint64("seeds", 60, "how many worlds to run; ten times as many while there are rows that were not taken")
	oneSeed = flag.Uint64("seed", 0, "run the world of this seed alone, and tell all that happens in it")
	steps   = flag.Int("steps", 800, "how much happens in a world before it calms down")
)

// rows are those of docs/actions.md.
var rows = []string{
	"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "12a", "13", "14", "15", "16", "17", "18", "19", "19a", "20", "21", "22", "23",
	"24", "25", "26", "27", "P1", "P2", "P3", "P4", "P5", "P6", "P7",
}

// TestModel runs many worlds, and demands that they have taken every row of the table.
func TestModel(t *testing.T) {
	covered := map[string]int{}
	if *oneSeed != 0 {
		run(t, *oneSeed, true, covered)
		return
	}
	for seed := uint64(1); (seed <= *seeds || seed <= 10**seeds && len(missing(covered)) > 0) && !t.Failed(); seed++ {
		run(t, seed, false, covered)
	}
	var counts []string
	for _, row := range rows {
		counts = append(counts, fmt.Sprintf("%s: %d", row, covered[row]))
	}
	t.Logf("rows taken: %s", strings.Join(counts, ", "))
	if rows := missing(covered); len(rows) > 0 && !t.Failed() {
		t.Errorf("rows that were not taken: %s", strings.Join(rows, ", "))
	}
	for row := range covered {
		if !slices.Contains(rows, row) {
			t.Errorf("row %s was taken, and is not in the table", row)
		}
	}
}

func missing(covered map[string]int) []string {
	return slices.DeleteFunc(slices.Clone(rows), func(row string) bool { return covered[row] > 0 })
}

// run is one world.
func run(t *testing.T, seed uint64, tracing bool, covered map[string]int) {
	t.Helper()
	w := newWorld(seed, tracing)
	defer func() {
		for row, n := range w.covered {
			covered[row] += n
		}
		broken := recover()
		if _, ours := broken.(violation); broken != nil && !ours {
			panic(broken)
		}
		if tracing {
			t.Log("\n" + strings.Join(w.trace, "\n"))
		}
		if broken != nil {
			t.Errorf("seed %d: %s\nto see how: go test ./internal/action/model -v -seed=%d", seed, broken, seed)
		}
	}()
	for range *steps {
		w.step()
	}
	w.settle()
}

// settle lets the world come to rest: nothing goes wrong any more, and time passes. Then everything must have ended, and be known.
func (w *world) settle() {
	w.log("the world calms down")
	w.calm = true
	for _, name := range []string{"e0", "e1"} {
		w.etcd.patch(name, func(e *endpoint) {
			if e.lifecycle == v1alpha1.LifecycleSuspended {
				e.lifecycle = v1alpha1.LifecycleActive
			}
			e.cloned = false
		})
	}
	for n := 0; n < 5 || n < 100 && !w.atRest(); n++ {
		w.now = w.now.Add(time.Minute)
		w.minute()
	}
	w.judge()
}

// atRest: everything has ended.
func (w *world) atRest() bool {
	for _, key := range w.etcd.now().keys("actions/") {
		if !action.Ended(&w.etcd.now().action(key).Status) {
			return false
		}
	}
	return true
}

// minute is one in which all is well.
func (w *world) minute() {
	w.revive()
	for _, m := range w.machines {
		m.heartbeat(w)
		w.nag(m)
	}
	for range 6 {
		for _, v := range []*view{
			&w.managers[0].actions, &w.managers[0].endpoints, &w.managers[1].actions, &w.managers[1].endpoints,
			&w.gateways[0].actions, &w.gateways[0].endpoints, &w.gateways[1].actions, &w.gateways[1].endpoints,
		} {
			v.current(w.etcd)
		}
		for _, e := range w.etcd.now().keys("endpoints/") {
			w.etcd.patch(strings.TrimPrefix(e, "endpoints/"), func(e *endpoint) { e.accepted = e.journal })
		}
		w.collect()
		for _, m := range w.managers {
			m.flush(w)
		}
		for _, key := range w.etcd.now().keys("actions/") {
			w.managers[w.leader].actions.current(w.etcd)
			w.managers[w.leader].look(w, key)
		}
		for len(w.packets)+len(w.parcels) > 0 {
			w.deliverPacket()
			w.deliverParcel()
		}
		for _, g := range w.gateways {
			for len(g.tasks) > 0 {
				g.proceed(w, 100)
			}
		}
		for _, m := range w.machines {
			m.work(w)
		}
	}
	for _, key := range w.etcd.now().keys("actions/") {
		a := w.etcd.now().action(key)
		if due := action.Due(a, w.now); !action.Ended(&a.Status) && !due.IsZero() && due.Before(w.now) {
			w.violated("%s is %s, was due %s, and nothing happens", a.Name, a.Status.Phase, due)
		}
	}
}

// judge holds what the server says against what has happened.
func (w *world) judge() {
	for _, key := range w.etcd.now().keys("actions/") {
		a := w.etcd.now().action(key)
		s, t := &a.Status, w.truth(string(a.UID))
		if !action.Ended(s) {
			w.violated("%s is %s for ever: %s", t.name, s.Phase, s.Message)
		}
		if e := w.etcd.now().endpoint(string(a.Spec.EndpointName)); e != nil && action.Verified(s) && action.Doubt(a, fleetID, w.identities[e.identity]) != nil {
			w.violated("%s was forged, and is believed", t.name)
		}
		if a.Spec.Selector != nil || t.forged || t.rolledBack {
			continue
		}
		switch s.Phase {
		case v1alpha1.ActionSucceeded, v1alpha1.ActionFailed:
			if s.Result != nil && !observed(s) && t.acts == 0 {
				w.violated("%s is %s, and nothing was done", t.name, s.Phase)
			}
		case v1alpha1.ActionCancelled, v1alpha1.ActionExpired, v1alpha1.ActionUnsupported:
			if t.acts > 0 {
				w.violated("%s is %s, and it was done", t.name, s.Phase)
			}
		}
	}
	for _, m := range w.machines {
		if e := w.etcd.now().byIdentity(m.identity); e == nil || e.lifecycle != v1alpha1.LifecycleActive {
			continue
		}
		for _, uid := range m.uids() {
			w.judgeRecord(m, uid)
		}
	}
}

// observed: it succeeded by the look of its endpoint, whoever has brought that about.
func observed(s *v1alpha1.EndpointActionStatus) bool {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionComplete)
	return c != nil && c.Reason == action.ReasonObservedState
}

// judgeRecord holds what an agent knows against what the server says.
func (w *world) judgeRecord(m *machine, uid string) {
	r, t := m.records[uid], w.truth(uid)
	_, a := w.etcd.now().byUID(uid)
	switch {
	case r.state != settled:
		w.violated("%s still waits to be rid of %s", m.name, t.name)
	case a == nil, t.forged, t.rolledBack && (r.told || a.Status.Admission == nil):
	case t.journals[m.journal] && r.result.GetReason() == action.ReasonPastDeadline: // it came again after its record had been swept
	case a.Status.Result == nil:
		w.violated("what %s reported of %s is lost", m.name, t.name)
	case !strings.HasSuffix(r.result.GetOutcome().String(), strings.ToUpper(string(a.Status.Result.Outcome))):
		w.violated("%s reported %s of %s, and recorded is %s", m.name, r.result.GetOutcome(), t.name, a.Status.Result.Outcome)
	}
}
