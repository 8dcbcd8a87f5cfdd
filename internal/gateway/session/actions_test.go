package session

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// admit has an action that the manager has admitted for identity 1 appear.
func (w *world) admit(uids ...string) {
	w.Helper()
	for _, uid := range uids {
		now := time.Now()
		signed, err := envelope.Seal(ed25519.NewKeyFromSeed(make([]byte, 32)), envelope.Action, &agentv1.Action{ActionUid: uid})
		if err != nil {
			w.Fatal(err)
		}
		a := &v1alpha1.EndpointAction{
			ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "a-" + uid, UID: types.UID(uid)},
			Spec:       v1alpha1.EndpointActionSpec{Type: v1alpha1.PerformHeartbeat, EndpointName: "machine-1"},
			Status: v1alpha1.EndpointActionStatus{Phase: v1alpha1.ActionPending, Admission: &v1alpha1.ActionAdmission{
				IdentityID: idOf(1), Time: metav1.NewMicroTime(now), StartingDeadline: metav1.NewTime(now.Add(time.Hour)),
				ReportDeadline: metav1.NewTime(now.Add(2 * time.Hour)), Order: order.ToResource(signed),
			}},
		}
		w.book.mu.Lock()
		w.book.actions = append(w.book.actions, a)
		w.book.mu.Unlock()
	}
	w.actionsChanged()
}

// actionsChanged is what the store tells.
func (w *world) actionsChanged() {
	w.beats.Changed(idOf(1))
	w.hub.ActionsChanged(idOf(1))
	synctest.Wait()
}

// journal is that of an agent which takes actions.
func journal(m *agentv1.Heartbeat) {
	m.Agent.JournalId, m.Agent.JournalCreatedAt = strings.Repeat("1", 32), timestamppb.New(time.Now().Add(-time.Hour))
}

// result of an action, as the agent signs it.
func (w *world) result(uid string) *agentv1.ActionUpdate {
	w.Helper()
	a, ok := w.book.Action(uid)
	if !ok {
		w.Fatalf("%s is not open", uid)
	}
	e, err := envelope.Seal(w.key, envelope.Result, &agentv1.ActionResult{
		FleetId: fleet, IdentityId: idOf(1), ActionUid: uid, ActionDigest: fmt.Sprintf("%x", sha256.Sum256(a.Status.Admission.Order.Payload)),
		Outcome: agentv1.Outcome_OUTCOME_SUCCEEDED, Reason: "Done", FinishedAt: timestamppb.Now(),
	})
	if err != nil {
		w.Fatal(err)
	}
	return &agentv1.ActionUpdate{ActionUid: uid, Phase: agentv1.ActionPhase_ACTION_PHASE_FINISHED, Result: e}
}

func (a *agent) update(u *agentv1.ActionUpdate) {
	a.w.Helper()
	a.send(&agentv1.AgentMessage{Body: &agentv1.AgentMessage_ActionUpdate{ActionUpdate: u}})
}

func acknowledges(uid string) *agentv1.ActionUpdate {
	return &agentv1.ActionUpdate{ActionUid: uid, Phase: agentv1.ActionPhase_ACTION_PHASE_ACKNOWLEDGED}
}

// An action is pushed as soon as it is there, what the agent says of it is answered, and its result once it is durable.
func TestActionsOnASession(t *testing.T) {
	for _, text := range []bool{false, true} {
		simulate(t, func(w *world) {
			a := &agent{w: w, in: make(chan []byte, 10), out: make(chan []byte, 10), over: make(chan struct{}), text: text}
			w.start(a, 1, w.cert)
			a.beat(beat(1, journal))
			a.received()
			w.admit(idOf(50), idOf(51))
			got := a.received().GetOrders()
			for more := a.received(); more != nil; more = a.received() {
				got.Orders = append(got.Orders, more.GetOrders().GetOrders()...)
			}
			if len(got.GetOrders()) != 2 || got.GetBeacon() == nil || !got.GetServerTime().AsTime().Equal(time.Now()) {
				t.Fatalf("pushed: %v", got)
			}
			a.update(acknowledges(idOf(50)))
			if m := a.received(); m.GetRe() != 2 || m.GetAck() == nil || m.GetAck().GetProblem() != nil {
				t.Errorf("an acknowledgement is answered with %v", m)
			}
			forged := w.result(idOf(50))
			forged.Result.Payload = append(forged.Result.Payload, ' ')
			a.update(forged)
			if m := a.received(); m.GetRe() != 3 || !strings.HasSuffix(m.GetProblem().GetType(), "/proof-invalid") {
				t.Errorf("a forged result is answered with %v", m)
			}
			slow := make(chan struct{})
			w.book.mu.Lock()
			w.book.slow = slow
			w.book.mu.Unlock()
			a.update(w.result(idOf(50)))
			if m := a.received(); m != nil {
				t.Errorf("before it is written, a result is answered with %v", m)
			}
			a.ping()
			if m := a.received(); m.GetRe() != 5 || m.GetPong() == nil {
				t.Errorf("meanwhile a ping is answered with %v", m)
			}
			close(slow)
			if m := a.received(); m.GetRe() != 4 || m.GetAck() == nil {
				t.Errorf("a result is answered with %v", m)
			}
			if _, open := w.book.Action(idOf(50)); open {
				t.Error("the action has not ended")
			}
		})
	}
}

// Results that are not answered yet count as messages that wait.
func TestNinthUnansweredResult(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1, journal)
		w.admit(idOf(50))
		slow := make(chan struct{})
		w.book.mu.Lock()
		w.book.slow = slow
		w.book.mu.Unlock()
		for range 8 {
			a.update(w.result(idOf(50)))
		}
		a.wasClosed("")
		close(slow)
		synctest.Wait()
		for range 8 {
			if m := a.received(); m.GetOrders() == nil && m.GetAck() == nil {
				t.Errorf("answered with %v", m)
			}
		}
		for m := a.received(); m != nil; m = a.received() {
			_ = m
		}
		w.admit(idOf(51))
		w.book.mu.Lock()
		w.book.slow = make(chan struct{})
		slow = w.book.slow
		w.book.mu.Unlock()
		for range 9 {
			a.update(w.result(idOf(51)))
		}
		a.wasClosed("1008 throttled")
		close(slow)
	})
}

func TestUpdateBeforeTheFirstHeartbeat(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.open()
		a.update(acknowledges(idOf(50)))
		a.wasClosed("1007 malformed")
	})
}

// A heartbeat is answered without being looked at as long as no action is open, and again once none is.
func TestHeartbeatsWithOpenActionsAreLookedAt(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1, journal)
		made := time.Now().Add(-time.Hour)
		next := func() *agentv1.Heartbeat {
			pass(10 * time.Second)
			return beat(1, short, func(m *agentv1.Heartbeat) {
				m.Agent.JournalId, m.Agent.JournalCreatedAt = strings.Repeat("1", 32), timestamppb.New(made)
			})
		}
		again := func(m *agentv1.Heartbeat) bool {
			raw, err := wire.Protobuf.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			return w.beats.Again(w.hub.sessions[idOf(1)].agent, raw, time.Now(), &agentv1.HeartbeatReply{})
		}
		a.beat(next())
		if !again(next()) {
			t.Error("nothing is new, and it is looked at")
		}
		w.admit(idOf(50))
		if again(next()) {
			t.Error("an action is there, and it is not looked at")
		}
		for range 3 {
			a.beat(next())
			if again(next()) {
				t.Error("an action is open, and it is not looked at")
			}
		}
		a.update(w.result(idOf(50)))
		w.actionsChanged()
		a.beat(next())
		if !again(next()) {
			t.Error("no action is open any more, and it is looked at")
		}
	})
}

// What an agent on a session gets does not grow without bound, and messages keep to theirs.
func TestOutbox(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.open()
		a.stuck = make(chan struct{}) // it does not read
		a.beat(beat(1, journal))
		s := w.hub.sessions[idOf(1)]
		sized := func(n int) *agentv1.Envelope {
			return &agentv1.Envelope{PayloadType: string(envelope.Action), Payload: make([]byte, n), Signatures: []*agentv1.Signature{{Sig: []byte{1}}}}
		}
		s.Send(sized(1)) // a pusher waits with it
		synctest.Wait()
		sent := 0
		for s.Room(sized(30 << 10)) {
			s.Send(sized(30 << 10))
			sent++
		}
		if sent != 34 {
			t.Errorf("%d orders of 30 KiB wait", sent)
		}
		close(a.stuck)
		var counts []int
		for m := a.received(); m != nil; m = a.received() {
			if n := len(m.GetOrders().GetOrders()); n > 0 {
				counts = append(counts, n)
			}
		}
		if !slices.Equal(counts, []int{1, 25, 9}) {
			t.Errorf("messages of %d orders", counts)
		}
		for range maxOutbox {
			s.out.orders = append(s.out.orders, sized(1))
		}
		if s.Room(sized(1)) {
			t.Error("there is room for a 65th")
		}
		_, _ = s.out.empty()
	})
}

// What comes too late for a session is dropped.
func TestAnswerToASessionThatIsOver(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1, journal)
		w.admit(idOf(50))
		slow := make(chan struct{})
		w.book.mu.Lock()
		w.book.slow = slow
		w.book.mu.Unlock()
		a.update(w.result(idOf(50)))
		a.leave(wire.CloseNormal)
		close(slow)
		synctest.Wait()
		if _, open := w.book.Action(idOf(50)); open {
			t.Error("the result was lost")
		}
	})
}
