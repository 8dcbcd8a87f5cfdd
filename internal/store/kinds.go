package store

import (
	"crypto/ed25519"
	"encoding/hex"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

// table keeps what few objects say, by a key of its own.
type table[O metav1.Object, V any] struct {
	key  func(O) string
	view func(O) V
	// changed is told what is new in an object, and what was there before; nil: nobody is.
	changed func(before, now V)
	// gone is told that an object is not there any more; nil: nobody is.
	gone func()

	mu   sync.RWMutex
	rows map[string]V
}

func (t *table[O, V]) get(key string) (V, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, ok := t.rows[key]
	return v, ok
}

func (t *table[O, V]) event(o O) {
	key, v := t.key(o), t.view(o)
	t.mu.Lock()
	before := t.rows[key]
	t.rows[key] = v
	t.mu.Unlock()
	t.tell(before, v)
}

func (t *table[O, V]) tell(before, now V) {
	if t.changed != nil {
		t.changed(before, now)
	}
}

func (t *table[O, V]) drop(o O) {
	t.mu.Lock()
	delete(t.rows, t.key(o))
	t.mu.Unlock()
	if t.gone != nil {
		t.gone()
	}
}

func (t *table[O, V]) replace(all []O) {
	rows := make(map[string]V, len(all))
	for _, o := range all {
		rows[t.key(o)] = t.view(o)
	}
	t.mu.Lock()
	before := t.rows
	t.rows = rows
	t.mu.Unlock()
	for key, v := range rows {
		t.tell(before[key], v)
		delete(before, key)
	}
	if len(before) > 0 && t.gone != nil {
		t.gone()
	}
}

func newTokens() *table[*v1alpha1.EnrollmentToken, Token] {
	return &table[*v1alpha1.EnrollmentToken, Token]{
		key:  func(t *v1alpha1.EnrollmentToken) string { return string(t.UID) },
		view: tokenOf, rows: map[string]Token{},
	}
}

// newPolicies tells changed of what matters to agents: the manager also counts endpoints in the status.
func newPolicies(changed func(namespace, name string)) *table[*v1alpha1.EndpointPolicy, Policy] {
	return &table[*v1alpha1.EndpointPolicy, Policy]{
		key:  func(p *v1alpha1.EndpointPolicy) string { return policyKey(p.Namespace, p.Name) },
		view: policyOf, rows: map[string]Policy{},
		changed: func(before, now Policy) {
			signed := (before.Order == nil) == (now.Order == nil)
			if before.Order, now.Order = nil, nil; !signed || before != now {
				changed(now.Namespace, now.Name)
			}
		},
	}
}

func policyKey(namespace, name string) string { return namespace + "/" + name }

func refOf(o metav1.Object) Ref {
	return Ref{Namespace: o.GetNamespace(), Name: o.GetName(), UID: string(o.GetUID())}
}

func tokenOf(t *v1alpha1.EnrollmentToken) Token {
	out := Token{Ref: refOf(t), Exhausted: t.Spec.MaxUses != nil && ptr.Deref(t.Status.Uses, 0) >= *t.Spec.MaxUses}
	if key, err := envelope.ParseKey(t.Status.PublicKey); err == nil {
		out.Key, _ = key.(ed25519.PublicKey)
	}
	if t.Status.ExpirationTime != nil {
		out.Expires = t.Status.ExpirationTime.UTC()
	}
	for _, c := range t.Status.Claims {
		if b, err := hex.DecodeString(string(c.KeySHA256)); err == nil && len(b) == len(KeyHash{}) {
			out.Claims = append(out.Claims, KeyHash(b))
		}
	}
	return out
}

func policyOf(p *v1alpha1.EndpointPolicy) Policy {
	out := Policy{Ref: refOf(p), Revision: p.Status.Revision, Interval: DefaultInterval, Missed: DefaultMissed}
	if h := p.Spec.Heartbeat; h != nil {
		if h.IntervalSeconds != nil {
			out.Interval = time.Duration(*h.IntervalSeconds) * time.Second
		}
		out.Missed = int(ptr.Deref(h.Missed, DefaultMissed))
	}
	out.WebsocketDisabled = p.Spec.CommandChannel != nil && p.Spec.CommandChannel.Mode == v1alpha1.CommandChannelHeartbeatOnly
	if c := p.Spec.CommandChannel; c != nil {
		out.PingInterval = time.Duration(ptr.Deref(c.PingIntervalSeconds, 0)) * time.Second
	}
	if c := p.Spec.Content; c != nil {
		out.ContentPin = c.Version
	}
	if p.Status.Order != nil {
		out.Order = order.FromResource(*p.Status.Order)
	}
	return out
}
