package gateway

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const actionUID = "5f7a3c2e-0000-4000-8000-0000000000aa"

// admit has an action appear that the manager has admitted.
func (w *world) admit() {
	w.Helper()
	now := time.Now()
	signed, err := envelope.Seal(ed25519.NewKeyFromSeed(make([]byte, 32)), envelope.Action, &agentv1.Action{ActionUid: actionUID})
	if err != nil {
		w.Fatal(err)
	}
	w.book.mu.Lock()
	w.book.action = &v1alpha1.EndpointAction{
		ObjectMeta: metav1.ObjectMeta{Name: "hello", UID: actionUID},
		Spec:       v1alpha1.EndpointActionSpec{Type: v1alpha1.PerformHeartbeat},
		Status: v1alpha1.EndpointActionStatus{Phase: v1alpha1.ActionPending, Admission: &v1alpha1.ActionAdmission{
			IdentityID: id, Time: metav1.NewMicroTime(now), StartingDeadline: metav1.NewTime(now.Add(time.Hour)),
			ReportDeadline: metav1.NewTime(now.Add(2 * time.Hour)), Order: order.ToResource(signed),
		}},
	}
	w.book.mu.Unlock()
	w.beats.Changed(id)
	w.hub.ActionsChanged(id)
}

// result is what the agent reports of it.
func (w *world) result(t *testing.T) *agentv1.ActionUpdate {
	t.Helper()
	a, ok := w.book.Action(actionUID)
	if !ok {
		t.Fatal("the action is not open")
	}
	key, _ := w.agent.PrivateKey.(crypto.Signer)
	e, err := envelope.Seal(key, envelope.Result, &agentv1.ActionResult{
		FleetId: fleet, IdentityId: id, ActionUid: actionUID, ActionDigest: fmt.Sprintf("%x", sha256.Sum256(a.Status.Admission.Order.Payload)),
		Outcome: agentv1.Outcome_OUTCOME_SUCCEEDED, Reason: "Done", FinishedAt: timestamppb.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &agentv1.ActionUpdate{ActionUid: actionUID, Phase: agentv1.ActionPhase_ACTION_PHASE_FINISHED, Result: e}
}

// ready is the agent of a heartbeat that takes actions.
func ready(a *agentv1.AgentInfo) *agentv1.AgentInfo {
	a.JournalId, a.JournalCreatedAt = strings.Repeat("1", 32), timestamppb.New(time.Now().Add(-time.Hour))
	return a
}

// An action comes with the reply to a heartbeat, and its result is taken, in both encodings.
func TestActionOverHTTPS(t *testing.T) {
	for _, codec := range []wire.Codec{wire.Protobuf, wire.JSON} {
		w := newWorld(t)
		w.admit()
		c := w.dial(w.agent)
		post := func(path string, m wire.Message) reply {
			b, err := codec.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			return c.do("POST", path, b, "Content-Type", codec.ContentType())
		}
		r := post(wire.PathHeartbeat, &agentv1.Heartbeat{Agent: ready(&agentv1.AgentInfo{Version: "8.0.0", Platform: "linux/amd64", InstanceId: strings.Repeat("a", 32), Epoch: 1})})
		brought := &agentv1.HeartbeatReply{}
		if err := codec.Unmarshal(r.body, brought); err != nil || len(brought.GetOrders()) != 1 || brought.GetOrders()[0].GetPayloadType() != string(envelope.Action) {
			t.Fatalf("%s brings %v, %v", r, brought.GetOrders(), err)
		}
		if a, _ := w.book.Action(actionUID); a.Status.Phase != v1alpha1.ActionSent || a.Status.Delivery.Channel != v1alpha1.ChannelHeartbeat {
			t.Errorf("written: %+v", a.Status)
		}
		forged := w.result(t)
		forged.Result.Payload = append(forged.Result.Payload, ' ')
		r = post(wire.PathActions, &agentv1.ActionUpdates{Updates: []*agentv1.ActionUpdate{
			{ActionUid: actionUID, Phase: agentv1.ActionPhase_ACTION_PHASE_ACKNOWLEDGED}, forged, w.result(t),
		}})
		acks := &agentv1.Acks{}
		if err := codec.Unmarshal(r.body, acks); err != nil || r.status != 200 || wire.CheckAcks(acks) != nil || len(acks.GetAcks()) != 3 {
			t.Fatalf("%s: %v, %v", r, acks, err)
		}
		if all := acks.GetAcks(); all[0].GetProblem() != nil || !strings.HasSuffix(all[1].GetProblem().GetType(), "/proof-invalid") || all[2].GetProblem() != nil {
			t.Errorf("answered %v", all)
		}
		if _, open := w.book.Action(actionUID); open {
			t.Error("it has not ended")
		}
	}
}

func TestActionOverTheWebsocket(t *testing.T) {
	for _, json := range []bool{false, true} {
		w := newWorld(t)
		c, err := w.upgrade("6.1.0", json, w.agent)
		if err != nil {
			t.Fatal(err)
		}
		first := firstBeat(1)
		ready(first.GetHeartbeat().GetAgent())
		say(t, c, first)
		w.admit()
		codec := wire.Protobuf
		if json {
			codec = wire.JSON
		}
		if m := hear(t, c, codec); len(m.GetOrders().GetOrders()) != 1 {
			t.Fatalf("pushed: %v", m)
		}
		m := say(t, c, &agentv1.AgentMessage{Id: 2, Body: &agentv1.AgentMessage_ActionUpdate{ActionUpdate: w.result(t)}})
		if m.GetRe() != 2 || m.GetAck() == nil {
			t.Errorf("a result is answered with %v", m)
		}
	}
}
