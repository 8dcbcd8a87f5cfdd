package fleettest

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Action is an order to send a heartbeat, within an hour, as change makes it. It returns its UID too.
func (f *Fleet) Action(identityID string, change func(*agentv1.Action)) (*agentv1.Envelope, string) {
	f.t.Helper()
	m := &agentv1.Action{
		FleetId: f.ID, IdentityId: identityID, ActionUid: uuid.NewString(), RequestedBy: "alice", IssuedAt: timestamppb.New(f.Now()),
		ExpiresAt: timestamppb.New(f.Now().Add(time.Hour)), ActiveDeadline: durationpb.New(time.Minute),
		Parameters: &agentv1.Action_PerformHeartbeat{PerformHeartbeat: &agentv1.PerformHeartbeat{}},
	}
	if change != nil {
		change(m)
	}
	return f.seal(f.Order, envelope.Action, m), m.GetActionUid()
}

// Cancel takes an action back.
func (f *Fleet) Cancel(action *agentv1.Envelope) *agentv1.Envelope {
	f.t.Helper()
	m := &agentv1.Action{}
	if err := envelope.Parse(action.GetPayload(), m); err != nil {
		f.t.Fatal(err)
	}
	return f.seal(f.Order, envelope.Cancel, &agentv1.Cancel{
		FleetId: m.GetFleetId(), IdentityId: m.GetIdentityId(), ActionUid: m.GetActionUid(), IssuedAt: timestamppb.New(f.Now()),
		ExpiresAt: m.GetExpiresAt(), ActionDigest: Digest(action), ActionIssuedAt: m.GetIssuedAt(),
	})
}

// lacking are the orders without the actions that an agent says it has.
func lacking(m *agentv1.Heartbeat, orders []*agentv1.Envelope) []*agentv1.Envelope {
	return slices.DeleteFunc(orders, func(e *agentv1.Envelope) bool {
		a := &agentv1.Action{}
		return e.GetPayloadType() == string(envelope.Action) && envelope.Parse(e.GetPayload(), a) == nil &&
			slices.ContainsFunc(m.GetOpenActions(), func(o *agentv1.ActionState) bool { return o.GetActionUid() == a.GetActionUid() })
	})
}

// Digest of an order's payload.
func Digest(e *agentv1.Envelope) string {
	sum := sha256.Sum256(e.GetPayload())
	return hex.EncodeToString(sum[:])
}

// Update is what came of an action.
type Update struct {
	*agentv1.ActionUpdate
	// Result is verified; nil unless the action is FINISHED.
	Result *agentv1.ActionResult
	// Over is the way that it took, websocket or HTTPS; At when it came.
	Over string
	At   time.Time
}

// Updates are those that came, of one action or of all ("").
func (g *Gateway) Updates(uid string) []Update {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(g.updates), func(u Update) bool { return uid != "" && u.GetActionUid() != uid })
}

// Results are the different results that came of an action: one, if all is well.
func (g *Gateway) Results(uid string) (out []*agentv1.ActionResult) {
	for _, u := range g.Updates(uid) {
		if u.Result != nil && !slices.ContainsFunc(out, func(r *agentv1.ActionResult) bool { return proto.Equal(r, u.Result) }) {
			out = append(out, u.Result)
		}
	}
	return out
}

// update takes what came of an action, and returns the answer: a problem, an ack, or nil for none.
func (g *Gateway) update(m *agentv1.ActionUpdate, connection *tls.ConnectionState, over string) *agentv1.Ack {
	u := Update{ActionUpdate: m, Over: over, At: g.Fleet.Now()}
	if err := wire.CheckActionUpdates(&agentv1.ActionUpdates{Updates: []*agentv1.ActionUpdate{m}}); err != nil {
		g.t.Errorf("an update out of its bounds: %v", err)
	}
	if m.GetResult() != nil {
		leaf := connection.PeerCertificates[0]
		u.Result = &agentv1.ActionResult{}
		if err := envelope.Open(m.GetResult(), envelope.Result, u.Result, leaf.PublicKey); err != nil {
			g.t.Errorf("the result of %s: %v", m.GetActionUid(), err)
		}
		if err := wire.CheckActionResult(u.Result); err != nil {
			g.t.Errorf("the result of %s is out of its bounds: %v", m.GetActionUid(), err)
		}
		if id := g.current[identity.KeyHash(leaf.RawSubjectPublicKeyInfo)]; u.Result.GetIdentityId() != id || u.Result.GetActionUid() != m.GetActionUid() {
			g.t.Errorf("the result of %s, of %s, is %v", m.GetActionUid(), id, u.Result)
		}
	}
	g.updates = append(g.updates, u)
	if g.ack != nil {
		return g.ack(u)
	}
	return &agentv1.Ack{}
}

// Refusal is an answer to an update.
func Refusal(p *wire.Problem) *agentv1.Ack { return &agentv1.Ack{Problem: p.Proto()} }
