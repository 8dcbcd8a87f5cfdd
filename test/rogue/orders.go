package rogue

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// kept is what was true once.
type kept struct {
	beacon     *agentv1.Envelope
	assignment v1alpha1.Envelope
	offers     map[string]v1alpha1.Envelope // by the release's name
}

// lie is an order that an agent is sent. The gateway's parts know it as that of an action, by a UID.
type lie struct {
	uid   types.UID
	order v1alpha1.Envelope
}

func lieOf(e v1alpha1.Envelope) lie { return lie{types.UID(uuid.NewString()), e} }

// tell has an agent sent orders, of whatever kind, by the channel that there is. For the gateway's parts each is an action that was sent before and
// that the agent lacks: to send it again they need write nothing.
func (r *Rogue) tell(ep *v1alpha1.Endpoint, lies ...lie) {
	now := time.Now()
	id := ep.Status.Identity.ID
	var orders []*v1alpha1.EndpointAction
	for _, l := range lies {
		orders = append(orders, &v1alpha1.EndpointAction{
			ObjectMeta: metav1.ObjectMeta{Namespace: ep.Namespace, Name: "lie", UID: l.uid},
			Spec:       v1alpha1.EndpointActionSpec{Type: v1alpha1.PerformHeartbeat, EndpointName: v1alpha1.LocalName(ep.Name)},
			Status: v1alpha1.EndpointActionStatus{
				Phase: v1alpha1.ActionSent, Delivery: &v1alpha1.ActionDelivery{JournalID: ep.Status.Agent.JournalID},
				Admission: &v1alpha1.ActionAdmission{IdentityID: id, Order: l.order, ReportDeadline: metav1.NewTime(now.Add(time.Hour))},
			},
		})
	}
	r.liar.say(func() { r.liar.orders[id] = orders })
	r.changed(id)
}

// signed is what the rogue has signed as if it were the manager.
func (r *Rogue) signed(t envelope.Type, m proto.Message) (*agentv1.Envelope, error) {
	key := r.keys.orders
	if t == envelope.Trust {
		key = r.keys.root
	}
	return envelope.Seal(key, t, m)
}

func (r *Rogue) behave(context.Context, Ask) ([]Attempt, error) {
	r.liar.say(func() {
		r.liar.beacon, r.liar.serverTime, r.liar.trust = nil, nil, nil
		clear(r.liar.orders)
	})
	return nil, nil
}

func (r *Rogue) hush(context.Context, Ask) ([]Attempt, error) {
	r.liar.say(func() {
		r.liar.trust = nil
		clear(r.liar.orders)
	})
	return nil, nil
}

func (r *Rogue) withhold(context.Context, Ask) ([]Attempt, error) {
	r.liar.say(func() { r.liar.withhold = true })
	return nil, nil
}

func (r *Rogue) keep(ctx context.Context, a Ask) ([]Attempt, error) {
	ep, err := r.endpoint(ctx, a.Namespace, a.Endpoint)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept.beacon, _ = r.liar.Store.Beacon()
	r.kept.assignment = ep.Status.Policy.Assignment
	return nil, nil
}

func (r *Rogue) keptNow() kept {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept
}

func (r *Rogue) rewind(context.Context, Ask) ([]Attempt, error) {
	then, said := r.keptNow().beacon, &agentv1.Beacon{}
	if err := envelope.Parse(then.GetPayload(), said); err != nil {
		return nil, err
	}
	r.liar.say(func() { r.liar.beacon, r.liar.serverTime = then, said.GetIssuedAt() })
	return nil, nil
}

func (r *Rogue) relapse(ctx context.Context, a Ask) ([]Attempt, error) {
	ep, err := r.endpoint(ctx, a.Namespace, a.Endpoint)
	if err != nil {
		return nil, err
	}
	r.tell(ep, lieOf(r.keptNow().assignment))
	return nil, nil
}

// forge sends one of each kind of order. Whoever obeyed them would end a program, forget the action that is named, and hardly be heard of again.
func (r *Rogue) forge(ctx context.Context, a Ask) ([]Attempt, error) {
	ep, err := r.endpoint(ctx, a.Namespace, a.Endpoint)
	if err != nil {
		return nil, err
	}
	trust, err := r.ownTrust()
	if err != nil {
		return nil, err
	}
	fleet, id, now, later := trust.FleetID, ep.Status.Identity.ID, timestamppb.Now(), timestamppb.New(time.Now().Add(time.Hour))
	var lies []lie
	for _, o := range []struct {
		t envelope.Type
		m proto.Message
	}{
		{envelope.Assignment, &agentv1.Assignment{FleetId: fleet, IdentityId: id, Namespace: ep.Namespace, IssuedAt: now}},
		{envelope.Policy, &agentv1.Policy{
			FleetId: fleet, PolicyId: ep.Status.Agent.PolicyID, Revision: 1 << 40, IssuedAt: now, HeartbeatInterval: durationpb.New(24 * time.Hour), WebsocketDisabled: true,
		}},
		{envelope.Cancel, &agentv1.Cancel{
			FleetId: fleet, IdentityId: id, ActionUid: uuid.NewString(), IssuedAt: now, ExpiresAt: later, ActionIssuedAt: now,
			ActionDigest: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		}},
		{envelope.Action, &agentv1.Action{
			FleetId: fleet, IdentityId: id, ActionUid: uuid.NewString(), IssuedAt: now, ExpiresAt: later, Requires: []string{"TerminateProcess"},
			RequestedBy: "alice", ActiveDeadline: durationpb.New(time.Minute),
			Parameters: &agentv1.Action_TerminateProcess{TerminateProcess: &agentv1.TerminateProcess{Executable: a.Program}},
		}},
	} {
		e, err := r.signed(o.t, o.m)
		if err != nil {
			return nil, err
		}
		lies = append(lies, lieOf(order.ToResource(e)))
	}
	r.liar.say(func() { r.liar.trust = trust })
	r.tell(ep, lies...)
	return nil, nil
}

// ownTrust is a bundle that follows the newest and has the rogue's own keys.
func (r *Rogue) ownTrust() (*store.Trust, error) {
	now, _ := r.liar.Trust()
	b := &agentv1.TrustBundle{FleetId: now.FleetID, Version: now.Version + 1, IssuedAt: timestamppb.Now()}
	for key, use := range map[*ed25519.PrivateKey]agentv1.KeyUse{&r.keys.root: agentv1.KeyUse_KEY_USE_ROOT, &r.keys.orders: agentv1.KeyUse_KEY_USE_ORDERS} {
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		b.Keys = append(b.Keys, &agentv1.TrustKey{Spki: spki, Uses: []agentv1.KeyUse{use}})
	}
	for _, ca := range now.ServerCAs {
		b.ServerCa = append(b.ServerCa, ca.Raw)
	}
	for _, ca := range now.AgentCAs {
		b.AgentCa = append(b.AgentCa, ca.Raw)
	}
	e, err := r.signed(envelope.Trust, b)
	return &store.Trust{Trust: now.Trust, Bundles: []*agentv1.Envelope{e}, Versions: []uint64{b.GetVersion()}}, err
}

func (r *Rogue) ownRoot(context.Context, Ask) ([]Attempt, error) {
	trust, err := r.ownTrust()
	r.liar.say(func() { r.liar.trust = trust })
	return nil, err
}

// alter changes what is to be done, and until when, and has the old signature vouch for it.
func (r *Rogue) alter(ctx context.Context, a Ask) ([]Attempt, error) {
	ep, act, err := r.both(ctx, a)
	if err != nil {
		return nil, err
	}
	program, err := altered(act, func(m *agentv1.Action) { m.GetTerminateProcess().Executable = a.Program })
	if err != nil {
		return nil, err
	}
	deadline, err := altered(act, func(m *agentv1.Action) { m.ExpiresAt = timestamppb.New(time.Now().AddDate(1, 0, 0)) })
	if err != nil {
		return nil, err
	}
	r.tell(ep, program, deadline)
	return nil, nil
}

func (r *Rogue) readdress(ctx context.Context, a Ask) ([]Attempt, error) {
	ep, act, err := r.both(ctx, a)
	if err != nil {
		return nil, err
	}
	named, err := altered(act, func(m *agentv1.Action) { m.IdentityId = ep.Status.Identity.ID })
	if err != nil {
		return nil, err
	}
	r.tell(ep, named)
	return nil, nil
}

// altered is the order of an action with another payload.
func altered(act *v1alpha1.EndpointAction, change func(*agentv1.Action)) (lie, error) {
	m, e := &agentv1.Action{}, *act.Status.Admission.Order.DeepCopy()
	err := envelope.Parse(e.Payload, m)
	if err == nil {
		change(m)
		e.Payload, err = protojson.Marshal(m)
	}
	return lieOf(e), err
}

func (r *Rogue) replay(ctx context.Context, a Ask) ([]Attempt, error) {
	ep, act, err := r.both(ctx, a)
	if err != nil {
		return nil, err
	}
	r.tell(ep, lie{act.UID, act.Status.Admission.Order})
	return nil, nil
}

// both are the endpoint to lie to, and the action whose order is abused.
func (r *Rogue) both(ctx context.Context, a Ask) (*v1alpha1.Endpoint, *v1alpha1.EndpointAction, error) {
	ep, err := r.endpoint(ctx, a.Namespace, a.Endpoint)
	if err != nil {
		return nil, nil, err
	}
	act, err := r.action(ctx, a.Namespace, a.Action)
	return ep, act, err
}

func (r *Rogue) otherPolicy(ctx context.Context, a Ask) ([]Attempt, error) {
	ep, err := r.endpoint(ctx, a.Namespace, a.Endpoint)
	if err != nil {
		return nil, err
	}
	other, err := r.endpoint(ctx, a.Namespace, a.Other)
	if err != nil {
		return nil, err
	}
	p, err := read[v1alpha1.EndpointPolicy](ctx, r, a.Namespace, a.Policy)
	if err != nil {
		return nil, err
	}
	r.tell(ep, lieOf(other.Status.Policy.Assignment), lieOf(*p.Status.Order))
	return nil, nil
}
