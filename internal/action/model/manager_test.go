package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// manager is one that leads, or thinks so. Its caches of actions and of endpoints are behind, each for itself.
type manager struct {
	name               string
	actions, endpoints view
	// write is what it is about to write.
	write *write
}

// write is a status that was decided, on the version that it was decided on.
type write struct {
	key    string
	base   *v1alpha1.EndpointAction
	status *v1alpha1.EndpointActionStatus
	row    action.Arrow
	err    error
}

// seal is an order, in a form that is quick to make: which key has signed it stands beside it.
func (w *world) seal(t envelope.Type, m proto.Message) (v1alpha1.Envelope, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return v1alpha1.Envelope{PayloadType: string(t), Payload: b, Signatures: []v1alpha1.EnvelopeSignature{{KeyID: w.orderKey(), Sig: []byte("sig")}}}, err
}

func (w *world) sealedNow(e v1alpha1.Envelope) bool { return e.Signatures[0].KeyID == w.orderKey() }

func (w *world) orderKey() v1alpha1.Text { return v1alpha1.Text(fmt.Sprintf("key-%d", w.keys)) }

// look decides about one action.
func (m *manager) look(w *world, key string) {
	cached := m.actions.see(w.etcd)
	a := cached.action(key)
	if a == nil {
		return
	}
	switch {
	case action.Ended(&a.Status) && m.distrusts(w, key, a):
	case action.Ended(&a.Status) && !action.DeletionTime(a).IsZero() && !w.now.Before(action.DeletionTime(a)):
		if live := w.etcd.now().action(key); live != nil && live.ResourceVersion == a.ResourceVersion {
			w.covered["24"]++
			w.forget(key)
		}
	case a.Spec.Selector != nil:
		m.lead(w, key, a)
	default:
		status, row, err := action.Next(a, m.facts(w, cached, a))
		m.decided(w, &write{key, a, status, row, err})
	}
}

// facts are what a single action is judged by. What the cache may be too old for the API server is asked.
func (m *manager) facts(w *world, cached state, a *v1alpha1.EndpointAction) action.Look {
	l := action.Look{Now: w.now, FleetID: fleetID, Seal: w.seal, SealedNow: w.sealedNow}
	name := string(a.Spec.EndpointName)
	e := m.endpoints.see(w.etcd).endpoint(name)
	if a.Status.Admission != nil && (e == nil || e.identity != a.Status.Admission.IdentityID) {
		e = w.etcd.now().endpoint(name)
		l.EndpointDeleted = e == nil
	}
	l.Endpoint = e.facts()
	if owner := metav1.GetControllerOf(a); owner != nil {
		if l.Parent = cached.action("actions/" + owner.Name); l.Parent != nil && l.Parent.UID != owner.UID {
			l.Parent = nil
		}
		siblings := childrenOf(cached, owner.UID)
		l.Turn = slices.IndexFunc(siblings, func(c *v1alpha1.EndpointAction) bool { return c.UID == a.UID })
		if l.Parent != nil && l.Parent.Status.Children != nil {
			l.Turn += max(0, int(l.Parent.Status.Children.Total)-len(siblings))
		}
	}
	for _, key := range cached.keys("actions/") {
		other := cached.action(key)
		if topic := action.TopicOf(a.Spec.Type); topic == "" || other.UID == a.UID || topic != action.TopicOf(other.Spec.Type) || other.Spec.EndpointName != a.Spec.EndpointName || other.Status.Admission == nil {
			continue
		}
		if mine := a.Status.Admission; mine != nil {
			l.NewerOfTopic = l.NewerOfTopic || other.Status.Admission.Time.After(mine.Time.Time)
		} else {
			l.NewerOfTopic = l.NewerOfTopic || other.CreationTimestamp.After(a.CreationTimestamp.Time)
		}
	}
	return l
}

func childrenOf[U ~string](s state, parent U) (children []*v1alpha1.EndpointAction) {
	for _, key := range s.keys("actions/") {
		if owner := metav1.GetControllerOf(s.action(key)); owner != nil && string(owner.UID) == string(parent) {
			children = append(children, s.action(key))
		}
	}
	return children
}

// lead makes the children of an action with a selector, which is all endpoints here, and counts them. A cache that shows the parent with a total
// shows the children as well: they are of one kind, and were written before.
func (m *manager) lead(w *world, key string, a *v1alpha1.EndpointAction) {
	children := childrenOf(m.actions.see(w.etcd), a.UID)
	matched := m.endpoints.see(w.etcd).keys("endpoints/")
	l := action.ParentLook{Now: w.now, Children: children, All: true, Matched: len(matched)}
	if a.Status.Children == nil && !a.Spec.Cancel {
		status, row, err := action.NextParent(a, action.ParentLook{Now: w.now, Children: children})
		if err != nil || row != action.None {
			m.decided(w, &write{key, a, status, row, err})
			return
		}
		for _, at := range matched {
			l.All = m.makeChild(w, a, strings.TrimPrefix(at, "endpoints/")) && l.All
		}
		if l.Children = childrenOf(w.etcd.now(), a.UID); len(l.Children) < len(matched) {
			l.All = false
		}
		l.Matched = len(l.Children)
	}
	status, row, err := action.NextParent(a, l)
	m.decided(w, &write{key, a, status, row, err})
}

// makeChild may be interrupted; then it is done again.
func (m *manager) makeChild(w *world, parent *v1alpha1.EndpointAction, endpoint string) bool {
	live := w.etcd.now().action("actions/" + parent.Name)
	if w.chance(10) || live == nil || live.UID != parent.UID {
		return false
	}
	name := parent.Name + "-" + endpoint
	if w.etcd.now().action("actions/"+name) == nil {
		child := w.newAction(name, parent.Spec.Type, endpoint)
		child.Spec.StartingDeadlineSeconds = parent.Spec.StartingDeadlineSeconds
		child.OwnerReferences = []metav1.OwnerReference{{Kind: "EndpointAction", Name: parent.Name, UID: parent.UID, Controller: ptr.To(true)}}
		w.etcd.change("actions/"+name, object{action: child})
		if live.Status.Children != nil { // by one that has not seen yet that another leads
			w.truth(string(parent.UID)).overmade = true
		}
	}
	return true
}

// distrusts looks at the proof of a result, and marks one that is false.
func (m *manager) distrusts(w *world, key string, a *v1alpha1.EndpointAction) bool {
	e := w.etcd.now().endpoint(string(a.Spec.EndpointName))
	if e == nil || w.believed[a.ResourceVersion] {
		return false
	}
	doubt := action.Doubt(a, fleetID, w.identities[e.identity])
	if doubt == nil || !action.Verified(&a.Status) {
		w.believed[a.ResourceVersion] = a.Status.Admission != nil && e.identity == a.Status.Admission.IdentityID
		return false
	}
	status, row := action.Disbelieve(a, doubt, w.now)
	m.decided(w, &write{key, a, status, row, nil})
	return true
}

// decided writes at once, or is held up in the middle of it.
func (m *manager) decided(w *world, d *write) {
	switch {
	case errors.Is(d.err, action.ErrUnfit):
		w.unfit++
	case d.err != nil:
		w.violated("the manager fails: %s", d.err)
	case d.row == action.None:
	case m.write == nil && w.chance(20):
		m.write = d
	default:
		w.log("%s writes row %s of %s", m.name, d.row, d.key)
		w.take(d.key, d.base, d.status, d.row)
	}
}

// flush writes what was held up.
func (m *manager) flush(w *world) {
	if d := m.write; d != nil {
		m.write = nil
		w.log("%s writes row %s of %s at last", m.name, d.row, d.key)
		w.take(d.key, d.base, d.status, d.row)
	}
}
